//! The judge of what a process does between broker and disk: it sees every delivery, every durable batch, every ack and
//! every publication, in order, and holds each against design/reliability.md (invariants by number). What the published
//! events say is judged by the [`Story`].
//!
//! It shares the names of rows with the code under test and nothing else: no decoder, no decision, no counter.

use std::collections::{BTreeMap, BTreeSet};

use remedyd::broker::{HeaderValue, Message, Settlement, Token};
use remedyd::model::time::Timestamp;
use remedyd::pipeline::rows::{OutboxRow, ParkedRow};
use remedyd::store::{Batch, keys};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::disk::{Rows, apply};
use super::facts::{Facts, Kind};
use super::story::{Story, Told};

/// What makes two messages the same: id and bytes.
type Identity = (Option<String>, Vec<u8>);

/// What was told, by tenant and subject.
pub type ToldOf = BTreeMap<(String, String), Vec<String>>;

/// A start has taken up what it found open after this long: a slow commit takes 9 s.
const RECOVERED_WITHIN_MS: u64 = 30_000;

#[derive(Debug, Default)]
pub struct Judge {
    sent: Vec<Facts>,
    /// Numbers of what was sent by (tenant, id); more than one where an id was used again with other bytes.
    by_id: BTreeMap<(String, String), Vec<usize>>,
    /// Numbers by inbox key.
    by_key: BTreeMap<Vec<u8>, Vec<usize>>,
    by_body: BTreeMap<Vec<u8>, usize>,
    delivered: BTreeMap<(u64, u64), usize>,
    /// The durable rows.
    rows: Rows,
    batches: u64,
    /// Durable outbox rows by number, and how many hold the same message.
    outbox: BTreeMap<u64, Identity>,
    standing: BTreeMap<Identity, u64>,
    /// Messages that were ever durable, with what they are.
    ever: BTreeMap<Identity, Message>,
    /// Numbers of events whose dead letters were ever durable.
    dead: BTreeSet<usize>,
    confirmed: BTreeSet<Identity>,
    /// Ids of messages that the broker did not take, or may not have taken.
    not_taken: BTreeSet<String>,
    /// At the subscriber, by subject: the last sequence, taking what is next and passing over the rest; and the highest.
    last: BTreeMap<String, u64>,
    highest: BTreeMap<String, u64>,
    /// The bytes by id.
    arrived: BTreeMap<String, Vec<u8>>,
    arrived_dead: BTreeSet<Identity>,
    pub copies: u64,
    pub messages: u64,
    /// When the life under way began, and the attempts that were then in the field.
    began_ms: u64,
    left_in_field: BTreeSet<String>,
    /// The life in which a commit failed, and the one whose engine has had its turn since.
    failed: Option<u64>,
    failure_known: Option<u64>,
    pub acks: u64,
    /// Numbers of events in the order of the batches that have decided them.
    pub decided: Vec<usize>,
    /// What was told because somebody did something, and not because of the time.
    pub told: ToldOf,
    pub story: Story,
    pub violations: Vec<String>,
}

impl Judge {
    pub fn violation(&mut self, what: String) {
        if self.violations.len() < 5 {
            self.violations.push(what);
        }
    }

    /// Takes note of an event that is going to be published, perhaps more than once.
    pub fn sent(&mut self, facts: Facts) -> usize {
        let number = self.sent.len();
        self.by_id.entry((facts.tenant.to_owned(), facts.id.clone())).or_default().push(number);
        if !facts.id.is_empty() {
            self.by_key.entry(inbox_key(&facts)).or_default().push(number);
        }
        self.by_body.insert(facts.message.body.clone(), number);
        self.sent.push(facts);
        number
    }

    pub fn facts(&self, number: usize) -> &Facts {
        &self.sent[number]
    }

    pub fn sent_count(&self) -> usize {
        self.sent.len()
    }

    pub fn delivered(&mut self, token: Token, number: usize) -> Message {
        self.delivered.insert((token.epoch, token.tag), number);
        self.sent[number].message.clone()
    }

    /// A batch has reached the durable half. Gives lines for the trace.
    pub fn durable(&mut self, batch: &Batch, ms: u64) -> Vec<String> {
        self.batches += 1;
        let before: Rows = batch.writes.iter().filter_map(|(key, _)| Some((key.to_vec(), self.rows.get(key.as_ref())?.clone()))).collect();
        apply(batch, &mut self.rows);
        let mut told = BTreeMap::new();
        let (mut taken, mut left_parking, mut parked, mut died) = (Vec::new(), Vec::new(), BTreeSet::new(), BTreeSet::new());
        for (key, value) in &batch.writes {
            if let Some(number) = keys::outbox_number(key) {
                match value {
                    Some(value) => {
                        if let Some(message) = self.outbox_put(number, key, value) {
                            if message.exchange.is_empty() {
                                died.extend(self.by_body.get(&message.body).copied());
                            } else {
                                told.insert(number, message);
                            }
                        }
                    }
                    None => self.outbox_removed(number),
                }
            } else if key.starts_with(keys::INBOX) && value.is_some() {
                if before.contains_key(key.as_ref()) {
                    self.violation(format!(
                        "10: decided again: {:?}",
                        self.by_key.get(key.as_ref()).map(|numbers| &self.sent[numbers[0]].id)
                    ));
                }
                taken.extend(self.of_inbox_row(key));
            } else if key.starts_with(keys::PARKED) {
                let (row, to) = match value {
                    Some(value) => (Some(value.as_ref()), &mut parked),
                    None => (before.get(key.as_ref()).map(Vec::as_slice), &mut BTreeSet::new()),
                };
                let number = row.and_then(|row| ParkedRow::decode(key, row).ok()).and_then(|row| self.by_body.get(&row.message.body));
                if let Some(number) = number {
                    to.insert(*number);
                    if value.is_none() {
                        left_parking.push(*number);
                    }
                }
            }
        }
        self.dead.extend(died.iter().copied());
        let mut lines = Vec::new();
        let mut causes: BTreeMap<(String, String), u64> = BTreeMap::new();
        self.story.begin_batch(self.batches);
        // what a batch takes from the inbox is decided in it, or waits in it
        let decided: BTreeSet<usize> = taken.into_iter().filter(|number| !parked.contains(number)).chain(left_parking).collect();
        decided.iter().for_each(|number| self.story.asks_to_cancel(&self.sent[*number]));
        self.decided.extend(&decided);
        for message in told.values() {
            let Ok(event) = serde_json::from_slice::<Value>(&message.body) else {
                self.violation(format!("an outbound message is not JSON: {:?}", message.message_id));
                continue;
            };
            let told = Told::read(&event);
            lines.push(told.line());
            if !told.cause.starts_with("timer:") {
                self.told.entry((told.tenant.clone(), told.subject.clone())).or_default().push(told.without_number());
            }
            if !message.routing_key.ends_with(&format!(".{}", told.tenant)) {
                self.violation(format!("16: routed by {} for tenant {}", message.routing_key, told.tenant));
            }
            let cause = self.cause(&told);
            *causes.entry((told.tenant.clone(), told.cause.clone())).or_default() += 1;
            self.story.tell(&told, cause.as_ref());
        }
        self.story.end_decision();
        self.attempts_are_taken_up(ms);
        // 9
        for number in decided.into_iter().filter(|number| !died.contains(number)) {
            let facts = &self.sent[number];
            let answered = causes.contains_key(&(facts.tenant.to_owned(), facts.id.clone()));
            let problem = if facts.kind.is_request() && !audited(batch, facts) {
                Some("20: no row of the audit for".to_owned())
            } else {
                self.story.ignored(facts, answered)
            };
            let problem = problem.or_else(|| (facts.kind == Kind::Organization).then(|| self.has_not_set(facts)).flatten());
            if let Some(problem) = problem {
                let what = format!("{problem} event {number} {:?} {} {}", facts.kind, facts.tenant, facts.id);
                self.violation(what);
            }
        }
        // 9: an effect without an inbox row would be had again
        for (tenant, id) in causes.into_keys() {
            let Some(facts) = self.by_id.get(&(tenant.clone(), id.clone())).and_then(|numbers| self.sent.get(*numbers.first()?)) else {
                continue;
            };
            if facts.kind != Kind::Survey && !self.rows.contains_key(&inbox_key(facts)) {
                self.violation(format!("9: an effect of {tenant} {id} without an inbox row"));
            }
        }
        let found = std::mem::take(&mut self.story.violations);
        for what in found {
            lines.push(format!("violation: {what}"));
            self.violation(what);
        }
        lines
    }

    /// A process takes up what is durable.
    pub fn begin_life(&mut self, ms: u64) {
        self.began_ms = ms;
        self.left_in_field = self.story.in_the_field();
    }

    /// T12: recovery ends what was in the field, and does not leave it to the lease.
    fn attempts_are_taken_up(&mut self, ms: u64) {
        if self.left_in_field.is_empty() || ms < self.began_ms + RECOVERED_WITHIN_MS {
            return;
        }
        let field = self.story.in_the_field();
        for left in std::mem::take(&mut self.left_in_field).intersection(&field) {
            self.violation(format!("T12: {left} is in the field since before the start"));
        }
    }

    fn outbox_put(&mut self, number: u64, key: &[u8], value: &[u8]) -> Option<Message> {
        let Ok(row) = OutboxRow::decode(key, value) else {
            self.violation(format!("outbox row {number} cannot be read"));
            return None;
        };
        let identity = identity(&row.message);
        if let Some(old) = self.outbox.insert(number, identity.clone()) {
            self.violation(format!("11: outbox row {number} is written over: {:?}", old.0));
        }
        *self.standing.entry(identity.clone()).or_default() += 1;
        if !row.message.exchange.is_empty() && self.ever.contains_key(&identity) {
            self.violation(format!("2: {:?} is put out twice", identity.0));
        }
        let message = Message::clone(&row.message);
        self.ever.insert(identity, message.clone());
        Some(message)
    }

    fn outbox_removed(&mut self, number: u64) {
        let Some(identity) = self.outbox.remove(&number) else { return };
        if !self.confirmed.contains(&identity) {
            self.violation(format!("11: outbox row {number} is gone without a confirm: {:?}", identity.0));
        }
        if let Some(standing) = self.standing.get_mut(&identity) {
            *standing -= 1;
        }
    }

    /// The event that an inbox row stands for: by its key, and the digest of its bytes.
    fn of_inbox_row(&self, key: &[u8]) -> Option<usize> {
        let digest = self.rows.get(key)?.get(..16)?;
        self.by_key.get(key)?.iter().copied().find(|number| short_hash(&[&self.sent[*number].message.body])[..] == *digest)
    }

    /// What was sent that a published event names as its cause.
    fn cause(&mut self, told: &Told) -> Option<Facts> {
        for raised in ["timer:", "recovery:"] {
            if let Some(rest) = told.cause.strip_prefix(raised) {
                if !rest.starts_with(&format!("{}:", told.tenant)) {
                    self.violation(format!("16: {} of {} is caused by {}", told.kind, told.tenant, told.cause));
                }
                return None;
            }
        }
        let found = self.by_id.get(&(told.tenant.clone(), told.cause.clone())).and_then(|numbers| {
            // of one id with two bodies, the one that was taken
            let taken = self.of_inbox_row(&inbox_key(&self.sent[numbers[0]]));
            taken.or(numbers.first().copied())
        });
        match found {
            Some(number) => Some(self.sent[number].clone()),
            None => {
                self.violation(format!("16: {} of {} is caused by {}, which this tenant has not sent", told.kind, told.tenant, told.cause));
                None
            }
        }
    }

    pub fn storage_failed(&mut self, life: u64) {
        self.failed = Some(life);
    }

    /// From here on nothing may be published. Until here it could: what was ready to run when the commit failed cannot
    /// know of it.
    pub fn failure_is_known(&mut self, life: u64) {
        self.failure_known = Some(life);
    }

    pub fn has_failed(&self, life: u64) -> bool {
        self.failed == Some(life)
    }

    /// 8 and 21.
    pub fn settled(&mut self, life: u64, token: Token, how: Settlement) {
        let Some(number) = self.delivered.get(&(token.epoch, token.tag)).copied() else {
            self.violation(format!("settles what was not delivered: {token:?}"));
            return;
        };
        if how != Settlement::Ack {
            return;
        }
        self.acks += 1;
        if self.has_failed(life) {
            self.violation(format!("21: event {number} is acked after a storage error"));
        }
        if !self.has_effect(number) {
            self.violation(format!(
                "8: event {number} {:?} {} is acked before its effect is durable",
                self.sent[number].kind, self.sent[number].id
            ));
        }
    }

    /// Whether what the event is for is durable: its inbox row, its dead letter, or what its survey said.
    fn has_effect(&self, number: usize) -> bool {
        let facts = &self.sent[number];
        if self.dead.contains(&number) {
            return true;
        }
        if facts.kind == Kind::Survey {
            return self.has_surveyed(facts);
        }
        let same = |key: &[u8]| self.of_inbox_row(key).is_some_and(|taken| self.sent[taken].message.body == facts.message.body);
        !facts.id.is_empty() && same(&inbox_key(facts))
    }

    fn has_surveyed(&self, facts: &Facts) -> bool {
        let key = format!("s/{}/agents/{}", facts.tenant, facts.agent.unwrap_or(0)).into_bytes();
        let Some(agent) = self.rows.get(&key).and_then(|row| payload(row)).map(|row| row["agent"].clone()) else { return false };
        let at_least = |field: &str| {
            let at = agent[field].as_str().and_then(|text| text.parse::<Timestamp>().ok());
            at.is_some_and(|at| facts.surveyed_ms.is_some_and(|ms| at.as_millisecond() >= ms))
        };
        at_least("last_survey_at") || at_least("removed_at")
    }

    /// Nothing is told of settings. The row of the organization says those of the newest event that was decided, of two
    /// of one time those of either.
    fn has_not_set(&self, facts: &Facts) -> Option<String> {
        let decided = self.decided.iter().map(|number| &self.sent[*number]);
        let of_tenant: Vec<&Facts> = decided.filter(|other| other.kind == Kind::Organization && other.tenant == facts.tenant).collect();
        let newest = of_tenant.iter().map(|other| other.at).max()?;
        let row = self.rows.get(format!("g/{}", facts.tenant).as_bytes()).and_then(|row| payload(row)).unwrap_or_default();
        let set_at = row["settings_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let said = |other: &&&Facts| {
            let event = serde_json::from_slice::<Value>(&other.message.body).unwrap_or_default();
            says(&row["settings"], &event["data"])
        };
        if set_at != Some(newest) {
            return Some(format!("ignored: settings are of {set_at:?}, not {newest}:"));
        }
        let found = of_tenant.iter().filter(|other| other.at == newest).find(said);
        found.is_none().then(|| format!("ignored: the settings are {}:", row["settings"]))
    }

    /// 11 and 21: only what is durable is handed to the broker.
    pub fn handed_over(&mut self, life: u64, message: &Message) {
        if self.failure_known == Some(life) {
            self.violation(format!("21: {:?} is published after a storage error", message.message_id));
        }
        let identity = identity(message);
        if self.standing.get(&identity).is_none_or(|standing| *standing == 0) {
            self.violation(format!("11: {:?} is published without a durable row", message.message_id));
        } else if self.ever.get(&identity).is_some_and(|row| row != message) {
            self.violation(format!("12: {:?} is not published as its row says", message.message_id));
        }
    }

    pub fn confirmed(&mut self, message: &Message) {
        self.confirmed.insert(identity(message));
    }

    pub fn not_taken(&mut self, message: &Message) {
        self.not_taken.extend(message.message_id.clone());
    }

    /// 2 and 12, at the subscriber. What the broker has not taken may be overtaken; whoever waits for what is next in
    /// sequence gets that all the same, in order.
    pub fn arrived(&mut self, message: &Message) {
        if message.exchange.is_empty() {
            if !self.arrived_dead.insert(identity(message)) {
                self.copies += 1;
            }
            return;
        }
        let id = message.message_id.clone().unwrap_or_default();
        match self.arrived.get(&id) {
            Some(body) => {
                self.copies += 1;
                if *body != message.body {
                    self.violation(format!("12: two copies of {id} differ"));
                }
            }
            None => {
                self.messages += 1;
                self.arrived.insert(id.clone(), message.body.clone());
            }
        }
        let Some((subject, sequence)) = id.rsplit_once(':').and_then(|(subject, number)| Some((subject, number.parse::<u64>().ok()?)))
        else {
            self.violation(format!("{id}: not an id of the service"));
            return;
        };
        let next = self.last.get(subject).copied().unwrap_or(0) + 1;
        if sequence > next && !self.not_taken.contains(&format!("{subject}:{next}")) {
            self.violation(format!("2: {subject}: {sequence} came where {next} was due"));
        }
        if sequence == next {
            self.last.insert(subject.to_owned(), next);
        }
        let highest = self.highest.entry(subject.to_owned()).or_default();
        *highest = sequence.max(*highest);
    }

    /// Whether an event has had its effect and would be known again.
    pub fn lives_on(&self, number: usize) -> bool {
        !self.dead.contains(&number) && self.has_effect(number)
    }

    /// What is still open in the durable rows; empty when everything has settled. `parked` counts only if asked for.
    pub fn unsettled(&self) -> Vec<String> {
        let mut open = Vec::new();
        for (prefix, what) in
            [(keys::OUTBOX, "outbox rows"), (keys::OPEN_ATTEMPTS, "subjects with an attempt in the field"), (keys::PARKED, "parked events")]
        {
            let count = self.rows.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)).count();
            if count > 0 {
                open.push(format!("{count} {what}"));
            }
        }
        let ahead = self.highest.iter().filter(|(subject, highest)| self.last.get(*subject) != Some(highest));
        open.extend(ahead.map(|(subject, highest)| format!("{subject}: {highest} has come, and not all before it in order")));
        open
    }

    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// When all is quiet: everything that was decided has been told, everything sent has its one effect.
    pub fn close(&mut self, delivered: &BTreeSet<usize>) {
        let untold: Vec<String> = self
            .ever
            .iter()
            .filter(|(identity, message)| {
                let there = if message.exchange.is_empty() {
                    self.arrived_dead.contains(*identity)
                } else {
                    identity.0.as_ref().is_some_and(|id| self.arrived.contains_key(id))
                };
                !there
            })
            .map(|(identity, _)| format!("11: {:?} never arrived", identity.0))
            .collect();
        for what in untold {
            self.violation(what);
        }
        for number in delivered.iter().copied() {
            if !self.has_effect(number) {
                let what = format!("8: event {number} {:?} is acked and has no effect", self.sent[number].kind);
                self.violation(what);
            }
        }
        let reasons: Vec<(usize, String)> = self
            .ever
            .values()
            .filter(|message| message.exchange.is_empty())
            .filter_map(|message| Some((*self.by_body.get(&message.body)?, reason(message))))
            .collect();
        for (number, reason) in reasons {
            let facts = &self.sent[number];
            if !facts.may_die_of.contains(&reason.as_str()) {
                let what = format!("10: event {number} {:?} {} is a dead letter for {reason}", facts.kind, facts.id);
                self.violation(what);
            }
        }
        // 15: at most one timer a subject, and the subject is there
        let mut timers: BTreeSet<Vec<u8>> = BTreeSet::new();
        let keys: Vec<Vec<u8>> = self.rows.keys().filter(|key| key.starts_with(keys::TIMERS)).cloned().collect();
        for key in keys {
            // t/<16 digits>/<tenant and subject>, as in s/<tenant and subject>
            let subject = key.get(19..).unwrap_or_default().to_vec();
            if !self.rows.contains_key(&[keys::SUBJECTS, &subject].concat()) {
                self.violation(format!("15: a timer for nobody: {}", String::from_utf8_lossy(&key)));
            }
            if !timers.insert(subject) {
                self.violation(format!("15: two timers for {}", String::from_utf8_lossy(&key)));
            }
        }
    }
}

fn reason(message: &Message) -> String {
    let found = message.headers.iter().find(|(name, _)| name == "reason");
    match found {
        Some((_, HeaderValue::Text(text))) => text.clone(),
        _ => String::new(),
    }
}

fn identity(message: &Message) -> Identity {
    // dead letters of one message differ by the time at which it died
    let failed_at = message.headers.iter().find(|(name, _)| name == "failed-at").map(|(_, at)| format!("{at:?}"));
    (message.message_id.clone().or(failed_at), message.body.clone())
}

/// 20: who decided, in the batch of the decision.
fn audited(batch: &Batch, facts: &Facts) -> bool {
    let prefix = format!("a/{}/", facts.tenant).into_bytes();
    batch
        .writes
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .filter_map(|(_, row)| payload(row.as_ref()?))
        .any(|row| row["event_id"] == *facts.id && row["actor"]["role"] == *facts.role && !row["outcome"].is_null())
}

/// Whether a record says all that an event says.
fn says(record: &Value, event: &Value) -> bool {
    match event {
        Value::Object(fields) => fields.iter().all(|(name, value)| says(&record[name], value)),
        _ => record == event,
    }
}

/// The JSON of a record, behind its version and checksum.
fn payload(row: &[u8]) -> Option<Value> {
    serde_json::from_slice(row.get(5..)?).ok()
}

fn short_hash(parts: &[&[u8]]) -> [u8; 16] {
    let whole = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
    let mut short = [0; 16];
    short.copy_from_slice(&whole[..16]);
    short
}

fn inbox_key(facts: &Facts) -> Vec<u8> {
    let mut key = format!("i/{}/", facts.tenant).into_bytes();
    key.extend_from_slice(&short_hash(&[super::people::SOURCE.as_bytes(), &[0], facts.id.as_bytes()]));
    key
}
