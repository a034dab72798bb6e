//! A flood of random events over many tenants, in virtual time, through a whole partition on the memory store. Judged
//! from what is published and from the rows, never from what the code says of itself.
//!
//! `FLOOD_EVENTS` says how many (`make flood`: 1,000,000 with optimisation), `FLOOD_SEED` which.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use remedyd::agent::simulated::Model;
use remedyd::broker::{Lane, Message, Token};
use remedyd::machine::policy::{Policy, mix};
use remedyd::model::ids::ReportId;
use remedyd::model::remediation::{Cancellation, State};
use remedyd::model::report::ReportStatus;
use remedyd::model::time::{Timestamp, days};
use remedyd::pipeline::clock::Clock;
use remedyd::pipeline::partition::{Partition, PartitionSettings};
use remedyd::pipeline::verify::verify;
use remedyd::pipeline::{reading, recovery, rows};
use remedyd::store::memory::MemoryStore;
use remedyd::store::{Store, keys};
use serde_json::{Value, json};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANTS: u64 = 500;
const AGENTS: u64 = 8;
/// Reports of one tenant that requests may still be about.
const RECENT: u64 = 12;
/// Decided into one commit, as the engine does under load.
const EVENTS_A_BATCH: u64 = 16;
/// Enough for every kind of event to meet every state in the ordinary run of the tests.
const ORDINARY: u64 = 20_000;

#[test]
fn no_invariant_breaks_in_a_flood() {
    let number = |name: &str, default| std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"));
    let (events, seed) = (number("FLOOD_EVENTS", ORDINARY), number("FLOOD_SEED", 1));
    let mut flood = Flood::new(seed);
    let (began, quarter) = (Instant::now(), (events / 4).max(1));
    let mut resident = Vec::new();
    for n in 1..=events {
        flood.one(n);
        if n % quarter == 0 {
            resident.push(resident_kib());
        }
    }
    flood.settle();
    flood.judge_rows();
    let count = flood.partition.counters().count();
    assert!(count.balances(), "{count:?}");
    assert_eq!(count.events_in, events);
    // A million events are some 80 days, and after 37 nothing that is over is in the store any more: what is known again
    // (7 days), what can be opened again (30), the audit as it is set here (30). Stubs of archived reports stay.
    let (second, last) = (resident[1], *resident.last().expect("a quarter"));
    assert!(last * 4 < second * 5 + 65_536, "memory grows: {resident:?} KiB by quarter");
    println!(
        "flood: seed {seed}, {events} events of {TENANTS} tenants in {:.1} s; {} published, {} attempts, {} timers, {} refused, {} dead letters; \
         closed {}, archived {}, memory {resident:?} KiB by quarter; no invariant broken",
        began.elapsed().as_secs_f64(),
        count.published,
        count.attempts,
        count.timers_fired,
        count.refused + count.resolutions_refused,
        count.dead_lettered,
        flood.resolved,
        flood.archived,
    );
    assert!(flood.resolved > 0 && count.attempts > 0 && count.refused > 0 && count.dead_lettered > 0, "the flood was too thin: {count:?}");
}

struct Flood {
    store: Arc<MemoryStore>,
    partition: Partition<MemoryStore>,
    dice: u64,
    /// Virtual milliseconds.
    now: i64,
    /// Reports created so far, by tenant.
    created: Vec<u64>,
    /// Reports that have had their time, tenant and id: the SOC withdraws them, so that the flood has a steady state.
    withdrawn: Vec<(u64, u64)>,
    last: Vec<u8>,
    /// Per subject the last sequence that was published.
    sequences: HashMap<String, u64>,
    resolved: u64,
    /// Lines that went to the archive.
    archived: u64,
}

impl Flood {
    fn new(seed: u64) -> Self {
        let settings = PartitionSettings {
            clock: Clock::EVENTS,
            policy: Policy::default(),
            model: Model::Seeded { seed },
            dead_letter_queue: "dead".into(),
            status_exchange: "status".into(),
            audit_kept: days(30),
        };
        let store = Arc::new(MemoryStore::new());
        let (partition, outbox) = recovery::open(Arc::clone(&store), settings).expect("an empty store");
        assert!(outbox.is_empty());
        let created = vec![0; TENANTS as usize];
        let now = 1_795_000_000_000;
        Self {
            store,
            partition,
            dice: mix(seed),
            now,
            created,
            withdrawn: Vec::new(),
            last: Vec::new(),
            sequences: HashMap::new(),
            resolved: 0,
            archived: 0,
        }
    }

    fn throw(&mut self, faces: u64) -> u64 {
        self.dice = mix(self.dice);
        self.dice % faces
    }

    /// One event, and all that follows from it.
    fn one(&mut self, n: u64) {
        self.now += 4_000 + self.throw(6_000) as i64;
        let body = if self.throw(100) == 0 && !self.last.is_empty() { self.last.clone() } else { self.event(n) };
        self.last.clone_from(&body);
        let message = Message { body, content_type: Some("application/cloudevents+json".into()), ..Message::default() };
        let decoded = rows::decode(&message);
        let token = Token { epoch: 1, lane: Lane::Reports, tag: n };
        self.partition.take_delivery(token, message, decoded).expect("the memory store");
        if n.is_multiple_of(EVENTS_A_BATCH) {
            self.settle();
        }
    }

    /// Commits, confirms and runs attempts until nothing is left to do.
    fn settle(&mut self) {
        loop {
            self.partition.advance(self.partition.now()).expect("the memory store");
            while let Some(due) = self.partition.next_outcome() {
                if !self.partition.advance(due).expect("the memory store") {
                    break;
                }
            }
            let Some(mut sealed) = self.partition.seal().expect("the memory store") else { return };
            self.store.commit(&sealed.batch).expect("commit");
            self.partition.committed(&sealed);
            let followers = std::mem::take(&mut sealed.followers);
            self.archived += self.store.disk().take_archive().len() as u64;
            let numbers: Vec<u64> = followers.outbox.iter().map(|(number, _)| *number).collect();
            for (_, row) in &followers.outbox {
                self.judge(&row.message);
            }
            self.partition.confirmed(&numbers);
            for (tenant, key, order) in followers.attempts {
                self.partition.run_attempt(tenant, key, order);
            }
        }
    }

    /// Invariant 2, and invariant 1 for each report that has just been resolved.
    fn judge(&mut self, message: &Message) {
        let Some((subject, sequence)) = message.message_id.as_deref().and_then(|id| id.rsplit_once(':')) else { return };
        if message.exchange.is_empty() {
            return;
        }
        let sequence: u64 = sequence.parse().expect("a sequence");
        let last = self.sequences.entry(subject.to_owned()).or_default();
        assert_eq!(sequence, *last + 1, "{subject} has a gap");
        *last = sequence;
        if message.routing_key.starts_with("incident_report.status_changed.") {
            let event: Value = serde_json::from_slice(&message.body).expect("JSON");
            if event["data"]["cause"] == "resolved" {
                self.resolved += 1;
                let tenant = event["tenantid"].as_str().expect("a tenant").parse().expect("a tenant");
                let id = ReportId(event["data"]["incident_report_id"].as_u64().expect("an id"));
                let stored = reading::report(self.store.as_ref(), tenant, id).expect("readable").expect("there");
                // a later event of the same batch may have opened it again
                if stored.report.status == ReportStatus::Closed {
                    for item in stored.report.remediations.iter().filter(|item| item.kind.is_task()) {
                        let current = item.revision == stored.report.plan_revision;
                        let done =
                            matches!(item.state, State::Completed | State::Cancelled(Cancellation::Rejected | Cancellation::Superseded));
                        assert!(!item.state.is_in_the_field() || item.waived, "closed with a task in the field: {item:?}");
                        assert!(!current || done || item.waived, "closed with an open task: {item:?}");
                    }
                }
            }
        }
    }

    /// Invariants 11 and 15: no outbox row is left, and there is a timer row for what is due next. The rest is what
    /// `store verify` looks at.
    fn judge_rows(&mut self) {
        let findings = verify(self.store.as_ref()).expect("readable");
        assert!(findings.wrong.is_empty(), "{} wrong, such as {:#?}", findings.wrong.len(), findings.wrong.first());
        assert!(self.store.scan(keys::OUTBOX, &[], 1).expect("scan").is_empty(), "confirmed rows are left");
        assert!(self.store.scan(keys::OPEN_ATTEMPTS, &[], 1).expect("scan").is_empty(), "attempts are left open");
        let first = self.store.scan(keys::TIMERS, &[], 1).expect("scan");
        let first = first.first().map(|(key, _)| keys::timer_parts(key).expect("a timer key").0);
        let due = self.partition.next_due().expect("agents are looked after for ever");
        assert!(first.is_some_and(|first| first >= due && first > self.partition.now()), "{first:?} {due:?}");
    }

    fn event(&mut self, n: u64) -> Vec<u8> {
        let withdrawn = self.withdrawn.pop();
        let tenant = withdrawn.map_or_else(|| self.throw(TENANTS), |(tenant, _)| tenant);
        let created = self.created[tenant as usize];
        let report = 1 + created.saturating_sub(1 + self.throw(RECENT));
        let agent = 1 + self.throw(AGENTS);
        let role = ["admin", "admin", "security_engineer", "user", "read_only"][self.throw(5) as usize];
        let item = 1 + self.throw(4);
        let revision = 1 + self.throw(2);
        let actor = json!({ "id": 1, "role": role });
        let on_report = json!({ "incident_report_id": report, "reason": "because", "actor": actor });
        let on_item = json!({ "incident_report_id": report, "remediation_id": item, "reason": "because", "actor": actor });
        let on_plan = json!({ "incident_report_id": report, "plan_revision": revision, "comment": "no", "useful": true, "actor": actor });
        let on_agent = json!({ "agent_id": agent, "reason": "because", "force": self.throw(4) == 0, "actor": actor });
        let time = Timestamp::from_millisecond(self.now).expect("in range").to_string();
        let (kind, data) = match self.throw(1_000) {
            _ if withdrawn.is_some() => {
                ("incident_report.dismissed", json!({ "incident_report_id": withdrawn.map(|(_, id)| id), "reason": "old" }))
            }
            0..500 => ("agent.surveyed", json!({ "agent_id": agent, "surveyed_at": time, "hostname": "h", "platform": "windows" })),
            500..560 => {
                self.created[tenant as usize] += 1;
                if created >= RECENT {
                    self.withdrawn.push((tenant, created + 1 - RECENT));
                }
                ("incident_report.created", self.created_data(tenant, agent, created + 1, &time))
            }
            560..680 => ("remediations.approved", on_plan),
            680..700 => ("remediations.rejected", on_plan),
            700..730 => (
                "incident_report.revised",
                json!({ "incident_report_id": report, "plan_revision": revision + 1, "remediations": self.plan() }),
            ),
            730..820 => ("incident_report.resolution_requested", on_report),
            820..860 => ("remediation.completed", on_item),
            860..890 => ("remediation.retry_requested", on_item),
            890..905 => ("remediation.cancel_requested", on_item),
            905..925 => ("remediation.waived", on_item),
            925..935 => ("incident_report.dismissed", on_report),
            935..945 => ("incident_report.dismissal_requested", on_report),
            945..955 => ("incident_report.closed", json!({ "incident_report_id": report, "status_updated_at": time })),
            955..965 => ("incident_report.reopen_requested", on_report),
            965..972 => ("agent.isolation_requested", on_agent),
            972..980 => ("agent.release_requested", on_agent),
            980..985 => {
                ("incident_report.updated", json!({ "incident_report_id": report, "severity": self.severity(), "updated_at": time }))
            }
            985..987 => ("agent.removed", json!({ "agent_id": agent })),
            987..992 => (
                "organization.updated",
                json!({ "resolve_when_unblocked": self.throw(2) == 0, "managed_response": { "low": true }, "release_on_resolve": self.throw(2) == 0,
                    "sla": { "critical_minutes": 5 + self.throw(20) } }),
            ),
            992..996 => ("no.such.type", json!({})),
            _ => ("remediations.approved", json!({ "incident_report_id": "x" })),
        };
        let event = json!({ "specversion": "1.0", "id": format!("e{n}"), "source": "flood", "type": kind, "time": time,
            "tenantid": format!("1.{}", tenant + 1), "data": data });
        serde_json::to_vec(&event).expect("JSON")
    }

    fn severity(&mut self) -> &'static str {
        ["low", "high", "critical"][self.throw(3) as usize]
    }

    fn created_data(&mut self, tenant: u64, agent: u64, id: u64, time: &str) -> Value {
        let report = json!({ "id": id, "account_id": 1, "organization_id": tenant + 1, "agent_id": agent, "platform": "windows",
            "severity": self.severity(), "status": "sent", "subject": "s", "summary": "s", "body": "b", "sent_at": time,
            "updated_at": time, "status_updated_at": time, "remediations": self.plan(), "isolate_host": self.throw(10) == 0,
            "simulated": self.throw(20) == 0,
            "footholds": [{ "id": format!("fh-{id}"), "kind": "file", "description": "d", "remediation_ids": [1] }] });
        json!({ "incident_report": report })
    }

    /// Up to four items; the first is always a task.
    fn plan(&mut self) -> Value {
        const ACTIONS: [&str; 6] = ["Delete File", "Kill Process", "Delete Service", "Reboot Host", "Uninstall Program", "Isolate Host"];
        let items: Vec<Value> = (1..=1 + self.throw(4))
            .map(|id| {
                let action = ACTIONS[self.throw(ACTIONS.len() as u64) as usize];
                match self.throw(10) {
                    0..3 if id > 1 => json!({ "id": id, "type": "manual", "action": format!("Call number {id}") }),
                    3 => json!({ "id": id, "type": "containment", "action": action, "parameters": format!("target {id}") }),
                    _ => json!({ "id": id, "type": "assisted", "action": action,
                        "parameters": [{ "name": "target", "description": format!("target {id}") }] }),
                }
            })
            .collect();
        json!({ "total_count": items.len(), "has_more": false, "items": items })
    }
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4
}
