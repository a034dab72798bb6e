//! Who asked. What a role may do is a rule and lives in `machine::policy`.

use serde::{Deserialize, Serialize};

/// The vendor's account roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Admin,
    SecurityEngineer,
    User,
    ReadOnly,
    Finance,
    Marketing,
    Provisioner,
}

impl Role {
    pub const ALL: [Role; 7] =
        [Role::Admin, Role::SecurityEngineer, Role::User, Role::ReadOnly, Role::Finance, Role::Marketing, Role::Provisioner];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::SecurityEngineer => "security_engineer",
            Role::User => "user",
            Role::ReadOnly => "read_only",
            Role::Finance => "finance",
            Role::Marketing => "marketing",
            Role::Provisioner => "provisioner",
        }
    }
}

/// A person at the MSP, as the portal vouches for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub role: Role,
}
