//! Everything that reads bytes from outside, on bytes that nobody meant: the decoder of events and the frame of stored
//! records. Seeded mutations of all the events there are in the repository.
//!
//! `cargo fuzz` needs a nightly compiler and its sanitizers; this runs on the stable one, with every `cargo test`, and
//! repeats itself from one seed. What it lacks is coverage as a guide, so the mutations know what the decoder looks
//! for: numbers, strings, escapes, nesting, keys, headers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/proof.rs"]
mod proof;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use remedyd::store::record;
use remedyd::wire::{Raw, Reason, decode, limits};
use serde_json::{Value, json};

/// In the short form.
const INPUTS: u64 = 200_000;
/// Memory that decoding may ask for in all, per byte of input: values, copies of texts, and what growing lists leave
/// behind. And what it may ask for whatever the input.
const BYTES_PER_BYTE: usize = 200;
const BYTES_AT_LEAST: usize = 256 * 1024;
/// Far above what any input takes, far below what would be noticed as a hang.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // a thread that is ending has no counter any more
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get() + layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// splitmix64
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A message as it could arrive.
#[derive(Clone, Debug)]
struct Input {
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Input {
    fn structured(body: &[u8]) -> Self {
        Self { content_type: Some("application/cloudevents+json".into()), headers: vec![], body: body.to_vec() }
    }

    /// In binary mode, if it is an object.
    fn binary(body: &[u8], prefix: &str) -> Option<Self> {
        let Value::Object(mut event) = serde_json::from_slice(body).ok()? else { return None };
        let data = event.remove("data")?;
        let header = |(name, value): (String, Value)| Some((format!("{prefix}{name}"), value.as_str()?.to_owned()));
        let headers = event.into_iter().filter_map(header).collect();
        Some(Self { content_type: Some("application/json".into()), headers, body: data.to_string().into_bytes() })
    }
}

/// Every event in the repository, whatever file it is in.
fn corpus() -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut events);
    events.sort();
    events.dedup();
    assert!(events.len() > 100, "only {} events found", events.len());
    events
}

fn gather(dir: &Path, events: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(&path, events);
        } else if path.extension().is_some_and(|extension| extension == "ndjson" || extension == "json") {
            let bytes = fs::read(&path).unwrap();
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{"));
            events.extend(lines.map(<[u8]>::to_vec));
        }
    }
}

const PIECES: [&str; 24] = [
    "1e999",
    "-0",
    "18446744073709551616",
    "-9223372036854775809",
    "0.1e-400",
    "9007199254740993",
    "1E+2147483648",
    "00",
    "\"\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\u0000\"",
    "\"\\",
    "\u{feff}",
    "\u{0}",
    "\u{2028}",
    "null",
    "{}",
    "[]",
    "true",
    "\"\"",
    "\"9999-12-31T23:59:60Z\"",
    "\"-0001-01-01T00:00:00Z\"",
    "\"2026-11-23T09:00:00+99:99\"",
    "\"0.0\"",
];

const HEADERS: [&str; 8] =
    ["cloudEvents_id", "cloudEvents:id", "tenantid", "cloudEvents_tenantid", "cloudEvents_data", "", "x-death", "cloudEvents_time"];

fn mutate(input: &mut Input, corpus: &[Vec<u8>], chance: &mut Chance) {
    let body = &mut input.body;
    let at = chance.below(body.len());
    match chance.below(16) {
        0 if !body.is_empty() => body[at] ^= 1 << chance.below(8),
        1 if !body.is_empty() => body[at] = chance.next() as u8,
        2 => body.truncate(at),
        // the beginning of one, the end of another
        3 => {
            let other = chance.of(corpus);
            let from = chance.below(other.len());
            body.truncate(at);
            body.extend_from_slice(&other[from..]);
        }
        4 => {
            let length = chance.below(64).min(body.len() - at);
            let piece = body[at..at + length].to_vec();
            let to = chance.below(body.len());
            body.splice(to..to, piece);
        }
        // another value in place of a whole one
        5 => put_value(body, chance),
        6 => {
            let piece = chance.of(&PIECES).as_bytes().to_vec();
            body.splice(at..at, piece);
        }
        // keys once more, as they are or escaped
        7 => {
            if let Some((start, end)) = key(body, at) {
                let mut twice = body[start..end].to_vec();
                if chance.below(2) == 0 && twice.len() > 2 {
                    let escaped = format!("\\u{:04x}", twice[1]);
                    twice.splice(1..2, escaped.into_bytes());
                }
                twice.extend_from_slice(b":1,");
                body.splice(start..start, twice);
            }
        }
        8 => {
            let depth = *chance.of(&[limits::DEPTH - 2, limits::DEPTH - 1, limits::DEPTH, limits::DEPTH + 1, 1_000, 100_000]);
            let (open, close) = *chance.of(&[("[", "]"), ("{\"a\":", "}")]);
            let mut nest = open.repeat(depth);
            nest.push('1');
            if chance.below(4) > 0 {
                nest.push_str(&close.repeat(depth));
            }
            put(body, at, &nest);
        }
        // around each limit of length
        9 => {
            let limit = *chance.of(&[limits::TEXT_BYTES, limits::BODY_BYTES, limits::ATTRIBUTE_BYTES, limits::MESSAGE_BYTES]);
            let text = format!("\"{}\"", "x".repeat(limit - 2 + chance.below(5)));
            put(body, at, &text);
        }
        10 => {
            let digits = "9".repeat(1 + chance.below(400));
            put(body, at, &digits);
        }
        // many elements
        11 => {
            let element = *chance.of(&["1", "{}", "\"a\"", "[]"]);
            let list = format!("[{}]", vec![element; 1 + chance.below(3_000)].join(","));
            put(body, at, &list);
        }
        12 => match chance.below(3) {
            0 => input.content_type = None,
            1 => {
                input.content_type = Some(
                    (*chance.of(&["application/json", "APPLICATION/CLOUDEVENTS+JSON; charset=x", ";", "text/plain", "a/b+json"]))
                        .to_owned(),
                )
            }
            _ => input.content_type = Some(String::from_utf8_lossy(&body[at..body.len().min(at + 40)]).into_owned()),
        },
        13 => {
            let name = (*chance.of(&HEADERS)).to_owned();
            let length = chance.below(80);
            let value = String::from_utf8_lossy(&body[at..body.len().min(at + length)]).into_owned();
            input.headers.push((name, value));
        }
        // another tenant in one of the places that name it
        14 => {
            let places: Vec<usize> = body.windows(6).enumerate().filter(|(_, window)| window == b"\"5.4\",").map(|(at, _)| at).collect();
            if !places.is_empty() {
                body[chance.of(&places) + 1] = b'6';
            }
        }
        _ if !input.headers.is_empty() => {
            let header = chance.below(input.headers.len());
            match chance.below(3) {
                0 => drop(input.headers.remove(header)),
                1 => input.headers.push(input.headers[header].clone()),
                _ => input.headers[header].1 = chance.of(&PIECES).trim_matches('"').to_owned(),
            }
        }
        _ => {}
    }
}

/// Puts `text` in place of the value that begins behind the next colon, or where it may.
fn put(body: &mut Vec<u8>, at: usize, text: &str) {
    let colon = body[at.min(body.len())..].iter().position(|byte| *byte == b':').map_or(at, |colon| at + colon + 1);
    let end = body[colon..].iter().position(|byte| matches!(byte, b',' | b'}')).map_or(body.len(), |end| colon + end);
    body.splice(colon..end, text.bytes());
}

fn put_value(body: &mut Vec<u8>, chance: &mut Chance) {
    let Ok(mut event) = serde_json::from_slice::<Value>(body) else { return };
    *somewhere(&mut event, chance) = match chance.below(8) {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(u64::MAX),
        3 => json!(1.5),
        4 => json!({}),
        5 => json!([]),
        6 => json!("x"),
        _ => json!(true),
    };
    *body = event.to_string().into_bytes();
}

fn somewhere<'v>(value: &'v mut Value, chance: &mut Chance) -> &'v mut Value {
    let length = match value {
        Value::Object(map) => map.len(),
        Value::Array(list) => list.len(),
        _ => 0,
    };
    if length == 0 || chance.below(4) == 0 {
        return value;
    }
    let index = chance.below(length);
    let inner = match value {
        Value::Object(map) => map.values_mut().nth(index),
        Value::Array(list) => list.get_mut(index),
        _ => None,
    };
    somewhere(inner.expect("an index below the length"), chance)
}

/// The quoted word that begins at `at` or behind it.
fn key(body: &[u8], at: usize) -> Option<(usize, usize)> {
    let start = at + body[at.min(body.len())..].iter().position(|byte| *byte == b'"')?;
    let length = body[start + 1..].iter().position(|byte| *byte == b'"')?;
    Some((start, start + length + 2))
}

#[derive(Default)]
struct Seen {
    accepted: u64,
    rejected: BTreeMap<&'static str, u64>,
    slowest: Duration,
    /// Allocated bytes for each byte of an input large enough to tell.
    largest_share: f64,
}

/// Any input gives an event or a reason, within bounds, and the same one each time. It must not panic; `decode` itself is under test.
fn check(input: &Input, seen: &mut Seen) -> Result<(), String> {
    let raw = Raw { content_type: input.content_type.as_deref(), headers: &input.headers, body: &input.body };
    let size = input.body.len() + input.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let (before, started) = (ALLOCATED.get(), Instant::now());
    let decoded = decode(&raw);
    let (allocated, took) = (ALLOCATED.get() - before, started.elapsed());
    seen.slowest = seen.slowest.max(took);
    if size > 4_096 {
        seen.largest_share = seen.largest_share.max(allocated as f64 / size as f64);
    }
    if took > TIME_LIMIT {
        return Err(format!("{size} bytes took {took:?}"));
    }
    if allocated > BYTES_AT_LEAST + BYTES_PER_BYTE * size.min(limits::MESSAGE_BYTES) {
        return Err(format!("{size} bytes made it allocate {allocated}"));
    }
    if decoded != decode(&raw) {
        return Err(format!("not the same the second time: {decoded:?}"));
    }
    match decoded {
        Ok(inbound) => {
            seen.accepted += 1;
            // what was taken is within the limits
            if input.body.len() > limits::MESSAGE_BYTES {
                return Err(format!("{} bytes were taken", input.body.len()));
            }
            if depth(&input.body) > limits::DEPTH {
                return Err(format!("{} levels were taken", depth(&input.body)));
            }
            if inbound.event.id.len() > limits::ATTRIBUTE_BYTES {
                return Err("an id beyond its limit was taken".to_owned());
            }
        }
        Err(rejection) => {
            if !Reason::ALL.contains(&rejection.reason) || matches!(rejection.reason, Reason::IdReused | Reason::Orphan) {
                return Err(format!("a reason that is not the decoder's: {rejection}"));
            }
            if rejection.detail.is_empty() || rejection.detail.len() > limits::DETAIL_BYTES {
                return Err(format!("a detail of {} bytes", rejection.detail.len()));
            }
            *seen.rejected.entry(rejection.reason.as_str()).or_default() += 1;
        }
    }
    Ok(())
}

/// Levels of nesting of a body that is JSON.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0_usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[test]
fn any_bytes_are_an_event_or_have_a_reason() {
    let seed = proof::seed(0xf022);
    let (corpus, mut chance, mut seen, mut done) = (corpus(), Chance(seed), Seen::default(), 0);
    let budget = proof::Budget::rounds(INPUTS);
    while budget.goes_on(done) {
        let origin = chance.of(&corpus);
        let prefix = *chance.of(&["", "cloudEvents_", "cloudEvents:"]);
        let binary = if prefix.is_empty() { None } else { Input::binary(origin, prefix) };
        let mut input = binary.unwrap_or_else(|| Input::structured(origin));
        for _ in 0..chance.below(5) {
            mutate(&mut input, &corpus, &mut chance);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&input, &mut seen)));
        let wrong = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(wrong)) => Some(wrong),
            Err(_) => Some("a panic".to_owned()),
        };
        if let Some(wrong) = wrong {
            let Input { content_type, headers, body } = &input;
            let shown = &body[..body.len().min(4_000)];
            panic!("{wrong}\nseed {seed}, input {done}: {content_type:?} {headers:?}\n{}", shown.escape_ascii());
        }
        done += 1;
    }
    // a corpus that no longer fits, or mutations that spoil everything, would prove nothing
    assert!(seen.accepted > done / 20, "only {} of {done} were accepted", seen.accepted);
    for reason in
        [Reason::Malformed, Reason::Invalid, Reason::TooLarge, Reason::UnsupportedType, Reason::TenantMismatch, Reason::PlanIncomplete]
    {
        assert!(seen.rejected.contains_key(reason.as_str()), "none was rejected as {}", reason.as_str());
    }
    let rejected: u64 = seen.rejected.values().sum();
    let line = format!(
        "decoder fuzzing {done} inputs from {} events, {} accepted, {rejected} rejected, 0 panics, slowest {:.1} ms",
        corpus.len(),
        seen.accepted,
        seen.slowest.as_secs_f64() * 1e3
    );
    let figures = json!({
        "seed": seed, "inputs": done, "corpus": corpus.len(), "accepted": seen.accepted, "rejected": seen.rejected,
        "slowest_us": seen.slowest.as_micros() as u64, "allocated_per_byte": seen.largest_share,
    });
    proof::record("61-fuzz", &line, &figures);
}

/// A stored record that was damaged in any way is refused; one that was not reads as what it was.
#[test]
fn a_damaged_record_is_never_another_record() {
    let seed = proof::seed(0xf023);
    let (corpus, mut chance, budget, mut done) = (corpus(), Chance(seed), proof::Budget::rounds(50_000), 0);
    while budget.goes_on(done) {
        done += 1;
        let value: Value = serde_json::from_slice(chance.of::<Vec<u8>>(&corpus)).unwrap_or(Value::Null);
        let good = record::encode(&value);
        assert_eq!(record::decode::<Value>(b"k", &good).unwrap(), value);
        let mut bad = good.clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bad.len());
            match chance.below(5) {
                0 => bad.truncate(at),
                1 => bad.insert(at, chance.next() as u8),
                2 if !bad.is_empty() => drop(bad.remove(at)),
                // what a page of another file leaves behind
                3 => bad.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
                _ if !bad.is_empty() => bad[at] ^= 1 << chance.below(8),
                _ => {}
            }
        }
        let decoded = catch_unwind(|| record::decode::<Value>(b"k", &bad)).unwrap_or_else(|_| panic!("a panic, seed {seed}: {bad:?}"));
        // the mutations can undo each other
        assert!(bad == good || decoded.is_err(), "seed {seed}: {}", bad.escape_ascii());
    }
    proof::record("62-records", &format!("damaged records {done}, none taken for another"), &json!({ "seed": seed, "inputs": done }));
}
