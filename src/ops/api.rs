//! The questions of `inspect`, over HTTP: path and query become a [`Question`], the answer goes out as it is.
//!
//! Never here: an answer of its own, or one without bounds: a list is told a page at a time, and [`NEXT`] says where the
//! next begins.

use axum::extract::{Path, Query};
use axum::http::{HeaderName, StatusCode};
use serde::Deserialize;

use super::inspect::{AuditQuestion, Format, Out, Page, Question, audit, funnel};
use crate::model::ids::{AgentId, ReportId, TenantId};

/// Where the next page of a list begins: to be sent as `after`.
pub const NEXT: HeaderName = HeaderName::from_static("remedyd-next");

/// Rows that one page of a list looks at: a hundredth of a second or so of reading.
const PAGE_ROWS: usize = 256;
/// Rows that one answer may read in all; a listing of the whole audit of a tenant is the longest.
pub const BUDGET_ROWS: usize = 50_000;
/// A page of a list ends behind the row with which it gets longer than this. One answer alone may be as long as the
/// largest report, some hundred kilobytes.
const PAGE_BYTES: usize = 1024 * 1024;
/// A key of ours is below 200 bytes.
const MAX_AFTER: usize = 512;

/// A refusal in words.
pub type Refused = (StatusCode, String);
/// What the handlers share.
pub type Asked = Result<(Question, Format, Page), Refused>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    format: Option<Format>,
    after: Option<String>,
    tenant: Option<String>,
    period: Option<String>,
    report: Option<u64>,
    limit: Option<u32>,
}

/// The answer, up to where a page is full.
#[derive(Debug, Default)]
pub struct Body(pub String);

impl Out for Body {
    fn text(&mut self, text: &str) -> anyhow::Result<()> {
        self.0.push_str(text);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.0.len() >= PAGE_BYTES
    }
}

pub fn report(Path((tenant, id)): Path<(String, u64)>, parameters: Parameters) -> Asked {
    asked(Question::Report { tenant: tenant_of(&tenant)?, id: ReportId(id) }, parameters, &[])
}

pub fn explain(Path((tenant, id)): Path<(String, u64)>, parameters: Parameters) -> Asked {
    asked(
        Question::Explain { tenant: tenant_of(&tenant)?, id: ReportId(id) },
        Parameters { format: Some(Format::Table), ..parameters },
        &[],
    )
}

pub fn agent(Path((tenant, id)): Path<(String, u64)>, parameters: Parameters) -> Asked {
    asked(Question::Agent { tenant: tenant_of(&tenant)?, id: AgentId(id) }, parameters, &[])
}

pub fn blockers(parameters: Parameters) -> Asked {
    let tenant = parameters.tenant.as_deref().map(tenant_of).transpose()?;
    asked(Question::Blockers { tenant }, parameters, &["tenant", "after"])
}

pub fn dead_letters(parameters: Parameters) -> Asked {
    let tenant = parameters.tenant.as_deref().map(tenant_of).transpose()?;
    asked(Question::DeadLetters { tenant }, parameters, &["tenant", "after"])
}

pub fn funnel(Path(tenant): Path<String>, parameters: Parameters) -> Asked {
    let period = parameters.period.as_deref().map(funnel::period).transpose().map_err(wrong)?;
    asked(Question::Funnel { tenant: tenant_of(&tenant)?, period }, parameters, &["period"])
}

pub fn audit(Path(tenant): Path<String>, parameters: Parameters) -> Asked {
    if let Some(limit) = parameters.limit
        && !(1..=audit::MAX_LIMIT).contains(&i64::from(limit))
    {
        return Err(wrong(format!("limit: expected 1 to {}", audit::MAX_LIMIT)));
    }
    let question = AuditQuestion { tenant: tenant_of(&tenant)?, report: parameters.report.map(ReportId), limit: parameters.limit };
    asked(Question::Audit(question), parameters, &["report", "limit", "after"])
}

/// `takes`: the parameters of this question beside `format`.
fn asked(question: Question, parameters: Parameters, takes: &[&str]) -> Asked {
    let Parameters { format, after, tenant, period, report, limit } = parameters;
    let given = [
        ("after", after.is_some()),
        ("tenant", tenant.is_some()),
        ("period", period.is_some()),
        ("report", report.is_some()),
        ("limit", limit.is_some()),
    ];
    if let Some((name, _)) = given.iter().find(|(name, given)| *given && !takes.contains(name)) {
        return Err(wrong(format!("{name}: not a parameter of this question")));
    }
    if after.as_ref().is_some_and(|after| after.len() > MAX_AFTER) {
        return Err(wrong("after: not what an earlier answer has said"));
    }
    let page = Page { after: after.map(String::into_bytes), rows: Some(PAGE_ROWS) };
    Ok((question, format.unwrap_or(Format::Json), page))
}

fn tenant_of(text: &str) -> Result<TenantId, Refused> {
    text.parse().map_err(|error: crate::model::ids::TenantIdError| wrong(error.to_string()))
}

fn wrong(what: impl Into<String>) -> Refused {
    (StatusCode::BAD_REQUEST, what.into())
}

/// The query of a request.
pub fn parameters(query: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>) -> Result<Parameters, Refused> {
    query.map(|Query(parameters)| parameters).map_err(|error| wrong(error.body_text()))
}
