//! `remedyd inspect`: looks into the store of a stopped service, or into one that `replay --store` has left.
//!
//! Never here: a write of ours, or a rule. What is derived (phase, blockers, triage) is derived by the
//! machine, at the moment of looking, with the settings of the organization.

pub(super) mod agent;
pub(super) mod audit;
mod blockers;
mod card;
mod funnel;
mod json;
pub(super) mod stores;
pub(super) mod text;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::exit::Exit;
use crate::machine::notice::{Blocker, Triage};
use crate::machine::{gate, triage};
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::report::{Foothold, Phase, Report};
use crate::pipeline::reading::StoredReport;

use self::stores::Stores;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Show everything that is known about one report
    Report(ReportArgs),
    /// Show an agent: whether we hear of it, its isolation, the open reports on it and its tasks in their order
    Agent(AgentArgs),
    /// List the open reports that cannot be resolved, with who or what can clear each blocker
    Blockers(BlockersArgs),
    /// Show the four counts of each month
    Funnel(FunnelArgs),
    /// List the decisions of people and policies in the order of time
    Audit(AuditArgs),
}

/// Where every question is asked.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The store: a directory that `replay --store` has written, or the one in which a service keeps p0, p1, …
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// The incident report
    #[arg(value_name = "ID")]
    id: u64,
    #[command(flatten)]
    at: StoreArgs,
    /// json for programs, card for people
    #[arg(long, value_enum, default_value = "json")]
    format: CardFormat,
}

#[derive(Debug, Args)]
struct AgentArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// The agent
    #[arg(value_name = "ID")]
    id: u64,
    #[command(flatten)]
    at: StoreArgs,
    /// json for programs, table for people
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Args)]
struct BlockersArgs {
    /// `<account_id>.<organization_id>`; all tenants if none is given
    #[arg(value_name = "TENANT")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    at: StoreArgs,
    /// json for programs (one report a line), table for people
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Args)]
struct FunnelArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// One month, as in 2026-11
    #[arg(long, value_name = "YYYY-MM", value_parser = funnel::period)]
    period: Option<String>,
    #[command(flatten)]
    at: StoreArgs,
    /// json for programs, table for people
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Args)]
struct AuditArgs {
    /// `<account_id>.<organization_id>`
    #[arg(value_name = "TENANT")]
    tenant: TenantId,
    /// Only decisions about this report
    #[arg(long, value_name = "ID")]
    report: Option<u64>,
    /// Only the last N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=audit::MAX_LIMIT))]
    limit: Option<u32>,
    #[command(flatten)]
    at: StoreArgs,
    /// json for programs (one decision a line), table for people
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CardFormat {
    Json,
    Card,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Table,
}

/// A report and what the machine derives from it.
pub(super) struct Inspected {
    pub stored: StoredReport,
    pub phase: Option<Phase>,
    pub triage: Triage,
    /// As for somebody who may resolve.
    pub blockers: Vec<Blocker>,
}

pub fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    match args.question {
        Question::Report(args) => report(&args),
        Question::Agent(args) => {
            let stores = Stores::open(&args.at.store)?;
            match stores.agent(args.tenant, AgentId(args.id))? {
                Some(stored) => print(&match args.format {
                    Format::Json => agent::json(&stored)?,
                    Format::Table => agent::table(&stored),
                }),
                None => Ok(unknown(args.tenant, &format!("agent {}", args.id), &args.at)),
            }
        }
        Question::Blockers(args) => blockers::run(&args),
        Question::Funnel(args) => funnel::run(&args),
        Question::Audit(args) => audit::run(&args),
    }
}

fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let Some(stored) = Stores::open(&args.at.store)?.report(args.tenant, ReportId(args.id))? else {
        return Ok(unknown(args.tenant, &format!("report {}", args.id), &args.at));
    };
    let inspected = Inspected::of(stored);
    print(&match args.format {
        CardFormat::Json => json::json(&inspected)? + "\n",
        CardFormat::Card => card::card(&inspected),
    })
}

/// The answer is no.
pub(super) fn unknown(tenant: TenantId, what: &str, at: &StoreArgs) -> ExitCode {
    eprintln!("remedyd: tenant {tenant} has no {what} in {}", at.store.display());
    Exit::Negative.into()
}

pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = Printed::new();
    out.text(text)?;
    out.end()
}

/// Standard output, written as it comes. A reader that has seen enough (`| head`) ends the command, and well.
pub(super) struct Printed {
    out: io::BufWriter<io::StdoutLock<'static>>,
    closed: bool,
}

impl Printed {
    pub fn new() -> Self {
        Self { out: io::BufWriter::new(io::stdout().lock()), closed: false }
    }

    /// Nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn text(&mut self, text: &str) -> io::Result<()> {
        let written = self.out.write_all(text.as_bytes());
        self.seen(written)
    }

    pub fn end(mut self) -> anyhow::Result<ExitCode> {
        let flushed = self.out.flush();
        self.seen(flushed)?;
        Ok(Exit::Ok.into())
    }

    fn seen(&mut self, written: io::Result<()>) -> io::Result<()> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other,
        }
    }
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
