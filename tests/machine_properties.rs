//! The machine under random sequences of events: duplicates, reorderings, the unknown, lost outcomes, restarts.
//! After every decision the invariants of the lifecycle are checked against a ledger that is kept from what is
//! published alone, and against copies of the rules that are written down here once more (transitions, phases, ranks).
//!
//! The seed is fixed, so that a run repeats itself; `SEED=n` takes another, `CASES=n` more of them. A failure is shrunk
//! to few operations. A run in which some transition of the table never happened fails: it would prove nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use remedyd::machine::decision::{Applied, Decision, Refused};
use remedyd::machine::event::{
    AgentRequest, AttemptEnd, Event, EventKind, NewReport, Payload, PlanDecision, PlanItem, ReportRequest, ReportUpdate, Revision,
    SettingsChange, TaskRequest,
};
use remedyd::machine::notice::{About, Author, BlockerCode, Body, PageReason, RemediationChange};
use remedyd::machine::subject::Subject;
use remedyd::machine::{decide, gate, timers};
use remedyd::model::actor::{Actor, Role};
use remedyd::model::agent::{FirewallStatus, Holder, Presence, Survey};
use remedyd::model::ids::{AgentId, IdentityId, RemediationId, ReportId, SubjectKey};
use remedyd::model::remediation::{ActionName, Cancellation, OutcomeCode, Remediation, RemediationType, State};
use remedyd::model::report::{AttackKind, Foothold, Identity, Phase, Report, ReportStatus, Severity};
use remedyd::model::time::{Span, Timestamp, after, minutes};

#[path = "machine/world.rs"]
mod world;

use world::{Step, TENANT, World};

/// The T table once more: row, states it leads from, state it leads to.
const TRANSITIONS: &str = "
T2 T2c   unapproved                                       -> queued
T2m      unapproved                                       -> awaiting_human
T3       unapproved                                       -> cancelled(rejected)
T3 R8    unapproved queued held retry_wait awaiting_human failed expired -> cancelled(superseded)
R8 end   delivered outcome_unknown                        -> cancelled(superseded)
T1k      unapproved queued held retry_wait                -> completed
T4       queued                                           -> held
T4       held                                             -> queued
T5       queued                                           -> delivered
T7       delivered                                        -> completed
T8       delivered                                        -> reboot_pending
T8       reboot_pending                                   -> completed
T9       delivered                                        -> retry_wait
T10      retry_wait                                       -> queued
T11      delivered                                        -> failed
T12      delivered                                        -> outcome_unknown
T13      outcome_unknown                                  -> completed retry_wait failed
T14      queued held retry_wait outcome_unknown           -> expired
T15      completed                                        -> queued failed
T16      failed expired cancelled(requested)              -> queued
T18      queued held retry_wait                           -> cancelled(requested)
T19      delivered outcome_unknown                        -> cancelled(requested)
T20 T20a awaiting_human                                   -> completed
T20      completed                                        -> awaiting_human
I2       queued held failed                               -> completed
I4 R12   queued held                                      -> failed
R12      retry_wait delivered outcome_unknown reboot_pending -> failed
R9 R14   unapproved queued held retry_wait awaiting_human -> cancelled(dismissed)
R9 end   delivered outcome_unknown                        -> cancelled(dismissed)
R11      queued held retry_wait                           -> cancelled(obsolete)
R13      unapproved                                       -> cancelled(obsolete)
R16      cancelled(dismissed) cancelled(obsolete)         -> unapproved
R17      unapproved queued held delivered retry_wait reboot_pending outcome_unknown awaiting_human -> cancelled(obsolete)
R8 end   reboot_pending                                   -> cancelled(superseded)
";

/// Ways that too few runs go; machine/*.txt shows them.
const RARE: &str = "
held -> completed
retry_wait -> completed
held -> failed
outcome_unknown -> cancelled(requested)
delivered -> cancelled(requested)
completed -> failed
outcome_unknown -> cancelled(obsolete)
reboot_pending -> cancelled(obsolete)
reboot_pending -> cancelled(superseded)
";

/// (from, to) of [`TRANSITIONS`].
static PAIRS: LazyLock<BTreeSet<(String, String)>> = LazyLock::new(|| {
    let mut pairs = BTreeSet::new();
    for line in TRANSITIONS.lines().filter(|line| !line.is_empty()) {
        let (from, to) = line.split_once(" -> ").expect("an arrow");
        let is_state = |word: &&str| word.starts_with(|first: char| first.is_ascii_lowercase()) && *word != "end";
        for from in from.split_whitespace().filter(is_state) {
            pairs.extend(to.split_whitespace().map(|to| (from.to_owned(), to.to_owned())));
        }
    }
    pairs
});

fn state_name(state: State) -> String {
    match state {
        State::Cancelled(why) => format!("cancelled({})", why.as_str()),
        other => other.as_str().to_owned(),
    }
}

/// What may happen. Times are minutes. Reports run over those that exist and one that never does; `ahead` counts plan
/// revisions from the current one; `pick` takes one of what is there for it, and now and then something that is not.
#[derive(Debug, Clone)]
enum Op {
    /// `isolate`: 1 with the report, 2 with its containment item.
    Create {
        report: u64,
        items: u8,
        revision: u64,
        severity: usize,
        isolate: u8,
        simulated: bool,
    },
    Revise {
        report: u64,
        items: u8,
        ahead: i64,
        footholds: bool,
    },
    Update {
        report: u64,
        back: i64,
        severity: usize,
    },
    Comment {
        report: u64,
    },
    Approve {
        report: u64,
        ahead: i64,
        only: Option<usize>,
        role: usize,
        back: i64,
    },
    Reject {
        report: u64,
        ahead: i64,
        comment: bool,
        role: usize,
    },
    Task {
        report: u64,
        verb: Verb,
        pick: usize,
        role: usize,
    },
    Resolve {
        report: u64,
        role: usize,
    },
    Dismiss {
        report: u64,
    },
    CloseUpstream {
        report: u64,
        back: i64,
    },
    DismissAsked {
        report: u64,
        reason: bool,
        role: usize,
    },
    Reopen {
        report: u64,
        role: usize,
    },
    SocSupport {
        report: u64,
        role: usize,
    },
    Isolate {
        agent: u64,
        role: usize,
    },
    Release {
        agent: u64,
        force: bool,
        reason: bool,
        role: usize,
    },
    Remove,
    Settings {
        which: u8,
        on: bool,
        back: i64,
    },
    DeleteOrganization,
    CaughtUp {
        is: bool,
    },
    Survey {
        back: i64,
        boot: Option<u8>,
        sees: Option<u8>,
        isolated: Option<bool>,
    },
    End {
        pick: usize,
        code: usize,
        tries: u32,
    },
    Again {
        pick: usize,
    },
    Wait {
        minutes: i64,
    },
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Verb {
    Complete,
    Uncomplete,
    Retry,
    Cancel,
    Waive,
}

const SEVERITIES: [Severity; 3] = [Severity::Low, Severity::High, Severity::Critical];

fn op() -> impl Strategy<Value = Op> {
    // mostly somebody who may
    let role = || prop_oneof![6 => Just(0usize), 1 => 0usize..7];
    let report = || prop_oneof![12 => 1u64..=3, 1 => Just(4u64)];
    let current = || prop_oneof![8 => Just(0i64), 1 => -2i64..=2];
    let next = || prop_oneof![6 => Just(1i64), 1 => -1i64..=3];
    // often the same plan, so that a revision finds equals in the old one
    let mask = || prop_oneof![2 => Just(0b0110_1110u8), 1 => Just(0b0000_1010u8), 2 => any::<u8>()];
    let verb = || {
        let verbs = [Verb::Complete, Verb::Uncomplete, Verb::Uncomplete, Verb::Retry, Verb::Cancel, Verb::Cancel, Verb::Waive];
        proptest::sample::select(verbs.to_vec())
    };
    let isolate = || prop_oneof![2 => Just(0u8), 1 => Just(1u8), 2 => Just(2u8)];
    // some flags seldom differ
    let mostly = |usual: bool| prop_oneof![6 => Just(usual), 1 => Just(!usual)];
    prop_oneof![
        4 => (1u64..=3, mask(), prop_oneof![9 => Just(1u64), 1 => Just(2u64)], 0usize..3, isolate(), mostly(false))
            .prop_map(|(report, items, revision, severity, isolate, simulated)| {
                Op::Create { report, items, revision, severity, isolate, simulated }
            }),
        2 => report().prop_map(|report| Op::Dismiss { report }),
        1 => (report(), 0i64..5).prop_map(|(report, back)| Op::CloseUpstream { report, back }),
        2 => (report(), mostly(true), role()).prop_map(|(report, reason, role)| Op::DismissAsked { report, reason, role }),
        3 => (report(), role()).prop_map(|(report, role)| Op::Reopen { report, role }),
        1 => (report(), role()).prop_map(|(report, role)| Op::SocSupport { report, role }),
        1 => (prop_oneof![8 => Just(12u64), 1 => Just(13u64)], role()).prop_map(|(agent, role)| Op::Isolate { agent, role }),
        2 => (prop_oneof![8 => Just(12u64), 1 => Just(13u64)], any::<bool>(), mostly(true), role())
            .prop_map(|(agent, force, reason, role)| Op::Release { agent, force, reason, role }),
        1 => prop_oneof![2 => Just(Op::Remove), 1 => Just(Op::Wait { minutes: 3 })],
        2 => (0u8..8, any::<bool>(), 0i64..3).prop_map(|(which, on, back)| Op::Settings { which, on, back }),
        1 => prop_oneof![1 => Just(Op::DeleteOrganization), 9 => Just(Op::Wait { minutes: 2 })],
        1 => mostly(true).prop_map(|is| Op::CaughtUp { is }),
        4 => (report(), mask(), next(), any::<bool>())
            .prop_map(|(report, items, ahead, footholds)| Op::Revise { report, items, ahead, footholds }),
        2 => (report(), 0i64..5, 0usize..3).prop_map(|(report, back, severity)| Op::Update { report, back, severity }),
        1 => report().prop_map(|report| Op::Comment { report }),
        8 => (report(), current(), proptest::option::weighted(0.3, any::<usize>()), role(), 0i64..4)
            .prop_map(|(report, ahead, only, role, back)| Op::Approve { report, ahead, only, role, back }),
        1 => (report(), current(), prop_oneof![4 => Just(true), 1 => Just(false)], role())
            .prop_map(|(report, ahead, comment, role)| Op::Reject { report, ahead, comment, role }),
        10 => (report(), verb(), any::<usize>(), role()).prop_map(|(report, verb, pick, role)| Op::Task { report, verb, pick, role }),
        3 => (report(), role()).prop_map(|(report, role)| Op::Resolve { report, role }),
        10 => (0i64..4, proptest::option::of(0u8..3), proptest::option::of(any::<u8>()), proptest::option::of(any::<bool>()))
            .prop_map(|(back, boot, sees, isolated)| Op::Survey { back, boot, sees, isolated }),
        6 => (any::<usize>(), 0usize..CODES.len(), 1u32..=3).prop_map(|(pick, code, tries)| Op::End { pick, code, tries }),
        2 => any::<usize>().prop_map(|pick| Op::Again { pick }),
        6 => prop_oneof![8 => 1i64..20, 3 => 20i64..600, 1 => 600i64..20_000].prop_map(|minutes| Op::Wait { minutes }),
        1 => Just(Op::Restart),
    ]
}

const CODES: [&str; 6] = ["ok", "ok", "not_found", "ok_reboot_required", "file_in_use", "access_denied"];

/// What plans are made of; a bit of the mask each. With an empty third column nobody answers for its attempts.
const ITEMS: [(RemediationType, &str, &str); 8] = [
    (RemediationType::Containment, "Block IP", "network network network network ok"),
    (RemediationType::Assisted, "Kill Process", ""),
    (RemediationType::Assisted, "Delete Service", "agent_busy agent_busy agent_busy agent_busy ok"),
    (RemediationType::Assisted, "Delete File", ""),
    (
        RemediationType::Assisted,
        "Quarantine File",
        "file_in_use file_in_use file_in_use file_in_use file_in_use file_in_use file_in_use file_in_use file_in_use file_in_use file_in_use",
    ),
    (RemediationType::Assisted, "Reboot Host", "ok_reboot_required"),
    (RemediationType::Manual, "Call the user", "ok"),
    (RemediationType::Assisted, "Uninstall Agent", "access_denied ok"),
];

/// The same for a report about an account: no action on a host.
fn on_account(action: &str) -> &str {
    match action {
        "Block IP" => "Disable Identity",
        "Kill Process" => "Revoke Sessions",
        "Delete Service" => "Disable Inbox Rule",
        "Delete File" => "Reset Token",
        "Quarantine File" => "Reset Factors",
        "Reboot Host" => "Sign In Again",
        "Uninstall Agent" => "Remove Consent",
        other => other,
    }
}

/// The items of a mask; their ids move with the revision, so that only the fingerprint tells equals.
fn items(mask: u8, revision: u64) -> Vec<PlanItem> {
    let chosen = ITEMS.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    let mut items: Vec<_> = chosen
        .map(|(bit, (kind, action, codes))| PlanItem {
            id: RemediationId((bit as u64 + revision) % 8 + 1),
            kind: *kind,
            action: ActionName::new(*action),
            parameters: Arc::default(),
            simulate: codes.split_whitespace().map(OutcomeCode::new).collect(),
        })
        .collect();
    items.sort_by_key(|item| item.id);
    items
}

fn footholds(items: &[PlanItem]) -> Vec<Foothold> {
    let foothold = |item: &PlanItem| Foothold {
        id: format!("fh-{}", item.id),
        kind: "file".into(),
        description: String::new(),
        remediation_ids: vec![item.id],
    };
    items.iter().filter(|item| item.id.0 % 2 == 1).map(foothold).collect()
}

fn actor(role: usize) -> Actor {
    Actor { id: 1, name: None, email: None, role: Role::ALL[role % 7] }
}

/// The world, what was sent to it and the ledger of what it said.
struct Run {
    world: World,
    sent: Vec<Event>,
    attempts: Vec<AttemptEnd>,
    ledger: Ledger,
}

impl Run {
    fn new() -> Self {
        let now = "2026-11-23T09:00:00Z".parse().expect("a time");
        Self { world: World::new(now), sent: Vec::new(), attempts: Vec::new(), ledger: Ledger::default() }
    }

    fn send(&mut self, back: i64, kind: EventKind) -> Result<(), String> {
        let now = after(self.world.now, minutes(1));
        let event =
            Event { id: format!("e{}", self.sent.len()), tenant: TENANT, time: after(now, minutes(-back)), traceparent: None, kind };
        self.sent.push(event.clone());
        self.world.arrive(now, event);
        self.judge()
    }

    fn judge(&mut self) -> Result<(), String> {
        for step in self.world.take_steps() {
            self.ledger.judge(&step).map_err(|why| format!("{why}\nafter {:?} at {}", step.event, step.now))?;
            if let Decision::Applied(applied) = &step.decision {
                self.attempts.extend(applied.attempts.iter().map(|order| AttemptEnd {
                    report: order.report,
                    revision: order.revision,
                    remediation: order.remediation,
                    attempt_id: order.attempt_id.clone(),
                    code: OutcomeCode::new("ok"),
                    tries: 1,
                }));
            }
        }
        Ok(())
    }

    /// What the report asks for, on a host (reports 1 and 2) or on an account (3; sometimes wrongly).
    fn plan(&mut self, report: u64, mask: u8, revision: u64, isolate: bool, wrong: bool) -> Vec<PlanItem> {
        let mut items = items(mask, revision);
        for item in &mut items {
            if report == 3 && !wrong {
                item.action = ActionName::new(on_account(item.action.original()));
            } else if isolate && item.kind == RemediationType::Containment {
                item.action = ActionName::new("Isolate Host");
            }
        }
        self.silence(report, &items);
        items
    }

    fn silence(&mut self, report: u64, items: &[PlanItem]) {
        let silent = items.iter().filter(|item| item.simulate.is_empty());
        self.world.silent.extend(silent.map(|item| (ReportId(report), item.id)));
    }

    fn play(&mut self, op: &Op) -> Result<(), String> {
        match op.clone() {
            Op::Create { report, items: mask, revision, severity, isolate, simulated } => {
                let items = self.plan(report, mask, revision, isolate == 2, revision == 2);
                let now = self.world.now;
                // reports 1 and 2 are about one host, 3 about an account
                let on_host = report != 3;
                self.send(
                    0,
                    EventKind::ReportCreated(Box::new(NewReport {
                        id: ReportId(report),
                        agent_id: on_host.then_some(AgentId(12)),
                        identity: (!on_host).then(|| Identity { id: IdentityId(7), name: "x".into() }),
                        platform: "windows".into(),
                        hostname: None,
                        severity: SEVERITIES[severity],
                        attack_kind: AttackKind::Unknown,
                        text: Arc::default(),
                        body: String::new(),
                        simulated,
                        isolate_host: isolate == 1 && on_host,
                        plan_revision: revision,
                        footholds: footholds(&items),
                        items,
                        sent_at: now,
                        updated_at: now,
                        status_updated_at: now,
                    })),
                )
            }
            Op::Revise { report, items: mask, ahead, footholds: own } => {
                let revision = self.revision(report, ahead);
                let items = self.plan(report, mask, revision, mask & 0x40 != 0, false);
                let footholds = own.then(|| footholds(&items));
                let revision = Revision { report: ReportId(report), plan_revision: revision, items, footholds, comment: None };
                self.send(0, EventKind::ReportRevised(Box::new(revision)))
            }
            Op::Update { report, back, severity } => {
                let update = ReportUpdate {
                    report: ReportId(report),
                    updated_at: after(self.world.now, minutes(-back)),
                    severity: Some(SEVERITIES[severity]),
                    subject: None,
                    summary: None,
                    body: None,
                    data: Payload("{}".into()),
                };
                self.send(back, EventKind::ReportUpdated(Box::new(update)))
            }
            Op::Comment { report } => self.send(0, EventKind::CommentAdded { report: ReportId(report), data: Payload("{}".into()) }),
            Op::Approve { report, ahead, only, role, back } => {
                let remediations = only.map(|pick| vec![self.pick(report, pick, |_| true)]);
                let plan_revision = self.revision(report, ahead);
                let decision = PlanDecision { report: ReportId(report), plan_revision, remediations, actor: actor(role) };
                self.send(back, EventKind::Approved(decision))
            }
            Op::Reject { report, ahead, comment, role } => {
                let plan_revision = self.revision(report, ahead);
                let decision = PlanDecision { report: ReportId(report), plan_revision, remediations: None, actor: actor(role) };
                let comment = if comment { "not ours to delete".into() } else { String::new() };
                self.send(0, EventKind::Rejected { decision, comment })
            }
            Op::Task { report, verb, pick, role } => {
                let by_hand = matches!(verb, Verb::Complete | Verb::Uncomplete);
                let id = self.pick(report, pick, |item| by_hand == (item.kind == RemediationType::Manual));
                self.ask(report, id, verb, role)
            }
            Op::Resolve { report, role } => {
                let request = ReportRequest { report: ReportId(report), reason: None, actor: actor(role) };
                self.send(0, EventKind::ResolutionRequested(request))
            }
            Op::Dismiss { report } => self.send(0, EventKind::ReportDismissed { report: ReportId(report), reason: None }),
            Op::CloseUpstream { report, back } => {
                let status_updated_at = after(self.world.now, minutes(-back));
                self.send(0, EventKind::ReportClosed { report: ReportId(report), status_updated_at })
            }
            Op::DismissAsked { report, reason, role } => {
                let reason = reason.then(|| "ours".to_owned());
                self.send(0, EventKind::DismissalRequested(ReportRequest { report: ReportId(report), reason, actor: actor(role) }))
            }
            Op::Reopen { report, role } => {
                self.send(0, EventKind::ReopenRequested(ReportRequest { report: ReportId(report), reason: None, actor: actor(role) }))
            }
            Op::SocSupport { report, role } => {
                let request = ReportRequest { report: ReportId(report), reason: None, actor: actor(role) };
                self.send(0, EventKind::SocSupportRequested { request, data: Payload("{}".into()) })
            }
            Op::Isolate { agent, role } => {
                let request = AgentRequest { agent: AgentId(agent), reason: None, force: false, actor: actor(role) };
                self.send(0, EventKind::IsolationRequested(request))
            }
            Op::Release { agent, force, reason, role } => {
                let reason = reason.then(|| "clean".to_owned());
                self.send(0, EventKind::ReleaseRequested(AgentRequest { agent: AgentId(agent), reason, force, actor: actor(role) }))
            }
            Op::Remove => self.send(0, EventKind::AgentRemoved { agent: AgentId(12), reason: None }),
            Op::Settings { which, on, back } => self.send(back, EventKind::OrganizationUpdated(Box::new(setting(which, on)))),
            Op::DeleteOrganization => self.send(0, EventKind::OrganizationDeleted),
            Op::CaughtUp { is } => {
                self.world.policy.surveys_caught_up = is;
                Ok(())
            }
            Op::Survey { back, boot, sees, isolated } => {
                let surveyed_at = after(self.world.now, minutes(1 - back));
                let sees = sees.map(|mask| (1..=8u8).filter(|bit| mask & (1 << (bit - 1)) != 0).map(|bit| format!("fh-{bit}")).collect());
                self.send(0, EventKind::Surveyed(survey(surveyed_at, boot.map(|boot| boot.to_string()), sees, isolated)))
            }
            Op::End { pick, code, tries } => {
                if self.attempts.is_empty() {
                    return Ok(());
                }
                // mostly one that is open, else any
                let open = self.open_attempts();
                let choice = if open.is_empty() || pick.is_multiple_of(8) { &self.attempts } else { &open };
                let end = AttemptEnd { code: OutcomeCode::new(CODES[code]), tries, ..choice[pick / 8 % choice.len()].clone() };
                self.send(0, EventKind::AttemptEnded(end))
            }
            Op::Again { pick } => {
                let Some(event) = self.sent.get(pick % self.sent.len().max(1)).cloned() else {
                    return Ok(());
                };
                self.world.arrive(self.world.now, event);
                self.judge()
            }
            Op::Wait { minutes: n } => {
                self.world.advance(after(self.world.now, minutes(n)));
                self.judge()
            }
            Op::Restart => {
                self.world.restart(self.world.now);
                self.judge()
            }
        }
    }

    fn revision(&self, report: u64, ahead: i64) -> u64 {
        let current = self.ledger.reports.get(&ReportId(report)).map_or(1, |report| report.plan_revision);
        current.saturating_add_signed(ahead).max(1)
    }

    /// One of the items of the current plan that `suits`; one time in eight another, or one that is not there.
    fn pick(&self, report: u64, pick: usize, suits: impl Fn(&Remediation) -> bool) -> RemediationId {
        let report = self.ledger.reports.get(&ReportId(report));
        let suiting: Vec<_> = report.iter().flat_map(|report| report.plan()).filter(|item| suits(item)).map(|item| item.id).collect();
        if pick.is_multiple_of(8) || suiting.is_empty() {
            RemediationId((pick / 8 % 9) as u64 + 1)
        } else {
            suiting[pick / 8 % suiting.len()]
        }
    }

    fn ask(&mut self, report: u64, remediation: RemediationId, verb: Verb, role: usize) -> Result<(), String> {
        let request = TaskRequest { report: ReportId(report), remediation, reason: Some("so".into()), actor: actor(role) };
        let kind = match verb {
            Verb::Complete => EventKind::ManualCompleted(request),
            Verb::Uncomplete => EventKind::ManualUncompleted(request),
            Verb::Retry => EventKind::RetryRequested(request),
            Verb::Cancel => EventKind::CancelRequested(request),
            Verb::Waive => EventKind::Waived(request),
        };
        self.send(0, kind)
    }

    fn open_attempts(&self) -> Vec<AttemptEnd> {
        let items = self.ledger.reports.values().flat_map(|report| &report.remediations);
        let open: BTreeSet<&str> = items.filter_map(|item| item.open_attempt.as_ref()).map(|attempt| attempt.id.as_str()).collect();
        self.attempts.iter().filter(|end| open.contains(end.attempt_id.as_str())).cloned().collect()
    }

    /// Everybody does what is theirs, every attempt ends well: each report comes to be closed.
    fn heal(&mut self) -> Result<(), String> {
        let is_over = |report: &Report| !report.status.is_open();
        self.play(&Op::CaughtUp { is: true })?;
        for round in 0..12u8 {
            let reports: Vec<Arc<Report>> = self.ledger.reports.values().cloned().collect();
            let ids: Vec<u64> = reports.iter().map(|report| report.id.0).collect();
            for report in reports.iter().filter(|report| report.status == ReportStatus::Sent) {
                let id = report.id.0;
                if report.in_revision {
                    self.play(&Op::Revise { report: id, items: 0b0100_1010, ahead: 1, footholds: false })?;
                }
                self.play(&Op::Approve { report: id, ahead: 0, only: None, role: 0, back: 0 })?;
                for item in report.plan() {
                    if matches!(item.state, State::Failed | State::Expired | State::Cancelled(Cancellation::Requested)) {
                        self.ask(id, item.id, Verb::Retry, 0)?;
                    }
                    // an account has no boot to see
                    if item.state == State::RebootPending && report.agent_id.is_none() {
                        self.ask(id, item.id, Verb::Waive, 0)?;
                    }
                }
            }
            for boot in 0..4 {
                self.play(&Op::Survey { back: 0, boot: Some(round * 4 + boot), sees: None, isolated: None })?;
                for end in self.open_attempts() {
                    self.send(0, EventKind::AttemptEnded(end))?;
                }
                self.play(&Op::Wait { minutes: 40 })?;
            }
            for id in ids {
                self.play(&Op::Resolve { report: id, role: 0 })?;
            }
            if self.ledger.reports.values().all(|report| is_over(report)) {
                break;
            }
        }
        // and nothing moves them after that
        for report in self.ledger.reports.keys().map(|id| id.0).collect::<Vec<_>>() {
            self.play(&Op::Comment { report })?;
            self.play(&Op::Revise { report, items: 1, ahead: 1, footholds: true })?;
            self.play(&Op::Approve { report, ahead: 0, only: None, role: 0, back: 0 })?;
        }
        // an account's old plan may wait for a boot that nobody will see, and nobody can waive it any more
        let waits_for_boot = |report: &Report| {
            report.agent_id.is_none()
                && report.remediations.iter().any(|item| item.state == State::RebootPending && item.revision != report.plan_revision)
        };
        match self.ledger.reports.values().find(|report| !is_over(report) && !waits_for_boot(report)) {
            Some(report) => Err(format!("report {} is not over though everybody did what they could: {report:#?}", report.id)),
            None => Ok(()),
        }
    }
}

fn setting(which: u8, on: bool) -> SettingsChange {
    let mut change = SettingsChange::default();
    match which {
        0 => change.managed_low = Some(on),
        1 => change.managed_high = Some(on),
        2 => change.managed_critical = Some(on),
        3 => change.release_on_resolve = Some(on),
        4 => change.auto_close_when_footholds_cleared = Some(on),
        5 => change.close_on_agent_removed = Some(on),
        6 => change.resolve_when_unblocked = Some(on),
        _ => change.unresponsive_after_days = Some(if on { 2 } else { 21 }),
    }
    change
}

fn survey(surveyed_at: Timestamp, boot_id: Option<String>, footholds_present: Option<Vec<String>>, isolated: Option<bool>) -> Survey {
    Survey { agent_id: AgentId(12), surveyed_at, hostname: None, platform: None, agent_version: None, boot_id, footholds_present, isolated }
}

type ItemKey = (ReportId, u64, RemediationId);

/// What has been published, and what follows from it.
#[derive(Default)]
struct Ledger {
    sequences: BTreeMap<String, u64>,
    states: BTreeMap<ItemKey, State>,
    /// Items that an approval of their revision (or containment) has set going.
    consented: BTreeSet<ItemKey>,
    /// The last attempt's number in the running generation.
    attempts: BTreeMap<ItemKey, u32>,
    attempt_ids: BTreeSet<String>,
    phases: BTreeMap<ReportId, Option<Phase>>,
    statuses: BTreeMap<ReportId, ReportStatus>,
    presence: BTreeMap<AgentId, Presence>,
    firewalls: BTreeMap<AgentId, (FirewallStatus, Vec<Holder>)>,
    /// Pages of a critical report since its SLA began.
    pages: BTreeMap<ReportId, u32>,
    /// Reports that a person has acted on since their SLA began.
    acted_on: BTreeSet<ReportId>,
    reports: BTreeMap<ReportId, Arc<Report>>,
    /// How often each transition, refusal and so on was seen.
    tally: BTreeMap<String, u64>,
}

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

impl Ledger {
    fn judge(&mut self, step: &Step) -> Result<(), String> {
        if !step.of_organization {
            let again = decide(&step.before, &step.event, step.now, &step.policy);
            ensure!(again == step.decision, "asked again, the machine decides otherwise: {again:?}, then {:?}", step.decision);
        }
        // total: also where nothing is known, and at the end of time
        decide(&Subject::unknown(TENANT, step.before.key), &step.event, step.now, &step.policy);
        decide(&step.before, &step.event, Timestamp::MAX, &step.policy);
        let Decision::Applied(applied) = &step.decision else {
            self.count(match step.decision {
                Decision::Ignored(why) => format!("{why:?}"),
                Decision::Park { .. } => "parked".into(),
                Decision::Invalid { .. } => "invalid".into(),
                Decision::UnknownAgent { .. } => "unknown agent".into(),
                Decision::Orphan { .. } | Decision::Applied(_) => "orphan".into(),
            });
            return Ok(());
        };
        match applied.refused {
            Some(Refused::Request(code)) => self.count(code.as_str()),
            Some(Refused::Resolution) => self.count("resolution refused"),
            None => {}
        }
        if let (Some(report), None) = (acts_on(&step.event.kind), applied.refused) {
            self.acted_on.insert(report);
        }
        // a new SLA
        match &step.event.kind {
            EventKind::ReportRevised(revision) => self.acted_on.remove(&revision.report),
            EventKind::ReportUpdated(update) => self.acted_on.remove(&update.report),
            _ => false,
        };
        self.judge_notices(step, applied)?;
        self.judge_attempts(step, applied)?;
        self.judge_subject(step, applied)?;
        judge_timers(step, &applied.subject)
    }

    fn judge_notices(&mut self, step: &Step, applied: &Applied) -> Result<(), String> {
        for notice in &applied.notices {
            let (subject, report) = match notice.about {
                About::Report { report, .. } => (format!("report {report}"), Some(report)),
                About::Agent(agent) => (format!("agent {agent}"), None),
                About::Organization => ("organization".into(), None),
            };
            let sequence = self.sequences.entry(subject.clone()).or_insert(0);
            *sequence += 1;
            ensure!(notice.sequence == *sequence, "invariant 2: the sequence of {subject} is {} after {}", notice.sequence, *sequence - 1);
            match (&notice.body, report) {
                (Body::RemediationStatusChanged(change), Some(report)) => self.judge_change(step, applied, report, change)?,
                (Body::StatusChanged { from, to, phase, .. }, Some(report)) => {
                    let before = self.statuses.insert(report, *to);
                    ensure!(before == *from, "report {report} was said to be {before:?}, not {from:?}");
                    self.phases.insert(report, *phase);
                    if *to == ReportStatus::Sent {
                        self.acted_on.remove(&report);
                    }
                    self.count(format!("report {}", to.as_str()));
                }
                (Body::PhaseChanged { from, to }, Some(report)) => {
                    let before = self.phases.insert(report, Some(*to));
                    ensure!(before == Some(Some(*from)) && from != to, "report {report} was said to be in {before:?}, not {from:?}");
                    self.count(format!("phase {}", to.as_str()));
                }
                (Body::AgentStatusChanged { from, to }, None) => {
                    let before = match notice.about {
                        About::Agent(agent) => self.presence.insert(agent, *to),
                        About::Report { .. } | About::Organization => None,
                    };
                    ensure!(before == *from && before != Some(*to), "{subject} was said to be {before:?}, not {from:?}");
                }
                (Body::ResolutionUnblocked, Some(_)) => self.count("unblocked"),
                (Body::IsolationChanged { from, to, holders, actor, .. }, None) => {
                    let About::Agent(agent) = notice.about else { return Err(format!("{notice:?} is about no agent")) };
                    self.judge_isolation(step, agent, (*from, *to), holders, actor.as_ref())?;
                }
                (body @ (Body::Paged { .. } | Body::SlaWarning { .. } | Body::SlaBreached { .. }), Some(report)) => {
                    self.judge_sla(applied, report, body)?;
                }
                (Body::Reopened { cause, .. }, Some(_)) => self.count(format!("reopened {}", cause.as_str())),
                (Body::RemediationVerified { .. }, Some(_)) => self.count("verified"),
                (body, _) => self.count(body.name()),
            }
        }
        Ok(())
    }

    /// The I table, and I6's guard.
    fn judge_isolation(
        &mut self,
        step: &Step,
        agent: AgentId,
        (from, to): (FirewallStatus, FirewallStatus),
        holders: &[Holder],
        actor: Option<&Author>,
    ) -> Result<(), String> {
        use FirewallStatus::{Enabled, Isolated, PendingIsolation, PendingRelease};
        let (before, _) = self.firewalls.insert(agent, (to, holders.to_vec())).unwrap_or((Enabled, Vec::new()));
        ensure!(before == from, "agent {agent} was said to be {before:?}, not {from:?}");
        let is_row = from == to
            || matches!(
                (from, to),
                (Enabled, PendingIsolation)
                    | (PendingIsolation, Isolated | Enabled)
                    | (Isolated, PendingRelease)
                    | (PendingRelease, Enabled | PendingIsolation)
            );
        ensure!(is_row, "no row of the I table leads from {from:?} to {to:?}");
        ensure!(matches!(to, PendingIsolation | Isolated) || holders.is_empty(), "{to:?} and held by {holders:?}");
        self.count(format!("{} -> {}", from.as_str(), to.as_str()));
        if let EventKind::ReleaseRequested(request) = &step.event.kind {
            let held = |report: &Arc<Report>| {
                let holds = step.before.agent.as_ref().is_some_and(|agent| agent.isolation.holders.contains(&Holder::Report(report.id)));
                holds && expected_phase(report).is_some_and(|phase| phase != Phase::Ready)
            };
            let forced = request.force && request.reason.is_some();
            ensure!(forced || !step.before.reports.values().any(held), "I6: released while it is held");
        }
        let released = from == Isolated && to == PendingRelease;
        let by_policy = actor == Some(&Author::Policy);
        ensure!(!(by_policy && released) || step.policy.organization.release_on_resolve, "released by a policy that is off");
        Ok(())
    }

    /// Nobody hears of a simulated report, of one that is over or acted on, or more than four times.
    fn judge_sla(&mut self, applied: &Applied, id: ReportId, body: &Body) -> Result<(), String> {
        let Some(report) = applied.subject.reports.get(&id) else { return Err(format!("{body:?} of no report")) };
        ensure!(!report.simulated, "{body:?} for a simulated report");
        self.count(body.name());
        match body {
            Body::Paged { reason: PageReason::IsolationFailed, .. } => return Ok(()),
            Body::Paged { reason: PageReason::CriticalReport, .. } => {
                ensure!(report.severity == Severity::Critical, "{body:?} for {:?}", report.severity);
                self.pages.insert(id, 1);
                self.acted_on.remove(&id);
            }
            Body::Paged { reason: PageReason::NotActedOn, .. } => {
                let pages = self.pages.entry(id).or_insert(0);
                *pages += 1;
                ensure!(*pages <= 4, "page {pages} of report {id}");
            }
            _ => {}
        }
        ensure!(report.status == ReportStatus::Sent, "{body:?} for a report that is {:?}", report.status);
        ensure!(report.sla.is_some(), "{body:?} for a report without an SLA");
        ensure!(!self.acted_on.contains(&id), "{body:?} although somebody has acted on report {id}");
        Ok(())
    }

    /// Invariants 3, 6 and 7 for one published change.
    fn judge_change(&mut self, step: &Step, applied: &Applied, report: ReportId, change: &RemediationChange) -> Result<(), String> {
        let key = (report, change.plan_revision, change.remediation_id);
        let before = self.states.insert(key, change.to);
        ensure!(before == change.from, "{key:?} was said to be {before:?}, not {:?}", change.from);
        let Some(from) = change.from else {
            let kept = change.to == State::Completed && change.reason.as_deref() == Some("kept");
            ensure!(change.to == State::Unapproved || kept, "{key:?} began as {:?}", change.to);
            self.count(if kept { "kept" } else { "begun" });
            return Ok(());
        };
        if from == change.to {
            let waives = matches!(step.event.kind, EventKind::Waived(_)) && change.waived;
            ensure!(waives, "{key:?} went from {from:?} to itself by {}", step.event.kind.name());
            self.count("waived");
            return Ok(());
        }
        let pair = (state_name(from), state_name(change.to));
        ensure!(PAIRS.contains(&pair), "invariant 7: no row leads from {} to {}", pair.0, pair.1);
        self.count(format!("{} -> {}", pair.0, pair.1));
        let superseded = change.to == State::Cancelled(Cancellation::Superseded);
        let is_old = applied.subject.reports.get(&report).is_some_and(|report| report.plan_revision != change.plan_revision);
        ensure!(!superseded || is_old, "{key:?} is of the current plan and was superseded");
        match (from, change.to) {
            (State::Unapproved, State::Queued | State::AwaitingHuman) => {
                let consent = change.kind == RemediationType::Containment
                    || approves(&step.event.kind, key)
                    || managed(step, applied, report, change);
                ensure!(consent, "invariant 3: {key:?} was set going by {}", step.event.kind.name());
                self.consented.insert(key);
                self.attempts.insert(key, 0);
            }
            (State::Failed | State::Expired | State::Cancelled(_) | State::Completed, State::Queued) => {
                // a person's retry is consent as well: of a kept item that came back (T1k, T15) it is the first
                if matches!(step.event.kind, EventKind::RetryRequested(_)) {
                    self.consented.insert(key);
                }
                self.attempts.insert(key, 0);
            }
            (_, State::Delivered) => {
                ensure!(self.consented.contains(&key), "invariant 3: nobody approved {key:?}");
                let attempt = self.attempts.entry(key).or_insert(0);
                *attempt += 1;
                ensure!(change.attempt == *attempt, "invariant 6: attempt {} of {key:?} after {}", change.attempt, *attempt - 1);
                ensure!(*attempt <= 5, "invariant 6: {key:?} has a sixth attempt");
            }
            _ => {}
        }
        Ok(())
    }

    /// Invariant 5 and the conditions of T4 and T5, over the attempts that are to be started.
    fn judge_attempts(&mut self, step: &Step, applied: &Applied) -> Result<(), String> {
        let delivered = applied
            .notices
            .iter()
            .filter(|notice| matches!(&notice.body, Body::RemediationStatusChanged(change) if change.to == State::Delivered));
        ensure!(delivered.count() == applied.attempts.len(), "what is started and what is said to be delivered differ");
        for order in &applied.attempts {
            ensure!(self.attempt_ids.insert(order.attempt_id.clone()), "invariant 5: {} is started twice", order.attempt_id);
            let find = |subject: &Subject| {
                let report = subject.reports.get(&order.report)?;
                report.remediations.iter().find(|item| item.id == order.remediation && item.revision == order.revision).cloned()
            };
            let Some(item) = find(&applied.subject) else {
                return Err(format!("{} is of no item", order.attempt_id));
            };
            let Some(attempt) = &item.open_attempt else {
                return Err(format!("{} is not in the record", order.attempt_id));
            };
            ensure!(attempt.id == order.attempt_id && item.state == State::Delivered, "{} is not what the record has", order.attempt_id);
            ensure!(item.approved_at.is_some_and(|at| at <= attempt.survey_at), "T5: surveyed before the approval: {item:?}");
            ensure!(item.deliver_by.is_some_and(|by| step.now < by), "T5: delivered too late: {item:?}");
            let last = find(&step.before).and_then(|item| item.last_attempt_survey);
            ensure!(last.is_none_or(|last| last < attempt.survey_at), "T5: a second attempt in one survey: {item:?}");
            if let Some(first) = forerunner(&applied.subject, order.report, &item) {
                return Err(format!("T4: {item:?} ran before {first:?}"));
            }
        }
        Ok(())
    }

    /// Invariants 1 and 7, phases and the gate, and that nothing changes silently.
    fn judge_subject(&mut self, step: &Step, applied: &Applied) -> Result<(), String> {
        let after = &applied.subject;
        ensure!(applied.agent_changed || same_agent(&step.before, after, applied), "the agent changed and would not be written");
        for (id, report) in &after.reports {
            let same = step.before.reports.get(id).is_some_and(|before| before == report);
            ensure!(same || applied.reports_changed.contains(id), "report {id} changed and would not be written");
            for item in &report.remediations {
                let said = self.states.get(&(*id, item.revision, item.id));
                ensure!(said == Some(&item.state), "invariant 7: item {} of report {id} is {:?}, said was {said:?}", item.id, item.state);
                ensure!(item.attempt <= 5, "invariant 6: {item:?}");
                let open = matches!(item.state, State::Delivered | State::OutcomeUnknown | State::RebootPending);
                ensure!(open == item.open_attempt.is_some(), "invariant 5: an attempt is open in the wrong state: {item:?}");
                let waivable =
                    matches!(item.state, State::Failed | State::Expired | State::RebootPending | State::Cancelled(Cancellation::Requested));
                ensure!(waivable || !item.waived, "T17: waived in a state that is not: {item:?}");
                let waits = item.state == State::RetryWait;
                ensure!(waits == item.next_attempt_at.is_some(), "T9: a next attempt is named in the wrong state: {item:?}");
            }
            let phase = gate::phase(report);
            let expected = expected_phase(report);
            ensure!(phase == expected, "report {id} is in {phase:?}, the lifecycle says {expected:?}");
            ensure!(self.phases.get(id) == Some(&phase), "report {id} is in {phase:?}, published was {:?}", self.phases.get(id));
            ensure!(self.statuses.get(id) == Some(&report.status), "report {id} is {:?} and did not say so", report.status);
            let shut = !gate::blockers(report, after.agent.as_ref(), true).is_empty();
            ensure!(shut == (phase != Some(Phase::Ready)), "report {id} is in {phase:?} and its gate is shut: {shut}");
            let was_closed = step.before.reports.get(id).is_some_and(|before| before.status == ReportStatus::Closed);
            if report.status == ReportStatus::Closed && !was_closed {
                let by = report.closed_by.as_deref().unwrap_or_default();
                self.count(format!("closed: {by}"));
                let in_the_way = report.remediations.iter().find(|item| !ended_for_closing(by, report, item));
                ensure!(in_the_way.is_none(), "invariant 1: report {id} was closed ({by}) over {in_the_way:?}");
            }
            ensure!(report.sla.is_none() || report.status == ReportStatus::Sent, "report {id} has an SLA and is {:?}", report.status);
            let residual = report.residual && report.status != ReportStatus::Closed;
            ensure!(!residual, "report {id} has residual tasks and is {:?}", report.status);
            self.reports.insert(*id, Arc::clone(report));
        }
        if let Some(agent) = &after.agent {
            let (said, holders) = self.firewalls.get(&agent.id).cloned().unwrap_or((FirewallStatus::Enabled, Vec::new()));
            let deleted = matches!(step.event.kind, EventKind::OrganizationDeleted);
            ensure!(said == agent.firewall_status, "agent {} is {:?}, said was {said:?}", agent.id, agent.firewall_status);
            ensure!(deleted || agent.isolation.holders.iter().eq(&holders), "held by {:?}, said was {holders:?}", agent.isolation.holders);
            let presence = self.presence.get(&agent.id);
            ensure!(
                presence.is_none_or(|said| *said == agent.presence),
                "agent {} is {:?}, said was {presence:?}",
                agent.id,
                agent.presence
            );
        }
        Ok(())
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.tally.entry(what.into()).or_insert(0) += 1;
    }
}

/// A person has done what the SLA asks for; a policy never does.
fn acts_on(kind: &EventKind) -> Option<ReportId> {
    match kind {
        EventKind::Approved(decision) => Some(decision.report),
        EventKind::DismissalRequested(request) => Some(request.report),
        EventKind::ParkingEnded(parked) => acts_on(&parked.kind),
        _ => None,
    }
}

/// R2 and R3: at creation, by the switch of that severity, assisted and no reboot.
fn managed(step: &Step, applied: &Applied, id: ReportId, change: &RemediationChange) -> bool {
    let on = step.policy.organization.managed_response;
    let Some(report) = applied.subject.reports.get(&id) else { return false };
    let manual = report.plan().any(|item| item.kind == RemediationType::Manual);
    let reboot = report.plan().any(|item| item.action.normalised() == "reboot_host");
    let switched = match report.severity {
        Severity::Low => on.low && !manual && !reboot,
        Severity::High => on.high,
        Severity::Critical => on.critical,
    };
    let created = matches!(&step.event.kind, EventKind::ReportCreated(new) if new.id == id);
    switched && created && change.kind == RemediationType::Assisted && change.action.normalised() != "reboot_host"
}

/// An approval (at once, or one that had waited) of this revision by somebody who may, naming the item or none.
fn approves(kind: &EventKind, (report, revision, id): ItemKey) -> bool {
    match kind {
        EventKind::Approved(decision) => {
            decision.report == report
                && decision.plan_revision == revision
                && decision.remediations.as_ref().is_none_or(|named| named.contains(&id))
                && matches!(decision.actor.role, Role::Admin | Role::SecurityEngineer | Role::User)
        }
        EventKind::ParkingEnded(parked) => approves(&parked.kind, (report, revision, id)),
        _ => false,
    }
}

/// The sequence alone counts as no change of the agent only if nothing was said of it.
fn same_agent(before: &Subject, after: &Subject, applied: &Applied) -> bool {
    let spoken = applied.notices.iter().any(|notice| matches!(notice.about, About::Agent(_)));
    before.agent == after.agent && !spoken
}

/// The phase paragraph of the lifecycle.
fn expected_phase(report: &Report) -> Option<Phase> {
    if report.status != ReportStatus::Sent {
        return None;
    }
    let tasks = || report.plan().filter(|item| item.kind != RemediationType::Manual);
    let stuck = |item: &Remediation| {
        matches!(item.state, State::Failed | State::Expired | State::Cancelled(Cancellation::Requested)) && !item.waived
    };
    let under_way = |item: &Remediation| {
        matches!(item.state, State::Queued | State::Held | State::Delivered | State::RetryWait | State::OutcomeUnknown)
            || item.state == State::RebootPending && !item.waived
    };
    let in_the_field = |item: &Remediation| {
        item.revision != report.plan_revision
            && (matches!(item.state, State::Delivered | State::OutcomeUnknown) || item.state == State::RebootPending && !item.waived)
    };
    Some(if report.in_revision {
        Phase::InRevision
    } else if report.plan().any(|item| item.state == State::Unapproved) {
        Phase::AwaitingApproval
    } else if tasks().any(stuck) {
        Phase::Blocked
    } else if tasks().any(under_way) || report.remediations.iter().any(in_the_field) {
        Phase::Remediating
    } else {
        Phase::Ready
    })
}

/// What each row that closes asks of every item. For a resolution: invariant 1, and that nothing is left without
/// review.
fn ended_for_closing(by: &str, report: &Report, item: &Remediation) -> bool {
    let current = item.revision == report.plan_revision;
    let in_the_field = matches!(item.state, State::Delivered | State::OutcomeUnknown | State::RebootPending);
    match by {
        "resolved" => match item.state {
            State::Completed | State::Cancelled(Cancellation::Rejected | Cancellation::Superseded) => true,
            State::Delivered | State::OutcomeUnknown => false,
            State::RebootPending => item.waived,
            State::AwaitingHuman | State::Unapproved => !current,
            _ => !current || item.waived,
        },
        "auto" => matches!(item.state, State::Completed),
        // R11
        "footholds_cleared" => match item.state {
            State::Unapproved | State::Queued | State::Held | State::RetryWait => false,
            State::Failed | State::Expired => !current || item.waived,
            _ => !in_the_field,
        },
        // R12
        "agent_removed" => !in_the_field && !matches!(item.state, State::Queued | State::Held | State::RetryWait),
        // R13
        "closed_upstream" => item.state != State::Unapproved,
        _ => false,
    }
}

/// The order paragraph of the lifecycle: what is open and has to be over before `item`.
fn forerunner(subject: &Subject, report: ReportId, item: &Remediation) -> Option<Remediation> {
    let rank = |item: &Remediation| match (item.kind, item.action.normalised().as_str()) {
        (RemediationType::Containment, _) => 0,
        (_, "kill_process" | "stop_service") => 1,
        (_, "delete_service" | "delete_scheduled_task" | "delete_registry_key" | "delete_registry_value") => 2,
        (_, "uninstall_program") => 4,
        (_, "reboot_host") => 5,
        (_, "uninstall_agent") => 6,
        _ => 3,
    };
    let own = rank(item);
    let others = subject.reports.values().flat_map(|report| report.remediations.iter().map(move |other| (report.id, other)));
    let open = |other: &Remediation| {
        other.kind != RemediationType::Manual
            && matches!(other.state, State::Queued | State::Held | State::Delivered | State::RetryWait | State::OutcomeUnknown)
    };
    let before = |(of, other): &(ReportId, &Remediation)| {
        let same_plan = *of == report && other.revision == item.revision;
        open(other) && rank(other) < own && (same_plan || rank(other) == 0 || own == 5)
    };
    others.into_iter().find(before).map(|(_, other)| other.clone())
}

/// Whatever has a deadline is named by the subject's timer, in time.
fn judge_timers(step: &Step, subject: &Subject) -> Result<(), String> {
    let next = timers::next_due(subject);
    let played = !matches!(subject.key, SubjectKey::Agent(_));
    for item in subject.reports.values().flat_map(|report| &report.remediations) {
        let lease = item.open_attempt.as_ref().map(|attempt| attempt.lease_until);
        let deadline = match item.state {
            State::Delivered => lease,
            State::OutcomeUnknown if played => lease.map(|lease| lease.max(step.now)),
            State::Queued | State::Held | State::RetryWait | State::OutcomeUnknown if item.kind != RemediationType::Manual => {
                item.deliver_by
            }
            _ => None,
        };
        let deadline = match item.state {
            // nobody surveys: it goes on by itself
            State::Queued if played => Some(step.now),
            State::RetryWait if played => item.next_attempt_at.map(|at| at.max(step.now)),
            _ => deadline,
        };
        if let Some(deadline) = deadline {
            // a played survey is a millisecond later than the one before it
            let slack = after(deadline, Span::from_millis(1));
            ensure!(next.is_some_and(|next| next <= slack), "no timer by {deadline} for {item:?}: {next:?}");
        }
    }
    let of_reports = subject.reports.values().filter_map(|report| report.sla.and_then(|sla| sla.next_at));
    let of_agent = subject.agent.iter().flat_map(|agent| [agent.presence_due, agent.isolation.fails_at]).flatten();
    for deadline in of_reports.chain(of_agent) {
        ensure!(next.is_some_and(|next| next <= deadline), "no timer by {deadline} of an SLA, of presence or isolation: {next:?}");
    }
    if step.event.kind == EventKind::TimerDue {
        ensure!(next.is_none_or(|next| next > step.event.time), "the timer of {} is due again at {next:?}", step.event.time);
    }
    Ok(())
}

#[test]
fn the_invariants_hold_under_any_sequence_of_events() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("SEED", 20_261_123).to_le_bytes());
    let config = Config { cases: number("CASES", 600) as u32, failure_persistence: None, max_shrink_iters: 4_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let tally = RefCell::new(BTreeMap::<String, u64>::new());
    // most runs begin with a report or two, some with events that come before any
    let mask = prop_oneof![2 => any::<u8>(), 1 => Just(0b0000_1010u8)];
    let first = (1u64..=3, mask, 0usize..3, 0u8..3).prop_map(|(report, items, severity, isolate)| Op::Create {
        report,
        items,
        revision: 1,
        severity,
        isolate,
        simulated: false,
    });
    let settings = (0u8..8).prop_map(|which| Op::Settings { which, on: true, back: 0 });
    let first = prop_oneof![1 => settings, 1 => first];
    let sequence = (proptest::collection::vec(first, 0..8), proptest::collection::vec(op(), 1..80));
    let result = runner.run(&sequence, |(first, ops)| {
        let mut run = Run::new();
        let outcome = first.iter().chain(&ops).try_for_each(|op| run.play(op)).and_then(|()| run.heal());
        for (what, n) in std::mem::take(&mut run.ledger.tally) {
            *tally.borrow_mut().entry(what).or_insert(0) += n;
        }
        outcome.map_err(TestCaseError::fail)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let tally = tally.into_inner();
    let others = [
        "Duplicate",
        "Older",
        "Nothing",
        "NotOpen",
        "parked",
        "orphan",
        "kept",
        "unblocked",
        "resolution refused",
        "invalid",
        "unknown agent",
        "waived",
        "verified",
    ];
    let ends = ["resolved", "auto", "footholds_cleared", "agent_removed", "closed_upstream"].map(|by| format!("closed: {by}"));
    let statuses = ["auto_remediating", "dismissed", "partner_dismissed", "deleting"].map(|to| format!("report {to}"));
    let returns = ["requested", "foothold_returned", "residual_failed"].map(|cause| format!("reopened {cause}"));
    let firewall = ["Enabled -> Pending Isolation", "Pending Isolation -> Isolated", "Pending Isolation -> Enabled"];
    let release = ["Isolated -> Pending Release", "Pending Release -> Enabled", "Pending Release -> Pending Isolation"];
    let said = ["incident_report.residual_cleared", "soc_support.requested", "agent.isolation_drifted", "sla.warning", "sla.breached"];
    let refusals =
        ["role_not_allowed", "stale_plan", "empty_comment", "wrong_state", "unknown_remediation", "not_critical", "isolation_held"];
    let pairs = PAIRS.iter().map(|(from, to)| format!("{from} -> {to}"));
    let fixed = others.iter().chain(&refusals).chain(&firewall).chain(&release).chain(&said).map(|word| (*word).to_owned());
    let wanted = fixed.chain(ends).chain(statuses).chain(returns).chain(pairs);
    let wanted = wanted.filter(|what| !RARE.lines().any(|rare| rare == what));
    let never: Vec<_> = wanted.filter(|what| !tally.contains_key(what)).collect();
    assert!(never.is_empty(), "never happened, so nothing was shown of it: {never:?}\nseen: {tally:#?}");
}

/// Who may, and what an allowed request comes to where the report stands. `shut`: resolution refused by the gate.
const ANSWERS: &str = "
request        who                          unknown       awaiting_approval in_revision       remediating       blocked           ready             closed      auto_remediating dismissed   partner_dismissed
approve        admin,security_engineer,user parked        changed           nothing           nothing           nothing           nothing           wrong_state nothing          wrong_state wrong_state
approve_none   admin,security_engineer,user parked        unknown_item      unknown_item      unknown_item      unknown_item      unknown_item      wrong_state unknown_item     wrong_state wrong_state
approve_stale  admin,security_engineer,user parked        stale_plan        stale_plan        stale_plan        stale_plan        stale_plan        wrong_state stale_plan       wrong_state wrong_state
approve_ahead  admin,security_engineer,user parked        parked            parked            parked            parked            parked            wrong_state parked           wrong_state wrong_state
reject         admin,security_engineer,user parked        changed           nothing           nothing           nothing           nothing           wrong_state sent             wrong_state wrong_state
reject_empty   admin,security_engineer,user parked        empty_comment     empty_comment     empty_comment     empty_comment     empty_comment     wrong_state empty_comment    wrong_state wrong_state
complete       admin,security_engineer,user parked        wrong_state       wrong_state       changed           changed           changed           wrong_state wrong_state      wrong_state wrong_state
uncomplete     admin,security_engineer,user parked        wrong_state       wrong_state       nothing           nothing           nothing           wrong_state wrong_state      wrong_state wrong_state
retry          admin,security_engineer,user parked        wrong_state       wrong_state       wrong_state       changed           wrong_state       wrong_state wrong_state      wrong_state wrong_state
cancel         admin,security_engineer,user parked        wrong_state       changed           changed           wrong_state       wrong_state       wrong_state sent             wrong_state wrong_state
cancel_none    admin,security_engineer,user parked        unknown_item      unknown_item      unknown_item      unknown_item      unknown_item      wrong_state unknown_item     wrong_state wrong_state
waive          admin                        parked        wrong_state       wrong_state       wrong_state       changed           wrong_state       wrong_state wrong_state      wrong_state wrong_state
waive_silent   admin                        parked        empty_comment     empty_comment     empty_comment     empty_comment     empty_comment     wrong_state wrong_state      wrong_state wrong_state
waive_none     admin                        parked        unknown_item      unknown_item      unknown_item      unknown_item      unknown_item      wrong_state wrong_state      wrong_state wrong_state
resolve        admin,security_engineer      parked        shut              shut              shut              shut              closed            not_active  not_active       not_active  not_active
dismiss        admin,security_engineer      parked        partner_dismissed partner_dismissed partner_dismissed partner_dismissed partner_dismissed wrong_state wrong_state      wrong_state wrong_state
dismiss_silent admin,security_engineer      parked        empty_comment     empty_comment     empty_comment     empty_comment     empty_comment     wrong_state wrong_state      wrong_state wrong_state
reopen         admin,security_engineer      parked        wrong_state       wrong_state       wrong_state       wrong_state       wrong_state       sent        wrong_state      wrong_state sent
soc_support    admin,security_engineer      parked        not_critical      not_critical      not_critical      not_critical      not_critical      wrong_state not_critical     wrong_state wrong_state
isolate        admin,security_engineer      unknown_agent isolation         isolation         isolation         isolation         isolation         isolation   isolation        isolation   isolation
release        admin,security_engineer      unknown_agent wrong_state       wrong_state       wrong_state       wrong_state       wrong_state       wrong_state wrong_state      wrong_state wrong_state
";

/// A world whose report 1 (1 assisted, 2 manual, revision 2) stands there.
fn standing(phase: &str) -> World {
    let mut run = Run::new();
    let mut plan = items(0b0100_1000, 1);
    plan.sort_by_key(|item| item.kind == RemediationType::Manual);
    for (item, id) in plan.iter_mut().zip([1, 2]) {
        item.id = RemediationId(id);
        // the code that the attempt of item 1 ends with, if it comes to one
        item.simulate = [OutcomeCode::new(if phase == "blocked" { "access_denied" } else { "ok" })].into();
    }
    let approve = Op::Approve { report: 1, ahead: 0, only: None, role: 0, back: 0 };
    let survey = Op::Survey { back: 0, boot: None, sees: None, isolated: None };
    let create = |items: Vec<PlanItem>, revision, severity| {
        EventKind::ReportCreated(Box::new(NewReport {
            id: ReportId(1),
            agent_id: Some(AgentId(12)),
            identity: None,
            platform: "windows".into(),
            hostname: None,
            severity,
            attack_kind: AttackKind::Unknown,
            text: Arc::default(),
            body: String::new(),
            simulated: false,
            isolate_host: false,
            plan_revision: revision,
            footholds: Vec::new(),
            items,
            sent_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            status_updated_at: Timestamp::UNIX_EPOCH,
        }))
    };
    if phase == "auto_remediating" {
        // its plan is the assisted item alone
        plan.truncate(1);
        run.world.set(setting(0, true));
        run.send(0, create(plan, 2, Severity::Low)).expect("the invariants hold");
    } else if phase != "unknown" {
        run.send(0, create(Vec::new(), 1, Severity::High)).expect("the invariants hold");
        let revision = Revision { report: ReportId(1), plan_revision: 2, items: plan, footholds: None, comment: None };
        run.send(0, EventKind::ReportRevised(Box::new(revision))).expect("the invariants hold");
    }
    let ops = match phase {
        "unknown" | "awaiting_approval" | "auto_remediating" => vec![],
        // of the plan's items, the first alone is approved
        "in_revision" => vec![
            Op::Approve { report: 1, ahead: 0, only: Some(1), role: 0, back: 0 },
            Op::Reject { report: 1, ahead: 0, comment: true, role: 0 },
        ],
        "remediating" => vec![approve],
        "blocked" | "ready" => vec![approve, survey],
        "closed" => vec![approve, survey, Op::Resolve { report: 1, role: 0 }],
        "dismissed" => vec![Op::Dismiss { report: 1 }],
        "partner_dismissed" => vec![Op::DismissAsked { report: 1, reason: true, role: 0 }],
        other => panic!("no such column: {other}"),
    };
    for op in ops {
        run.play(&op).expect("the invariants hold");
    }
    let stands = run.ledger.reports.get(&ReportId(1)).map(|report| (report.status, expected_phase(report)));
    let said = match stands {
        None => "unknown",
        Some((ReportStatus::Sent, Some(phase))) => phase.as_str(),
        Some((status, _)) => status.as_str(),
    };
    assert_eq!(said, phase, "the stage is set wrongly");
    run.world
}

fn request(name: &str, role: Role) -> EventKind {
    let actor = Actor { id: 1, name: None, email: None, role };
    let plan = |plan_revision, remediations| PlanDecision { report: ReportId(1), plan_revision, remediations, actor: actor.clone() };
    let task = |id| TaskRequest { report: ReportId(1), remediation: RemediationId(id), reason: Some("so".into()), actor: actor.clone() };
    let whole = |reason: Option<&str>| ReportRequest { report: ReportId(1), reason: reason.map(str::to_owned), actor: actor.clone() };
    let host = || AgentRequest { agent: AgentId(12), reason: None, force: false, actor: actor.clone() };
    match name {
        "approve" => EventKind::Approved(plan(2, None)),
        "approve_none" => EventKind::Approved(plan(2, Some(vec![RemediationId(9)]))),
        "approve_stale" => EventKind::Approved(plan(1, None)),
        "approve_ahead" => EventKind::Approved(plan(3, None)),
        "reject" => EventKind::Rejected { decision: plan(2, None), comment: "no".into() },
        "reject_empty" => EventKind::Rejected { decision: plan(2, None), comment: " ".into() },
        "complete" => EventKind::ManualCompleted(task(2)),
        "uncomplete" => EventKind::ManualUncompleted(task(2)),
        "retry" => EventKind::RetryRequested(task(1)),
        "cancel" => EventKind::CancelRequested(task(1)),
        "cancel_none" => EventKind::CancelRequested(task(9)),
        "waive" => EventKind::Waived(task(1)),
        "waive_silent" => EventKind::Waived(TaskRequest { reason: Some(" ".into()), ..task(1) }),
        "waive_none" => EventKind::Waived(task(9)),
        "resolve" => EventKind::ResolutionRequested(whole(None)),
        "dismiss" => EventKind::DismissalRequested(whole(Some("ours"))),
        "dismiss_silent" => EventKind::DismissalRequested(whole(None)),
        "reopen" => EventKind::ReopenRequested(whole(None)),
        "soc_support" => EventKind::SocSupportRequested { request: whole(None), data: Payload("{}".into()) },
        "isolate" => EventKind::IsolationRequested(host()),
        "release" => EventKind::ReleaseRequested(host()),
        other => panic!("no such row: {other}"),
    }
}

/// What a request came to, in the words of [`ANSWERS`].
fn answer(step: &Step) -> String {
    let applied = match &step.decision {
        Decision::Applied(applied) => applied,
        Decision::Ignored(_) => return "nothing".into(),
        Decision::Park { .. } => return "parked".into(),
        Decision::Orphan { .. } => return "orphan".into(),
        Decision::Invalid { .. } => return "invalid".into(),
        Decision::UnknownAgent { .. } => return "unknown_agent".into(),
    };
    let bodies: Vec<&Body> = applied.notices.iter().map(|notice| &notice.body).collect();
    let word = match (applied.refused, bodies.as_slice()) {
        (Some(Refused::Request(_)), [Body::RequestRefused { code, .. }]) => code.as_str().replace("unknown_remediation", "unknown_item"),
        (Some(Refused::Resolution), [Body::ResolutionRefused { blockers }]) => match blockers.first().map(|blocker| blocker.code) {
            Some(code @ (BlockerCode::RoleNotAllowed | BlockerCode::NotActive)) => code.as_str().to_owned(),
            Some(_) => "shut".into(),
            None => "refused without a reason".into(),
        },
        (None, [Body::StatusChanged { to, .. }, ..]) => to.as_str().to_owned(),
        (None, [Body::RemediationStatusChanged(_), ..]) => "changed".into(),
        (None, [Body::IsolationChanged { .. }]) => "isolation".into(),
        other => format!("{other:?}"),
    };
    if applied.refused.is_some() {
        // a refusal changes nothing but the sequence and the mark that somebody was refused
        for (id, report) in &applied.subject.reports {
            let mut before = Report::clone(&step.before.reports[id]);
            before.sequence = report.sequence;
            before.refused_resolution.clone_from(&report.refused_resolution);
            assert_eq!(**report, before, "a refused request changed the report");
        }
    }
    word
}

#[test]
fn every_role_gets_its_answer_to_every_request_in_every_phase() {
    let mut rows = ANSWERS.lines().filter(|line| !line.is_empty()).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let head = rows.next().expect("a head");
    let mut wrong = Vec::new();
    for row in rows {
        for (phase, expected) in head[2..].iter().zip(&row[2..]) {
            for role in Role::ALL {
                let mut world = standing(phase);
                let now = after(world.now, minutes(1));
                let kind = request(row[0], role);
                world.arrive(now, Event { id: "asked".into(), tenant: TENANT, time: now, traceparent: None, kind });
                let steps = world.take_steps();
                let got = steps.iter().find(|step| step.event.id == "asked").map_or("unasked".into(), answer);
                let may = row[1].split(',').any(|who| who == role.as_str());
                let expected = if may || *phase == "unknown" { *expected } else { "role_not_allowed" };
                if got != expected {
                    wrong.push(format!("{} by {} while {phase}: {got}, not {expected}", row[0], role.as_str()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
