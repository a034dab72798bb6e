//! Identifiers. Each is its own type, so that one kind is never taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

numeric_id!(/// An incident report; unique within its tenant.
    ReportId);
numeric_id!(/// A remediation; unique within one plan revision of one report.
    RemediationId);
numeric_id!(/// The vendor's agent on one host. A re-enrolled host has a new one.
    AgentId);
numeric_id!(/// A cloud identity (an account) that a report without a host is about.
    IdentityId);

/// `"<account_id>.<organization_id>"`: the isolation boundary and the sharding key (CloudEvents extension `tenantid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId {
    pub account: u64,
    pub organization: u64,
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.account, self.organization)
    }
}

/// The text is not `<account_id>.<organization_id>` in canonical decimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not <account_id>.<organization_id>")]
pub struct TenantIdError(pub String);

impl FromStr for TenantId {
    type Err = TenantIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TenantIdError(text.chars().take(64).collect());
        let (account, organization) = text.split_once('.').ok_or_else(wrong)?;
        // one tenant, one spelling: "05.4" or "+5.4" must not become a second key for the same tenant
        let is_canonical = |digits: &str| digits == "0" || digits.starts_with(|first| matches!(first, '1'..='9'));
        let number = |digits: &str| Some(digits).filter(|digits| is_canonical(digits)).and_then(|digits| digits.parse().ok());
        let parts = number(account).zip(number(organization));
        parts.map(|(account, organization)| TenantId { account, organization }).ok_or_else(wrong)
    }
}

impl Serialize for TenantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The unit of consistency: what one decision may read and change.
///
/// Isolation holders, presence and the order of tasks span all reports on one agent, so they are decided
/// together. A report about an identity is decided with the other reports on that identity; one about
/// neither is a subject of its own (lifecycle.md, Remediation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectKey {
    Agent(AgentId),
    Identity(IdentityId),
    Report(ReportId),
}

impl SubjectKey {
    pub fn agent(self) -> Option<AgentId> {
        match self {
            SubjectKey::Agent(id) => Some(id),
            SubjectKey::Identity(_) | SubjectKey::Report(_) => None,
        }
    }

    /// What it is shown as: `<kind>/<id>`.
    pub fn parts(self) -> (&'static str, u64) {
        match self {
            SubjectKey::Agent(AgentId(id)) => ("agents", id),
            SubjectKey::Identity(IdentityId(id)) => ("identities", id),
            SubjectKey::Report(ReportId(id)) => ("reports", id),
        }
    }
}

impl fmt::Display for SubjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = self.parts();
        write!(f, "{kind}/{id}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_one_spelling() {
        assert_eq!("5.4".parse(), Ok(TenantId { account: 5, organization: 4 }));
        assert_eq!("0.18446744073709551615".parse(), Ok(TenantId { account: 0, organization: u64::MAX }));
        for wrong in [
            "",
            "5",
            "5.",
            ".4",
            "05.4",
            "5.04",
            "00.4",
            "+5.4",
            "5.+4",
            "-5.4",
            "5.4.1",
            "5.x",
            "5x.4",
            "5.4 ",
            "99999999999999999999.1",
            " 5.4",
        ] {
            assert!(wrong.parse::<TenantId>().is_err(), "{wrong:?} was taken");
        }
    }
}
