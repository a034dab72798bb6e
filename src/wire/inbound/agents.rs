//! `agent.surveyed`, by far the most frequent message, and `agent.removed`.
//!
//! Never here: what a survey sets off. An absent observation stays absent: "did not look" is not "saw none".

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::fields::{At, Id, read};
use crate::machine::event::EventKind;
use crate::model::agent::Survey;
use crate::model::ids::AgentId;
use crate::wire::{Fault, limits};

/// What an agent has found on its host. An absent observation means that it did not look.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Surveyed")]
pub(super) struct Surveyed {
    agent_id: Id,
    /// Required: with the agent it is what a survey is known by.
    surveyed_at: At,
    hostname: Option<String>,
    platform: Option<String>,
    agent_version: Option<String>,
    boot_id: Option<String>,
    #[schemars(length(max = limits::FOOTHOLDS_PRESENT))]
    footholds_present: Option<Vec<String>>,
    isolated: Option<bool>,
}

pub fn surveyed(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Surveyed>(data)?;
    if form.footholds_present.as_ref().is_some_and(|present| present.len() > limits::FOOTHOLDS_PRESENT) {
        return Err(Fault::over("data.footholds_present", limits::FOOTHOLDS_PRESENT, "footholds"));
    }
    Ok(EventKind::Surveyed(Survey {
        agent_id: AgentId(form.agent_id.0),
        surveyed_at: form.surveyed_at.0,
        hostname: form.hostname,
        platform: form.platform,
        agent_version: form.agent_version,
        boot_id: form.boot_id,
        footholds_present: form.footholds_present,
        isolated: form.isolated,
    }))
}

/// The agent is no longer on any host.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "AgentRemoved")]
pub(super) struct Removed {
    agent_id: Id,
    reason: Option<String>,
}

pub fn removed(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Removed>(data)?;
    Ok(EventKind::AgentRemoved { agent: AgentId(form.agent_id.0), reason: form.reason })
}
