//! Plans: the items of a report and its footholds, with what each host will answer.
//!
//! Every task carries its outcomes as a `simulate` list. So an attempt takes no virtual time, and what a
//! scenario comes to depends on the scenario alone: not on the model, nor on how far attempts of other
//! tenants have moved the clock meanwhile. Never here: when anything happens.

use serde_json::{Value, json};

use super::dice::Dice;

/// What the SOC asks for: the four shapes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Assisted,
    Manual,
    Both,
    Informational,
}

/// What the report is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Agent { id: u64, hostname: String },
    Identity { id: u64, name: String },
}

/// How the life of a task is meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Smooth,
    /// Transient outcomes, then ok.
    Bumpy,
    /// Transient outcomes until the attempts are used up.
    Exhausted,
    /// One permanent outcome; a retry by a person succeeds.
    Refused,
    NeedsReboot,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub id: u64,
    pub assisted: bool,
    pub fate: Fate,
    pub json: Value,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub items: Vec<Item>,
    pub footholds: Vec<Value>,
}

/// Action, name of its parameter, kind of the foothold that it removes.
const ON_HOST: [(&str, &str, &str); 8] = [
    ("Delete Scheduled Task", "task", "scheduled_task"),
    ("Quarantine File", "path", "file"),
    ("delete-file", "path", "file"),
    ("Kill Process", "process", "process"),
    ("Delete Service", "service", "service"),
    ("delete_registry_value", "value", "registry"),
    ("Uninstall Program", "program", "program"),
    ("Block IP", "address", "connection"),
];
const IN_THE_CLOUD: [(&str, &str, &str); 3] =
    [("Disable Inbox Rule", "rule", "inbox_rule"), ("Revoke Sessions", "account", "session"), ("Disable Identity", "account", "identity")];
const BY_HAND: [&str; 4] = [
    "Rotate the local administrator password",
    "Ask the user what was downloaded that day",
    "Check the mailbox for forwarding rules",
    "Tell the customer's office manager",
];
const TRANSIENT: [&str; 6] = ["file_in_use", "profile_not_loaded", "agent_busy", "timeout", "network", "agent_restarted"];
const PERMANENT: [&str; 4] = ["access_denied", "protected", "system_file", "hash_mismatch"];
/// Five attempts of three tries: the whole of one generation.
const EXHAUSTING_TRIES: usize = 15;

/// A plan whose items are numbered from `first_id`.
pub(super) fn plan(dice: &mut Dice, shape: Shape, target: &Target, critical: bool, first_id: u64) -> Plan {
    let (assisted, manual) = match shape {
        Shape::Assisted => (dice.between(1, 3), 0),
        Shape::Manual => (0, dice.between(1, 2)),
        Shape::Both => (dice.between(1, 3), dice.between(1, 2)),
        Shape::Informational => (0, 0),
    };
    let mut plan = Plan { items: Vec::new(), footholds: Vec::new() };
    let mut next_id = first_id;
    for _ in 0..assisted {
        let (item, foothold) = task(dice, target, next_id);
        plan.items.push(item);
        plan.footholds.push(foothold);
        next_id += 1;
    }
    for step in 0..manual {
        let action = BY_HAND[(step as usize + next_id as usize) % BY_HAND.len()];
        let json = json!({ "id": next_id, "type": "manual", "action": action, "status": "unapproved" });
        plan.items.push(Item { id: next_id, assisted: false, fate: Fate::Smooth, json });
        next_id += 1;
    }
    if let (Target::Agent { hostname, .. }, true) = (target, critical && assisted > 0 && dice.percent(40)) {
        let json = json!({ "id": next_id, "type": "containment", "action": "Isolate Host", "status": "unapproved",
            "parameters": hostname, "simulate": ["ok"] });
        plan.items.push(Item { id: next_id, assisted: false, fate: Fate::Smooth, json });
    }
    plan
}

/// A task with what will come of it, and the foothold that it removes.
fn task(dice: &mut Dice, target: &Target, id: u64) -> (Item, Value) {
    let (action, parameter, kind) = match target {
        Target::Agent { .. } => *dice.pick(&ON_HOST),
        Target::Identity { .. } => *dice.pick(&IN_THE_CLOUD),
    };
    let (fate, outcomes) = outcomes(dice, target);
    // the number keeps fingerprints apart within a plan
    let what = format!("{kind}-{id}");
    let json = json!({ "id": id, "type": "assisted", "action": action, "status": "unapproved",
        "parameters": [{ "name": parameter, "description": what }], "simulate": outcomes });
    // a survey lists footholds by id alone: another report on the same agent must not have the same ones
    let foothold_id = format!("fh-{:08x}", dice.between(0, u32::MAX));
    let foothold = json!({ "id": foothold_id, "kind": kind, "description": what, "remediation_ids": [id] });
    (Item { id, assisted: true, fate, json }, foothold)
}

/// Nearly the odds of the seeded model over all actions, and a share that needs a person.
fn outcomes(dice: &mut Dice, target: &Target) -> (Fate, Vec<&'static str>) {
    match dice.between(1, 100) {
        1..=66 => (Fate::Smooth, vec!["ok"]),
        67..=90 => {
            let mut codes = vec![*dice.pick(&TRANSIENT); dice.between(1, 7) as usize];
            codes.push("ok");
            (Fate::Bumpy, codes)
        }
        91..=92 => (Fate::Exhausted, vec![*dice.pick(&TRANSIENT); EXHAUSTING_TRIES]),
        93..=97 => (Fate::Refused, vec![*dice.pick(&PERMANENT), "ok"]),
        _ => match target {
            Target::Agent { .. } => (Fate::NeedsReboot, vec!["ok_reboot_required"]),
            Target::Identity { .. } => (Fate::Smooth, vec!["not_found"]),
        },
    }
}
