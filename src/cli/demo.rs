//! `remedyd demo`: the worked report step by step, then some hundred tenants at once, in this process: the
//! memory link, a fresh sled directory, virtual time. Ends with the books: what came in, what became of it.
//!
//! What is shown is read from the events themselves, as any consumer of them could; only the balance comes
//! from the service's own counters. The same seed gives the same numbers, wall-clock figures apart.
//!
//! Never here: an outcome that is known beforehand.

pub(super) mod narrate;
mod tally;
mod view;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::embedded::Embedded;
use super::exit::Exit;
use crate::agent::simulated::Model;
use crate::load::scenario::{self, Minute, Scenario};
use crate::model::time::{Timestamp, system_now};
use crate::ops::inspect::text::wrap;
use tally::Tally;
use view::View;

/// The acceptance story, with a list of outcomes for each task: it is the same under any seed.
const WORKED_REPORT: &str = include_str!("demo/worked_report.ndjson");
/// Messages under way to the broker at a time.
const PUBLISH_WINDOW: usize = 256;
/// Virtual hours of the many tenants: enough for five attempts of one task (3 h 45 min) and what follows them.
const LOAD_MINUTES: u32 = 6 * 60;
/// About 12 seconds for the 12 events of the worked report and the 29 that come of them.
const STEP_PAUSE: Duration = Duration::from_millis(600);
const LINE_PAUSE: Duration = Duration::from_millis(160);
/// Of a terminal. Elsewhere a sentence is a line, for those who search.
const WIDTH: usize = 80;
/// Before the lines that a sentence has after its first.
const HANGING: &str = "                ";

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Seed of everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Tenants of the second part
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=i64::from(scenario::MAX_TENANTS)))]
    tenants: u32,
    /// Tell the story without pauses
    #[arg(long)]
    fast: bool,
}

pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    tokio::select! {
        shown = show(args) => shown,
        // dropping what runs removes the temporary store
        _ = tokio::signal::ctrl_c() => Ok(Exit::Negative.into()),
    }
}

async fn show(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let terminal = std::io::stdout().is_terminal();
    let mut embedded = Embedded::start(None, Model::Seeded { seed: args.seed }, PUBLISH_WINDOW).await?;
    let mut tally = Tally::default();

    println!("1. One report, from its arrival to its closing (> comes in, - is published)\n");
    let ends = tell(&mut embedded, &mut tally, terminal, terminal && !args.fast).await?;

    let scenario = Scenario { seed: args.seed, tenants: args.tenants, begins: ends, minutes: LOAD_MINUTES };
    println!("\n2. {} tenants, {} virtual hours, seed {}\n", args.tenants, LOAD_MINUTES / 60, args.seed);
    let began = system_now();
    let timeline = scenario.timeline();
    let mut view = View::new(terminal, LOAD_MINUTES);
    for minute in timeline.minutes() {
        play(&mut embedded, &minute).await?;
        tally.take(&mut embedded);
        view.show(minute.number, minute.ends, &tally, &embedded.count());
    }
    view.clear();
    let took = system_now().duration_since(began);

    let count = embedded.count();
    embedded.end().await?;
    print!("{}", tally.closing(&count));
    println!("  {:<22}{:.1} s for the tenants' part", "took", took.as_secs_f64());
    if count.balances() && tally.is_gapless() && tally.received() == count.published {
        println!("OK");
        return Ok(Exit::Ok.into());
    }
    println!("NOT OK");
    Ok(Exit::Internal.into())
}

/// Plays the worked report event by event. Returns the time at which it ends.
async fn tell(embedded: &mut Embedded, tally: &mut Tally, wrapped: bool, paced: bool) -> anyhow::Result<Timestamp> {
    let pause = async |span: Duration| {
        if paced {
            tokio::time::sleep(span).await;
        }
    };
    let mut ends = Timestamp::UNIX_EPOCH;
    for line in WORKED_REPORT.lines() {
        let event: Value = serde_json::from_str(line)?;
        let time = event.get("time").and_then(Value::as_str).unwrap_or_default();
        say(&format!("{}  > ", narrate::clock(time)), &narrate::narrate(&event), wrapped);
        pause(STEP_PAUSE).await;
        embedded.publish(line.as_bytes().to_vec());
        embedded.settle().await?;
        for published in tally.take(embedded) {
            say("            - ", &narrate::narrate(&published), wrapped);
            pause(LINE_PAUSE).await;
        }
        ends = ends.max(time.parse().unwrap_or(ends));
    }
    Ok(ends)
}

/// A sentence behind its mark; what does not fit, and the lines after the first, hang below it.
fn say(mark: &str, sentence: &str, wrapped: bool) {
    let mut mark = mark.to_owned();
    for line in sentence.lines() {
        let width = if wrapped { WIDTH - mark.len() } else { usize::MAX };
        for line in wrap(line, width) {
            println!("{mark}{line}");
            mark = " ".repeat(mark.len());
        }
        mark = HANGING.into();
    }
}

/// One virtual minute: whatever is due by its end, then its reports side, then its surveys, settled one after the other.
async fn play(embedded: &mut Embedded, minute: &Minute) -> anyhow::Result<()> {
    embedded.advance(minute.ends).await?;
    for side in [&minute.reports, &minute.surveys] {
        if side.is_empty() {
            continue;
        }
        for body in side {
            embedded.publish(body.clone());
        }
        embedded.settle().await?;
    }
    Ok(())
}
