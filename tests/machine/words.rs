//! Decisions and notices in the words of the tables: one line each, nothing left out that a rule decides.
//!
//! Left out are texts for people (messages of refusals, who can clear a blocker); that they are there is asserted.

use remedyd::machine::decision::{Decision, Ignored};
use remedyd::machine::notice::{About, Author, BlockedTask, Blocker, Body, Counts, Notice, RemediationChange, Triage};
use remedyd::model::agent::Holder;
use remedyd::model::remediation::State;
use remedyd::model::time::Timestamp;

use super::language::{FIRST_DAY, day_and_time};
use super::world::{Step, TENANT};

/// What one step published (no line: nothing), or why it had no effect. `said_at` is the time of the line it belongs to.
pub fn lines(step: &Step, said_at: Timestamp) -> Vec<String> {
    match &step.decision {
        Decision::Applied(applied) => applied.notices.iter().flat_map(|notice| notice_lines(notice, said_at)).collect(),
        Decision::Ignored(why) => vec![format!("ignored: {}", ignored(*why))],
        Decision::Park { report, until } => vec![format!("parked for report {report} until {}", time(*until))],
        Decision::Orphan { report } => vec![format!("{}dead letter: orphan of report {report}", prefix(step.event.time, said_at))],
        Decision::Invalid { detail } => vec![format!("dead letter: invalid: {detail}")],
        // the organization answers, in a step of its own
        Decision::UnknownAgent { .. } => Vec::new(),
    }
}

fn ignored(why: Ignored) -> &'static str {
    match why {
        Ignored::Duplicate => "duplicate",
        Ignored::Older => "older than what is known",
        Ignored::Nothing => "nothing to do",
        Ignored::NotOpen => "report not open",
    }
}

fn notice_lines(notice: &Notice, said_at: Timestamp) -> Vec<String> {
    let about = match notice.about {
        About::Report { report, .. } => format!("report {report}"),
        About::Agent(agent) => format!("agent {agent}"),
        About::Organization => "organization".into(),
    };
    let mut lines = body_lines(notice);
    let late = notice.fired_at.map_or(String::new(), |at| format!(" [fired late, {}]", time(at)));
    if let Some(first) = lines.first_mut() {
        *first = format!("{}{about}: {first}{late}", prefix(notice.time, said_at));
    }
    lines
}

/// The time stands before what happened at another time than its line says.
fn prefix(at: Timestamp, said_at: Timestamp) -> String {
    if at == said_at { String::new() } else { format!("{} ", time(at)) }
}

fn body_lines(notice: &Notice) -> Vec<String> {
    let line = match &notice.body {
        Body::Triaged(triage) => triage_line(triage),
        Body::StatusChanged { from, to, phase, cause, actor, counts, residual } => {
            let from = from.map_or("", |from| from.as_str());
            let phase = phase.map_or(String::new(), |phase| format!(", {}", phase.as_str()));
            let residual = residual.map_or(String::new(), |n| format!("; {n} going on"));
            let by = by(actor.as_ref());
            format!("{from} -> {}{phase}; {cause}{by}{}{residual}", to.as_str(), counts_words(counts)).trim_start().to_owned()
        }
        Body::PhaseChanged { from, to } => format!("phase {} -> {}", from.as_str(), to.as_str()),
        Body::ResolutionRefused { blockers } => {
            assert!(!blockers.is_empty(), "a resolution was refused without a reason");
            return [String::from("resolution refused")].into_iter().chain(blockers.iter().map(blocker_line)).collect();
        }
        Body::ResolutionUnblocked => "resolution unblocked".into(),
        Body::Reopened { cause, remediation_id } => {
            let of = remediation_id.map_or(String::new(), |id| format!(" by remediation {id}"));
            format!("reopened, {}{of}", cause.as_str())
        }
        Body::ResidualCleared => "residual cleared".into(),
        Body::SocSupportRequested(payload) => format!("SOC support requested {}", payload.0),
        Body::RemediationVerified { remediation_id, plan_revision } => {
            let revision = if *plan_revision == 1 { String::new() } else { format!("; revision {plan_revision}") };
            format!("remediation {remediation_id} verified{revision}")
        }
        Body::IsolationChanged { from, to, holders, reason, actor } => {
            let reason = reason.as_ref().map_or(String::new(), |reason| format!("; {reason}"));
            format!("isolation {} -> {}; {}{reason}{}", from.as_str(), to.as_str(), holders_words(holders), by(actor.as_ref()))
        }
        Body::IsolationDrifted { holders } => format!("isolation drifted; {}", holders_words(holders)),
        Body::SlaWarning { severity, respond_by } => format!("SLA warning, {}; respond by {}", severity.as_str(), time(*respond_by)),
        Body::SlaBreached { severity, respond_by } => format!("SLA breached, {}; respond by {}", severity.as_str(), time(*respond_by)),
        Body::FunnelUpdated { period, month } => format!(
            "funnel {period}: {} events, {} signals, {} investigated, {} reported",
            month.events_analysed, month.signals, month.signals_investigated, month.incidents_reported
        ),
        Body::Updated(payload) => format!("updated {}", payload.0),
        Body::CommentAdded(payload) => format!("comment {}", payload.0),
        Body::RemediationStatusChanged(change) => change_line(notice, change),
        Body::AgentStatusChanged { from, to } => {
            format!("{} -> {}", from.map_or("", |from| from.as_str()), to.as_str()).trim_start().to_owned()
        }
        Body::Paged { reason, severity, respond_by } => {
            format!("on call paged, {}, {}; respond by {}", reason.as_str(), severity.as_str(), time(*respond_by))
        }
        Body::RequestRefused { request_type, code, message } => {
            assert!(!message.is_empty(), "a refusal says why in words");
            format!("refused {request_type}: {}", code.as_str())
        }
    };
    vec![line]
}

fn by(author: Option<&Author>) -> String {
    match author {
        None => String::new(),
        Some(Author::Person(actor)) => format!(" by {}", actor.role.as_str()),
        Some(Author::Policy) => " by policy".into(),
        Some(Author::Soc) => " by soc".into(),
    }
}

fn holders_words(holders: &[Holder]) -> String {
    let word = |holder: &Holder| match holder {
        Holder::Report(id) => format!("report {id}"),
        Holder::Manual => "a person".into(),
    };
    if holders.is_empty() {
        "held by nobody".into()
    } else {
        format!("held by {}", holders.iter().map(word).collect::<Vec<_>>().join(", "))
    }
}

fn triage_line(triage: &Triage) -> String {
    let finding = &triage.finding;
    let mut words = vec![
        format!("triaged {}, {}", triage.severity.as_str(), triage.urgency.as_str()),
        format!("respond by {}", time(triage.respond_by)),
        finding.attack_kind.as_str().to_owned(),
        format!("plan {}, next {}", triage.plan_shape.as_str(), triage.next_action.as_str()),
    ];
    if !finding.hosts.is_empty() {
        words.push(format!("host {}", finding.hosts.join(" ")));
    }
    if !finding.identities.is_empty() {
        words.push(format!("identity {}", finding.identities.join(" ")));
    }
    if !finding.footholds.is_empty() {
        words.push(format!("footholds {}", finding.footholds.iter().map(|foothold| foothold.id.as_str()).collect::<Vec<_>>().join(" ")));
    }
    words.push(triage.isolation.map_or("no host".into(), |status| format!("isolation {}", status.as_str())));
    words.push(if triage.containment_alone_enough { "containment alone is enough" } else { "containment alone is not enough" }.into());
    words.join("; ")
}

fn counts_words(counts: &Counts) -> String {
    let Counts { unapproved, open, completed, failed, cancelled, footholds_remaining } = counts;
    let named = [
        (unapproved, "unapproved"),
        (open, "open"),
        (completed, "completed"),
        (failed, "failed"),
        (cancelled, "cancelled"),
        (footholds_remaining, "footholds left"),
    ];
    let words: Vec<_> = named.into_iter().filter(|(n, _)| **n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if words.is_empty() { String::new() } else { format!("; {}", words.join(", ")) }
}

fn blocker_line(blocker: &Blocker) -> String {
    assert!(!blocker.clears_by().is_empty(), "a blocker says who or what can clear it");
    let Some(task) = &blocker.task else {
        return format!("  {}", blocker.code.as_str());
    };
    let BlockedTask { remediation_id, plan_revision, action, state: at, attempt, max_attempts, reason, next_attempt_at, deliver_by } = task;
    let mut words = vec![format!("  {}: remediation {remediation_id} \"{}\" is {}", blocker.code.as_str(), action.original(), state(*at))];
    details(&mut words, *plan_revision, None, (*attempt, *max_attempts, 0), reason.as_deref(), *next_attempt_at, *deliver_by);
    words.join("; ")
}

fn change_line(notice: &Notice, change: &RemediationChange) -> String {
    let RemediationChange { remediation_id: id, kind, action, from, to, verified, waived, .. } = change;
    let mut words = vec![match from {
        Some(from) => format!("remediation {id} {} -> {}", state(*from), state(*to)),
        None => format!("remediation {id} -> {}; {} \"{}\"", state(*to), kind.as_str(), action.original()),
    }];
    let attempt_id = change.attempt_id.as_deref().map(|full| {
        let About::Report { report, .. } = notice.about else { panic!("a task of no report: {notice:?}") };
        let task = format!("{TENANT}/{report}/{}/{id}/", change.plan_revision);
        full.strip_prefix(&task).unwrap_or_else(|| panic!("attempt id {full:?} does not begin with {task:?}"))
    });
    let numbers = (change.attempt, change.max_attempts, change.tries);
    details(&mut words, change.plan_revision, attempt_id, numbers, change.reason.as_deref(), change.next_attempt_at, change.deliver_by);
    if *verified {
        words.push("verified".into());
    }
    if *waived {
        words.push("waived".into());
    }
    words.join("; ")
}

fn details(
    words: &mut Vec<String>,
    revision: u64,
    attempt_id: Option<&str>,
    (attempt, max_attempts, tries): (u32, u32, u32),
    reason: Option<&str>,
    next_attempt_at: Option<Timestamp>,
    deliver_by: Option<Timestamp>,
) {
    if revision != 1 {
        words.push(format!("revision {revision}"));
    }
    if attempt > 0 {
        let id = attempt_id.map_or(String::new(), |id| format!(" ({id})"));
        words.push(format!("attempt {attempt} of {max_attempts}{id}"));
    }
    match tries {
        0 => {}
        1 => words.push("1 try".into()),
        n => words.push(format!("{n} tries")),
    }
    words.extend(reason.map(str::to_owned));
    words.extend(next_attempt_at.map(|at| format!("next {}", time(at))));
    words.extend(deliver_by.map(|at| format!("by {}", time(at))));
}

fn state(state: State) -> String {
    match state {
        State::Cancelled(why) => format!("cancelled({})", why.as_str()),
        State::Unapproved
        | State::Queued
        | State::Held
        | State::Delivered
        | State::RetryWait
        | State::RebootPending
        | State::OutcomeUnknown
        | State::AwaitingHuman
        | State::Completed
        | State::Failed
        | State::Expired => state.as_str().to_owned(),
    }
}

/// `09:05`, with seconds where there are any, with the day where it is not the first.
fn time(at: Timestamp) -> String {
    let (day, clock) = day_and_time(at);
    if day == FIRST_DAY { clock } else { format!("day {day} {clock}") }
}
