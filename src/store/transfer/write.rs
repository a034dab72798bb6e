//! From a store to lines.

use std::io::Write;

use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{End, Head, Source, TITLE, Totals, TransferError, VERSION};
use crate::model::time::system_now;
use crate::store::record;

/// Rows read at a time: at two kilobytes each half a megabyte, read in some milliseconds.
const ROWS_A_PAGE: usize = 256;

/// One row, or one line of the archive.
#[derive(Default, Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_hex: Option<String>,
}

/// Writes `source` down. Only a file with its end, which is written last, is a whole one.
///
/// # Errors
/// [`TransferError::Write`] and what `source` answers.
pub fn export(source: &impl Source, out: &mut dyn Write) -> Result<Totals, TransferError> {
    let mut out = Lines { out, digest: Sha256::new(), line: Vec::new() };
    out.write(&Head { remedyd: TITLE.to_owned(), version: VERSION, taken_at: system_now(), commits: source.commits() })?;
    let (mut rows, mut archived) = (0, 0);
    let mut from = Vec::new();
    loop {
        let page = source.scan(&from, ROWS_A_PAGE)?;
        for (key, value) in &page {
            out.write(&row(key, value))?;
            rows += 1;
        }
        match page.last() {
            // the next key in order
            Some((last, _)) if page.len() == ROWS_A_PAGE => from = [last, &[0][..]].concat(),
            Some(_) | None => break,
        }
    }
    source.archive(&mut |text| {
        archived += 1;
        out.write(&match raw(text) {
            Some(text) => Line { archived: Some(text), ..Line::default() },
            None => Line { archived_hex: Some(hex::encode(text)), ..Line::default() },
        })
    })?;
    let totals = Totals { rows, archived, sha256: hex::encode(out.digest.clone().finalize()) };
    out.write(&End { end: totals.clone() })?;
    out.out.flush().map_err(TransferError::Write)?;
    Ok(totals)
}

fn row<'a>(key: &'a [u8], value: &'a [u8]) -> Line<'a> {
    let record = record::payload(value).and_then(raw);
    // what is printed as it is reads back as it is
    let text = std::str::from_utf8(key).ok().filter(|text| !text.contains(char::is_control));
    Line {
        key: text,
        key_hex: text.is_none().then(|| hex::encode(key)),
        record,
        hex: record.is_none().then(|| hex::encode(value)),
        ..Line::default()
    }
}

/// JSON that reads back to the byte: nothing around it, and no line break in it.
fn raw(text: &[u8]) -> Option<&RawValue> {
    let value: &RawValue = serde_json::from_slice(text).ok()?;
    (value.get().len() == text.len() && !text.contains(&b'\n')).then_some(value)
}

struct Lines<'a> {
    out: &'a mut dyn Write,
    digest: Sha256,
    line: Vec<u8>,
}

impl Lines<'_> {
    fn write(&mut self, line: &impl Serialize) -> Result<(), TransferError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line).map_err(|error| TransferError::Write(error.into()))?;
        self.line.push(b'\n');
        self.digest.update(&self.line);
        self.out.write_all(&self.line).map_err(TransferError::Write)
    }
}
