//! What can be asked about reports, agents and organizations, and the answers: the same ones from the store of a
//! stopped service (`remedyd inspect`) and from a running one (the ops port).
//!
//! Never here: a write, or a rule. What is derived (phase, blockers, triage) is derived by the machine, at the moment of
//! looking, with the settings of the organization.

pub(crate) mod agent;
pub(crate) mod audit;
pub(in crate::ops) mod blockers;
mod card;
mod dead_letters;
pub(crate) mod funnel;
mod json;
pub(crate) mod stores;
pub(crate) mod text;

use std::fmt;

use crate::machine::notice::{Blocker, Triage};
use crate::machine::{gate, triage};
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::report::{Foothold, Phase, Report};
use crate::pipeline::reading::StoredReport;
use crate::store::Store;

use self::stores::Stores;

/// json for programs, text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    /// Of one report: its card.
    #[serde(alias = "card")]
    Table,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    Report { tenant: TenantId, id: ReportId },
    Explain { tenant: TenantId, id: ReportId },
    Agent { tenant: TenantId, id: AgentId },
    Blockers { tenant: Option<TenantId> },
    Funnel { tenant: TenantId, period: Option<String> },
    Audit(AuditQuestion),
    DeadLetters { tenant: Option<TenantId> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditQuestion {
    pub tenant: TenantId,
    /// Only about this report.
    pub report: Option<ReportId>,
    /// Only the last so many.
    pub limit: Option<u32>,
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// What comes behind this key.
    pub after: Option<Vec<u8>>,
    /// So many rows are looked at; none: all.
    pub rows: Option<usize>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    All,
    /// There is more behind this key.
    Until(Vec<u8>),
    /// The answer is no; in words.
    Unknown(String),
}

/// Where an answer goes, piece by piece.
pub trait Out {
    fn text(&mut self, text: &str) -> anyhow::Result<()>;

    /// Nobody reads any more, or there is no room for more.
    fn is_closed(&self) -> bool;
}

/// Answers `question` from `stores`.
pub fn answer<S: Store>(stores: &Stores<S>, question: &Question, format: Format, page: &Page, out: &mut dyn Out) -> anyhow::Result<Told> {
    match question {
        Question::Report { tenant, id } => {
            let Some(stored) = stores.report(*tenant, *id)? else { return Ok(unknown(*tenant, &format!("report {id}"))) };
            let inspected = Inspected::of(stored);
            out.text(&match format {
                Format::Json => json::json(&inspected)? + "\n",
                Format::Table => card::card(&inspected),
            })?;
        }
        Question::Explain { tenant, id } => {
            let Some(page) = super::explain::page(stores, *tenant, *id)? else { return Ok(unknown(*tenant, &format!("report {id}"))) };
            out.text(&page)?;
        }
        Question::Agent { tenant, id } => {
            let Some(stored) = stores.agent(*tenant, *id)? else { return Ok(unknown(*tenant, &format!("agent {id}"))) };
            out.text(&match format {
                Format::Json => agent::json(&stored)?,
                Format::Table => agent::table(&stored),
            })?;
        }
        Question::Blockers { tenant } => return blockers::told(stores, *tenant, format, page, out),
        Question::Funnel { tenant, period } => return funnel::told(stores, *tenant, period.as_deref(), format, out),
        Question::Audit(asked) => return audit::told(stores, asked, format, page, out),
        Question::DeadLetters { tenant } => return dead_letters::told(stores, *tenant, format, page, out),
    }
    Ok(Told::All)
}

fn unknown(tenant: TenantId, what: &str) -> Told {
    Told::Unknown(format!("tenant {tenant} has no {what}"))
}

impl Page {
    fn is_first(&self) -> bool {
        self.after.is_none()
    }

    fn turn(&self) -> Turn {
        Turn { left: self.rows, until: None }
    }
}

/// Counts the rows of a page.
struct Turn {
    left: Option<usize>,
    until: Option<Vec<u8>>,
}

impl Turn {
    /// A row has been looked at; says whether it was the page's last.
    fn is_over(&mut self, key: &[u8], out: &dyn Out) -> bool {
        self.left = self.left.map(|left| left.saturating_sub(1));
        let over = self.left == Some(0) || out.is_closed();
        if over {
            self.until = Some(key.to_vec());
        }
        over
    }

    fn told(self) -> Told {
        self.until.map_or(Told::All, Told::Until)
    }
}

impl Question {
    /// Answered in lines, one for each of many.
    pub fn is_list(&self) -> bool {
        match self {
            Question::Blockers { .. } | Question::Audit(_) | Question::DeadLetters { .. } => true,
            Question::Report { .. } | Question::Explain { .. } | Question::Agent { .. } | Question::Funnel { .. } => false,
        }
    }
}

/// The question as the path and query of a request to the ops port.
impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |tenant: &Option<TenantId>| tenant.map_or_else(String::new, |tenant| format!("tenant={tenant}&"));
        match self {
            Question::Report { tenant, id } => write!(f, "/api/v1/reports/{tenant}/{id}?"),
            Question::Explain { tenant, id } => write!(f, "/api/v1/reports/{tenant}/{id}/explanation?"),
            Question::Agent { tenant, id } => write!(f, "/api/v1/agents/{tenant}/{id}?"),
            Question::Blockers { tenant } => write!(f, "/api/v1/blockers?{}", of(tenant)),
            Question::Funnel { tenant, period } => {
                write!(f, "/api/v1/funnel/{tenant}?{}", period.as_ref().map_or_else(String::new, |period| format!("period={period}&")))
            }
            Question::Audit(AuditQuestion { tenant, report, limit }) => {
                write!(f, "/api/v1/audit/{tenant}?")?;
                report.iter().try_for_each(|report| write!(f, "report={report}&"))?;
                limit.iter().try_for_each(|limit| write!(f, "limit={limit}&"))
            }
            Question::DeadLetters { tenant } => write!(f, "/api/v1/dead-letters?{}", of(tenant)),
        }
    }
}

/// A report and what the machine derives from it.
pub(in crate::ops) struct Inspected {
    pub stored: StoredReport,
    pub phase: Option<Phase>,
    pub triage: Triage,
    /// As for somebody who may resolve.
    pub blockers: Vec<Blocker>,
}

impl Inspected {
    pub fn of(stored: StoredReport) -> Self {
        let isolation = stored.agent.as_ref().map(|agent| agent.firewall_status);
        let phase = gate::phase(&stored.report);
        let triage = triage::triage(&stored.report, isolation, &stored.organization.settings);
        let blockers = gate::blockers(&stored.report, stored.agent.as_ref(), true);
        Self { stored, phase, triage, blockers }
    }

    /// Whether the attacker could still come back by this foothold: the gate's own count, asked for one.
    pub fn remains(&self, foothold: &Foothold) -> bool {
        let alone = Report { footholds: vec![foothold.clone()], ..self.stored.report.clone() };
        gate::footholds_remaining(&alone) > 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::time::Timestamp;
    use crate::pipeline::rows::DeadLetterRow;
    use crate::store::memory::MemoryStore;
    use crate::store::{Batch, keys, record};

    struct Lines(String);

    impl Out for Lines {
        fn text(&mut self, text: &str) -> anyhow::Result<()> {
            self.0.push_str(text);
            Ok(())
        }

        fn is_closed(&self) -> bool {
            false
        }
    }

    /// A partition with dead letters under these keys, told apart by their detail.
    fn partition(name: &str, letters: &[(Option<TenantId>, u64)]) -> Arc<MemoryStore> {
        let (store, mut batch) = (MemoryStore::new(), Batch::default());
        for (tenant, number) in letters {
            let row = DeadLetterRow {
                reason: "malformed".into(),
                detail: format!("{name}{number}"),
                event_id: None,
                event_type: None,
                tenant: *tenant,
                failed_at: Timestamp::UNIX_EPOCH,
                original_exchange: String::new(),
                original_routing_key: String::new(),
                body_bytes: 0,
            };
            batch.put(keys::dead_letter(*tenant, *number), record::encode(&row));
        }
        store.commit(&batch).expect("a store in memory");
        Arc::new(store)
    }

    #[test]
    fn pages_over_several_partitions_leave_nothing_out_and_tell_nothing_twice() {
        let tenant = |organization| Some(TenantId { account: 5, organization });
        let stores = Stores::new(
            vec![
                partition("a", &[(None, 0), (None, 1), (None, 2), (tenant(1), 0), (tenant(3), 0)]),
                partition("b", &[(None, 1), (None, 2), (None, 3), (tenant(2), 0)]),
                partition("c", &[]),
                partition("d", &[(None, 2), (tenant(4), 7)]),
            ],
            None,
        );
        for rows in [Some(1), Some(2), Some(3), Some(4), Some(100), None] {
            let (mut page, mut found, mut pages) = (Page { after: None, rows }, Lines(String::new()), 0);
            loop {
                pages += 1;
                let question = Question::DeadLetters { tenant: None };
                match answer(&stores, &question, Format::Json, &page, &mut found).expect("answered") {
                    Told::Until(key) => page.after = Some(key),
                    Told::All => break,
                    Told::Unknown(what) => panic!("{what}"),
                }
                assert!(pages < 20, "it goes round");
            }
            let letters = found.0.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
            let mut details: Vec<String> = letters.map(|letter| letter["detail"].as_str().unwrap_or_default().to_owned()).collect();
            let ordered = ["a0", "a1", "b1", "a2", "b2", "d2", "b3"];
            assert_eq!(details[..ordered.len()], ordered, "{rows:?}");
            details.sort();
            assert_eq!(details, ["a0", "a0", "a0", "a1", "a2", "b0", "b1", "b2", "b3", "d2", "d7"], "{rows:?}");
        }
    }
}
