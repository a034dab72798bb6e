//! The A table: whether we hear of an agent, and what its surveys set off.

use crate::model::agent::{Presence, Survey};
use crate::model::ids::AgentId;

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::NewReport;
use super::notice::Body;
use super::tasks;

/// A0: a report names the agent.
pub(super) fn named(draft: &mut Draft<'_>, id: AgentId, new: &NewReport) {
    let is_new = draft.subject.agent.is_none();
    if !is_new && new.hostname.is_none() {
        return;
    }
    let agent = draft.change_agent(id);
    if agent.hostname.is_none() {
        agent.hostname.clone_from(&new.hostname);
    }
    if is_new {
        agent.platform = Some(new.platform.clone());
        draft.note_agent(Body::AgentStatusChanged { from: None, to: Presence::Known });
    }
}

/// A1, and through it the tasks of the agent. A survey that is not newer than the last one changes nothing.
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
    let agent = draft.change_agent(survey.agent_id);
    agent.presence = Presence::Online;
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
        draft.note_agent(Body::AgentStatusChanged { from, to: Presence::Online });
    }
    tasks::survey_tasks(&mut draft, survey);
    draft.finish()
}
