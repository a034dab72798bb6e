//! Damaged messages: whatever the bytes, the wire answers. One seed reproduces a failure.

use remedyd::wire::{Raw, decode, limits};

use super::EVENTS;

const SEED: u64 = 0x5EED_0FAB_10C5;
const MUTANTS: usize = 20_000;

struct XorShift(u64);

impl XorShift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Bytes that mean something to JSON, so that mutants get past the parser now and then.
const TELLING: &[u8] = b"{}[]\",:\\0-1.eE9 tn\xff\x00u";

#[test]
fn mutants_are_decoded_or_refused() {
    let lines: Vec<&[u8]> = EVENTS.iter().flat_map(|(_, lines)| lines.lines()).map(str::as_bytes).collect();
    let headers: Vec<(String, String)> = [
        ("cloudEvents_specversion", "1.0"),
        ("cloudEvents_id", "b-1"),
        ("cloudEvents_source", "test"),
        ("cloudEvents_type", "agent.surveyed"),
        ("cloudEvents_time", "2026-11-23T09:00:00Z"),
        ("cloudEvents_tenantid", "5.4"),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .to_vec();
    let mut random = XorShift(SEED);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..MUTANTS {
        let mut body = lines[random.below(lines.len())].to_vec();
        for _ in 0..1 + random.below(4) {
            let at = random.below(body.len());
            match random.below(6) {
                0 => body[at] ^= 1 << random.below(8),
                1 => body[at] = TELLING[random.below(TELLING.len())],
                2 => body.insert(at, TELLING[random.below(TELLING.len())]),
                3 => drop(body.remove(at)),
                4 => body.truncate(at + 1),
                _ => {
                    let piece = body[at..(at + 1 + random.below(40)).min(body.len())].to_vec();
                    let to = random.below(body.len());
                    body.splice(to..to, piece);
                }
            }
            if body.is_empty() {
                body.push(b'{');
            }
        }
        let binary = random.below(8) == 0;
        let raw = if binary {
            Raw { content_type: Some("application/json"), headers: &headers, body: &body }
        } else {
            Raw { content_type: None, headers: &[], body: &body }
        };
        match decode(&raw) {
            Ok(_) => taken += 1,
            Err(rejection) => {
                refused += 1;
                assert!(!rejection.detail.is_empty() && rejection.detail.len() <= limits::DETAIL_BYTES);
            }
        }
    }
    assert!(taken > MUTANTS / 50 && refused > MUTANTS / 2, "{taken} taken, {refused} refused: a poor mix");
}
