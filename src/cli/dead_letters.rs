//! `remedyd dead-letters`: what could never be applied, looked at, put right, and sent again or thrown away.
//!
//! ```text
//! list     every letter in the queue; or, from a store or a service, the rows that are kept about them
//! show     letters as a file that can be edited
//! replay   letters as they are, or as such a file has them, back to where they came in by; then out of the queue
//! discard  out of the queue
//! ```
//! What is outstanding is in the queue, and only there: the rows are a history of the last thousand of each tenant.
//!
//! Never here: a rule of what a letter must be like (`wire`), or how the queue is gone through (`broker::amqp::pass`).

mod letter_file;
mod rows;
mod seen;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use self::letter_file::Corrections;
use self::seen::Selection;
use super::broker::BrokerArgs;
use super::exit::Exit;
use super::inspect::AskArgs;
use crate::model::ids::TenantId;
use crate::model::time::Timestamp;
use crate::wire::Reason;

#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List what is in the queue, oldest first; or the rows about them that a store or a running service keeps
    List(ListArgs),
    /// Write letters as a file that can be edited and given to `replay --from`
    Show(ShowArgs),
    /// Send letters again, in their order, and take each out of the queue once the broker has its successor
    Replay(ReplayArgs),
    /// Take letters out of the queue for good
    Discard(DiscardArgs),
}

/// Which letters. All that is given must apply; of one kind, any of it.
#[derive(Debug, Args)]
struct FilterArgs {
    /// `<account_id>.<organization_id>`
    #[arg(long, value_name = "TENANT")]
    tenant: Vec<TenantId>,
    /// The type of event, as in agent.surveyed
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Why it is a dead letter, as in orphan
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,
    /// Failed at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Failed before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

#[derive(Debug, Args)]
struct QueueArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Only the first N of those that are meant
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Go on although the queue has more letters than can be held at once (65,535), and those that stay lose their order
    #[arg(long)]
    partial: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// List the rows of this store, which no service is using, and not the queue
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    store: Option<PathBuf>,
    #[command(flatten)]
    asked: AskArgs,
    /// json for programs (one letter a line), table for people
    #[arg(long, value_enum, default_value = "table")]
    format: ListFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    Json,
    Table,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Letters, as `list` names them; a beginning of at least 6 digits will do. All that the filters let through if none is given
    #[arg(value_name = "LETTER", value_parser = letter)]
    letters: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    queue: QueueArgs,
    /// The file to write, which must not be there yet; standard output without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Letters as `show` has written them and somebody has put them right; may be repeated
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Send also what would be refused again as it is
    #[arg(long)]
    force: bool,
    /// At most so many a second
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

#[derive(Debug, Args)]
struct DiscardArgs {
    #[command(flatten)]
    which: WhichArgs,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// Letters, as `list` names them; a beginning of at least 6 digits will do
    #[arg(value_name = "LETTER", value_parser = letter)]
    letters: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every letter
    #[arg(long)]
    all: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    queue: QueueArgs,
}

pub fn run(args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(args) => {
            let selection = args.filter.selection(Vec::new());
            if args.store.is_some() || args.asked.url.is_some() {
                return rows::list(args.store.as_deref(), &args.asked, selection, args.queue.limit, args.format);
            }
            super::run_async(work::list(args.queue, selection, args.format))
        }
        Command::Show(args) => super::run_async(work::show(args.queue, args.filter.selection(args.letters), args.out)),
        Command::Replay(args) => {
            let corrections = Corrections::read(&args.from, args.force)?;
            let selection = args.which.selection(!corrections.is_empty())?;
            let how = work::Replaying { force: args.force, rate: args.rate, dry_run: args.which.dry_run };
            super::run_async(work::replay(args.which.queue, selection, corrections, how))
        }
        Command::Discard(args) => {
            let selection = args.which.selection(false)?;
            super::run_async(work::discard(args.which.queue, selection, args.which.dry_run))
        }
    }
}

impl FilterArgs {
    fn is_empty(&self) -> bool {
        let Self { tenant, types, reason, since, until } = self;
        tenant.is_empty() && types.is_empty() && reason.is_empty() && since.is_none() && until.is_none()
    }

    fn selection(&self, letters: Vec<String>) -> Selection {
        Selection {
            none: false,
            letters,
            tenants: self.tenant.clone(),
            types: self.types.clone(),
            reasons: self.reason.iter().map(|reason| reason.as_str().to_owned()).collect(),
            since: self.since,
            until: self.until,
        }
    }
}

impl WhichArgs {
    /// Nothing is touched that was not named: not even by forgetting a filter.
    fn selection(&self, by_file: bool) -> anyhow::Result<Selection> {
        let named = !self.letters.is_empty() || !self.filter.is_empty();
        if named && self.all {
            return Err(anyhow::anyhow!("--all is every letter: not beside letters or filters")).context(Exit::Config);
        }
        if !named && !self.all && !by_file {
            return Err(anyhow::anyhow!("which? name letters, give a filter, or say --all")).context(Exit::Config);
        }
        let mut selection = self.filter.selection(self.letters.clone());
        selection.none = !named && !self.all;
        Ok(selection)
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    let names = || Reason::ALL.map(Reason::as_str).join(", ");
    Reason::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| format!("expected one of {}", names()))
}

/// Fewer digits could mean another letter tomorrow.
fn letter(text: &str) -> Result<String, String> {
    let digits = text.to_ascii_lowercase();
    let fits = (6..=seen::LETTER_DIGITS).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if fits { Ok(digits) } else { Err(format!("expected 6 to {} hexadecimal digits", seen::LETTER_DIGITS)) }
}
