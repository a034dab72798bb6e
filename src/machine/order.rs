//! The order of tasks on one agent (lifecycle.md, below the T table): ranks and forerunners.

use crate::model::ids::ReportId;
use crate::model::remediation::{Action, Remediation, RemediationType, State};

use super::isolation::is_isolation;
use super::subject::Subject;

/// Lower runs first. Tasks of one rank do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Containment,
    Stop,
    Persistence,
    Files,
    Uninstall,
    Reboot,
    UninstallAgent,
}

pub fn rank(item: &Remediation) -> Rank {
    if item.kind == RemediationType::Containment || is_isolation(item) {
        return Rank::Containment;
    }
    match item.action.listed() {
        Some(Action::KillProcess | Action::StopService) => Rank::Stop,
        Some(Action::DeleteScheduledTask | Action::DeleteService | Action::DeleteRegistryValue | Action::DeleteRegistryKey) => {
            Rank::Persistence
        }
        Some(Action::UninstallProgram) => Rank::Uninstall,
        Some(Action::RebootHost) => Rank::Reboot,
        Some(Action::UninstallAgent) => Rank::UninstallAgent,
        Some(
            Action::DeleteFile
            | Action::QuarantineFile
            | Action::BlockIp
            | Action::IsolateHost
            | Action::DisableIdentity
            | Action::RevokeSessions
            | Action::DisableInboxRule,
        )
        | None => Rank::Files,
    }
}

/// Whether `item` of `report` has to wait for another task.
///
/// Within a report and revision: for every open task of a lower rank. Across reports: for open containment,
/// and a reboot for everything that ranks before a reboot (waiting for another report's uninstall_agent
/// as well could close a circle, since that one waits for its own report's reboot).
pub fn has_open_forerunner(subject: &Subject, report: ReportId, item: &Remediation) -> bool {
    let own = rank(item);
    subject.reports.values().any(|other_report| {
        other_report.remediations.iter().any(|other| {
            let same_plan = other_report.id == report && other.revision == item.revision;
            if !other.kind.is_task() || !is_open(other.state) || (same_plan && other.id == item.id) {
                return false;
            }
            let theirs = rank(other);
            let before_all = theirs == Rank::Containment || own == Rank::Reboot;
            theirs < own && (same_plan || before_all)
        })
    })
}

/// Held counts with the open ones: a held task keeps those behind it waiting.
fn is_open(state: State) -> bool {
    match state {
        State::Queued | State::Held | State::Delivered | State::RetryWait | State::OutcomeUnknown => true,
        State::Unapproved
        | State::RebootPending
        | State::AwaitingHuman
        | State::Completed
        | State::Failed
        | State::Expired
        | State::Cancelled(_) => false,
    }
}
