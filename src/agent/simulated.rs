//! The simulated host: plays the tries of an attempt and answers surveys. Pure: all it knows is in the order
//! and the subject.
//!
//! Outcomes come from the item's `simulate` list, one code a try, with one cursor for the item's whole life; after the
//! list's end `ok`. Without a list the model decides: `steady` always succeeds at once, `seeded` draws from the table below.
//!
//! ## The seeded model
//! One draw a try, from (seed, attempt id, try): a share of tries fails for the time being, a small share for good.
//!
//! | actions | transient | code | permanent | code | takes |
//! |---|---|---|---|---|---|
//! | kill_process, stop_service | 8 % | `agent_busy` | 2 % | `access_denied` | 0.2–2 s |
//! | delete_scheduled_task, delete_service, delete_registry_* | 10 % | `profile_not_loaded` | 2 % | `access_denied` | 0.1–1 s |
//! | delete_file, quarantine_file | 30 % | `file_in_use` | 2 % | `protected` | 0.2–4 s |
//! | uninstall_program | 20 % | `timeout` | 4 % | `unsupported` | 2–20 s |
//! | block_ip, isolate_host | 5 % | `network` | 0 % | | 0.1–1 s |
//! | reboot_host, uninstall_agent | 5 % | `agent_busy` | 1 % | `access_denied` | 1–5 s |
//! | identity actions | 12 % | `network` | 1 % | `access_denied` | 0.2–2 s |
//!
//! An action that is not listed is `unsupported` in both models.

use crate::machine::decision::AttemptOrder;
use crate::machine::policy::mix;
use crate::machine::subject::Subject;
use crate::model::agent::Survey;
use crate::model::remediation::{Action, OutcomeClass, OutcomeCode, State};
use crate::model::time::Span;

use super::tries::{MAX_TRIES, Pauses};

/// What a try comes to where no list says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Steady,
    Seeded { seed: u64 },
}

/// A played attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    pub code: OutcomeCode,
    pub tries: u32,
    /// Tries and the pauses between them.
    pub took: Span,
}

/// Up to [`MAX_TRIES`] tries; only the last outcome counts.
pub fn play(order: &AttemptOrder, model: Model) -> Played {
    let seed = match model {
        Model::Steady => 0,
        Model::Seeded { seed } => seed,
    };
    let draw_base = order.attempt_id.bytes().fold(mix(seed), |hash, byte| mix(hash ^ u64::from(byte)));
    let mut pauses = Pauses::new(draw_base);
    let mut took = Span::ZERO;
    let mut tries = 0;
    loop {
        let draw = mix(draw_base.wrapping_add(u64::from(tries)));
        let (code, try_took) = one_try(order, model, order.simulate_cursor.saturating_add(tries), draw);
        tries += 1;
        took += try_took;
        if code.class() != OutcomeClass::Transient || tries == MAX_TRIES {
            return Played { code, tries, took };
        }
        if !plays_in_no_time(order, model) {
            took += pauses.next_pause();
        }
    }
}

/// With a list, and in the steady model, tries take no time and pauses are virtual.
fn plays_in_no_time(order: &AttemptOrder, model: Model) -> bool {
    !order.simulate.is_empty() || model == Model::Steady
}

fn one_try(order: &AttemptOrder, model: Model, cursor: u32, draw: u64) -> (OutcomeCode, Span) {
    if !order.simulate.is_empty() {
        let code = order.simulate.get(cursor as usize).cloned().unwrap_or_else(|| OutcomeCode::new("ok"));
        return (code, Span::ZERO);
    }
    let Some(action) = order.action.listed() else {
        return (OutcomeCode::new("unsupported"), Span::ZERO);
    };
    match model {
        Model::Steady => (OutcomeCode::new("ok"), Span::ZERO),
        Model::Seeded { .. } => {
            let odds = odds(action);
            let roll = draw % 1_000;
            let code = if roll < odds.transient_permille {
                odds.transient
            } else if roll < odds.transient_permille + odds.permanent_permille {
                odds.permanent
            } else {
                "ok"
            };
            let (shortest, longest) = odds.takes_ms;
            let took = shortest + mix(draw) % (longest - shortest + 1);
            (OutcomeCode::new(code), Span::from_millis(took as i64))
        }
    }
}

struct Odds {
    transient_permille: u64,
    transient: &'static str,
    permanent_permille: u64,
    permanent: &'static str,
    takes_ms: (u64, u64),
}

/// The table of the module docs.
fn odds(action: Action) -> Odds {
    let (transient_permille, transient, permanent_permille, permanent, takes_ms) = match action {
        Action::KillProcess | Action::StopService => (80, "agent_busy", 20, "access_denied", (200, 2_000)),
        Action::DeleteScheduledTask | Action::DeleteService | Action::DeleteRegistryValue | Action::DeleteRegistryKey => {
            (100, "profile_not_loaded", 20, "access_denied", (100, 1_000))
        }
        Action::DeleteFile | Action::QuarantineFile => (300, "file_in_use", 20, "protected", (200, 4_000)),
        Action::UninstallProgram => (200, "timeout", 40, "unsupported", (2_000, 20_000)),
        Action::BlockIp | Action::IsolateHost => (50, "network", 0, "network", (100, 1_000)),
        Action::RebootHost | Action::UninstallAgent => (50, "agent_busy", 10, "access_denied", (1_000, 5_000)),
        Action::DisableIdentity | Action::RevokeSessions | Action::DisableInboxRule => (120, "network", 10, "access_denied", (200, 2_000)),
    };
    Odds { transient_permille, transient, permanent_permille, permanent, takes_ms }
}

/// What the host sees when it surveys, filled in where the event does not say: a foothold is gone once every task
/// that was to remove it is completed.
pub fn observe(subject: &Subject, survey: &mut Survey) {
    if survey.footholds_present.is_none() {
        let present = subject.reports.values().flat_map(|report| {
            report.footholds.iter().filter(|foothold| {
                let done = |id| report.item(id).is_some_and(|item| item.state == State::Completed);
                let mut tasks =
                    foothold.remediation_ids.iter().filter(|id| report.item(**id).is_some_and(|item| item.kind.is_task())).peekable();
                tasks.peek().is_none() || !tasks.all(|id| done(*id))
            })
        });
        survey.footholds_present = Some(present.map(|foothold| foothold.id.clone()).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{RemediationId, ReportId};
    use crate::model::remediation::ActionName;
    use crate::model::time::Timestamp;

    fn order(action: &str, simulate: &[&str], cursor: u32, attempt: &str) -> AttemptOrder {
        AttemptOrder {
            report: ReportId(1),
            revision: 1,
            remediation: RemediationId(1),
            attempt_id: attempt.into(),
            action: ActionName::new(action),
            started_at: Timestamp::UNIX_EPOCH,
            on_host: true,
            simulate: simulate.iter().map(|code| OutcomeCode::new(*code)).collect(),
            simulate_cursor: cursor,
            cause: "survey".into(),
            traceparent: None,
        }
    }

    #[test]
    fn the_list_is_played_one_code_a_try_and_then_ok() {
        let list = ["file_in_use", "file_in_use", "file_in_use", "file_in_use", "ok"];
        for (cursor, code, tries) in [(0, "file_in_use", 3), (3, "ok", 2), (5, "ok", 1)] {
            let played = play(&order("Quarantine File", &list, cursor, "a"), Model::Seeded { seed: 1 });
            assert_eq!((played.code.0.as_str(), played.tries, played.took), (code, tries, Span::ZERO), "cursor {cursor}");
        }
    }

    #[test]
    fn a_permanent_code_ends_the_attempt_at_once() {
        let played = play(&order("Delete Service", &["access_denied", "ok"], 0, "a"), Model::Steady);
        assert_eq!((played.code.0.as_str(), played.tries), ("access_denied", 1));
    }

    #[test]
    fn steady_succeeds_and_knows_no_unlisted_action() {
        assert_eq!(play(&order("kill_process", &[], 0, "a"), Model::Steady).code.0, "ok");
        assert_eq!(play(&order("make coffee", &[], 0, "a"), Model::Steady).code.0, "unsupported");
    }

    #[test]
    fn seeded_repeats_itself_and_keeps_to_its_odds() {
        let run = |seed| {
            (0..4_000).map(|n| play(&order("delete_file", &[], 0, &n.to_string()), Model::Seeded { seed }).code.0).collect::<Vec<_>>()
        };
        let first = run(7);
        assert_eq!(first, run(7));
        assert_ne!(first, run(8));
        let share = |code: &str| first.iter().filter(|seen| *seen == code).count();
        // three tries at 30 % each leave 2.7 % in use; 2 % a try are protected
        assert!((60..170).contains(&share("file_in_use")), "{}", share("file_in_use"));
        assert!((60..170).contains(&share("protected")), "{}", share("protected"));
    }
}
