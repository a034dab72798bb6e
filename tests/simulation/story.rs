//! The story: what the published events say, in the order of their decisions, held against the tables of lifecycle.md.
//! It knows what people and the SOC have sent and what it has been told before; of the records and the rules of the
//! service it knows nothing, and so can contradict them.

use std::collections::{BTreeMap, BTreeSet};

use remedyd::model::time::Timestamp;
use serde_json::Value;

use super::facts::{Facts, Kind, may_conclude, may_work};

const MAX_ATTEMPTS: u64 = 5;

/// An outbound event, as far as the story needs it.
#[derive(Debug)]
pub struct Told {
    pub tenant: String,
    pub subject: String,
    pub sequence: u64,
    pub kind: String,
    pub cause: String,
    pub data: Value,
}

impl Told {
    pub fn read(event: &Value) -> Self {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        Self {
            tenant: text("tenantid"),
            subject: text("subject"),
            sequence: text("sequence").parse().unwrap_or(0),
            kind: text("type"),
            cause: text("causationid"),
            data: event["data"].clone(),
        }
    }

    fn text(&self, name: &str) -> &str {
        self.data[name].as_str().unwrap_or_default()
    }

    pub fn line(&self) -> String {
        format!("{} {}#{} {}", self.tenant, self.subject, self.sequence, self.without_number())
    }

    /// What is told, without where it stands in its subject's sequence.
    pub fn without_number(&self) -> String {
        let item = self.data["remediation_id"].as_u64().map_or(String::new(), |id| format!(" {}/{id}", self.data["plan_revision"]));
        let moved = if self.data["to"].is_string() { format!(" {} -> {}", self.text("from"), self.text("to")) } else { String::new() };
        let code = self.text("code");
        format!("{}{item}{moved} {code} by {}", self.kind, self.cause)
    }
}

#[derive(Debug, Clone, Default)]
struct Item {
    state: String,
    kind: String,
    waived: bool,
    attempt: u64,
    /// Somebody who may has approved this revision of it, or nobody needs to.
    consented: bool,
    /// The batch in which it was delivered.
    delivered_in: u64,
    attempt_id: String,
}

impl Item {
    fn is_task(&self) -> bool {
        self.kind != "manual"
    }
}

#[derive(Debug, Clone, Default)]
struct Report {
    status: String,
    told_phase: String,
    revision: u64,
    in_revision: bool,
    agent: Option<u64>,
    /// How new what the SOC has said of it is: its text, and its end.
    updated_at: Option<Timestamp>,
    status_updated_at: Option<Timestamp>,
    items: BTreeMap<Numbers, Item>,
}

impl Report {
    fn is_open(&self) -> bool {
        matches!(self.status.as_str(), "sent" | "auto_remediating")
    }

    /// What keeps it from being resolved, by invariant 1 and the gate's paragraph: (id, revision), ordered.
    fn blocking(&self) -> Vec<(u64, u64)> {
        let blocks = |(revision, _): &(u64, u64), item: &Item| match item.state.as_str() {
            "delivered" | "outcome_unknown" => true,
            "reboot_pending" => !item.waived,
            _ if *revision != self.revision => false,
            "unapproved" | "queued" | "held" | "retry_wait" => true,
            "failed" | "expired" | "cancelled:requested" => !item.waived,
            _ => false,
        };
        let mut ids: Vec<_> =
            self.items.iter().filter(|(key, item)| blocks(key, item)).map(|((revision, id), _)| (*id, *revision)).collect();
        ids.sort_unstable();
        ids
    }

    fn phase(&self) -> &'static str {
        let current = |wanted: &[&str]| {
            self.items
                .iter()
                .any(|((revision, _), item)| *revision == self.revision && !item.waived && wanted.contains(&item.state.as_str()))
        };
        if self.in_revision {
            "in_revision"
        } else if current(&["unapproved"]) {
            "awaiting_approval"
        } else if current(&["failed", "expired", "cancelled:requested"]) {
            "blocked"
        } else if self.blocking().is_empty() {
            "ready"
        } else {
            "remediating"
        }
    }
}

type Key = (String, u64);
/// Revision and number of an item.
type Numbers = (u64, u64);

#[derive(Debug, Default)]
pub struct Story {
    reports: BTreeMap<Key, Report>,
    /// Reports as they were before the batch under way.
    before: BTreeMap<Key, Option<Report>>,
    /// Reports that were not open at some time in it; they may be open again at its end.
    shut: BTreeSet<Key>,
    /// Agents that were not known or removed at some time in it.
    away: BTreeSet<Key>,
    /// Items that were waived at some time in it: report and number.
    waived: BTreeSet<(Key, u64)>,
    /// Items that somebody who may has asked to cancel in it, and the cancels that were refused or have cancelled at
    /// once: tenant and id of the event.
    cancel_asked: BTreeSet<(Key, u64)>,
    cancel_answered: BTreeSet<(String, String)>,
    /// Attempts that have begun in it: whose, and which.
    begun: Vec<(Key, Numbers, String)>,
    /// Attempts after which the task was to be tried again, or has failed for want of another try, in it.
    tried_again: BTreeSet<String>,
    sequences: BTreeMap<(String, String), u64>,
    /// Per agent the last presence and firewall status.
    presence: BTreeMap<Key, String>,
    firewall: BTreeMap<Key, String>,
    attempts: BTreeSet<String>,
    /// Alarms by report and cause.
    alarms: BTreeSet<(Key, String, String)>,
    /// Attempts during which somebody has cancelled their task (T19). False: during this one or another of the task.
    cancelled_in: BTreeMap<String, bool>,
    batch: u64,
    /// The decision under way: its cause, the reports that it has touched, and those that it has resolved.
    decision: String,
    touched: BTreeSet<Key>,
    resolved: BTreeSet<Key>,
    /// The agents that it has removed.
    removed: BTreeSet<Key>,
    pub counts: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
}

impl Story {
    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn begin_batch(&mut self, number: u64) {
        self.batch = number;
        self.before.clear();
        self.shut.clear();
        self.away.clear();
        self.waived.clear();
        self.cancel_asked.clear();
        self.cancel_answered.clear();
        self.begun.clear();
        self.tried_again.clear();
    }

    /// Somebody who may has asked to cancel a task. It is told with the end of the attempt, which may be in the same batch.
    pub fn asks_to_cancel(&mut self, facts: &Facts) {
        if let (Kind::Cancel, true, Some(report), Some(item)) = (facts.kind, may_work(facts.role), facts.report, facts.item) {
            self.cancel_asked.insert(((facts.tenant.to_owned(), report), item));
        }
    }

    pub fn tell(&mut self, told: &Told, cause: Option<&Facts>) {
        if told.cause != self.decision {
            self.end_decision();
            self.decision.clone_from(&told.cause);
        }
        let sequence = self.sequences.entry((told.tenant.clone(), told.subject.clone())).or_default();
        *sequence += 1;
        if *sequence != told.sequence {
            let what = format!("2: {} {} is told as {}, not {}", told.tenant, told.subject, told.sequence, *sequence);
            *sequence = told.sequence;
            self.violation(what);
        }
        if let Some(report) = told.data["incident_report_id"].as_u64().filter(|_| told.subject.starts_with("incident_reports/")) {
            let key = (told.tenant.clone(), report);
            let known = self.reports.get(&key).cloned();
            self.before.entry(key.clone()).or_insert(known);
            self.touched.insert(key.clone());
            self.about_report(&key, told, cause);
        } else if let Some(agent) = told.data["agent_id"].as_u64() {
            self.about_agent(&(told.tenant.clone(), agent), told, cause);
        }
    }

    fn about_agent(&mut self, key: &Key, told: &Told, cause: Option<&Facts>) {
        let (last, start) = match told.kind.as_str() {
            "agent.status_changed" => (self.presence.entry(key.clone()).or_default(), ""),
            "agent.isolation_changed" => (self.firewall.entry(key.clone()).or_default(), "Enabled"),
            _ => return,
        };
        if last.is_empty() {
            start.clone_into(last);
        }
        let (was, from) = (last.clone(), told.text("from").to_owned());
        told.text("to").clone_into(last);
        if was != from {
            self.violation(format!("7: {:?}: {} from {from}, but it was {was}", key, told.kind));
        }
        if told.kind == "agent.status_changed" {
            let removed = told.text("to") == "removed";
            if removed || matches!(from.as_str(), "" | "removed") {
                self.away.insert(key.clone());
            }
            if removed {
                self.count("agents removed");
                self.removed.insert(key.clone());
            }
            if removed && !cause.is_some_and(|cause| cause.kind == Kind::AgentRemoved && cause.agent == Some(key.1)) {
                self.violation(format!("A4: {key:?} is removed by {}", told.cause));
            }
        }
    }

    fn about_report(&mut self, key: &Key, told: &Told, cause: Option<&Facts>) {
        match told.kind.as_str() {
            "incident_report.status_changed" => self.status_changed(key, told, cause),
            "incident_report.phase_changed" => {
                let to = told.text("to").to_owned();
                self.report(key).told_phase = to;
            }
            "incident_report.resolution_refused" => self.resolution_refused(key, told, cause),
            "remediation.status_changed" => self.item_changed(key, told, cause),
            "request.refused" => {
                self.count("refused");
                self.cancel_answered.insert((told.tenant.clone(), told.cause.clone()));
                if !cause.is_some_and(|cause| cause.kind.is_request()) {
                    self.violation(format!("{key:?}: a refusal of what nobody asked: {}", told.cause));
                }
            }
            "incident_report.updated" => {
                self.count("updated");
                self.new_sla(key);
                let known = self.report(key).updated_at;
                let newer = cause.filter(|cause| cause.kind == Kind::Updated && known < Some(cause.at)).map(|cause| cause.at);
                self.report(key).updated_at = newer.or(known);
                if newer.is_none() {
                    self.violation(format!("R18, R19: {key:?}: updated by {}, but the SOC has said something newer", told.cause));
                }
            }
            "incident_report.reopened" => self.new_sla(key),
            // 15: what a timer has said it does not say again
            "on_call.paged" | "sla.warning" | "sla.breached" => {
                self.count("paged or warned");
                let said = (key.clone(), told.cause.clone(), format!("{} {}", told.kind, told.text("reason")));
                if !self.alarms.insert(said) {
                    self.violation(format!("15: {key:?}: {} {} again, by {}", told.kind, told.text("reason"), told.cause));
                }
            }
            "incident_report.comment_added" if cause.is_none_or(|cause| cause.kind != Kind::Comment) => {
                self.violation(format!("{key:?}: a comment of nobody"));
            }
            _ => {}
        }
    }

    /// A raised severity, a new plan and a reopening start a new SLA, whose deadline may be that of the old one.
    fn new_sla(&mut self, key: &Key) {
        self.alarms.retain(|(of, _, _)| of != key);
    }

    fn report(&mut self, key: &Key) -> &mut Report {
        self.reports.entry(key.clone()).or_default()
    }

    fn status_changed(&mut self, key: &Key, told: &Told, cause: Option<&Facts>) {
        let (from, to, why, phase) = (told.text("from"), told.text("to"), told.text("cause"), told.text("phase").to_owned());
        let report = self.report(key);
        let was = std::mem::replace(&mut report.status, to.to_owned());
        let shut = !report.is_open();
        if to == "sent" {
            report.told_phase = phase;
        }
        // what began with it, an attempt perhaps, is told as caused by it for long after
        if let ("", Some(Facts { kind: Kind::Created, revision: Some(revision), at, agent, .. })) = (from, cause) {
            (report.revision, report.agent) = (*revision, *agent);
            (report.updated_at, report.status_updated_at) = (Some(*at), Some(*at));
        }
        if shut {
            self.shut.insert(key.clone());
        }
        if was != from {
            self.violation(format!("7: {key:?}: status from {from}, but it was {was}"));
        }
        let allowed = match (from, to) {
            ("", "sent" | "auto_remediating") => matches!(cause, Some(Facts { kind: Kind::Created, .. })),
            ("sent", "closed") => true,
            ("auto_remediating", "closed") => matches!(why, "auto" | "closed_upstream" | "agent_removed"),
            ("auto_remediating", "sent") | ("sent" | "auto_remediating", "dismissed") => true,
            ("sent", "partner_dismissed") => cause.is_some_and(|cause| cause.kind == Kind::Dismiss && may_conclude(cause.role)),
            ("closed" | "partner_dismissed", "sent") => {
                why != "requested" || cause.is_some_and(|cause| cause.kind == Kind::Reopen && may_conclude(cause.role))
            }
            _ => false,
        };
        if !allowed {
            self.violation(format!("7: {key:?}: {from} -> {to} by {why} of {:?}", cause.map(|cause| (cause.kind, cause.role))));
        }
        if why == "resolved" {
            self.count("resolved");
            self.resolved.insert(key.clone());
            if !cause.is_some_and(|cause| cause.kind == Kind::Resolve && may_conclude(cause.role) && cause.report == Some(key.1)) {
                self.violation(format!("1: {key:?} is resolved by {}", told.cause));
            }
        }
        if why == "closed_upstream" {
            self.count("closed upstream");
            let known = self.report(key).status_updated_at;
            let newer = cause.filter(|cause| cause.kind == Kind::ClosedUpstream && known < Some(cause.at)).map(|cause| cause.at);
            self.report(key).status_updated_at = newer.or(known);
            if newer.is_none() {
                self.violation(format!("R13, R19: {key:?} is closed upstream by {}", told.cause));
            }
        }
    }

    /// The other half of the gate: shut only for what shuts it.
    fn resolution_refused(&mut self, key: &Key, told: &Told, cause: Option<&Facts>) {
        self.count("resolutions refused");
        let Some(cause) = cause.filter(|cause| cause.kind == Kind::Resolve) else {
            self.violation(format!("{key:?}: a resolution is refused that nobody asked for"));
            return;
        };
        let blockers = told.data["blockers"].as_array().cloned().unwrap_or_default();
        let mut said: Vec<(u64, u64)> =
            blockers.iter().filter_map(|blocker| Some((blocker["remediation_id"].as_u64()?, blocker["plan_revision"].as_u64()?))).collect();
        said.sort_unstable();
        let report = self.report(key);
        let blocking = if report.status == "sent" { report.blocking() } else { Vec::new() };
        let shut = !blocking.is_empty() || report.in_revision || report.status != "sent" || !may_conclude(cause.role);
        if said != blocking || !shut {
            self.violation(format!("1: {key:?}: refused for {said:?}, but what blocks is {blocking:?}"));
        }
    }

    fn item_changed(&mut self, key: &Key, told: &Told, cause: Option<&Facts>) {
        let (Some(id), Some(revision)) = (told.data["remediation_id"].as_u64(), told.data["plan_revision"].as_u64()) else { return };
        let (from, mut to) = (told.text("from").to_owned(), told.text("to").to_owned());
        if to == "cancelled" {
            to = format!("cancelled:{}", told.text("reason"));
        }
        let (attempt, waived, reason) =
            (told.data["attempt"].as_u64().unwrap_or(0), told.data["waived"] == true, told.text("reason").to_owned());
        let batch = self.batch;
        let asked = self.cancel_asked.contains(&(key.clone(), id));
        let known = self.reports.get(key).and_then(|report| report.items.get(&(revision, id)));
        let last_attempt = known.map_or_else(String::new, |item| named(&key.0, &item.attempt_id));
        let cancelled_in = self.cancelled_in.get(&last_attempt).copied();
        if cause.is_some_and(|cause| cause.kind == Kind::Revised) {
            self.new_sla(key);
        }
        if waived {
            self.waived.insert((key.clone(), id));
        }
        let report = self.report(key);
        if revision > report.revision {
            report.revision = revision;
            report.in_revision = false;
        }
        let is_new = !report.items.contains_key(&(revision, id));
        let item = report.items.entry((revision, id)).or_default();
        let was = std::mem::replace(&mut item.state, to.clone());
        let was_plain = was.split(':').next().unwrap_or_default().to_owned();
        let (mut problems, mut answers) = (Vec::new(), false);
        let in_the_field = matches!(was.as_str(), "delivered" | "outcome_unknown");
        if is_new {
            told.text("type").clone_into(&mut item.kind);
        }
        if was_plain != from {
            problems.push(format!("7: from {from}, but it was {was}"));
        }
        let kind = cause.map(|cause| cause.kind);
        let about_it = cause.is_some_and(|cause| cause.report == Some(key.1) && cause.item == Some(id));
        let by_worker = cause.is_some_and(|cause| may_work(cause.role));
        if was == to {
            if !(waived && kind == Some(Kind::Waive) && about_it && cause.is_some_and(|cause| cause.role == "admin")) {
                problems.push(format!("7: told again as {to}"));
            }
        } else if !is_new && !leads(&was, &to) {
            problems.push(format!("7: no row leads from {was} to {to}"));
        } else if is_new && !matches!(to.as_str(), "unapproved" | "completed") {
            problems.push(format!("7: begins as {to}"));
        }
        if waived && !item.waived && kind != Some(Kind::Waive) {
            problems.push("waived by nobody".to_owned());
        }
        item.waived = waived;
        // 3: who consents
        match (was.as_str(), to.as_str()) {
            ("unapproved", "queued" | "awaiting_human") => {
                let approved = cause.is_some_and(|cause| {
                    cause.kind == Kind::Approved
                        && may_work(cause.role)
                        && cause.report == Some(key.1)
                        && cause.revision == Some(revision)
                        && cause.named.as_ref().is_none_or(|named| named.contains(&id))
                });
                let unasked = match item.kind.as_str() {
                    "containment" => matches!(kind, Some(Kind::Created | Kind::Revised)),
                    "assisted" => kind == Some(Kind::Created) && cause.is_some_and(|cause| cause.tenant == super::people::MANAGED_TENANT),
                    _ => false,
                };
                if !(approved || unasked) {
                    problems.push("3: set off without consent".to_owned());
                }
                item.consented = true;
                item.attempt = 0;
            }
            ("failed" | "expired" | "cancelled:requested", "queued") => {
                if !(kind == Some(Kind::Retry) && about_it && by_worker) {
                    problems.push("T16: retried by nobody".to_owned());
                }
                item.consented = true;
                item.attempt = 0;
            }
            ("completed", "queued") => item.attempt = 0,
            ("awaiting_human", "completed") => {
                let done = kind == Some(Kind::Completed) && about_it && by_worker;
                if !(done || kind == Some(Kind::Resolve) || reason == "kept") {
                    problems.push("T20: done by nobody".to_owned());
                }
            }
            (_, "unapproved") => {
                item.consented = false;
                item.attempt = 0;
            }
            (was, "cancelled:requested") if was != to => {
                // who lets go of a host gives up what was to isolate it
                let released = kind == Some(Kind::Release) && cause.is_some_and(|cause| may_conclude(cause.role));
                let at_once = kind == Some(Kind::Cancel) && about_it && by_worker && !in_the_field;
                let at_its_end = in_the_field && (asked || cancelled_in.is_some());
                answers = at_once;
                if !(at_once || at_its_end || released) {
                    problems.push("T18, T19: cancelled by nobody".to_owned());
                }
            }
            (_, "cancelled:rejected") => {
                if !(kind == Some(Kind::Rejected) && by_worker) {
                    problems.push("R7: rejected by nobody".to_owned());
                }
                report.in_revision = true;
            }
            _ => {}
        }
        let Some(item) = report.items.get_mut(&(revision, id)) else { return };
        // 3, 5, 6: an attempt
        let mut began = None;
        if to == "delivered" && was != to {
            item.attempt += 1;
            item.delivered_in = batch;
            if item.attempt > MAX_ATTEMPTS {
                problems.push(format!("6: attempt {}", item.attempt));
            }
            if !item.consented {
                problems.push("3: an attempt without consent".to_owned());
            }
            if !item.is_task() {
                problems.push("an attempt of what people do".to_owned());
            }
            if !(told.cause.starts_with("timer:") || kind.is_some()) {
                problems.push(format!("T5: attempted by {}", told.cause));
            }
            told.text("attempt_id").clone_into(&mut item.attempt_id);
            began = Some(item.attempt_id.clone());
        }
        if attempt != item.attempt {
            problems.push(format!("6: attempt {attempt} is told, {} is due", item.attempt));
        }
        // 3: the intent is durable before the outcome can be
        let outcome = matches!(to.as_str(), "completed" | "retry_wait" | "failed" | "reboot_pending") && reason != "agent_removed";
        if was == "delivered" && outcome && item.delivered_in == batch {
            problems.push("3: the outcome is in the batch of the intent".to_owned());
        }
        if let Some(attempt) = began {
            self.count("attempts");
            let attempt = named(&key.0, &attempt);
            if attempt.ends_with(' ') || !self.attempts.insert(attempt.clone()) {
                problems.push(format!("5: attempt {attempt:?} begins twice"));
            }
            self.begun.push((key.clone(), (revision, id), attempt));
        }
        // 4: the other way to another attempt leads through a row that `leads` does not know
        if in_the_field && (to == "retry_wait" || to == "failed" && TRANSIENT.contains(&reason.as_str())) {
            if cancelled_in == Some(true) {
                problems.push(format!("4, T19: not given up after a cancel, for {reason}"));
            }
            self.tried_again.insert(last_attempt);
        }
        if answers {
            self.cancel_answered.insert((key.0.clone(), told.cause.clone()));
        }
        for problem in problems {
            self.violation(format!("{problem} ({} report {} item {revision}/{id}, {was} -> {to}, by {})", key.0, key.1, told.cause));
        }
    }

    /// The decision is told in full: what it has come to can be judged.
    pub fn end_decision(&mut self) {
        for key in std::mem::take(&mut self.resolved) {
            let report = self.reports.get(&key).cloned().unwrap_or_default();
            let blocking = report.blocking();
            if !blocking.is_empty() || report.in_revision {
                self.violation(format!("1: {key:?} is resolved while {blocking:?} keep it open (in revision: {})", report.in_revision));
            }
        }
        for key in std::mem::take(&mut self.touched) {
            let Some(report) = self.reports.get(&key) else { continue };
            if report.status == "sent" && report.phase() != report.told_phase {
                let what = format!("{key:?} is said to be {}, but is {}", report.told_phase, report.phase());
                self.violation(what);
            }
        }
        for (tenant, agent) in std::mem::take(&mut self.removed) {
            let left = |report: &Report| {
                let under_way = ["queued", "held", "delivered", "retry_wait", "reboot_pending", "outcome_unknown"];
                let open = |item: &Item| item.is_task() && under_way.contains(&item.state.as_str());
                report.is_open() && report.agent == Some(agent) && report.items.values().any(open)
            };
            let left: Vec<u64> =
                self.reports.iter().filter(|((of, _), report)| *of == tenant && left(report)).map(|((_, id), _)| *id).collect();
            if !left.is_empty() {
                self.violation(format!("R12: {tenant} agent {agent} is removed, but tasks of {left:?} wait for it"));
            }
        }
        self.decision.clear();
    }

    /// 4, T19: nothing is told of a cancel that finds its task delivered, so what was delivered in the batch just ended
    /// says which attempt it was; of more than one, nobody knows. False if there was none that it could have found.
    fn cancel_takes_hold(&mut self, facts: &Facts, key: &Key) -> bool {
        if self.cancel_answered.contains(&(facts.tenant.to_owned(), facts.id.clone())) {
            return true;
        }
        let start = self.before.get(key).map_or_else(|| self.reports.get(key), Option::as_ref);
        // an item of an old plan is not asked about
        let current = start.map_or(0, |start| start.revision);
        let is_it = |(revision, id): &Numbers| *revision >= current && Some(*id) == facts.item;
        let items = start.into_iter().flat_map(|start| &start.items);
        let delivered = items.filter(|(numbers, item)| is_it(numbers) && item.state == "delivered");
        let since = self.begun.iter().filter(|(of, numbers, _)| of == key && is_it(numbers)).map(|(_, _, attempt)| attempt.clone());
        let found: BTreeSet<String> = delivered.map(|(_, item)| named(&key.0, &item.attempt_id)).chain(since).collect();
        let surely = found.len() == 1;
        for attempt in &found {
            *self.cancelled_in.entry(attempt.clone()).or_default() |= surely;
            if surely && self.tried_again.contains(attempt) {
                self.violation(format!("4, T19: attempt {attempt} was not given up after the cancel {}", facts.id));
            }
        }
        if surely {
            self.count("cancelled in the field");
        }
        !found.is_empty()
    }

    /// Whether an event that was decided in the batch just ended should have had an effect that it has not had.
    pub fn ignored(&mut self, facts: &Facts, answered: bool) -> Option<String> {
        if facts.kind == Kind::AgentRemoved {
            let key = (facts.tenant.to_owned(), facts.agent?);
            let there = self.presence.get(&key).is_some_and(|presence| presence != "removed") && !self.away.contains(&key);
            return there.then(|| "A4: ignored:".to_owned());
        }
        let key = (facts.tenant.to_owned(), facts.report?);
        let takes_hold = facts.kind == Kind::Cancel && may_work(facts.role) && self.cancel_takes_hold(facts, &key);
        let end = self.reports.get(&key);
        if facts.kind == Kind::Created && end.is_none() {
            return Some("lost:".to_owned());
        }
        let end = end?;
        let has = |(id, kind): &(u64, &str)| end.items.get(&(facts.revision.unwrap_or(0), *id)).is_some_and(|item| item.kind == *kind);
        if answered && !facts.plan.iter().all(has) {
            return Some("R1, R8: the plan is not told in full:".to_owned());
        }
        let start = match self.before.get(&key) {
            Some(None) => None,
            Some(Some(before)) => Some(before),
            None => Some(end),
        };
        let stays = |check: &dyn Fn(&Report) -> bool| start.is_some_and(check) && check(end);
        let stays_open = !self.shut.contains(&key) && stays(&Report::is_open);
        let item = |report: &Report, check: &dyn Fn(&Item) -> bool| {
            facts.item.is_some_and(|id| report.items.iter().any(|((_, of), item)| *of == id && check(item)))
        };
        let waived = |report: &Report| item(report, &|item| item.waived);
        let passed = |set: &BTreeSet<(Key, u64)>| facts.item.is_some_and(|id| set.contains(&(key.clone(), id)));
        let wrong = match facts.kind {
            Kind::Resolve | Kind::Dismiss | Kind::Reopen | Kind::Retry => !answered,
            Kind::Cancel if !may_work(facts.role) => !answered,
            Kind::Cancel => !takes_hold,
            Kind::Waive => !answered && !start.is_some_and(waived) && !passed(&self.waived),
            Kind::Approved | Kind::Rejected if !may_work(facts.role) => !answered,
            Kind::Approved | Kind::Rejected if answered => false,
            Kind::Approved | Kind::Rejected => {
                stays_open
                    && stays(&|report| {
                        let current = |id: u64| report.items.get(&(report.revision, id));
                        let names = |id: u64| facts.named.as_ref().is_none_or(|named| named.contains(&id));
                        Some(report.revision) == facts.revision
                            && report
                                .items
                                .iter()
                                .any(|((revision, id), item)| *revision == report.revision && names(*id) && item.state == "unapproved")
                            && facts.named.iter().flatten().all(|id| current(*id).is_some())
                    })
            }
            Kind::Comment | Kind::DismissedBySoc => !answered && stays_open,
            Kind::Revised => stays_open && stays(&|report| facts.revision == Some(report.revision + 1)),
            // R19: an older one is not applied
            Kind::Updated => stays_open && end.updated_at < Some(facts.at),
            Kind::ClosedUpstream => stays_open && end.status_updated_at < Some(facts.at),
            // the judge looks for what an organization has set in its row; a survey is known by its agent's
            Kind::Created
            | Kind::Completed
            | Kind::Uncompleted
            | Kind::Isolate
            | Kind::Release
            | Kind::Survey
            | Kind::AgentRemoved
            | Kind::Organization
            | Kind::Rubbish => false,
        };
        wrong.then(|| "ignored:".to_owned())
    }

    /// Attempts that have begun and not ended.
    pub fn in_the_field(&self) -> BTreeSet<String> {
        let items = self.reports.iter().flat_map(|(key, report)| report.items.iter().map(move |(id, item)| (key, id, item)));
        let delivered = items.filter(|(_, _, item)| item.state == "delivered");
        delivered
            .map(|((tenant, report), (revision, id), item)| format!("{tenant} report {report} item {revision}/{id} {}", item.attempt_id))
            .collect()
    }

    /// The tasks whose attempts these are: tenant, report and number.
    pub fn delivered(&self) -> Vec<(String, u64, u64)> {
        let items = self.reports.iter().flat_map(|(key, report)| report.items.iter().map(move |(numbers, item)| (key, numbers, item)));
        let delivered = items.filter(|(_, _, item)| item.state == "delivered");
        delivered.map(|((tenant, report), (_, id), _)| (tenant.clone(), *report, *id)).collect()
    }

    /// Tasks that somebody or something still has to move on by itself.
    pub fn under_way(&self) -> Vec<String> {
        let waits = |state: &str| matches!(state, "queued" | "held" | "retry_wait" | "delivered" | "outcome_unknown");
        let mut found = Vec::new();
        for ((tenant, id), report) in &self.reports {
            for ((revision, item), told) in report.items.iter().filter(|(_, item)| waits(&item.state)) {
                found.push(format!("{tenant} report {id} ({}) item {revision}/{item} is {}", report.status, told.state));
            }
        }
        found
    }
}

/// What tells an attempt from those of all tenants.
fn named(tenant: &str, attempt: &str) -> String {
    format!("{tenant} {attempt}")
}

/// Reasons for which a task is tried again: T9 and T13.
const TRANSIENT: [&str; 7] =
    ["file_in_use", "profile_not_loaded", "agent_busy", "timeout", "network", "agent_restarted", "outcome_unknown"];

/// The T table, written down once more from lifecycle.md.
fn leads(from: &str, to: &str) -> bool {
    match to {
        "unapproved" => matches!(from, "cancelled:dismissed" | "cancelled:obsolete"),
        "queued" => matches!(from, "unapproved" | "held" | "retry_wait" | "failed" | "expired" | "cancelled:requested" | "completed"),
        "held" | "delivered" => from == "queued",
        "awaiting_human" => matches!(from, "unapproved" | "completed"),
        "retry_wait" => matches!(from, "delivered" | "outcome_unknown"),
        "reboot_pending" | "outcome_unknown" => from == "delivered",
        "completed" => !from.starts_with("cancelled"),
        "failed" => matches!(from, "queued" | "held" | "delivered" | "retry_wait" | "outcome_unknown" | "reboot_pending" | "completed"),
        "expired" => matches!(from, "queued" | "held" | "retry_wait" | "outcome_unknown"),
        "cancelled:rejected" => from == "unapproved",
        "cancelled:requested" => matches!(from, "queued" | "held" | "retry_wait" | "delivered" | "outcome_unknown"),
        "cancelled:superseded" => from != "completed" && !from.starts_with("cancelled"),
        "cancelled:dismissed" => !matches!(from, "completed" | "failed" | "expired") && !from.starts_with("cancelled"),
        "cancelled:obsolete" => from == "unapproved",
        _ => false,
    }
}
