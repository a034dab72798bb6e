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
use crate::model::agent::{FirewallStatus, Survey};
use crate::model::remediation::{Action, OutcomeClass, OutcomeCode, State};
use crate::model::report::{Foothold, Report};
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

/// What the host sees when it surveys, filled in where the event does not say.
///
/// A foothold is gone once every task that was to remove it is completed. The boot id changes after a completed
/// `reboot_host`. In the seeded model a removed foothold is back in 2 of 1,000 surveys, an isolated host says that it
/// is not in 5 of 1,000, and somebody reboots a host that waits for it in one survey of four.
pub fn observe(subject: &Subject, survey: &mut Survey, model: Model) {
    let chance = |what: &str, permille: u64| match model {
        Model::Steady => false,
        Model::Seeded { seed } => {
            let base = mix(seed) ^ mix(survey.agent_id.0) ^ mix(survey.surveyed_at.as_millisecond() as u64);
            what.bytes().fold(base, |hash, byte| mix(hash ^ u64::from(byte))) % 1_000 < permille
        }
    };
    let present = survey.footholds_present.is_none().then(|| {
        let listed = subject.reports.values().flat_map(|report| {
            let back = |foothold: &&Foothold| !is_removed(report, foothold) || chance(&foothold.id, 2);
            report.footholds.iter().filter(back).map(|foothold| foothold.id.clone())
        });
        listed.collect()
    });
    let held = subject.agent.as_ref().is_some_and(|agent| agent.firewall_status == FirewallStatus::Isolated);
    let isolated = held.then(|| !chance("isolation", 5));
    let boot_id = boot_id(subject, chance("reboot", 250));
    survey.footholds_present = survey.footholds_present.take().or(present);
    survey.isolated = survey.isolated.or(isolated);
    survey.boot_id = survey.boot_id.take().or(boot_id);
}

fn is_removed(report: &Report, foothold: &Foothold) -> bool {
    let linked = || foothold.remediation_ids.iter().filter_map(|id| report.item(*id)).filter(|item| item.kind.is_task());
    linked().next().is_some() && linked().all(|item| item.state == State::Completed)
}

/// `boot-<n>`, one more after each reboot. A host that surveys by ids of its own keeps those until it reboots here.
fn boot_id(subject: &Subject, somebody_reboots: bool) -> Option<String> {
    let known = subject.agent.as_ref().and_then(|agent| agent.boot_id.as_deref());
    let last_survey = subject.agent.as_ref().and_then(|agent| agent.last_survey_at);
    let mut items = subject.reports.values().flat_map(|report| report.remediations.iter());
    let rebooted = items.any(|item| match item.state {
        State::Completed => {
            item.action.listed() == Some(Action::RebootHost)
                && item.last_attempt_survey.is_some()
                && item.last_attempt_survey == last_survey
        }
        State::RebootPending => somebody_reboots,
        _ => false,
    });
    match (known, rebooted) {
        (None, _) => Some("boot-1".into()),
        (Some(_), false) => None,
        (Some(known), true) => {
            let number: u64 = known.strip_prefix("boot-").and_then(|number| number.parse().ok()).unwrap_or(0);
            Some(format!("boot-{}", number + 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::machine::decide;
    use crate::machine::decision::Decision;
    use crate::machine::event::{Event, EventKind, NewReport, PlanItem};
    use crate::machine::policy::Policy;
    use crate::model::ids::{AgentId, RemediationId, ReportId, SubjectKey, TenantId};
    use crate::model::remediation::{ActionName, RemediationType};
    use crate::model::report::{AttackKind, Severity};
    use crate::model::time::Timestamp;

    fn order(action: &str, simulate: &[&str], cursor: u32, attempt: &str) -> AttemptOrder {
        AttemptOrder {
            report: ReportId(1),
            revision: 1,
            remediation: RemediationId(1),
            attempt_id: attempt.into(),
            action: ActionName::new(action),
            started_at: Timestamp::UNIX_EPOCH,
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

    /// A host with a report on it: `fh-1` goes with item 1, item 2 reboots; `states` are the items'.
    fn host(states: [State; 2], boot_id: Option<&str>) -> Subject {
        let item = |id, action: &str| PlanItem {
            id: RemediationId(id),
            kind: RemediationType::Assisted,
            action: ActionName::new(action),
            parameters: Arc::default(),
            simulate: Arc::default(),
        };
        let new = NewReport {
            id: ReportId(1),
            agent_id: Some(AgentId(7)),
            identity: None,
            platform: "windows".into(),
            hostname: None,
            severity: Severity::High,
            attack_kind: AttackKind::Unknown,
            text: Arc::default(),
            body: String::new(),
            simulated: false,
            isolate_host: false,
            plan_revision: 1,
            items: vec![item(1, "delete_file"), item(2, "reboot_host")],
            footholds: vec![Foothold {
                id: "fh-1".into(),
                kind: "file".into(),
                description: String::new(),
                remediation_ids: vec![RemediationId(1)],
            }],
            sent_at: at(0),
            updated_at: at(0),
            status_updated_at: at(0),
        };
        let tenant = TenantId { account: 1, organization: 1 };
        let event = Event { id: "e".into(), tenant, time: at(0), traceparent: None, kind: EventKind::ReportCreated(Box::new(new)) };
        let unknown = Subject::unknown(tenant, SubjectKey::Agent(AgentId(7)));
        let Decision::Applied(applied) = decide(&unknown, &event, at(0), &Policy::default()) else { panic!("not created") };
        let mut subject = applied.subject;
        for report in subject.reports.values_mut() {
            for (item, state) in Arc::make_mut(report).remediations.iter_mut().zip(states) {
                item.state = state;
                item.completed_at = (state == State::Completed).then(|| at(120));
                item.last_attempt_survey = (state == State::Completed).then(|| at(60));
            }
        }
        if let Some(agent) = &mut subject.agent {
            agent.boot_id = boot_id.map(str::to_owned);
            agent.last_survey_at = Some(at(60));
        }
        subject
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn survey(second: i64) -> Survey {
        Survey {
            agent_id: AgentId(7),
            surveyed_at: at(second),
            hostname: None,
            platform: None,
            agent_version: None,
            boot_id: None,
            footholds_present: None,
            isolated: None,
        }
    }

    #[test]
    fn a_survey_sees_what_completed_tasks_have_left() {
        for (states, boot_id, footholds, boot) in [
            ([State::RetryWait, State::Held], None, vec!["fh-1"], Some("boot-1")),
            ([State::RetryWait, State::Held], Some("boot-1"), vec!["fh-1"], None),
            ([State::Completed, State::Held], Some("boot-1"), vec![], None),
            ([State::Completed, State::Completed], Some("boot-1"), vec![], Some("boot-2")),
            ([State::Completed, State::Completed], Some("of-its-own"), vec![], Some("boot-1")),
            // nobody reboots a steady host
            ([State::Completed, State::RebootPending], Some("boot-1"), vec![], None),
        ] {
            let mut seen = survey(900);
            observe(&host(states, boot_id), &mut seen, Model::Steady);
            assert_eq!(seen.footholds_present, Some(footholds.into_iter().map(str::to_owned).collect()), "{states:?}");
            assert_eq!((seen.boot_id.as_deref(), seen.isolated), (boot, None), "{states:?} {boot_id:?}");
        }
    }

    #[test]
    fn what_the_event_says_is_what_was_seen() {
        let mut seen =
            Survey { footholds_present: Some(vec!["fh-9".into()]), boot_id: Some("b".into()), isolated: Some(true), ..survey(900) };
        let told = seen.clone();
        observe(&host([State::Completed, State::Completed], Some("boot-1")), &mut seen, Model::Seeded { seed: 1 });
        assert_eq!(seen, told);
    }

    #[test]
    fn seeded_hosts_relapse_drift_and_are_rebooted_at_the_documented_rates() {
        let mut subject = host([State::Completed, State::RebootPending], Some("boot-1"));
        if let Some(agent) = &mut subject.agent {
            agent.firewall_status = FirewallStatus::Isolated;
        }
        let (mut back, mut drifted, mut rebooted) = (0, 0, 0);
        for n in 0..10_000 {
            let mut seen = survey(n * 900);
            observe(&subject, &mut seen, Model::Seeded { seed: 7 });
            back += usize::from(seen.footholds_present.is_some_and(|present| !present.is_empty()));
            drifted += usize::from(seen.isolated == Some(false));
            rebooted += usize::from(seen.boot_id.is_some());
        }
        assert!((5..45).contains(&back), "{back} of 20");
        assert!((20..90).contains(&drifted), "{drifted} of 50");
        assert!((2_200..2_800).contains(&rebooted), "{rebooted} of 2,500");
    }
}
