//! The judge: reads a ledger from beginning to end and says what is lost, what is wrong and what came twice.
//!
//! It knows the promises (design/reliability.md, invariants marked X) and nothing of the service: not its code, not
//! its store. Findings begin with the number of the invariant.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ledger::{Entry, Fate, Heard, Sending, digest};

/// What a ledger comes to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Confirmed to the publisher, and without what had to come of it.
    pub lost: Vec<String>,
    /// Anything else that must not be.
    pub wrong: Vec<String>,
    /// Different messages that were confirmed: applied, observed, dead-lettered.
    pub applied: usize,
    pub observed: usize,
    pub refused: usize,
    /// Sent a second time with the same bytes.
    pub duplicates_in: usize,
    /// Outbound events and dead letters without copies.
    pub outbound: usize,
    pub dead_letters: usize,
    /// Copies of what was published before.
    pub copies: usize,
    pub crashes: usize,
    pub closed: usize,
    pub attempts: usize,
}

#[derive(Default)]
struct Judge {
    verdict: Verdict,
    sent: BTreeMap<String, Sending>,
    /// Of messages that are refused: how often each body was sent.
    bodies: BTreeMap<String, usize>,
    confirmed: BTreeSet<(String, String)>,
    /// By id, everything that a copy has to repeat.
    known: BTreeMap<String, (String, String, String)>,
    sequences: BTreeMap<(String, String), u64>,
    /// (cause, type, what about) with the number of times.
    effects: BTreeMap<(String, String, String), usize>,
    tasks: BTreeMap<Task, String>,
    attempts: BTreeSet<String>,
    reports: BTreeMap<(String, u64), String>,
    approved: BTreeSet<(String, u64)>,
    /// By body: reason, and everything that a copy has to repeat.
    letters: BTreeMap<String, BTreeMap<String, String>>,
    wanted: BTreeSet<(String, u64)>,
}

/// Tenant, report, plan revision, remediation.
type Task = (String, u64, u64, u64);

/// Judges `entries`. After each crash as many copies may come as messages were under way: `window`.
pub fn judge(entries: &[Entry], window: usize) -> Verdict {
    let mut judge = Judge::default();
    for entry in entries {
        match entry {
            Entry::Sending(sending) => judge.sending(sending),
            Entry::Confirmed { id, digest } => drop(judge.confirmed.insert((id.clone(), digest.clone()))),
            Entry::Heard(heard) => judge.heard(heard),
            Entry::DeadLetter(heard) => judge.dead_letter(heard),
            Entry::Crash { .. } => judge.verdict.crashes += 1,
            Entry::Wanted { tenant, report } => drop(judge.wanted.insert((tenant.clone(), *report))),
        }
    }
    judge.end(window)
}

impl Judge {
    fn wrong(&mut self, invariant: u8, what: String) {
        self.verdict.wrong.push(format!("[{invariant}] {what}"));
    }

    fn sending(&mut self, sending: &Sending) {
        if sending.fate == Fate::Duplicate {
            self.verdict.duplicates_in += 1;
            return;
        }
        if let Fate::Refused { .. } = sending.fate {
            *self.bodies.entry(sending.digest.clone()).or_default() += 1;
        }
        if let Fate::Applied { effects, report } = &sending.fate
            && sending.kind == "remediations.approved"
            && effects.iter().all(|effect| effect != "request.refused")
        {
            self.approved.insert((sending.tenant.clone(), *report));
        }
        self.sent.entry(format!("{} {}", sending.id, sending.digest)).or_insert_with(|| sending.clone());
    }

    fn copy(&mut self, heard: &Heard) {
        if !heard.redelivered {
            self.verdict.copies += 1;
        }
    }

    fn heard(&mut self, heard: &Heard) {
        let event: Value = serde_json::from_str(&heard.body).unwrap_or_else(|error| panic!("{error}: {}", heard.body));
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let (id, tenant, subject) = (text("id"), text("tenantid"), text("subject"));
        let whole = (heard.routing_key.clone(), heard.properties.clone(), heard.body.clone());
        if let Some(first) = self.known.get(&id) {
            if *first != whole {
                self.wrong(12, format!("two different messages {id}:\n  {first:?}\n  {whole:?}"));
            }
            return self.copy(heard);
        }
        self.known.insert(id.clone(), whole);
        self.verdict.outbound += 1;
        let sequence: u64 = text("sequence").parse().unwrap_or_default();
        let last = self.sequences.entry((tenant.clone(), subject.clone())).or_default();
        let expected = *last + 1;
        *last = sequence;
        if sequence != expected {
            self.wrong(2, format!("{tenant} {subject}: sequence {sequence} where {expected} is due"));
        }
        if !heard.routing_key.ends_with(&format!(".{tenant}")) {
            self.wrong(16, format!("{id} went to {}", heard.routing_key));
        }
        self.effect(&event, &tenant);
        self.standing(&event, &tenant);
    }

    /// What caused it, and that it did so once.
    fn effect(&mut self, event: &Value, tenant: &str) {
        let cause = event["causationid"].as_str().unwrap_or_default().to_owned();
        let by_itself = ["timer:", "recovery:"].iter().any(|kind| cause.starts_with(&format!("{kind}{tenant}:")));
        let from = self.sent.range(format!("{cause} ")..).next().filter(|(key, _)| key.starts_with(&format!("{cause} ")));
        match from {
            Some((_, sending)) if sending.tenant != tenant => {
                let what = format!("{} of {tenant} is caused by {cause} of {}", event["id"], sending.tenant);
                self.wrong(16, what);
            }
            None if !by_itself => self.wrong(16, format!("{} is caused by {cause:?}, which nobody sent", event["id"])),
            Some(_) | None => {}
        }
        let data = &event["data"];
        let about = format!("{} {} {} -> {} {}", event["subject"], data["remediation_id"], data["from"], data["to"], data["attempt"]);
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        *self.effects.entry((cause, kind, about)).or_default() += 1;
    }

    /// Reports and tasks go from where they are; a report is closed over finished tasks only.
    fn standing(&mut self, event: &Value, tenant: &str) {
        let data = &event["data"];
        let word = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let Some(report) = data["incident_report_id"].as_u64() else { return };
        match event["type"].as_str().unwrap_or_default() {
            "remediation.status_changed" => {
                let task: Task =
                    (tenant.to_owned(), report, data["plan_revision"].as_u64().unwrap(), data["remediation_id"].as_u64().unwrap());
                let before = self.tasks.insert(task.clone(), word("to")).unwrap_or_default();
                if before != word("from") {
                    self.wrong(5, format!("task {task:?} goes from {} to {} and was {before:?}", word("from"), word("to")));
                }
                if word("to") == "delivered" {
                    self.verdict.attempts += 1;
                    if !self.attempts.insert(word("attempt_id")) {
                        self.wrong(5, format!("attempt {} was started twice", word("attempt_id")));
                    }
                    if word("type") == "assisted" && !self.approved.contains(&(tenant.to_owned(), report)) {
                        self.wrong(3, format!("task {task:?} was delivered and nobody had approved it"));
                    }
                }
            }
            "incident_report.status_changed" => {
                let before = self.reports.insert((tenant.to_owned(), report), word("to")).unwrap_or_default();
                if before != word("from") {
                    self.wrong(10, format!("report {tenant} {report} goes from {} to {} and was {before:?}", word("from"), word("to")));
                }
                if word("to") == "closed" {
                    self.verdict.closed += 1;
                    let of_report = self.tasks.iter().filter(|((of, id, ..), _)| of == tenant && *id == report);
                    let open: Vec<String> = of_report
                        .filter(|(_, state)| *state != "completed" && *state != "awaiting_human")
                        .map(|(task, state)| format!("report {tenant} {report} is closed over task {} {state}", task.3))
                        .collect();
                    open.into_iter().for_each(|what| self.wrong(1, what));
                }
            }
            _ => {}
        }
    }

    fn dead_letter(&mut self, heard: &Heard) {
        let (body, reason) = (digest(heard.body.as_bytes()), heard.headers.get("reason").cloned().unwrap_or_default());
        let whole = format!("{} {} {:?}", heard.routing_key, heard.properties, heard.headers);
        let letters = self.letters.entry(body).or_default();
        if letters.insert(whole, reason).is_some() {
            return self.copy(heard);
        }
        self.verdict.dead_letters += 1;
    }

    fn end(mut self, window: usize) -> Verdict {
        for sending in std::mem::take(&mut self.sent).into_values() {
            if !self.confirmed.contains(&(sending.id.clone(), sending.digest.clone())) {
                self.wrong(8, format!("{} was never confirmed: the publisher gave up", sending.id));
            }
            match &sending.fate {
                Fate::Applied { effects, .. } => self.applied(&sending, effects),
                Fate::Observed => self.verdict.observed += 1,
                Fate::Refused { reason } => self.refused(&sending, reason),
                Fate::Duplicate => {}
            }
        }
        for (body, letters) in &self.letters {
            if !self.bodies.contains_key(body) {
                self.verdict.wrong.push(format!("[10] a dead letter for what should have been applied: {letters:?}"));
            }
        }
        for (tenant, report) in &self.wanted {
            let stands = self.reports.get(&(tenant.clone(), *report)).map_or("not there", String::as_str);
            if stands != "closed" {
                self.verdict.lost.push(format!("[18] report {tenant} {report} is {stands}"));
            }
        }
        let verdict = &mut self.verdict;
        if verdict.copies > window * verdict.crashes {
            verdict.wrong.push(format!("[12] {} copies after {} crashes with a window of {window}", verdict.copies, verdict.crashes));
        }
        self.verdict
    }

    /// All of its effects are there, and none twice.
    fn applied(&mut self, sending: &Sending, effects: &[String]) {
        self.verdict.applied += 1;
        let id = &sending.id;
        let mut found = BTreeSet::new();
        let own = self.effects.range((id.clone(), String::new(), String::new())..).take_while(|((cause, ..), _)| cause == id);
        let mut twice = Vec::new();
        for ((_, kind, about), times) in own {
            found.insert(kind.clone());
            if *times > 1 {
                twice.push(format!("{} {id} has {times} times brought about {kind} {about}", sending.kind));
            }
        }
        twice.into_iter().for_each(|what| self.wrong(10, what));
        for effect in effects.iter().filter(|effect| !found.contains(*effect)) {
            self.verdict.lost.push(format!("[8] {} {id} has not brought about {effect}", sending.kind));
        }
    }

    /// A crash between the dead letter and the ack repeats it with a later time: rubbish has no id to be known by.
    fn refused(&mut self, sending: &Sending, reason: &str) {
        self.verdict.refused += 1;
        let letters = self.letters.get(&sending.digest).cloned().unwrap_or_default();
        if letters.is_empty() {
            self.verdict.lost.push(format!("[8] {} {} is no dead letter", sending.kind, sending.id));
        }
        let most = self.bodies[&sending.digest] + self.verdict.crashes;
        if letters.len() > most {
            self.wrong(10, format!("{} is {} dead letters, and {most} may be", sending.id, letters.len()));
        }
        for told in letters.values().filter(|told| *told != reason) {
            self.wrong(10, format!("{} is a dead letter for {told} and not for {reason}", sending.id));
        }
    }
}
