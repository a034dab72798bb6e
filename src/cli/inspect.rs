//! `remedyd inspect`: asks the store of a stopped service, one that `replay --store` has left, or a running service.
//!
//! Never here: a write of ours, or an answer (`ops::inspect`).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use hyper::StatusCode;

use super::exit::{Exit, store_exit};
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::ops::client::{self, AskError, OpsUrl};
use crate::ops::inspect::stores::Stores;
use crate::ops::inspect::{AuditQuestion, Format, Out, Page, Question, Told, answer, audit, funnel};
use crate::store::StoreError;
use crate::store::journal::JournalStore;
use crate::store::sled::SledSettings;

/// A look reads most rows once; what is kept of them would only be in the way of the other partitions.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    question: About,
}

#[derive(Debug, Subcommand)]
enum About {
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
    /// List what could never be applied, and why
    DeadLetters(DeadLettersArgs),
}

/// Where every question is asked: a store that no service is using, or a running service.
#[derive(Debug, Args)]
pub(super) struct FromArgs {
    /// The store: a directory that `replay --store` has written, or the one in which a service keeps p0, p1, …
    #[arg(long, value_name = "DIR", required_unless_present = "url", conflicts_with = "url")]
    store: Option<PathBuf>,
    #[command(flatten)]
    asked: AskArgs,
}

/// A running service that may be asked.
#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// The ops port of a running service, as in http://127.0.0.1:9464
    #[arg(long, value_name = "URL")]
    pub url: Option<OpsUrl>,
    /// The file with the token that the ops port asks for
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
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
    from: FromArgs,
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
    from: FromArgs,
    /// json for programs, table for people
    #[arg(long, value_enum, default_value = "json")]
    format: TableFormat,
}

#[derive(Debug, Args)]
struct BlockersArgs {
    /// `<account_id>.<organization_id>`; all tenants if none is given
    #[arg(value_name = "TENANT")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    from: FromArgs,
    /// json for programs (one report a line), table for people
    #[arg(long, value_enum, default_value = "json")]
    format: TableFormat,
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
    from: FromArgs,
    /// json for programs, table for people
    #[arg(long, value_enum, default_value = "json")]
    format: TableFormat,
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
    from: FromArgs,
    /// json for programs (one decision a line), table for people
    #[arg(long, value_enum, default_value = "json")]
    format: TableFormat,
}

#[derive(Debug, Args)]
struct DeadLettersArgs {
    /// `<account_id>.<organization_id>`; all tenants, and what belongs to none, if it is not given
    #[arg(value_name = "TENANT")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    from: FromArgs,
    /// json for programs (one dead letter a line), table for people
    #[arg(long, value_enum, default_value = "json")]
    format: TableFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CardFormat {
    Json,
    Card,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TableFormat {
    Json,
    Table,
}

impl From<CardFormat> for Format {
    fn from(format: CardFormat) -> Self {
        match format {
            CardFormat::Json => Format::Json,
            CardFormat::Card => Format::Table,
        }
    }
}

impl From<TableFormat> for Format {
    fn from(format: TableFormat) -> Self {
        match format {
            TableFormat::Json => Format::Json,
            TableFormat::Table => Format::Table,
        }
    }
}

pub fn run(args: InspectArgs) -> anyhow::Result<ExitCode> {
    match args.question {
        About::Report(args) => ask(&args.from, &Question::Report { tenant: args.tenant, id: ReportId(args.id) }, args.format.into()),
        About::Agent(args) => ask(&args.from, &Question::Agent { tenant: args.tenant, id: AgentId(args.id) }, args.format.into()),
        About::Blockers(args) => ask(&args.from, &Question::Blockers { tenant: args.tenant }, args.format.into()),
        About::Funnel(args) => ask(&args.from, &Question::Funnel { tenant: args.tenant, period: args.period }, args.format.into()),
        About::Audit(args) => {
            let asked = AuditQuestion { tenant: args.tenant, report: args.report.map(ReportId), limit: args.limit };
            ask(&args.from, &Question::Audit(asked), args.format.into())
        }
        About::DeadLetters(args) => ask(&args.from, &Question::DeadLetters { tenant: args.tenant }, args.format.into()),
    }
}

/// Prints the answer.
pub(super) fn ask(from: &FromArgs, question: &Question, format: Format) -> anyhow::Result<ExitCode> {
    let mut out = Printed::new();
    match told_by(from.store.as_deref(), &from.asked, question, format, &mut out)? {
        Told::All | Told::Until(_) => out.end(),
        Told::Unknown(what) => {
            let store = || from.store.as_deref().unwrap_or(Path::new("")).display().to_string();
            eprintln!("remedyd: {what} in {}", from.asked.url.as_ref().map_or_else(store, ToString::to_string));
            Ok(Exit::Negative.into())
        }
    }
}

/// Asks the running service, if there is one to ask, or the store.
pub(super) fn told_by(
    store: Option<&Path>,
    asked: &AskArgs,
    question: &Question,
    format: Format,
    out: &mut dyn Out,
) -> anyhow::Result<Told> {
    match &asked.url {
        Some(url) => {
            let token = asked.token_file.as_deref().map(read_token).transpose()?;
            super::block_on(client::ask(url, token.as_deref(), question, format, out))?.map_err(ask_exit)
        }
        None => answer(&open(store.unwrap_or(Path::new("")))?, question, format, &Page::default(), out).map_err(with_exit),
    }
}

pub(super) fn ask_exit(error: AskError) -> anyhow::Error {
    let exit = match error {
        AskError::Unreachable { .. } | AskError::BrokeOff { .. } => Exit::Broker,
        AskError::Denied { .. } => Exit::Config,
        AskError::Refused { status, .. } => match status {
            // what was asked is wrong, or too much, or nobody has it
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => Exit::Config,
            // another backup is under way
            StatusCode::CONFLICT => Exit::Negative,
            // it is starting, or busy
            StatusCode::SERVICE_UNAVAILABLE => Exit::Broker,
            _ => Exit::Internal,
        },
        AskError::Output(_) => Exit::StoreIo,
    };
    anyhow::Error::from(error).context(exit)
}

pub(super) fn read_token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display())).context(Exit::Config)?;
    Ok(text.trim().to_owned())
}

/// A failed store says by its kind how the command ends.
fn with_exit(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<StoreError>() {
        Ok(error) => store_exit(error),
        Err(other) => other,
    }
}

/// The store in `dir`, or the partitions' stores p0, p1, … below it.
fn open(dir: &Path) -> anyhow::Result<Stores<JournalStore>> {
    let settings = SledSettings { cache_bytes: CACHE_BYTES, ..SledSettings::default() };
    let open = |dir: PathBuf| JournalStore::open(&dir, settings.clone()).map(Arc::new).map_err(store_exit);
    Ok(Stores::new(directories(dir)?.into_iter().map(open).collect::<Result<_, _>>()?, None))
}

/// Opening a directory without a store would create one, so it is looked at first.
pub(super) fn directories(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_store = |dir: &Path| dir.join("FORMAT").is_file();
    if is_store(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display())).context(Exit::StoreOpen)?;
    let mut partitions: Vec<(u16, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix('p')?.parse().ok()?;
            is_store(&entry.path()).then(|| (number, entry.path()))
        })
        .collect();
    if partitions.is_empty() {
        return Err(anyhow::anyhow!("there is no store in {}, nor in p0, p1, … below it", dir.display())).context(Exit::StoreOpen);
    }
    partitions.sort();
    Ok(partitions.into_iter().map(|(_, dir)| dir).collect())
}

/// Standard output, written as it comes. A reader that has seen enough (`| head`) ends the command, and well.
pub(super) struct Printed {
    out: io::BufWriter<io::StdoutLock<'static>>,
    closed: bool,
}

impl Printed {
    pub(super) fn new() -> Self {
        Self { out: io::BufWriter::new(io::stdout().lock()), closed: false }
    }

    pub(super) fn end(mut self) -> anyhow::Result<ExitCode> {
        let flushed = self.out.flush();
        self.seen(flushed)?;
        Ok(Exit::Ok.into())
    }

    fn seen(&mut self, written: io::Result<()>) -> anyhow::Result<()> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other.context("writing to standard output").context(Exit::StoreIo),
        }
    }
}

impl Out for Printed {
    fn text(&mut self, text: &str) -> anyhow::Result<()> {
        let written = self.out.write_all(text.as_bytes());
        self.seen(written)
    }

    fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_service_refuses_ends_as_it_would_here() {
        let url: OpsUrl = "http://127.0.0.1:9464".parse().expect("a URL");
        let refused = |status| AskError::Refused { url: url.clone(), status, why: "because".into() };
        for (error, exit) in [
            (refused(StatusCode::BAD_REQUEST), Exit::Config),
            (refused(StatusCode::NOT_FOUND), Exit::Config),
            (refused(StatusCode::UNPROCESSABLE_ENTITY), Exit::Config),
            (refused(StatusCode::CONFLICT), Exit::Negative),
            (refused(StatusCode::SERVICE_UNAVAILABLE), Exit::Broker),
            (refused(StatusCode::INTERNAL_SERVER_ERROR), Exit::Internal),
            (AskError::Denied { url: url.clone(), why: "because".into() }, Exit::Config),
            (AskError::Output(anyhow::anyhow!("no space left")), Exit::StoreIo),
        ] {
            let said = error.to_string();
            assert_eq!(Exit::of(&ask_exit(error)), exit, "{said}");
        }
    }
}
