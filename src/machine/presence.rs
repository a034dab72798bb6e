//! The A table: whether we hear of an agent, and what its surveys set off.

use crate::model::agent::{Presence, Survey};
use crate::model::ids::AgentId;
use crate::model::time::{Timestamp, after, days, minutes};

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::NewReport;
use super::notice::Body;
use super::policy::{MISSED_SURVEYS, NEVER_SEEN};
use super::{closing, footholds, isolation, tasks};

/// A0: a report names the agent.
pub(super) fn named(draft: &mut Draft<'_>, id: AgentId, new: &NewReport) {
    let is_new = draft.subject.agent.is_none();
    if !is_new && new.hostname.is_none() {
        return;
    }
    let silent_until = after(draft.now, NEVER_SEEN);
    let agent = draft.change_agent(id);
    if agent.hostname.is_none() {
        agent.hostname.clone_from(&new.hostname);
    }
    if is_new {
        agent.platform = Some(new.platform.clone());
        agent.presence_due = Some(silent_until);
        draft.note_agent(Body::AgentStatusChanged { from: None, to: Presence::Known });
    }
}

/// A1, and through it the isolation, the footholds and the tasks of the agent. A survey that is not newer than the
/// last one changes nothing.
pub(super) fn surveyed(mut draft: Draft<'_>, survey: &Survey) -> Decision {
    let before = draft.subject.agent.as_ref().map(|agent| (agent.presence, agent.last_survey_at));
    if let Some((_, Some(last))) = before {
        if survey.surveyed_at == last {
            return Decision::Ignored(Ignored::Duplicate);
        }
        if survey.surveyed_at < last {
            return Decision::Ignored(Ignored::Older);
        }
    }
    if draft.subject.agent.as_ref().is_some_and(|agent| agent.removed_at.is_some_and(|at| survey.surveyed_at <= at)) {
        return Decision::Ignored(Ignored::Older);
    }
    let offline_at = after(survey.surveyed_at, draft.policy.survey_interval * MISSED_SURVEYS);
    let agent = draft.change_agent(survey.agent_id);
    agent.presence = Presence::Online;
    agent.removed_at = None;
    agent.last_survey_at = Some(survey.surveyed_at);
    for (field, seen) in [
        (&mut agent.hostname, &survey.hostname),
        (&mut agent.platform, &survey.platform),
        (&mut agent.agent_version, &survey.agent_version),
        (&mut agent.boot_id, &survey.boot_id),
    ] {
        if seen.is_some() {
            field.clone_from(seen);
        }
    }
    let from = before.map(|(presence, _)| presence);
    if from != Some(Presence::Online) {
        agent.presence_due = Some(offline_at);
        draft.note_agent(Body::AgentStatusChanged { from, to: Presence::Online });
    }
    isolation::surveyed(&mut draft, survey);
    footholds::surveyed(&mut draft, survey);
    tasks::survey_tasks(&mut draft, survey);
    draft.finish()
}

/// A2 and A3: what the time since the last survey says. Lazy: surveys do not move the timer, it moves itself.
pub(super) fn timer_due(draft: &mut Draft<'_>, due: Timestamp) {
    let Some(agent) = draft.subject.agent.as_ref().filter(|agent| agent.presence_due.is_some_and(|at| at <= due)) else { return };
    let (id, from, last) = (agent.id, agent.presence, agent.last_survey_at);
    if !draft.policy.surveys_caught_up {
        // what looks like silence may be waiting in the queue
        let later = after(draft.now, minutes(1));
        draft.change_agent(id).presence_due = Some(later);
        return;
    }
    let offline_at = last.map(|last| after(last, draft.policy.survey_interval * MISSED_SURVEYS));
    let silent_for = days(i64::from(draft.policy.organization.unresponsive_after_days));
    let unresponsive_at = last.map_or(due, |last| after(last, silent_for));
    let (to, next) = match from {
        Presence::Online => match offline_at {
            Some(at) if at > due => (from, Some(at)),
            Some(_) | None => (Presence::Offline, Some(unresponsive_at.max(after(due, minutes(1))))),
        },
        Presence::Known | Presence::Offline if unresponsive_at > due => (from, Some(unresponsive_at)),
        Presence::Known | Presence::Offline => (Presence::Unresponsive, None),
        Presence::Unresponsive | Presence::Removed => (from, None),
    };
    let agent = draft.change_agent(id);
    agent.presence = to;
    agent.presence_due = next;
    if to != from {
        draft.note_agent(Body::AgentStatusChanged { from: Some(from), to });
    }
}

/// A4 and R12.
pub(super) fn removed(mut draft: Draft<'_>, id: AgentId) -> Decision {
    let Some(from) = draft.subject.agent.as_ref().map(|agent| agent.presence).filter(|presence| *presence != Presence::Removed) else {
        return Decision::Ignored(Ignored::Nothing);
    };
    let removed_at = draft.event.time;
    let agent = draft.change_agent(id);
    agent.presence = Presence::Removed;
    agent.removed_at = Some(removed_at);
    agent.presence_due = None;
    agent.isolation.fails_at = None;
    draft.note_agent(Body::AgentStatusChanged { from: Some(from), to: Presence::Removed });
    closing::agent_removed(&mut draft);
    draft.finish()
}
