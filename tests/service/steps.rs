//! A sample played into the service event by event, and what a replay says should come of each.
//!
//! Never here: the broker's wire, or the life of the process.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use remedyd::store::Row;
use serde_json::Value;

use crate::outside::{Got, Outside, Sent, check_properties};
use crate::service::{join, outbox_rows, replay, replay_lines, sample, state};

/// An event, and what it has to come to.
pub struct Step {
    pub event: Vec<u8>,
    pub outbound: Vec<Vec<u8>>,
    /// Each with `reason`, `detail`.
    pub dead_letters: Vec<Value>,
}

/// By replays of the first event, the first two, and so on. What has come out once, later events must not change.
pub fn steps(name: &str) -> Vec<Step> {
    steps_of(name, &sample(name))
}

/// The same for events that are in no sample; `name` is for people.
pub fn steps_of(name: &str, lines: &[Vec<u8>]) -> Vec<Step> {
    let (mut steps, mut before) = (Vec::new(), replay_lines(&[], &[]));
    for (index, event) in lines.iter().enumerate() {
        let after = replay_lines(&lines[..=index], &[]);
        let outbound = after.lines().split_off(before.lines().len());
        assert!(after.stdout.starts_with(&before.stdout), "{name}: event {index} has changed what came before it");
        let dead_letters = after.dead_letters[before.dead_letters.len()..].to_vec();
        steps.push(Step { event: event.clone(), outbound, dead_letters });
        before = after;
    }
    steps
}

/// What a replay leaves in its store.
pub fn replayed_state(name: &str) -> Vec<Row> {
    replayed_state_of(&sample(name))
}

/// The same for events that are in no sample.
pub fn replayed_state_of(lines: &[Vec<u8>]) -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let (events, store) = (dir.path().join("events.ndjson"), dir.path().join("store"));
    fs::write(&events, join(lines, b"\n")).unwrap();
    replay([events.as_os_str(), "--store".as_ref(), store.as_os_str()]);
    state(&store)
}

/// What has come from the service, copies removed. A copy must be identical.
#[derive(Default)]
pub struct Ledger {
    /// Bodies by id, in the order of their first arrival.
    pub outbound: Vec<(String, Vec<u8>)>,
    /// Body and reason of each dead letter.
    dead_letters: Vec<Got>,
    pub copies: usize,
}

impl Ledger {
    pub fn hear(&mut self, got: &Got) {
        check_properties(got);
        let id = got.event()["id"].as_str().unwrap().to_owned();
        match self.outbound.iter().find(|(known, _)| *known == id) {
            Some((_, body)) => {
                assert_eq!(text(&got.body), text(body), "two events with the id {id}");
                self.copies += 1;
            }
            None => self.outbound.push((id, got.body.clone())),
        }
    }

    pub fn hear_dead_letter(&mut self, got: Got) {
        match self.dead_letters.iter().find(|known| known.body == got.body && known.header("reason") == got.header("reason")) {
            Some(known) => {
                assert_eq!(got.headers, known.headers, "a copy of a dead letter is not identical");
                self.copies += 1;
            }
            None => self.dead_letters.push(got),
        }
    }

    fn has(&self, body: &[u8]) -> bool {
        self.outbound.iter().any(|(_, known)| known == body)
    }

    /// Waits until everything that `step` has to come to is there.
    pub async fn settle(&mut self, outside: &mut Outside, step: &Step) {
        for expected in &step.outbound {
            while !self.has(expected) {
                let got = outside.status().await;
                let known = self.outbound.len();
                self.hear(&got);
                let unexpected = self.outbound.len() > known && !step.outbound.contains(&got.body);
                assert!(!unexpected, "not in the replay at this place: {}", text(&got.body));
            }
        }
        while !step.dead_letters.is_empty() && !self.dead_letters.iter().any(|known| known.body == step.event) {
            let got = outside.dead_letter().await;
            self.hear_dead_letter(got);
        }
        if step.outbound.is_empty() && step.dead_letters.is_empty() {
            outside.barrier().await;
        }
    }

    /// Hears what is left of a service that has stopped.
    pub async fn finish(&mut self, outside: &mut Outside) {
        let (status, dead_letters) = outside.rest().await;
        status.iter().for_each(|got| self.hear(got));
        dead_letters.into_iter().for_each(|got| self.hear_dead_letter(got));
    }

    /// Per subject the same events in the same order, to the byte; the same dead letters with reason and detail.
    #[track_caller]
    pub fn check_against(&self, outside: &Outside, steps: &[Step]) {
        let expected: Vec<Vec<u8>> = steps.iter().flat_map(|step| step.outbound.iter().cloned()).collect();
        let found: Vec<Vec<u8>> = self.outbound.iter().map(|(_, body)| body.clone()).collect();
        assert_eq!(by_subject(&found), by_subject(&expected));
        let told: Vec<[String; 3]> = self
            .dead_letters
            .iter()
            .map(|got| [text(&got.body), got.header("reason").to_owned(), got.header("detail").to_owned()])
            .collect();
        let field = |letter: &Value, name: &str| letter[name].as_str().unwrap().to_owned();
        let expected: Vec<[String; 3]> = steps
            .iter()
            .flat_map(|step| step.dead_letters.iter().map(|letter| [text(&step.event), field(letter, "reason"), field(letter, "detail")]))
            .collect();
        assert_eq!(told, expected);
        for got in &self.dead_letters {
            let sent = Sent::structured(&got.body);
            assert_eq!(got.header("original-exchange"), format!("{}.events", outside.prefix));
            assert_eq!(got.header("original-routing-key"), sent.routing_key);
            got.header("failed-at").parse::<remedyd::model::time::Timestamp>().expect("failed-at is a time");
        }
    }
}

/// The events of each subject, in order.
pub fn by_subject(bodies: &[Vec<u8>]) -> BTreeMap<String, Vec<String>> {
    let mut subjects: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for body in bodies {
        let event: Value = serde_json::from_slice(body).unwrap();
        let subject = format!("{} {}", event["tenantid"].as_str().unwrap(), event["subject"].as_str().unwrap());
        subjects.entry(subject).or_default().push(text(body));
    }
    subjects
}

/// The state of a service that has stopped in order, which leaves nothing unpublished.
#[track_caller]
pub fn stopped_state(store: &Path) -> Vec<Row> {
    let partition = store.join("p0");
    assert_eq!(outbox_rows(&partition), 0, "unpublished rows after an orderly stop");
    state(&partition)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
