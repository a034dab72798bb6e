//! What a person asks of one remediation: T16 to T20.

use crate::model::ids::{RemediationId, ReportId};
use crate::model::remediation::{Cancellation, Remediation, RemediationType, State};
use crate::model::report::{Report, ReportStatus};

use super::decision::{Decision, Ignored};
use super::draft::{Draft, item_index};
use super::event::TaskRequest;
use super::notice::{Author, RefusalCode};
use super::policy::{Permission, may};
use super::reports::role_message;
use super::{closing, isolation, tasks};

/// The item that a request is about, and the state that it is in.
struct Requested<'a> {
    draft: Draft<'a>,
    id: ReportId,
    index: usize,
    kind: RemediationType,
    state: State,
}

impl<'a> Requested<'a> {
    /// Role, report and item, in this order; `Err` is the answer. `open` says in which reports it may be asked.
    fn find(
        draft: Draft<'a>,
        request: &TaskRequest,
        permission: Permission,
        open: impl Fn(&Report) -> bool,
    ) -> Result<Self, Box<Decision>> {
        let id = request.report;
        let Some(report) = draft.report(id) else { return Err(Box::new(Decision::Ignored(Ignored::Nothing))) };
        // what is left of an old plan can be asked about as well, where the current one has no such item in question
        let found = match permission {
            Permission::Waive => old_item(report, request.remediation).or_else(|| item_index(report, request.remediation)),
            Permission::Work | Permission::Conclude => item_index(report, request.remediation),
        };
        let (code, message) = if !may(request.actor.role, permission) {
            (RefusalCode::RoleNotAllowed, role_message(&request.actor))
        } else if !open(report) {
            (RefusalCode::WrongState, format!("the report is {}", report.status.as_str()))
        } else if let Some((index, item)) = found.and_then(|index| Some((index, report.remediations.get(index)?))) {
            let (kind, state) = (item.kind, item.state);
            return Ok(Self { draft, id, index, kind, state });
        } else {
            (RefusalCode::UnknownRemediation, format!("the current plan has no remediation {}", request.remediation))
        };
        Err(Box::new(draft.refuse(id, code, message)))
    }

    fn wrong_state(self, message: String) -> Decision {
        self.draft.refuse(self.id, RefusalCode::WrongState, message)
    }
}

/// An item of an old plan that waits for a reboot: it shuts the gate, so it can be waived (T17).
fn old_item(report: &Report, id: RemediationId) -> Option<usize> {
    let left =
        |item: &&Remediation| item.id == id && item.revision != report.plan_revision && item.state == State::RebootPending && !item.waived;
    let newest = report.remediations.iter().filter(left).map(|item| item.revision).max()?;
    report.remediations.iter().position(|item| item.id == id && item.revision == newest)
}

fn sent(report: &Report) -> bool {
    report.status == ReportStatus::Sent
}

/// T20, done.
pub(super) fn manual_completed(draft: Draft<'_>, request: &TaskRequest) -> Decision {
    mark(draft, request, State::AwaitingHuman, State::Completed)
}

/// T20, undone.
pub(super) fn manual_uncompleted(draft: Draft<'_>, request: &TaskRequest) -> Decision {
    mark(draft, request, State::Completed, State::AwaitingHuman)
}

fn mark(draft: Draft<'_>, request: &TaskRequest, from: State, to: State) -> Decision {
    let found = match Requested::find(draft, request, Permission::Work, sent) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    if found.kind != RemediationType::Manual {
        return found.wrong_state("only a manual step is marked by hand".into());
    }
    if found.state == to {
        return Decision::Ignored(Ignored::Nothing);
    }
    if found.state != from {
        let message = format!("the step is {}", found.state.as_str());
        return found.wrong_state(message);
    }
    let Requested { mut draft, id, index, .. } = found;
    let completed_at = (to == State::Completed).then_some(draft.now);
    draft.move_item(id, index, to, |item| {
        item.reason = None;
        item.completed_at = completed_at;
    });
    draft.finish()
}

/// T16.
pub(super) fn retry_requested(draft: Draft<'_>, request: &TaskRequest) -> Decision {
    let open = |report: &Report| sent(report) || (report.status == ReportStatus::Closed && report.residual);
    let found = match Requested::find(draft, request, Permission::Work, open) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    if !matches!(found.state, State::Failed | State::Expired | State::Cancelled(Cancellation::Requested)) {
        let message = format!("a task that is {} is not retried by hand", found.state.as_str());
        return found.wrong_state(message);
    }
    let Requested { mut draft, id, index, .. } = found;
    let (now, asked_at) = (draft.now, draft.event.time);
    draft.move_item(id, index, State::Queued, |item| tasks::queue(item, asked_at, now));
    isolation::hold_for(&mut draft, id, index);
    draft.finish()
}

/// T17. The state stays; the gate looks past it.
pub(super) fn waived(draft: Draft<'_>, request: &TaskRequest) -> Decision {
    let found = match Requested::find(draft, request, Permission::Waive, sent) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    if request.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        return found.draft.refuse(found.id, RefusalCode::EmptyComment, "a waiver needs a reason".into());
    }
    if !tasks::is_waivable(found.state) {
        let message = format!("a task that is {} cannot be waived", found.state.as_str());
        return found.wrong_state(message);
    }
    let Requested { mut draft, id, index, state, .. } = found;
    match draft.change(id).and_then(|report| report.remediations.get_mut(index)) {
        Some(item) if !item.waived => item.waived = true,
        Some(_) | None => return Decision::Ignored(Ignored::Nothing),
    }
    draft.note_same_item(id, index, state);
    draft.finish()
}

/// T18, and T19 for a task that an agent has.
pub(super) fn cancel_requested(draft: Draft<'_>, request: &TaskRequest) -> Decision {
    let found = match Requested::find(draft, request, Permission::Work, |report| report.status.is_open()) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let waits = found.state.waits();
    if !waits && found.state != State::Delivered {
        let message = format!("a task that is {} cannot be cancelled", found.state.as_str());
        return found.wrong_state(message);
    }
    let Requested { mut draft, id, index, .. } = found;
    if draft.report(id).is_some_and(|report| report.status == ReportStatus::AutoRemediating) {
        // R5b
        closing::hand_over(&mut draft, id, "cancel_requested", Author::Person(request.actor.clone()));
    }
    if waits {
        let was_isolation = draft.report(id).is_some_and(|report| report.remediations.get(index).is_some_and(isolation::is_isolation));
        tasks::cancel(&mut draft, id, index, Cancellation::Requested);
        tasks::forerunners_ended(&mut draft);
        if was_isolation {
            isolation::drop_holder(&mut draft, id, "cancel_requested", Some(Author::Person(request.actor.clone())));
        }
    } else if let Some(item) = draft.change(id).and_then(|report| report.remediations.get_mut(index)) {
        item.cancel_asked = true;
    }
    draft.finish()
}
