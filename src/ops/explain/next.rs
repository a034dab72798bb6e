//! What happens next: by itself, from clocks and surveys that the records are waiting for; and by people.

use super::Case;
use super::what::counted;
use crate::machine::notice::NextAction;
use crate::machine::policy::{CRITICAL_PAGES, REOPEN_WINDOW};
use crate::model::agent::{FirewallStatus, Presence};
use crate::model::remediation::{Cancellation, Remediation, State};
use crate::model::report::{Phase, Report, ReportStatus, Severity, Sla};
use crate::model::time::after;
use crate::ops::inspect::audit::person;
use crate::ops::inspect::text::shown;

pub(super) fn by_itself(case: &Case) -> Vec<String> {
    let stored = &case.inspected.stored;
    let (report, settings) = (&stored.report, &stored.organization.settings);
    let mut told = Vec::new();
    for item in report.remediations.iter().filter(|item| item.kind.is_task()) {
        told.extend(goes_on(case, item));
    }
    if report.status == ReportStatus::AutoRemediating {
        told.push("When its last task has ended well the report closes; when one fails or expires it comes to people.".to_owned());
    }
    if report.status == ReportStatus::Closed && report.residual {
        told.push("Should one of these tasks fail or expire, the report is opened again.".to_owned());
    }
    if let Some(asker) = report.refused_resolution.as_ref().filter(|_| report.status == ReportStatus::Sent) {
        told.push(if settings.resolve_when_unblocked {
            format!("As soon as nothing is in the way any more the report is resolved, in the name of {}.", person(asker))
        } else {
            "As soon as nothing is in the way any more it is published that the report can be resolved.".to_owned()
        });
    }
    if report.status == ReportStatus::Sent && settings.auto_close_when_footholds_cleared && !report.footholds.is_empty() {
        told.push(
            "The organization closes a report when a survey lists none of its footholds any more, unless something is unreviewed, failed or \
             at work."
                .to_owned(),
        );
    }
    told.extend(report.sla.and_then(|sla| alarm(report, &sla)));
    if let Some(agent) = &stored.agent {
        match agent.firewall_status {
            FirewallStatus::PendingIsolation => told.push("The host is isolated at the agent's next survey.".to_owned()),
            FirewallStatus::PendingRelease => told.push("The host is released at the agent's next survey.".to_owned()),
            FirewallStatus::Enabled | FirewallStatus::Isolated => {}
        }
    }
    let comes_back = matches!(report.status, ReportStatus::Closed | ReportStatus::PartnerDismissed) && report.watched;
    if let Some(closed) = report.closed_at.filter(|_| comes_back) {
        let until = shown(after(closed, REOPEN_WINDOW));
        told.push(format!("Until {until} it is opened again when a survey sees what a completed task had removed."));
    }
    told_or(told)
}

fn told_or(told: Vec<String>) -> Vec<String> {
    if told.is_empty() { vec!["Nothing.".to_owned()] } else { told }
}

/// What a task that has not ended is waiting for.
fn goes_on(case: &Case, item: &Remediation) -> Option<String> {
    let surveyed = case.inspected.stored.report.agent_id.is_some();
    let gone = case.inspected.stored.agent.as_ref().is_some_and(|agent| agent.presence == Presence::Unresponsive);
    let what = match item.state {
        State::Queued | State::Held if gone => "goes on when the agent surveys again",
        State::Queued if surveyed => "is started at the agent's next survey",
        State::Queued => "is started by a timer, since no agent is involved",
        State::Held => "goes on in the survey in which the tasks before it end",
        State::Delivered => "",
        State::RetryWait if surveyed => "is tried again",
        State::RetryWait => "is tried again by a timer",
        State::RebootPending => "is completed by the first survey after a reboot; nobody reboots the host by itself",
        State::OutcomeUnknown if surveyed => "is settled by the agent's next survey",
        State::OutcomeUnknown => "is settled by a timer",
        State::Unapproved | State::AwaitingHuman | State::Completed | State::Failed | State::Expired | State::Cancelled(_) => return None,
    };
    let id = item.id;
    if item.state == State::Delivered {
        let lease =
            item.open_attempt.as_ref().map(|attempt| format!("; without one by {} it counts as unknown", shown(attempt.lease_until)));
        return Some(format!("- #{id} ends with the outcome that the agent reports{}.", lease.unwrap_or_default()));
    }
    let from = match item.next_attempt_at {
        Some(at) if item.state == State::RetryWait && surveyed => format!(" at the first survey from {} on", shown(at)),
        Some(at) if item.state == State::RetryWait => format!(" on {}", shown(at)),
        _ => String::new(),
    };
    let expires = match item.deliver_by {
        Some(by) if item.state != State::RebootPending => format!("; if that has not come to an end by {} it expires", shown(by)),
        _ => String::new(),
    };
    Some(format!("- #{id} {what}{from}{expires}."))
}

/// The next step of the SLA.
fn alarm(report: &Report, sla: &Sla) -> Option<String> {
    let at = shown(sla.next_at?);
    let step = match (report.severity, sla.step) {
        (Severity::Critical, step) => format!("the on-call is paged again (page {} of {CRITICAL_PAGES})", step + 1),
        (Severity::High, 0) => format!("a warning is published; the time to respond ends on {}", shown(sla.respond_by)),
        (Severity::High, _) => "the time to respond is over and the on-call is paged".to_owned(),
        (Severity::Low, _) => "the time to respond is over, which is published without a page".to_owned(),
    };
    Some(format!("If nobody has acted on it by {at}, {step}."))
}

pub(super) fn by_people(case: &Case) -> Vec<String> {
    let report = &case.inspected.stored.report;
    // R16 asks for an agent that is still there
    let removed = case.inspected.stored.agent.as_ref().is_some_and(|agent| agent.presence == Presence::Removed);
    let mut told = match report.status {
        ReportStatus::Sent => while_open(case),
        ReportStatus::AutoRemediating => Vec::new(),
        ReportStatus::Closed | ReportStatus::PartnerDismissed => match report.closed_at.filter(|_| !removed) {
            Some(at) => vec![format!(
                "Nothing for the report. Should it have to be opened again, an admin or security_engineer can ask for that until {}.",
                shown(after(at, REOPEN_WINDOW))
            )],
            None => Vec::new(),
        },
        ReportStatus::Dismissed | ReportStatus::Deleting => Vec::new(),
    };
    let silent = case.inspected.stored.agent.as_ref().filter(|_| !case.inspected.blockers.is_empty());
    let waits = |item: &Remediation| item.kind.is_task() && !item.state.is_terminal() && item.state != State::Unapproved;
    if let Some(agent) = silent.filter(|_| report.status.is_open() && report.remediations.iter().any(waits)) {
        match agent.presence {
            Presence::Offline | Presence::Unresponsive => {
                told.push("Find out why the agent is not heard of: the tasks wait for its survey.".to_owned());
            }
            Presence::Known | Presence::Online | Presence::Removed => {}
        }
    }
    told.extend(release(case));
    told_or(told)
}

fn while_open(case: &Case) -> Vec<String> {
    let report = &case.inspected.stored.report;
    let plan = |wanted: fn(&Remediation) -> bool| -> Vec<&Remediation> { report.plan().filter(|item| wanted(item)).collect() };
    let unreviewed = plan(|item| item.state == State::Unapproved);
    let ended_badly = plan(|item| {
        item.kind.is_task()
            && !item.waived
            && matches!(item.state, State::Failed | State::Expired | State::Cancelled(Cancellation::Requested))
    });
    let reboots = plan(|item| item.state == State::RebootPending && !item.waived);
    let manual = plan(|item| item.state == State::AwaitingHuman);
    let mut told = Vec::new();
    if case.inspected.phase == Some(Phase::InRevision) {
        told.push("The SOC has to issue the plan again. Until then nothing in it can be approved.".to_owned());
    }
    if !unreviewed.is_empty() {
        let read = if case.inspected.triage.next_action == NextAction::ReadReport { "Read the report. " } else { "" };
        told.push(format!("{read}An admin, security_engineer or user has to review {} and approve or reject.", ids(&unreviewed)));
    }
    let gone = case.inspected.stored.agent.as_ref().is_some_and(|agent| agent.presence == Presence::Removed);
    if !ended_badly.is_empty() && gone {
        told.push(format!("The agent is gone. {} an admin may waive, with a reason; or the SOC revises the plan.", ids(&ended_badly)));
    } else if !ended_badly.is_empty() {
        told.push(format!(
            "Find out why {} did not succeed and mend it; then an admin, security_engineer or user asks for a retry. What is not needed \
             an admin may waive, with a reason; the SOC may also revise the plan.",
            ids(&ended_badly)
        ));
    }
    if !reboots.is_empty() {
        told.push(format!("Reboot the host, for {}; or an admin waives that, with a reason.", ids(&reboots)));
    }
    if !manual.is_empty() {
        let them = if manual.len() == 1 { "it" } else { "them" };
        told.push(format!("Do {} by hand: {}. Resolving the report acknowledges {them}.", counted(manual.len(), "step"), named(&manual)));
    }
    if case.inspected.blockers.is_empty() {
        told.push("An admin or security_engineer can resolve the report.".to_owned());
    }
    told
}

/// Release is a deliberate act, unless the organization has said otherwise.
fn release(case: &Case) -> Option<String> {
    let stored = &case.inspected.stored;
    let agent = stored.agent.as_ref().filter(|agent| agent.firewall_status == FirewallStatus::Isolated)?;
    let ready = stored.report.status != ReportStatus::Sent || case.inspected.phase == Some(Phase::Ready);
    let host = agent.hostname.as_deref().unwrap_or("the host");
    Some(if !ready {
        format!("Leave {host} isolated until the remediation is done.")
    } else if stored.organization.settings.release_on_resolve && stored.report.status.is_open() {
        format!("{host} is released when the last report that holds it is resolved; nobody has to ask.")
    } else {
        format!("If {host} may go back to the network an admin or security_engineer has to ask for its release.")
    })
}

fn ids(items: &[&Remediation]) -> String {
    items.iter().map(|item| format!("#{}", item.id)).collect::<Vec<_>>().join(", ")
}

fn named(items: &[&Remediation]) -> String {
    items.iter().map(|item| format!("#{} {}", item.id, item.action.original())).collect::<Vec<_>>().join("; ")
}
