//! Who asks, in a scenario: one person a role. Never here: what a role may do.

use serde_json::{Value, json};

use crate::model::actor::Role;

pub(super) fn actor(role: Role) -> Value {
    let (id, name) = match role {
        Role::Admin => (30, "Account admin"),
        Role::SecurityEngineer => (31, "Security engineer on duty"),
        Role::User => (32, "Helpdesk"),
        Role::ReadOnly => (33, "Auditor"),
        Role::Finance => (34, "Accounts payable"),
        Role::Marketing => (35, "Newsletter desk"),
        Role::Provisioner => (36, "Provisioning script"),
    };
    json!({ "id": id, "name": name, "email": format!("{}@msp.example", role.as_str()), "role": role.as_str() })
}
