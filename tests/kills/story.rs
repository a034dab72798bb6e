//! The stories that are told to the service, one report each, from its arrival to its closing. A story says the next
//! thing when it has heard what came of the last one, so that each event is needed and none is sent for safety.
//!
//! Never here: the broker, the ledger, a judgement.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use remedyd::machine::policy::mix;
use remedyd::model::time::Timestamp;
use serde_json::{Value, json};

use super::ledger::{Fate, Sending, digest};
use crate::outside::{STRUCTURED, Sent};

/// Chance from a seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// 0 to `below` - 1.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % below
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.roll(100) < chance
    }
}

/// A message and what has to come of it.
pub struct Message {
    pub sending: Sending,
    pub sent: Sent,
}

/// What stories share: numbers, time.
pub struct Teller {
    pub dice: Dice,
    /// Unique over installations on one broker.
    source: String,
    next_report: u64,
    /// Milliseconds; of what is said next.
    clock: i64,
    /// The latest time that anything was dated with.
    pub latest: i64,
    said: u64,
    /// Stories of identities need time to pass, which is ours to say only in virtual time.
    pub with_identities: bool,
}

const MINUTE: i64 = 60_000;

impl Teller {
    pub fn new(seed: u64, source: &str, with_identities: bool) -> Self {
        let clock = remedyd::model::time::system_now().as_millisecond();
        Self { dice: Dice::new(seed), source: source.into(), next_report: 1, clock, latest: clock, said: 0, with_identities }
    }

    pub fn begin(&mut self) -> Story {
        let number = self.next_report;
        self.next_report += 1;
        // pairs of tenants share their reports' ids, which must not mix
        let (report, tenant) = (number.div_ceil(2), format!("{}.{}", 5 + number % 2, 4 + (number / 2) % 3));
        let identity = self.with_identities && self.dice.percent(30);
        Story {
            tenant,
            report,
            agent: (!identity).then_some(report),
            step: Step::Unsent,
            awaited: Vec::new(),
            tasks: BTreeMap::new(),
            phase: String::new(),
            moved: false,
            last_survey: 0,
            asked_early: false,
        }
    }

    /// Virtual days pass.
    pub fn jump(&mut self, days: i64) {
        self.clock = self.latest + days * 24 * 60 * MINUTE;
        self.latest = self.clock;
    }

    fn tick(&mut self) -> i64 {
        self.clock += 100;
        self.latest = self.latest.max(self.clock);
        self.clock
    }

    fn message(&mut self, kind: &str, tenant: &str, at: i64, data: Value, fate: Fate) -> Message {
        self.said += 1;
        let id = format!("{}-{}", self.source, self.said);
        self.latest = self.latest.max(at);
        let event = json!({
            "specversion": "1.0", "id": id, "source": self.source, "type": kind, "time": text(at), "tenantid": tenant,
            "datacontenttype": "application/json", "data": data,
        });
        let body = event.to_string().into_bytes();
        let sending = Sending { id, kind: kind.into(), tenant: tenant.into(), digest: digest(&body), fate };
        Message { sending, sent: Sent::structured(&body) }
    }

    /// What no decoder takes.
    pub fn rubbish(&mut self) -> Message {
        self.rubbish_of(0)
    }

    /// The same at nearly the size at which a message would be refused unread.
    pub fn large_rubbish(&mut self) -> Message {
        self.rubbish_of(200 * 1024)
    }

    fn rubbish_of(&mut self, bytes: usize) -> Message {
        self.said += 1;
        let id = format!("{}-rubbish-{}", self.source, self.said);
        let body = format!("{{\"id\": {id}, {}", " ".repeat(bytes)).into_bytes();
        let fate = Fate::Refused { reason: "malformed".into() };
        let sending = Sending { id, kind: "rubbish".into(), tenant: "5.4".into(), digest: digest(&body), fate };
        let sent = Sent { routing_key: "rubbish.5.4".into(), content_type: Some(STRUCTURED.into()), headers: Vec::new(), body };
        Message { sending, sent }
    }

    /// The same message once more.
    pub fn duplicate(&self, message: &Message) -> Message {
        Message { sending: Sending { fate: Fate::Duplicate, ..message.sending.clone() }, sent: message.sent.clone() }
    }

    /// Another event under the id of one that has been applied.
    pub fn reuse(&self, of: &Message) -> Message {
        let mut event: Value = serde_json::from_slice(&of.sent.body).unwrap();
        event["data"]["comment"] = json!("something else under the same id");
        let body = event.to_string().into_bytes();
        let fate = Fate::Refused { reason: "id_reused".into() };
        Message { sending: Sending { digest: digest(&body), fate, ..of.sending.clone() }, sent: Sent::structured(&body) }
    }

    /// A survey of a host that nothing is wrong with: virtual time goes on by what is left of any lease.
    pub fn time_passes(&mut self) -> Message {
        let at = self.latest + 11 * MINUTE;
        self.survey("5.4", 1_000_000, at)
    }

    fn survey(&mut self, tenant: &str, agent: u64, at: i64) -> Message {
        let data = json!({ "agent_id": agent, "surveyed_at": text(at), "hostname": format!("HOST-{agent}"), "platform": "windows", "agent_version": "0.14.2" });
        self.message("agent.surveyed", tenant, at, data, Fate::Observed)
    }
}

fn text(at: i64) -> String {
    Timestamp::from_millisecond(at).unwrap().to_string()
}

/// How far a story is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Unsent,
    /// What came of the report's arrival is awaited; and so on.
    Created,
    Discussed,
    Approved,
    Working,
    Resolving,
    Closed,
}

/// A report on its way.
pub struct Story {
    pub tenant: String,
    pub report: u64,
    agent: Option<u64>,
    step: Step,
    /// Causes and types of outbound events that have to come before the next step.
    awaited: Vec<(String, String)>,
    /// Remediation to type and state.
    tasks: BTreeMap<u64, (String, String)>,
    phase: String,
    /// A task has moved since the last survey.
    moved: bool,
    last_survey: i64,
    asked_early: bool,
}

impl Story {
    pub fn is_closed(&self) -> bool {
        self.step == Step::Closed
    }

    /// For a person who looks at a story that does not end.
    pub fn tell(&self) -> String {
        format!(
            "{} {}: {:?}, awaits {:?}, {:?}, phase {}, moved {}",
            self.tenant, self.report, self.step, self.awaited, self.tasks, self.phase, self.moved
        )
    }

    /// Takes an outbound event about this report.
    pub fn hear(&mut self, event: &Value) {
        let (cause, kind, data) = (event["causationid"].as_str().unwrap(), event["type"].as_str().unwrap(), &event["data"]);
        self.awaited.retain(|(awaited, of)| awaited != cause || of != kind);
        let to = data["to"].as_str().unwrap_or_default().to_owned();
        match kind {
            "remediation.status_changed" => {
                self.tasks.insert(data["remediation_id"].as_u64().unwrap(), (data["type"].as_str().unwrap().into(), to));
                self.moved = true;
            }
            "incident_report.phase_changed" => self.phase = to,
            "incident_report.status_changed" => {
                self.phase = data["phase"].as_str().unwrap_or_default().into();
                if to == "closed" {
                    self.step = Step::Closed;
                }
            }
            _ => {}
        }
    }

    /// Whether only the passing of time moves it on: the lease or the pause of a task that nobody surveys.
    pub fn needs_time(&mut self) -> bool {
        let waits = self.agent.is_none() && self.step == Step::Working && self.moved && self.open("delivered") == 0 && self.waiting() > 0;
        if waits {
            self.moved = false;
        }
        waits
    }

    fn open(&self, wanted: &str) -> usize {
        self.tasks.values().filter(|(kind, state)| kind != "manual" && state == wanted).count()
    }

    fn waiting(&self) -> usize {
        let waits: &[&str] =
            if self.agent.is_some() { &["queued", "held", "retry_wait", "outcome_unknown"] } else { &["retry_wait", "outcome_unknown"] };
        waits.iter().map(|state| self.open(state)).sum()
    }

    /// What it says next.
    pub fn next(&mut self, teller: &mut Teller) -> Vec<Message> {
        if !self.awaited.is_empty() {
            return Vec::new();
        }
        let mut said = Vec::new();
        match self.step {
            Step::Unsent => {
                self.step = Step::Created;
                let data = self.arrival(teller);
                self.say(
                    teller,
                    &mut said,
                    "incident_report.created",
                    data,
                    &["incident_report.triaged", "incident_report.status_changed", "remediation.status_changed"],
                );
            }
            Step::Created => {
                self.step = Step::Discussed;
                let comment = json!({ "incident_report_id": self.report, "comment": "We are watching this." });
                self.say(teller, &mut said, "incident_report.comment_added", comment, &["incident_report.comment_added"]);
                if teller.dice.percent(40) {
                    let data = self.asked("read_only", json!({ "plan_revision": 1 }));
                    self.say(teller, &mut said, "remediations.approved", data, &["request.refused"]);
                }
                if teller.dice.percent(40) {
                    self.asked_early = true;
                    let data = self.asked("security_engineer", json!({ "reason": "looks done" }));
                    self.say(teller, &mut said, "incident_report.resolution_requested", data, &["incident_report.resolution_refused"]);
                }
            }
            Step::Discussed => {
                self.step = Step::Approved;
                let data = self.asked("user", json!({ "plan_revision": 1 }));
                self.say(teller, &mut said, "remediations.approved", data, &["remediation.status_changed"]);
            }
            Step::Approved => {
                self.step = Step::Working;
                if teller.dice.percent(50) {
                    let data = self.asked("user", json!({ "remediation_id": 3 }));
                    self.say(teller, &mut said, "remediation.completed", data, &["remediation.status_changed"]);
                }
            }
            Step::Working => self.work(teller, &mut said),
            Step::Resolving | Step::Closed => {}
        }
        said
    }

    fn work(&mut self, teller: &mut Teller, said: &mut Vec<Message>) {
        let given_up: Vec<u64> =
            self.tasks.iter().filter(|(_, (_, state))| state == "failed" || state == "expired").map(|(id, _)| *id).collect();
        for id in given_up {
            let data = self.asked("user", json!({ "remediation_id": id, "reason": "once more" }));
            self.say(teller, said, "remediation.retry_requested", data, &["remediation.status_changed"]);
        }
        if !said.is_empty() {
            return;
        }
        if self.phase == "ready" {
            self.step = Step::Resolving;
            let data = self.asked("security_engineer", json!({ "reason": "done" }));
            self.say(teller, said, "incident_report.resolution_requested", data, &["incident_report.status_changed"]);
            return;
        }
        let Some(agent) = self.agent.filter(|_| self.moved && self.open("delivered") == 0 && self.waiting() > 0) else { return };
        self.moved = false;
        // ten times the interval at which agents are set to survey: longer than any pause between attempts
        let at = teller.tick().max(self.last_survey + 10 * MINUTE);
        self.last_survey = at;
        said.push(teller.survey(&self.tenant, agent, at));
    }

    fn say(&mut self, teller: &mut Teller, said: &mut Vec<Message>, kind: &str, data: Value, effects: &[&str]) {
        let at = teller.tick();
        let effects: Vec<String> = effects.iter().map(ToString::to_string).collect();
        let fate = Fate::Applied { effects: effects.clone(), report: self.report };
        let message = teller.message(kind, &self.tenant, at, data, fate);
        self.awaited.extend(effects.into_iter().map(|effect| (message.sending.id.clone(), effect)));
        said.push(message);
    }

    pub fn awaits(&self, cause: &str) -> bool {
        self.awaited.iter().any(|(awaited, _)| awaited == cause)
    }

    fn asked(&self, role: &str, more: Value) -> Value {
        let mut data = json!({ "incident_report_id": self.report, "actor": { "id": 31, "name": "Somebody", "email": "somebody@msp.example", "role": role } });
        data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        data
    }

    fn arrival(&self, teller: &mut Teller) -> Value {
        let at = text(teller.clock);
        let tenant: Vec<u64> = self.tenant.split('.').map(|part| part.parse().unwrap()).collect();
        let manual = json!({ "id": 3, "type": "manual", "action": "Rotate the administrator password", "status": "unapproved" });
        let (about, items, footholds) = match self.agent {
            Some(agent) => (
                json!({ "agent_id": agent, "platform": "windows", "host": { "hostname": format!("HOST-{agent}") }, "attack_kind": "malware_persistence" }),
                json!([
                    { "id": 1, "type": "assisted", "action": "Delete Scheduled Task", "status": "unapproved", "parameters": [{ "name": "task", "description": "\\OneDriveSync" }] },
                    { "id": 2, "type": "assisted", "action": "Quarantine File", "status": "unapproved", "parameters": [{ "name": "path", "description": "C:\\svc.exe" }] },
                    manual,
                ]),
                json!([{ "id": "fh-1", "kind": "scheduled_task", "description": "starts powershell at logon", "remediation_ids": [1] }]),
            ),
            None => (
                json!({ "agent_id": null, "platform": "microsoft_365", "identity": { "id": self.report, "name": format!("user{}@org.example", self.report) }, "attack_kind": "identity_compromise" }),
                json!([{ "id": 1, "type": "assisted", "action": "Revoke Sessions", "status": "unapproved" }, manual]),
                json!([]),
            ),
        };
        let mut report = json!({
            "id": self.report, "account_id": tenant[0], "organization_id": tenant[1], "severity": "high", "status": "sent",
            "subject": "HIGH - Incident", "summary": "Something starts at logon.", "body": "Something starts at logon.",
            "indicator_types": ["footholds"], "created_at": at, "sent_at": at, "status_updated_at": at, "updated_at": at,
            "remediations": { "total_count": items.as_array().unwrap().len(), "has_more": false, "items": items },
            "plan_revision": 1, "footholds": footholds, "isolate_host": false, "simulated": false,
        });
        report.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
        json!({ "incident_report": report })
    }
}
