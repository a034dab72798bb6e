//! The rows about dead letters that a store keeps, or a running service tells of; the queue is not touched.
//!
//! Never here: a body, or whether a letter is still outstanding; a row says what happened and not what became of it.

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::ListFormat;
use super::seen::Selection;
use crate::cli::inspect::{AskArgs, Printed, told_by};
use crate::ops::inspect::text::columns;
use crate::ops::inspect::{Format, Out, Question};

/// 120 columns.
const WIDTHS: [usize; 6] = [8, 8, 19, 19, 24, 37];

pub(super) fn list(
    store: Option<&Path>,
    asked: &AskArgs,
    selection: Selection,
    limit: Option<u64>,
    format: ListFormat,
) -> anyhow::Result<ExitCode> {
    // the service filters by one tenant; by the rest we do
    let tenant = match selection.tenants[..] {
        [only] => Some(only),
        _ => None,
    };
    let mut sieve = Sieve { selection, left: limit, format, line: String::new(), out: Printed::new() };
    if format == ListFormat::Table {
        sieve.out.text(&columns(WIDTHS, ["tenant", "number", "failed at (UTC)", "reason", "type", "detail"].map(str::to_owned)))?;
    }
    told_by(store, asked, &Question::DeadLetters { tenant }, Format::Json, &mut sieve)?;
    sieve.out.end()
}

/// Lets through the lines that are wanted.
struct Sieve {
    selection: Selection,
    /// How many more are wanted.
    left: Option<u64>,
    format: ListFormat,
    /// The beginning of a line.
    line: String,
    out: Printed,
}

impl Out for Sieve {
    fn text(&mut self, text: &str) -> anyhow::Result<()> {
        self.line.push_str(text);
        while let Some((line, rest)) = self.line.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.line = rest;
            self.row(&line)?;
        }
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.left == Some(0) || self.out.is_closed()
    }
}

impl Sieve {
    fn row(&mut self, line: &str) -> anyhow::Result<()> {
        let row: Value = serde_json::from_str(line)?;
        let text = |name: &str| row[name].as_str();
        let parsed = |name: &str| text(name).and_then(|text| text.parse().ok());
        let tenant = text("tenantid").and_then(|text| text.parse().ok());
        if !self.selection.takes_row(tenant, text("event_type"), text("reason").unwrap_or_default(), parsed("failed_at")) {
            return Ok(());
        }
        if self.left == Some(0) {
            return Ok(());
        }
        self.left = self.left.map(|left| left - 1);
        match self.format {
            ListFormat::Json => self.out.text(&format!("{line}\n")),
            ListFormat::Table => {
                let or_dash = |name: &str| text(name).unwrap_or("-").to_owned();
                let at = or_dash("failed_at").replace('T', " ");
                let at = at.get(..19).unwrap_or(&at).to_owned();
                let cells =
                    [or_dash("tenantid"), row["number"].to_string(), at, or_dash("reason"), or_dash("event_type"), or_dash("detail")];
                self.out.text(&columns(WIDTHS, cells))
            }
        }
    }
}
