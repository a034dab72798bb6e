//! What is done on one pass over the queue of dead letters. What is not chosen goes back to its place.
//!
//! Invariant: a letter is taken out of the queue when the broker has confirmed its successor, and not before; letters are
//! sent one after the other in the order of the queue. Killed in between, a letter has been sent and is still there; sent
//! once more, the service knows its id.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::letter_file::{Corrections, LetterFile};
use super::seen::{Seen, Selection};
use super::{ListFormat, QueueArgs};
use crate::broker::Message;
use crate::broker::amqp::pass::{Held, Pass, PassError};
use crate::cli::exit::Exit;
use crate::cli::new_file::NewFile;
use crate::ops::inspect::text::{columns, harmless};

/// 120 columns.
const WIDTHS: [usize; 6] = [16, 19, 19, 8, 24, 29];

pub(super) struct Replaying {
    pub force: bool,
    pub rate: u32,
    pub dry_run: bool,
}

pub(super) async fn list(args: QueueArgs, selection: Selection, format: ListFormat) -> anyhow::Result<ExitCode> {
    let mut pass = begin(&args).await?;
    if format == ListFormat::Table {
        say(columns(WIDTHS, ["letter", "failed at (UTC)", "reason", "tenant", "type", "detail"].map(str::to_owned)).trim_end())?;
    }
    let (mut listed, found) = (0_u64, pass.found);
    let mut closed = false;
    while !closed
        && args.has_room(listed)
        && let Some((seen, _held)) = next(&mut pass).await?
    {
        if selection.takes(&seen) {
            listed += 1;
            let line = match format {
                ListFormat::Json => json_line(&seen),
                ListFormat::Table => table_row(&seen),
            };
            // a reader that has seen enough ends the command, and well
            closed = !say(line.trim_end())?;
        }
    }
    end(pass).await?;
    if format == ListFormat::Table && !closed {
        eprintln!("remedyd: {listed} listed, of {found} in the queue");
    }
    Ok(Exit::Ok.into())
}

pub(super) async fn show(args: QueueArgs, selection: Selection, out: Option<PathBuf>) -> anyhow::Result<ExitCode> {
    let file = out.as_deref().map(NewFile::create).transpose()?;
    let (mut letters, mut names) = (Vec::new(), Vec::new());
    let mut pass = begin(&args).await?;
    while args.has_room(names.len() as u64)
        && let Some((seen, _held)) = next(&mut pass).await?
    {
        if selection.takes(&seen) {
            letters.push(LetterFile::of(&seen));
            names.push(seen.name);
        }
    }
    end(pass).await?;
    let text = serde_json::to_string_pretty(&letters)?;
    match file {
        Some(mut file) => {
            writeln!(file.out(), "{text}").context(Exit::StoreIo)?;
            file.keep()?;
        }
        None => drop(say(&text)?),
    }
    not_found(selection.missing(&names))
}

pub(super) async fn replay(
    args: QueueArgs,
    selection: Selection,
    mut corrections: Corrections,
    how: Replaying,
) -> anyhow::Result<ExitCode> {
    let events = args.broker.topology(1).context(Exit::Config)?.events();
    let mut pass = begin(&args).await?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / how.rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopped = std::pin::pin!(tokio::signal::ctrl_c());
    let mut done = Done::default();
    // the first letter that stays, of each report, and of each tenant where no report can be read
    let mut staying: HashMap<_, String> = HashMap::new();
    while let Some((seen, held)) = next(&mut pass).await? {
        done.names.push(seen.name.clone());
        let corrected = corrections.take(&seen.name);
        let chosen = corrected.is_some() || (args.has_room(done.done) && selection.takes(&seen));
        let refused = seen.refused.as_ref().filter(|_| corrected.is_none() && !how.force);
        if chosen && let Some(rejection) = refused {
            done.refused += 1;
            eprintln!("remedyd: {} stays: it would be refused again, {}", seen.name, harmless(&rejection.to_string()));
        }
        if !chosen || refused.is_some() {
            done.stayed += 1;
            if seen.report.is_some() || seen.refused.is_some() {
                staying.entry((seen.tenant, seen.report)).or_insert(seen.name);
            }
            continue;
        }
        let unread = || seen.report.and_then(|_| staying.get(&(seen.tenant, None)));
        if let Some(earlier) = staying.get(&(seen.tenant, seen.report)).or_else(unread) {
            eprintln!("remedyd: {} goes ahead of {earlier}, which stays and may be about the same report", seen.name);
        }
        if !how.dry_run {
            tokio::select! {
                _ = pace.tick() => {}
                interrupted = &mut stopped => {
                    interrupted?;
                    done.interrupted = true;
                    break;
                }
            }
            let original = corrected.clone().unwrap_or_else(|| seen.letter.original.clone());
            send(&pass, Message { exchange: events.clone(), ..original }, held).await?;
        }
        done.done += 1;
        let word = if corrected.is_some() { "replayed as put right" } else { "replayed" };
        say(&told(&seen, if how.dry_run { "would be replayed" } else { word }))?;
    }
    end(pass).await?;
    let missing: Vec<String> = corrections.left().chain(selection.missing(&done.names)).cloned().collect();
    done.end("replayed", how.dry_run, &missing)
}

pub(super) async fn discard(args: QueueArgs, selection: Selection, dry_run: bool) -> anyhow::Result<ExitCode> {
    let mut pass = begin(&args).await?;
    let mut done = Done::default();
    while let Some((seen, held)) = next(&mut pass).await? {
        done.names.push(seen.name.clone());
        if !args.has_room(done.done) || !selection.takes(&seen) {
            done.stayed += 1;
            continue;
        }
        if !dry_run {
            pass.take_out(held).await.map_err(pass_exit)?;
        }
        done.done += 1;
        say(&told(&seen, if dry_run { "would be discarded" } else { "discarded" }))?;
    }
    end(pass).await?;
    let missing: Vec<String> = selection.missing(&done.names).cloned().collect();
    done.end("discarded", dry_run, &missing)
}

/// The successor first, then the letter.
async fn send(pass: &Pass, message: Message, held: Held) -> anyhow::Result<()> {
    pass.publish(&message).await.map_err(pass_exit)?;
    pass.take_out(held).await.map_err(pass_exit)
}

impl QueueArgs {
    fn has_room(&self, so_far: u64) -> bool {
        self.limit.is_none_or(|limit| so_far < limit)
    }
}

#[derive(Default)]
struct Done {
    done: u64,
    stayed: u64,
    /// Chosen, and of no use as they are.
    refused: u64,
    names: Vec<String>,
    interrupted: bool,
}

impl Done {
    fn end(self, what: &str, dry_run: bool, missing: &[String]) -> anyhow::Result<ExitCode> {
        let would = if dry_run { "would be " } else { "" };
        eprintln!(
            "remedyd: {} {would}{what}, {} left in their place{}",
            self.done,
            self.stayed,
            if self.interrupted { "; interrupted" } else { "" }
        );
        let exit = not_found(missing.iter())?;
        Ok(if self.refused > 0 || self.interrupted { Exit::Negative.into() } else { exit })
    }
}

fn not_found<'a>(missing: impl Iterator<Item = &'a String>) -> anyhow::Result<ExitCode> {
    let mut exit = Exit::Ok;
    for letter in missing {
        eprintln!("remedyd: there is no letter {letter} among those that were looked at");
        exit = Exit::Negative;
    }
    Ok(exit.into())
}

async fn begin(args: &QueueArgs) -> anyhow::Result<Pass> {
    let queue = args.broker.topology(1).context(Exit::Config)?.dead_letters();
    let connect = async || args.broker.connect_or_exit("remedyd dead-letters").await;
    Pass::begin([connect().await?, connect().await?], &args.broker.endpoint()?, &queue, args.partial).await.map_err(pass_exit)
}

async fn next(pass: &mut Pass) -> anyhow::Result<Option<(Seen, Held)>> {
    let Some(mut held) = pass.next().await.map_err(pass_exit)? else { return Ok(None) };
    // what is kept of it meanwhile is its tag
    let message = std::mem::take(&mut held.message);
    Ok(Some((Seen::of(message), held)))
}

async fn end(pass: Pass) -> anyhow::Result<()> {
    pass.end().await.map_err(pass_exit)
}

fn pass_exit(error: PassError) -> anyhow::Error {
    let exit = match error {
        PassError::Occupied { .. } | PassError::TooMany { .. } => Exit::Negative,
        PassError::Amqp(_) | PassError::Publish(_) => Exit::Broker,
    };
    anyhow::Error::from(error).context(exit)
}

fn told(seen: &Seen, what: &str) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let tenant = seen.tenant.map_or_else(|| "-".to_owned(), |tenant| tenant.to_string());
    harmless(&format!("{} {what}: {tenant} {} {} ({})", seen.name, word(&seen.event_type), word(&seen.event_id), seen.letter.reason))
}

fn json_line(seen: &Seen) -> String {
    json!({
        "letter": seen.name,
        "tenantid": seen.tenant.map(|tenant| tenant.to_string()),
        "failed_at": seen.letter.failed_at.map(|at| at.to_string()),
        "reason": seen.letter.reason,
        "detail": seen.letter.detail,
        "event_id": seen.event_id,
        "event_type": seen.event_type,
        "incident_report_id": seen.report,
        "original_exchange": seen.letter.original.exchange,
        "original_routing_key": seen.letter.original.routing_key,
        "body_bytes": seen.letter.original.body.len(),
        "refused_again": seen.refused.as_ref().map(ToString::to_string),
    })
    .to_string()
}

fn table_row(seen: &Seen) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let at = seen.letter.failed_at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let tenant = seen.tenant.map(|tenant| tenant.to_string());
    let (kind, letter) = (or_dash(seen.event_type.clone()), &seen.letter);
    columns(WIDTHS, [seen.name.clone(), or_dash(at), letter.reason.clone(), or_dash(tenant), kind, letter.detail.clone()])
}

/// Writes a line at once: whoever watches sees how far it is. Says whether anybody still reads.
fn say(line: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("writing to standard output"),
    }
}
