//! `remedyd replay`: plays event files through the real pipeline in virtual time. The demonstration, the
//! debugging tool, the golden test and the what-if tool in one.
//!
//! Outbound events go to stdout as NDJSON; dead letters and one summary line to stderr, as JSON. The same
//! input and seed give the same bytes. Never here: a rule.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::agent::simulated::Model;
use crate::broker::{HeaderValue, Message};
use crate::model::time::Timestamp;

use super::embedded::Embedded;
use super::exit::Exit;

/// One message under way at a time: what is printed is in the order in which it was decided.
const IN_ORDER: usize = 1;

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Event files, one CloudEvent a line, played in the order given
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How simulated hosts answer where a remediation has no `simulate` list
    #[arg(long, value_enum, default_value = "steady")]
    model: ModelName,
    /// Seed of the seeded model
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Leave out events later than this, then let time pass up to it (RFC 3339, inclusive)
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Keep the store here; without it a fresh one is used and removed
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModelName {
    /// Always ok, at once
    Steady,
    /// By chance, from the seed
    Seeded,
}

impl ModelName {
    pub fn with_seed(self, seed: u64) -> Model {
        match self {
            ModelName::Steady => Model::Steady,
            ModelName::Seeded => Model::Seeded { seed },
        }
    }
}

pub async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    // all files are read before the first event is played: a wrong name must not leave half a replay behind
    let mut files = Vec::new();
    for path in &args.files {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display())).context(Exit::Input)?;
        files.push((path, bytes));
    }
    let mut embedded = Embedded::start(args.store.as_deref(), args.model.with_seed(args.seed), IN_ORDER).await?;
    let mut printer = Printer::default();
    // what an earlier replay into the same store left to publish
    embedded.settle().await?;
    printer.print(&mut embedded)?;
    for (path, bytes) in &files {
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let (id, time) = id_and_time(line);
            if let (Some(until), Some(time)) = (args.until, time)
                && time > until
            {
                continue;
            }
            printer.at(path, number + 1, id);
            embedded.publish(line.to_vec());
            embedded.settle().await?;
            printer.print(&mut embedded)?;
        }
    }
    if let Some(until) = args.until {
        embedded.advance(until).await?;
        printer.print(&mut embedded)?;
    }
    let count = embedded.count();
    embedded.end().await?;
    eprintln!("{}", json!({ "summary": count, "balances": count.balances() }));
    Ok(if count.balances() { Exit::Ok.into() } else { Exit::Internal.into() })
}

/// What a line says of itself, as far as it can be read.
fn id_and_time(line: &[u8]) -> (Option<String>, Option<Timestamp>) {
    let event: Value = serde_json::from_slice(line).unwrap_or_default();
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    (text("id").map(str::to_owned), text("time").and_then(|time| time.parse().ok()))
}

/// Prints what has come out, and remembers which line each event id came in on: an orphan fails long after its line.
#[derive(Default)]
struct Printer {
    here: Option<(String, usize)>,
    seen: HashMap<String, (String, usize)>,
}

impl Printer {
    fn at(&mut self, path: &std::path::Path, line: usize, id: Option<String>) {
        let here = (path.display().to_string(), line);
        if let Some(id) = id {
            self.seen.insert(id, here.clone());
        }
        self.here = Some(here);
    }

    fn print(&self, embedded: &mut Embedded) -> anyhow::Result<()> {
        let mut stdout = std::io::stdout().lock();
        for message in embedded.take_outbound() {
            stdout.write_all(&message.body)?;
            stdout.write_all(b"\n")?;
        }
        stdout.flush()?;
        for message in embedded.take_dead_letters() {
            eprintln!("{}", self.dead_letter(&message));
        }
        Ok(())
    }

    fn dead_letter(&self, message: &Message) -> Value {
        let header = |name: &str| {
            message.headers.iter().find(|(header, _)| header == name).map(|(_, value)| match value {
                HeaderValue::Text(text) | HeaderValue::Other(text) => json!(text),
                HeaderValue::Integer(number) => json!(number),
                HeaderValue::Bool(flag) => json!(flag),
            })
        };
        let (id, _) = id_and_time(&message.body);
        let place = id.as_ref().and_then(|id| self.seen.get(id)).or(self.here.as_ref());
        json!({
            "reason": header("reason"),
            "detail": header("detail"),
            "id": id,
            "line": place.map(|(_, line)| line),
            "file": place.map(|(file, _)| file),
        })
    }
}
