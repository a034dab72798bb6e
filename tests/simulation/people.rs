//! Who sends events: the SOC, people at the MSP, agents, and somebody who sends rubbish. They act at random; what they
//! remember is what they have sent, so that they mostly ask about what exists.
//!
//! Three tenants use the same numbers for reports, agents and events, so that whatever crosses over shows.

use remedyd::broker::{HeaderValue, Message};
use remedyd::model::time::{Span, Timestamp, after};
use serde_json::{Value, json};

use super::dice::Dice;
use super::facts::{Facts, Kind};

/// CloudEvents `source` of everything.
pub const SOURCE: &str = "simulation";
const TENANTS: [(&str, u64, u64); 3] = [("5.4", 5, 4), ("5.40", 5, 40), ("6.4", 6, 4)];
pub const TENANT_COUNT: usize = TENANTS.len();
/// Managed response is on for this one.
pub const MANAGED_TENANT: &str = "6.4";
const AGENTS: u64 = 2;
/// Reports that people still ask about.
const RECENT: u64 = 4;

const ON_HOST: [&str; 6] = ["Kill Process", "delete-file", "Delete Service", "Reboot Host", "Uninstall Program", "Quarantine File"];
const IN_THE_CLOUD: [&str; 3] = ["Disable Identity", "Revoke Sessions", "Disable Inbox Rule"];
const CODES: [&str; 10] =
    ["ok", "ok", "file_in_use", "agent_busy", "network", "timeout", "access_denied", "protected", "ok_reboot_required", "not_found"];

struct SentReport {
    id: u64,
    agent: Option<u64>,
    hostless: bool,
    revision: u64,
    items: u64,
}

struct Tenant {
    name: &'static str,
    account: u64,
    organization: u64,
    reports: Vec<SentReport>,
    events: u64,
    /// Agents that are switched on, and how often each has been started.
    present: Vec<bool>,
    boots: Vec<u64>,
}

pub struct People {
    dice: Dice,
    tenants: Vec<Tenant>,
}

impl People {
    pub fn new(seed: u64) -> Self {
        let tenant = |(name, account, organization)| Tenant {
            name,
            account,
            organization,
            reports: Vec::new(),
            events: 0,
            present: vec![true; AGENTS as usize],
            boots: vec![0; AGENTS as usize],
        };
        Self { dice: Dice::new(seed, 3), tenants: TENANTS.into_iter().map(tenant).collect() }
    }

    /// What every simulation begins with.
    pub fn settings(&mut self, now: Timestamp) -> Facts {
        let data = json!({ "managed_response": { "low": true, "high": true, "critical": false } });
        self.event(2, Kind::Organization, now, data)
    }

    /// Somebody does something.
    pub fn act(&mut self, now: Timestamp) -> Facts {
        let tenant = self.dice.between(0, 2) as usize;
        // events are told late, and not in the order in which things happened
        let at = if self.dice.permille(200) { after(now, -Span::from_secs(self.dice.between(1, 600) as i64)) } else { now };
        match self.dice.between(0, 999) {
            0..280 => {
                let agent = self.dice.between(1, AGENTS);
                match self.survey(tenant, agent, now) {
                    Some(survey) => survey,
                    None => self.create(tenant, at),
                }
            }
            280..370 => self.create(tenant, at),
            370..400 => self.revise(tenant, at),
            400..410 => self.about(tenant, Kind::DismissedBySoc, at),
            410..425 => self.about(tenant, Kind::ClosedUpstream, at),
            425..440 => self.about(tenant, Kind::Updated, at),
            440..470 => self.about(tenant, Kind::Comment, at),
            470..610 => self.about(tenant, Kind::Approved, at),
            610..630 => self.about(tenant, Kind::Rejected, at),
            630..660 => self.about(tenant, Kind::Completed, at),
            660..670 => self.about(tenant, Kind::Uncompleted, at),
            670..710 => self.about(tenant, Kind::Retry, at),
            710..735 => self.about(tenant, Kind::Cancel, at),
            735..765 => self.about(tenant, Kind::Waive, at),
            765..865 => self.about(tenant, Kind::Resolve, at),
            865..880 => self.about(tenant, Kind::Dismiss, at),
            880..905 => self.about(tenant, Kind::Reopen, at),
            905..920 => self.about(tenant, Kind::Isolate, at),
            920..935 => self.about(tenant, Kind::Release, at),
            935..942 => self.about(tenant, Kind::AgentRemoved, at),
            942..952 => {
                let data = json!({ "release_on_resolve": self.dice.permille(500), "sla": { "critical_minutes": self.dice.between(5, 30) },
                    "unresponsive_after_days": self.dice.between(2, 21) });
                self.event(tenant, Kind::Organization, at, data)
            }
            _ => self.rubbish(tenant, now),
        }
    }

    /// So many new reports of the tenant by this number.
    pub fn reports(&mut self, tenant: usize, count: usize, now: Timestamp) -> Vec<Facts> {
        (0..count).map(|_| self.create(tenant, now)).collect()
    }

    /// Switches an agent off or on again; says whether one has vanished.
    pub fn come_or_go(&mut self) -> bool {
        let (tenant, agent) = (self.dice.between(0, 2) as usize, self.dice.between(0, AGENTS - 1) as usize);
        let present = &mut self.tenants[tenant].present[agent];
        *present = !*present;
        !*present
    }

    pub fn all_come_back(&mut self) {
        for tenant in &mut self.tenants {
            tenant.present.fill(true);
        }
    }

    /// One survey of every agent. They see what their hosts are like, and nothing strange.
    pub fn round(&mut self, now: Timestamp) -> Vec<Facts> {
        let all = (0..TENANTS.len()).flat_map(|tenant| (1..=AGENTS).map(move |agent| (tenant, agent)));
        all.map(|(tenant, agent)| {
            let data = json!({ "agent_id": agent, "surveyed_at": now.to_string(), "hostname": "h", "platform": "windows" });
            self.surveyed(tenant, agent, now, data)
        })
        .collect()
    }

    fn survey(&mut self, tenant: usize, agent: u64, now: Timestamp) -> Option<Facts> {
        if !self.tenants[tenant].present[agent as usize - 1] {
            return None;
        }
        let at = after(now, -Span::from_millis(self.dice.between(0, 2_000) as i64));
        let mut data = json!({ "agent_id": agent, "surveyed_at": at.to_string(), "hostname": "h", "platform": "windows" });
        if self.dice.permille(200) {
            let boots = &mut self.tenants[tenant].boots[agent as usize - 1];
            *boots += 1;
            data["boot_id"] = json!(format!("boot-of-its-own-{boots}"));
        }
        if self.dice.permille(60) {
            let report = self.dice.between(1, 8);
            data["footholds_present"] = json!([format!("fh-{report}")]);
        }
        if self.dice.permille(30) {
            data["isolated"] = json!(self.dice.permille(500));
        }
        Some(self.surveyed(tenant, agent, at, data))
    }

    fn surveyed(&mut self, tenant: usize, agent: u64, at: Timestamp, data: Value) -> Facts {
        let mut facts = self.event(tenant, Kind::Survey, at, data);
        facts.agent = Some(agent);
        facts.surveyed_ms = Some(at.as_millisecond());
        facts.may_die_of = &[];
        facts
    }

    fn create(&mut self, tenant: usize, at: Timestamp) -> Facts {
        let id = self.tenants[tenant].reports.len() as u64 + 1;
        let (agent, identity) = match self.dice.between(0, 9) {
            0..7 => (Some(self.dice.between(1, AGENTS)), Value::Null),
            7..9 => (None, json!({ "id": 7, "name": "somebody" })),
            _ => (None, Value::Null),
        };
        let items = self.dice.between(0, 4);
        self.tenants[tenant].reports.push(SentReport { id, agent, hostless: agent.is_none(), revision: 1, items });
        let (plan, known) = self.plan(tenant, id, items);
        let time = at.to_string();
        let (account, organization) = (self.tenants[tenant].account, self.tenants[tenant].organization);
        let footholds = if items == 0 {
            json!([])
        } else {
            json!([{ "id": format!("fh-{id}"), "kind": "file", "description": "d", "remediation_ids": [1] }])
        };
        let report = json!({ "id": id, "account_id": account, "organization_id": organization, "agent_id": agent, "identity": identity,
            "platform": "windows", "severity": *self.dice.pick(&["low", "high", "critical"]), "status": "sent", "subject": "s",
            "summary": "s", "body": "b", "sent_at": time, "updated_at": time, "status_updated_at": time, "plan_revision": 1,
            "remediations": plan, "footholds": footholds, "isolate_host": agent.is_some() && self.dice.permille(100) });
        let mut facts = self.event(tenant, Kind::Created, at, json!({ "incident_report": report }));
        facts.report = Some(id);
        facts.revision = Some(1);
        facts.agent = agent;
        facts.plan = known;
        facts
    }

    fn revise(&mut self, tenant: usize, at: Timestamp) -> Facts {
        let Some(index) = self.recent(tenant) else { return self.create(tenant, at) };
        let items = self.dice.between(1, 4);
        let report = &mut self.tenants[tenant].reports[index];
        report.revision += 1;
        report.items = items;
        let (id, revision) = (report.id, report.revision);
        let (plan, known) = self.plan(tenant, id, items);
        let data = json!({ "incident_report_id": id, "plan_revision": revision, "remediations": plan });
        let mut facts = self.event(tenant, Kind::Revised, at, data);
        facts.report = Some(id);
        facts.revision = Some(revision);
        facts.plan = known;
        // the one before it may be late
        facts.may_die_of = &["orphan"];
        facts
    }

    /// Items 1 to `count`. What an item is depends on its report and number alone, so that a revision keeps some.
    fn plan(&mut self, tenant: usize, report: u64, count: u64) -> (Value, Vec<(u64, &'static str)>) {
        let hostless = self.tenants[tenant].reports.iter().any(|sent| sent.id == report && sent.hostless);
        let mut known = Vec::new();
        let mut items = Vec::new();
        for id in 1..=count {
            let nature = Dice::new(report, id).throw();
            let action = if hostless { IN_THE_CLOUD[(nature % 3) as usize] } else { ON_HOST[(nature % 6) as usize] };
            let kind = match (nature >> 8) % 10 {
                0..2 if id > 1 => "manual",
                2 => "containment",
                _ => "assisted",
            };
            known.push((id, kind));
            let simulate: Vec<&str> = match self.dice.between(0, 99) {
                0..50 => (0..self.dice.between(1, 6)).map(|_| *self.dice.pick(&CODES)).collect(),
                // until the attempts are used up, and on
                50..62 => vec!["file_in_use"; 20],
                _ => Vec::new(),
            };
            items.push(match kind {
                "manual" => json!({ "id": id, "type": kind, "action": format!("Call number {id}") }),
                "containment" if !hostless && nature.is_multiple_of(2) => {
                    json!({ "id": id, "type": kind, "action": "Isolate Host", "parameters": "the host" })
                }
                "containment" => {
                    json!({ "id": id, "type": kind, "action": action, "parameters": format!("target {id}"), "simulate": simulate })
                }
                _ => json!({ "id": id, "type": kind, "action": action, "simulate": simulate,
                    "parameters": [{ "name": "target", "description": format!("target {id}") }] }),
            });
        }
        (json!({ "total_count": count, "has_more": false, "items": items }), known)
    }

    fn recent(&mut self, tenant: usize) -> Option<usize> {
        let reports = self.tenants[tenant].reports.len() as u64;
        (reports > 0).then(|| (reports - 1).saturating_sub(self.dice.between(0, RECENT - 1)) as usize)
    }

    /// Something about a report that is known, mostly, or about its host.
    fn about(&mut self, tenant: usize, kind: Kind, at: Timestamp) -> Facts {
        let Some(index) = self.recent(tenant) else { return self.create(tenant, at) };
        let sent = &self.tenants[tenant].reports[index];
        let (mut report, mut revision, items, agent) = (sent.id, sent.revision, sent.items.max(1), sent.agent);
        if self.dice.permille(40) {
            // not known yet, perhaps never
            report = self.tenants[tenant].reports.len() as u64 + self.dice.between(1, 2);
        }
        if self.dice.permille(100) {
            revision = self.dice.between(1, revision + 1);
        }
        let role = *self.dice.pick(&["admin", "admin", "admin", "security_engineer", "security_engineer", "user", "user", "read_only"]);
        let actor = json!({ "id": 30, "name": "Somebody", "email": "s@msp.example", "role": role });
        let item = self.dice.between(1, items);
        let named: Option<Vec<u64>> = self.dice.permille(300).then(|| (1..=items).filter(|_| self.dice.permille(600)).collect());
        let agent = agent.unwrap_or(1);
        let time = at.to_string();
        let on_report = json!({ "incident_report_id": report, "reason": "because", "actor": actor });
        let on_item = json!({ "incident_report_id": report, "remediation_id": item, "reason": "because", "actor": actor });
        let data = match kind {
            Kind::Approved => {
                let mut data = json!({ "incident_report_id": report, "plan_revision": revision, "actor": actor });
                if let Some(named) = &named {
                    data["remediation_ids"] = json!(named);
                }
                data
            }
            Kind::Rejected => {
                json!({ "incident_report_id": report, "plan_revision": revision, "comment": "no", "useful": false, "actor": actor })
            }
            Kind::Completed | Kind::Uncompleted | Kind::Retry | Kind::Cancel | Kind::Waive => on_item,
            Kind::Resolve | Kind::Dismiss | Kind::Reopen => on_report,
            Kind::DismissedBySoc => json!({ "incident_report_id": report, "reason": "a mistake" }),
            Kind::ClosedUpstream => json!({ "incident_report_id": report, "status_updated_at": time }),
            Kind::Updated => {
                json!({ "incident_report_id": report, "updated_at": time, "severity": *self.dice.pick(&["low", "high", "critical"]) })
            }
            Kind::Comment => json!({ "incident_report_id": report, "comment": "c" }),
            Kind::AgentRemoved => json!({ "agent_id": agent, "reason": "sold" }),
            Kind::Isolate | Kind::Release => {
                json!({ "agent_id": agent, "reason": "because", "force": self.dice.permille(500), "actor": actor })
            }
            Kind::Created | Kind::Revised | Kind::Survey | Kind::Organization | Kind::Rubbish => return self.create(tenant, at),
        };
        let mut facts = self.event(tenant, kind, at, data);
        match kind {
            Kind::AgentRemoved | Kind::Isolate | Kind::Release => facts.agent = Some(agent),
            _ => {
                facts.report = Some(report);
                facts.may_die_of = &["orphan"];
            }
        }
        facts.role = if kind.is_request() { role } else { "" };
        match kind {
            Kind::Approved => (facts.revision, facts.named) = (Some(revision), named),
            Kind::Rejected => facts.revision = Some(revision),
            Kind::Completed | Kind::Uncompleted | Kind::Retry | Kind::Cancel | Kind::Waive => facts.item = Some(item),
            _ => {}
        }
        facts
    }

    /// Somebody has read that a task is with its agent, and wants it back (T19).
    pub fn take_back(&mut self, tenant: &str, report: u64, item: u64, now: Timestamp) -> Option<Facts> {
        let tenant = self.tenants.iter().position(|of| of.name == tenant)?;
        let actor = json!({ "id": 31, "name": "Somebody", "email": "s@msp.example", "role": "user" });
        let data = json!({ "incident_report_id": report, "remediation_id": item, "reason": "because", "actor": actor });
        let mut facts = self.event(tenant, Kind::Cancel, now, data);
        (facts.report, facts.item, facts.role) = (Some(report), Some(item), "user");
        Some(facts)
    }

    /// What can never be applied.
    fn rubbish(&mut self, tenant: usize, now: Timestamp) -> Facts {
        let comment = json!({ "incident_report_id": 1, "comment": "c" });
        let mut facts = self.event(tenant, Kind::Comment, now, comment);
        facts.kind = Kind::Rubbish;
        let mut event: Value = serde_json::from_slice(&facts.message.body).unwrap_or_default();
        let reason: &'static [&'static str] = match self.dice.between(0, 7) {
            0 => {
                facts.message.body.truncate(facts.message.body.len() - 1);
                facts.may_die_of = &["malformed"];
                return facts;
            }
            1 => {
                event["type"] = json!("no.such.type");
                &["unsupported_type"]
            }
            2 => {
                event["schemaversion"] = json!("2");
                &["unsupported_version"]
            }
            3 => {
                event["data"] = json!({ "incident_report_id": "x" });
                &["invalid"]
            }
            4 => {
                event["data"]["comment"] = json!("x".repeat(5_000));
                &["too_large"]
            }
            5 => {
                event["time"] = json!(after(now, Span::from_hours(24 * 20)).to_string());
                &["invalid"]
            }
            6 => {
                // a report of the neighbour's
                let other = &self.tenants[(tenant + 1) % TENANTS.len()];
                let time = now.to_string();
                event["type"] = json!(name(Kind::Created));
                event["data"] = json!({ "incident_report": { "id": self.dice.between(1, 8), "account_id": other.account,
                    "organization_id": other.organization, "platform": "windows", "severity": "low", "status": "sent", "subject": "s",
                    "summary": "s", "body": "b", "sent_at": time, "updated_at": time, "status_updated_at": time, "plan_revision": 1,
                    "remediations": { "total_count": 0, "has_more": false, "items": [] }, "footholds": [] } });
                &["tenant_mismatch"]
            }
            _ => {
                facts.message.headers = vec![("tenantid".into(), HeaderValue::Text("9.9".into()))];
                &["tenant_mismatch"]
            }
        };
        facts.message.body = event.to_string().into_bytes();
        facts.may_die_of = reason;
        facts
    }

    fn event(&mut self, tenant: usize, kind: Kind, at: Timestamp, data: Value) -> Facts {
        let of = &mut self.tenants[tenant];
        of.events += 1;
        let id = format!("e{}", of.events);
        let event = json!({ "specversion": "1.0", "id": id, "source": SOURCE, "type": name(kind), "time": at.to_string(),
            "tenantid": of.name, "data": data });
        let message = Message {
            exchange: "remedyd.events".into(),
            routing_key: format!("{}.{}", name(kind), of.name),
            content_type: Some("application/cloudevents+json".into()),
            body: event.to_string().into_bytes(),
            ..Message::default()
        };
        Facts {
            kind,
            tenant: of.name,
            id,
            at,
            message,
            report: None,
            revision: None,
            named: None,
            item: None,
            role: "",
            agent: None,
            surveyed_ms: None,
            may_die_of: &[],
            plan: Vec::new(),
        }
    }
}

/// The same id with other bytes: one of the two, whichever comes later, can only die.
pub fn reuse_of(facts: &Facts) -> Facts {
    let mut other = facts.clone();
    other.message.body.push(b' ');
    other.may_die_of = &["id_reused", "orphan"];
    other
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Created => "incident_report.created",
        Kind::Revised => "incident_report.revised",
        Kind::Updated => "incident_report.updated",
        Kind::Comment => "incident_report.comment_added",
        Kind::DismissedBySoc => "incident_report.dismissed",
        Kind::ClosedUpstream => "incident_report.closed",
        Kind::Approved => "remediations.approved",
        Kind::Rejected => "remediations.rejected",
        Kind::Completed => "remediation.completed",
        Kind::Uncompleted => "remediation.uncompleted",
        Kind::Retry => "remediation.retry_requested",
        Kind::Cancel => "remediation.cancel_requested",
        Kind::Waive => "remediation.waived",
        Kind::Resolve => "incident_report.resolution_requested",
        Kind::Dismiss => "incident_report.dismissal_requested",
        Kind::Reopen => "incident_report.reopen_requested",
        Kind::Isolate => "agent.isolation_requested",
        Kind::Release => "agent.release_requested",
        Kind::Survey => "agent.surveyed",
        Kind::AgentRemoved => "agent.removed",
        Kind::Organization => "organization.updated",
        Kind::Rubbish => "no.such.type",
    }
}
