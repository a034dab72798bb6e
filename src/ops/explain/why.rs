//! Why a report is where it is: its phase or its end, everything in the way with its history, the isolation.

use super::Case;
use super::history::by_whom;
use super::what::counted;
use crate::machine::notice::{BlockedTask, Blocker, BlockerCode};
use crate::machine::policy::MAX_ATTEMPTS;
use crate::model::agent::{Agent, FirewallStatus, Presence};
use crate::model::remediation::{Cancellation, Remediation, State};
use crate::model::report::{Phase, ReportStatus};
use crate::ops::inspect::agent::holder_text;
use crate::ops::inspect::text::shown;

pub(super) fn it_is_there(case: &Case) -> Vec<String> {
    let report = &case.inspected.stored.report;
    let mut told = vec![standing(case)];
    told.extend(decisions(case));
    let blocked: Vec<&BlockedTask> = case.inspected.blockers.iter().filter_map(|blocker| blocker.task.as_ref()).collect();
    if report.status == ReportStatus::Sent {
        told.extend(case.inspected.blockers.iter().filter_map(|blocker| in_the_way(case, blocker)));
    }
    // of a report that is not with people, and of what is not in the way, only what has not ended
    for item in report.remediations.iter().filter(|item| item.kind.is_task() && !item.state.is_terminal()) {
        let told_already = blocked.iter().any(|task| (task.remediation_id, task.plan_revision) == (item.id, item.revision));
        if !told_already && !matches!(item.state, State::Unapproved) {
            told.push(task(case, item, None));
        }
    }
    if report.status == ReportStatus::Sent {
        let came_back = |item: &&Remediation| item.state == State::Completed && item.regressions > 0;
        told.extend(report.plan().filter(came_back).map(|item| task(case, item, None)));
        told.extend(report.plan().filter(|item| item.waived).map(|item| waived(case, item)));
        told.extend(report.plan().filter(|item| item.state == State::AwaitingHuman).map(|item| {
            let consent = case.history.consent(item).map(|consent| format!(" {consent}")).unwrap_or_default();
            format!("- {} is for people and not ticked off yet; that does not block.{consent}", name(item))
        }));
    }
    told.extend(isolation(case));
    told
}

fn standing(case: &Case) -> String {
    let report = &case.inspected.stored.report;
    let closed = report.closed_at.map(|at| format!(" on {}", shown(at))).unwrap_or_default();
    match report.status {
        ReportStatus::AutoRemediating => {
            "It is being remediated automatically (auto_remediating): the organization's managed response covers \
                                          it, and nobody is asked."
                .to_owned()
        }
        ReportStatus::Closed => format!("It is closed: {}.", ending(case)),
        ReportStatus::Dismissed => format!("It is dismissed: the SOC withdrew it{closed}."),
        ReportStatus::PartnerDismissed => match case.history.ended_by("incident_report.dismissal_requested", report) {
            Some(row) => format!("It is dismissed, {}.", by_whom(row)),
            None => format!("It was dismissed{closed}."),
        },
        ReportStatus::Deleting => "It is being deleted with its organization.".to_owned(),
        ReportStatus::Sent => match case.inspected.phase {
            Some(Phase::InRevision) => {
                "It is open and in revision (in_revision): its plan was rejected, and the SOC has not issued it again.".to_owned()
            }
            Some(Phase::AwaitingApproval) => {
                let unreviewed = report.plan().filter(|item| item.state == State::Unapproved).count();
                let verb = if unreviewed == 1 { "has" } else { "have" };
                format!(
                    "It is open and waits for approval (awaiting_approval): {} {verb} not been reviewed.",
                    counted(unreviewed, "remediation")
                )
            }
            Some(Phase::Blocked) => {
                "It is open and blocked: at least one approved task has come to an end without success, and it does not go on \
                                     by itself."
                    .to_owned()
            }
            Some(Phase::Remediating) => {
                "It is open and being remediated (remediating): at least one approved task has not ended.".to_owned()
            }
            Some(Phase::Ready) | None => "It is open and ready: nothing is in the way of resolving it.".to_owned(),
        },
    }
}

/// How a closed report came to be closed.
fn ending(case: &Case) -> String {
    let report = &case.inspected.stored.report;
    let unverified = if report.disposition.is_some() { "; that the threat is gone is unverified" } else { "" };
    let closed = report.closed_at.map(|at| format!(" on {}", shown(at))).unwrap_or_default();
    let ending = match report.closed_by.as_deref() {
        Some("resolved") => match case.history.ended_by("incident_report.resolution_requested", report) {
            Some(row) => format!("it was resolved {}", by_whom(row)),
            None => format!("it was resolved{closed}"),
        },
        Some("auto") => format!("its automatic remediation ended well{closed}"),
        Some("footholds_cleared") => format!("a survey listed none of its footholds any more{closed}, and the organization closes then"),
        Some("closed_upstream") => format!("the SOC closed it{closed}"),
        Some("agent_removed") => format!("its agent was removed{closed}, and the organization closes then"),
        Some(other) => format!("{other}{closed}"),
        None => format!("by what is not on record{closed}"),
    };
    format!("{ending}{unverified}")
}

/// What people have decided about the report as a whole, as far as it still matters.
fn decisions(case: &Case) -> Vec<String> {
    let report = &case.inspected.stored.report;
    let mut told = Vec::new();
    if report.in_revision
        && let Some(row) = case.history.last_applied("remediations.rejected")
    {
        told.push(format!("The plan was rejected {}.", by_whom(row)));
    }
    if report.status == ReportStatus::Sent {
        if let Some(row) = case.history.last_applied("incident_report.reopen_requested") {
            told.push(format!("It was opened again {}.", by_whom(row)));
        }
        if let Some(row) = report.refused_resolution.as_ref().and_then(|asker| case.history.refused_resolution_of(asker)) {
            told.push(format!("Its resolution was asked for {}; it was refused, because of what was in the way.", by_whom(row)));
        }
    }
    told
}

fn in_the_way(case: &Case, blocker: &Blocker) -> Option<String> {
    let report = &case.inspected.stored.report;
    let cleared = blocker.clears_by();
    let Some(blocked) = &blocker.task else {
        return (blocker.code != BlockerCode::InRevision).then(|| format!("- {}: cleared by {cleared}.", blocker.code.as_str()));
    };
    let item = report.remediations.iter().find(|item| (item.id, item.revision) == (blocked.remediation_id, blocked.plan_revision))?;
    Some(task(case, item, Some(cleared)))
}

/// One task with its history.
fn task(case: &Case, item: &Remediation, cleared: Option<&str>) -> String {
    let report = &case.inspected.stored.report;
    let old = if item.revision == report.plan_revision { "" } else { " of an earlier plan" };
    let mut told = vec![format!("- {}{old} {}.", name(item), stands(case, item))];
    if !matches!(item.state, State::Unapproved) {
        told.extend(case.history.consent(item));
    }
    told.extend(attempts(item));
    if item.regressions > 0 {
        told.push(format!("It has come back {} after it had been completed.", counted(item.regressions as usize, "time")));
    }
    if item.state == State::Cancelled(Cancellation::Requested)
        && let Some(row) = case.history.last_on_item("remediation.cancel_requested", item.id)
    {
        told.push(format!("Cancelled {}.", by_whom(row)));
    }
    if let Some(at) = item.next_attempt_at {
        let first = if report.agent_id.is_some() { "at the first survey from" } else { "by a timer, since no agent is involved, from" };
        told.push(format!("The next attempt is made {first} {} on.", shown(at)));
    }
    if item.cancel_asked && !item.state.is_terminal() {
        told.push("Its cancellation has been asked for; the outcome of the attempt comes first.".to_owned());
    }
    // without an agent the published words would promise a survey that nobody makes
    let by_timer =
        report.agent_id.is_none() && matches!(item.state, State::Queued | State::Held | State::RetryWait | State::OutcomeUnknown);
    if let Some(cleared) = cleared.filter(|_| !by_timer) {
        told.push(format!("It is cleared by {cleared}."));
    }
    told.join(" ")
}

fn stands(case: &Case, item: &Remediation) -> String {
    let agent = case.inspected.stored.agent.as_ref();
    let unresponsive = agent.is_some_and(|agent| agent.presence == Presence::Unresponsive);
    match item.state {
        State::Unapproved => "has not been reviewed".to_owned(),
        State::Queued if unresponsive => "waits for its agent, which is unresponsive".to_owned(),
        State::Held if unresponsive => "is held, because its agent is unresponsive".to_owned(),
        State::Queued if agent.is_some() => "waits for the agent's next survey".to_owned(),
        State::Queued => "waits to be started".to_owned(),
        State::Held => "is held until the tasks before it have ended".to_owned(),
        State::Delivered => "is with the agent; its outcome is not known yet".to_owned(),
        State::RetryWait => "waits for another attempt".to_owned(),
        State::RebootPending if item.waived => "waits for a reboot of the host, which has been waived".to_owned(),
        State::RebootPending => "has been carried out and takes effect with a reboot of the host".to_owned(),
        State::OutcomeUnknown => "was with the agent, and its outcome was lost".to_owned(),
        State::AwaitingHuman => "is for people to do".to_owned(),
        State::Completed => "is completed".to_owned(),
        State::Failed => "has failed".to_owned(),
        State::Expired => "has expired: it could not be carried out in time".to_owned(),
        State::Cancelled(why) => format!("is cancelled ({})", why.as_str()),
    }
}

fn attempts(item: &Remediation) -> Option<String> {
    let reason = item.reason.as_deref();
    let why = reason.map(|code| format!("{code}{}", meaning(code))).unwrap_or_default();
    // what a reason says that is no outcome of an attempt
    if item.attempt == 0 || matches!(reason, Some("agent_removed" | "deliver_by_passed" | "regressed")) {
        let made = if item.attempt > 0 { format!("{} made. ", counted_attempts(item)) } else { String::new() };
        let no_reason = reason.is_none() || matches!(item.state, State::Cancelled(_) | State::Unapproved);
        return if no_reason { (!made.is_empty()).then(|| made.trim_end().to_owned()) } else { Some(format!("{made}Reason: {why}.")) };
    }
    let tries = if item.tries > 1 { format!(", after {} tries,", item.tries) } else { String::new() };
    Some(match item.state {
        State::Delivered => format!("Attempt {} of {MAX_ATTEMPTS} is under way.", item.attempt),
        State::Cancelled(_) | State::Queued | State::Held => format!("{} made.", counted_attempts(item)),
        _ if why.is_empty() => format!("{} made.", counted_attempts(item)),
        _ => format!("Attempt {} of {MAX_ATTEMPTS}{tries} ended with {why}.", item.attempt),
    })
}

fn counted_attempts(item: &Remediation) -> String {
    let verb = if item.attempt == 1 { "has been" } else { "have been" };
    format!("{} of {MAX_ATTEMPTS} {verb}", counted(item.attempt as usize, "attempt"))
}

/// The known codes in words; of an unknown one nothing is claimed.
fn meaning(code: &str) -> &'static str {
    match code {
        "file_in_use" => " (the file was in use)",
        "profile_not_loaded" => " (the user's profile was not loaded)",
        "agent_busy" => " (the agent was busy)",
        "timeout" => " (it took too long)",
        "network" => " (the network failed)",
        "agent_restarted" => " (the agent was restarted meanwhile)",
        "protected" => " (the target is protected)",
        "system_file" => " (the target is a system file)",
        "unsupported" => " (the agent does not know this action)",
        "access_denied" => " (the agent was denied access)",
        "hash_mismatch" => " (the file is not the one that was reported)",
        "ok_reboot_required" => " (done, and a reboot is needed)",
        "lease_passed" => " (the agent did not answer in time)",
        "service_restarted" => " (this service was restarted meanwhile)",
        "outcome_unknown" => " (nothing showed that it had worked)",
        "agent_removed" => " (the agent was removed)",
        "deliver_by_passed" => " (the time to deliver it is over)",
        "regressed" => " (what it had removed was seen again)",
        _ => "",
    }
}

fn waived(case: &Case, item: &Remediation) -> String {
    let by = case.history.last_on_item("remediation.waived", item.id).map(|row| format!(" {}", by_whom(row))).unwrap_or_default();
    format!("- {} {} and has been waived{by}; it does not block.", name(item), stands(case, item))
}

fn isolation(case: &Case) -> Option<String> {
    let agent: &Agent = case.inspected.stored.agent.as_ref()?;
    let host = agent.hostname.as_deref().unwrap_or("The host");
    let status = match agent.firewall_status {
        FirewallStatus::Enabled => return None,
        FirewallStatus::PendingIsolation => "is to be isolated at the agent's next survey",
        FirewallStatus::Isolated => "is isolated from the network",
        FirewallStatus::PendingRelease => "is isolated still; its release has been asked for",
    };
    let holders: Vec<String> = agent.isolation.holders.iter().map(|holder| holder_text(*holder)).collect();
    let held =
        if holders.is_empty() { "Nothing holds it so any more.".to_owned() } else { format!("It is held so by {}.", holders.join(", ")) };
    let failed = if agent.isolation.failed { " Isolating it has failed so far." } else { "" };
    let early = if case.inspected.stored.report.released_early { " It was released by force before this report was ready." } else { "" };
    let asked = case.history.last_about_host(agent.id).map(|row| {
        let what = if row.request == "agent.release_requested" { "release" } else { "isolation" };
        let came = match row.outcome.strip_prefix("refused: ") {
            Some(code) => format!("; it was refused ({code})"),
            None => String::new(),
        };
        format!(" Its {what} was asked for {}{came}.", by_whom(row))
    });
    Some(format!("{host} {status}. {held}{failed}{early}{}", asked.unwrap_or_default()))
}

fn name(item: &Remediation) -> String {
    format!("#{} {} ({})", item.id, item.action.original(), item.kind.as_str())
}
