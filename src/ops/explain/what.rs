//! What a report is: its first sentences.

use super::Case;
use crate::machine::notice::PlanShape;
use crate::model::agent::{Agent, Presence};
use crate::model::report::AttackKind;
use crate::ops::inspect::text::shown;

pub(super) fn it_is(case: &Case) -> Vec<String> {
    let stored = &case.inspected.stored;
    let report = &stored.report;
    let attack = match report.attack_kind {
        AttackKind::Unknown => "an attack of unknown kind".to_owned(),
        AttackKind::Phishing | AttackKind::MalwarePersistence | AttackKind::IdentityCompromise => {
            report.attack_kind.as_str().replace('_', " ")
        }
    };
    let on = match (&report.agent_id, &report.identity) {
        (Some(agent), _) => match &report.hostname {
            Some(host) => format!(" on the host {host} (agent {agent})"),
            None => format!(" on the host of agent {agent}"),
        },
        (None, Some(identity)) if identity.name.is_empty() => format!(" on the account {}", identity.id),
        (None, Some(identity)) => format!(" on the account {} ({})", identity.name, identity.id),
        (None, None) => String::new(),
    };
    let simulated = if report.simulated { " It is simulated: nobody is paged for it." } else { "" };
    let mut told = vec![format!(
        "The SOC reported {attack}{on} on {}. Its severity is {}.{simulated}",
        shown(report.sent_at),
        report.severity.as_str()
    )];
    let summary = report.text.summary.trim();
    if !summary.is_empty() {
        told.push(format!("In the SOC's words: \"{summary}\""));
    }
    let shape = match case.inspected.triage.plan_shape {
        PlanShape::Assisted => "is for the agent to carry out once it is approved",
        PlanShape::Manual => "is for people to carry out",
        PlanShape::Both => "is in part for the agent to carry out once it is approved, in part for people",
        PlanShape::None => "asks for nothing to be approved or done by people",
    };
    let items = report.plan().count();
    let issue = if report.plan_revision > 1 { format!(" (revision {})", report.plan_revision) } else { String::new() };
    told.push(match items {
        0 => format!("Its plan{issue} has no remediations: it is informational."),
        items => format!("Its plan{issue} has {} and {shape}.", counted(items, "remediation")),
    });
    if !report.footholds.is_empty() {
        let left = report.footholds.iter().filter(|foothold| case.inspected.remains(foothold)).count();
        told.push(format!("{} found by which an attacker could come back; {}.", were(report.footholds.len()), remaining(left)));
    }
    if let Some(agent) = &stored.agent {
        told.push(heard_of(agent));
    }
    told
}

pub(super) fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn were(footholds: usize) -> String {
    format!("{} {}", counted(footholds, "foothold"), if footholds == 1 { "was" } else { "were" })
}

fn remaining(left: usize) -> String {
    match left {
        0 => "none remains by what the tasks have reported".to_owned(),
        1 => "1 remains".to_owned(),
        left => format!("{left} remain"),
    }
}

fn heard_of(agent: &Agent) -> String {
    let never = if agent.presence == Presence::Removed { "It never surveyed" } else { "It has not surveyed yet" };
    let last = agent.last_survey_at.map_or_else(|| never.to_owned(), |at| format!("Its last survey is of {}", shown(at)));
    let presence = match agent.presence {
        Presence::Known => "known from a report only",
        Presence::Online => "online",
        Presence::Offline => "offline",
        Presence::Unresponsive => "unresponsive",
        Presence::Removed => "removed",
    };
    format!("The agent is {presence}. {last}.")
}
