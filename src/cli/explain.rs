//! `remedyd explain`: sentences for somebody at a helpdesk, from a store or from a running service.
//!
//! Never here: the sentences (`ops::explain`).

use std::process::ExitCode;

use clap::Args;

use super::inspect::{FromArgs, ask};
use crate::model::ids::{ReportId, TenantId};
use crate::ops::inspect::{Format, Question};

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// The incident report
    #[arg(value_name = "REPORT")]
    report: u64,
    #[command(flatten)]
    from: FromArgs,
}

pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let question = Question::Explain { tenant: args.tenant, id: ReportId(args.report) };
    ask(&args.from, &question, Format::Table)
}
