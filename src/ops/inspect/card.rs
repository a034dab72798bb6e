//! The card: one report on 80 columns, for somebody at a helpdesk who has a minute. The four questions, the
//! plan, what is in the way and who can clear it, what to do next.
//!
//! Never here: a rule. The next thing to do is a reading of phase and blockers.

use std::fmt::Write as _;

use super::Inspected;
use super::json::reason;
use super::text::{columns, shown, wrap};
use crate::machine::notice::{Blocker, NextAction, PlanShape, Urgency};
use crate::machine::policy::MAX_ATTEMPTS;
use crate::model::agent::FirewallStatus;
use crate::model::remediation::{Parameters, Remediation, State};
use crate::model::report::{AttackKind, Phase};

const WIDTH: usize = 80;
/// Where the answers begin.
const INDENT: usize = 12;
/// Widths of the plan's columns but the last one: id, type, action, state, attempt.
const COLUMNS: [usize; 5] = [5, 12, 23, 16, 7];
/// Footholds shown; the JSON has them all.
const MAX_FOOTHOLDS: usize = 8;

pub(super) fn card(inspected: &Inspected) -> String {
    let mut card = Card(String::new());
    let report = &inspected.stored.report;
    let phase = inspected.phase.map_or(String::new(), |phase| format!(" ({})", phase.as_str()));
    card.rule('=');
    card.line(&format!("Report {} of tenant {}: {}{phase}", report.id, inspected.stored.tenant, report.status.as_str()));
    card.line(&report.text.subject);
    card.rule('=');
    card.answer("Tonight?", &tonight(inspected));
    card.answer("Found?", &found(inspected));
    for foothold in report.footholds.iter().take(MAX_FOOTHOLDS) {
        let state = if inspected.remains(foothold) { "remains" } else { "removed" };
        card.answer("", &format!("- {} {state}: {}", foothold.kind, foothold.description));
    }
    if let Some(more) = report.footholds.len().checked_sub(MAX_FOOTHOLDS).filter(|more| *more > 0) {
        card.answer("", &format!("- and {more} more"));
    }
    card.answer("Plan?", &plan(inspected));
    card.answer("Isolated?", isolation(inspected));
    card.table(report.plan());
    if report.status.is_open() && !inspected.blockers.is_empty() {
        card.rule('-');
        card.line("In the way of closing:");
        for blocker in &inspected.blockers {
            card.blocker(blocker);
        }
    }
    card.rule('-');
    card.answer("Next:", &next(inspected));
    card.0
}

struct Card(String);

impl Card {
    fn rule(&mut self, of: char) {
        self.0.extend(std::iter::repeat_n(of, WIDTH));
        self.0.push('\n');
    }

    fn line(&mut self, text: &str) {
        for line in wrap(text, WIDTH) {
            self.0.push_str(&line);
            self.0.push('\n');
        }
    }

    /// A question and its answer, hanging.
    fn answer(&mut self, question: &str, answer: &str) {
        let mut question = question;
        for line in wrap(answer, WIDTH - INDENT) {
            // writing to a String cannot fail
            let _ = writeln!(self.0, "{question:INDENT$}{line}");
            question = "";
        }
    }

    fn table<'a>(&mut self, items: impl Iterator<Item = &'a Remediation>) {
        let mut items = items.peekable();
        if items.peek().is_none() {
            return;
        }
        self.rule('-');
        self.row(["#", "type", "action", "state", "tried", "remark (UTC)"].map(str::to_owned));
        for item in items {
            let tried = if item.kind.is_task() { format!("{} of {MAX_ATTEMPTS}", item.attempt) } else { "-".into() };
            let state = if item.waived { format!("{} (waived)", item.state.as_str()) } else { item.state.as_str().into() };
            let action = item.action.original().to_owned();
            self.row([item.id.to_string(), item.kind.as_str().into(), action, state, tried, remark(item)]);
            for line in parameters(item) {
                for line in wrap(&line, WIDTH - COLUMNS[0]) {
                    let _ = writeln!(self.0, "{:1$}{line}", "", COLUMNS[0]);
                }
            }
        }
    }

    fn row(&mut self, cells: [String; 6]) {
        let [id, kind, action, state, tried] = COLUMNS.map(|width| width - 1);
        let widths = [id, kind, action, state, tried, WIDTH - COLUMNS.iter().sum::<usize>()];
        self.0.push_str(&columns(widths, cells));
    }

    fn blocker(&mut self, blocker: &Blocker) {
        let what = match &blocker.task {
            Some(task) => format!("* #{} {}: {}", task.remediation_id, task.action.original(), blocker.code.as_str()),
            None => format!("* {}", blocker.code.as_str()),
        };
        self.line(&what);
        if let Some(next) = blocker.task.as_ref().and_then(|task| task.next_attempt_at) {
            self.answer("", &format!("next try from {}", shown(next)));
        }
        self.answer("", &format!("cleared by {}", blocker.clears_by()));
    }
}

fn tonight(inspected: &Inspected) -> String {
    let triage = &inspected.triage;
    if !inspected.stored.report.status.is_open() {
        return format!("nothing any more. It was {}.", triage.severity.as_str().to_uppercase());
    }
    let what = match triage.urgency {
        Urgency::PageNow => "page the senior on call now",
        Urgency::WithinHour => "act within the hour",
        Urgency::BusinessDay => "working-day work, wake nobody",
    };
    format!("{}: {what}. Respond by {}.", triage.severity.as_str().to_uppercase(), shown(triage.respond_by))
}

fn found(inspected: &Inspected) -> String {
    let finding = &inspected.triage.finding;
    let mut answer = match finding.attack_kind {
        AttackKind::Unknown => "an attack of unknown kind".to_owned(),
        AttackKind::Phishing | AttackKind::MalwarePersistence | AttackKind::IdentityCompromise => {
            finding.attack_kind.as_str().replace('_', " ")
        }
    };
    let places: Vec<&str> = finding.hosts.iter().chain(&finding.identities).map(String::as_str).filter(|place| !place.is_empty()).collect();
    if !places.is_empty() {
        let _ = write!(answer, " on {}", places.join(", "));
    }
    let _ = write!(answer, ". {}", finding.summary);
    answer
}

fn plan(inspected: &Inspected) -> String {
    let shape = match inspected.triage.plan_shape {
        PlanShape::Assisted => "assisted: the agent does it once it is approved",
        PlanShape::Manual => "manual: people do it",
        PlanShape::Both => "assisted and manual: the agent does its part once it is approved, people do theirs",
        PlanShape::None => "none: informational",
    };
    format!("{shape}. Revision {}.", inspected.stored.report.plan_revision)
}

fn isolation(inspected: &Inspected) -> &'static str {
    match inspected.triage.isolation {
        None => "no host is involved",
        Some(FirewallStatus::Enabled) => "no",
        Some(FirewallStatus::PendingIsolation) => "not yet: at the agent's next survey",
        Some(FirewallStatus::Isolated) => "YES. Leave it so until the remediation is done; release is asked for by hand.",
        Some(FirewallStatus::PendingRelease) => "still, but release has been asked for: at the agent's next survey",
    }
}

/// What exactly the agent is asked to touch: it is read before it is approved.
fn parameters(item: &Remediation) -> Vec<String> {
    match item.parameters.as_ref() {
        Parameters::None => Vec::new(),
        Parameters::Text(text) => vec![text.clone()],
        Parameters::Named(list) => list.iter().map(|parameter| format!("{}: {}", parameter.name, parameter.description)).collect(),
    }
}

/// What a row says beside its state.
fn remark(item: &Remediation) -> String {
    let reason = reason(item).unwrap_or("");
    match (item.state, item.next_attempt_at, item.deliver_by) {
        (State::RetryWait, Some(at), _) => format!("{reason}, next {}", at.strftime("%H:%M")),
        (State::Queued | State::Held, _, Some(by)) => format!("deliver by {}", by.strftime("%d %b")),
        _ if item.verified => format!("verified {reason}"),
        _ => reason.to_owned(),
    }
}

fn next(inspected: &Inspected) -> String {
    let report = &inspected.stored.report;
    let Some(phase) = inspected.phase else {
        let end = report.closed_at.map(|at| format!(" ({})", shown(at))).unwrap_or_default();
        let by = report.closed_by.as_ref().map(|by| format!(", by: {by}")).unwrap_or_default();
        return format!("nothing. The report is {}{end}{by}.", report.status.as_str());
    };
    let ids = |wanted: fn(&Remediation) -> bool| {
        let ids: Vec<String> = report.plan().filter(|item| wanted(item)).map(|item| format!("#{}", item.id)).collect();
        ids.join(", ")
    };
    match phase {
        Phase::InRevision => "wait for the SOC to issue the plan again. Nothing can be approved until then.".into(),
        Phase::AwaitingApproval => {
            let read_first = if inspected.triage.next_action == NextAction::ReadReport { "read the report, then " } else { "" };
            format!("{read_first}review the plan and approve or reject {}.", ids(|item| item.state == State::Unapproved))
        }
        Phase::Blocked => {
            let blocked = inspected.blockers.iter().filter_map(|blocker| blocker.task.as_ref());
            let failed: Vec<String> = blocked
                .filter(|task| matches!(task.state, State::Failed | State::Expired | State::Cancelled(_)))
                .map(|task| format!("#{} ({})", task.remediation_id, task.reason.as_deref().unwrap_or(task.state.as_str())))
                .collect();
            format!("find out why, mend it, and ask for a retry of {}. If it is not needed an admin may waive it.", failed.join(", "))
        }
        Phase::Remediating => {
            "nothing by hand: the agent goes on at its next survey. Look again then; only if the host stays away, see after it.".into()
        }
        Phase::Ready => match ids(|item| item.state == State::AwaitingHuman).as_str() {
            "" => "resolve the report (admin or security_engineer).".into(),
            open => format!("do the manual steps {open}, then resolve (admin or security_engineer); resolving acknowledges them."),
        },
    }
}
