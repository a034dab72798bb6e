//! The script of one report: what the SOC and the people say about it, from its arrival to its closing, with
//! the mistakes that people make on the way. Never here: what comes of it.

use serde_json::{Value, json};

use super::dice::Dice;
use super::people::actor;
use super::plan::{self, Fate, Plan, Shape, Target};
use super::scenario::{AgentPlan, Planned, Scenario};
use crate::model::actor::Role;
use crate::model::ids::TenantId;
use crate::model::time::{Span, after};

/// Reports begin in the first so many hundredths of a scenario, so that most come to their end in it.
const BEGIN_WITHIN_PERCENT: u32 = 60;
/// An event that is held up arrives well within the 15 minutes for which those ahead of it are parked.
const HELD_UP_MINUTES: (u32, u32) = (3, 8);

pub(super) struct Script<'a> {
    dice: &'a mut Dice,
    scenario: &'a Scenario,
    tenant: TenantId,
    id: u64,
    out: &'a mut Vec<Planned>,
    /// When what is said next happens. Two events of one report never happen in one minute.
    minute: u32,
    /// How long what is said next is under way.
    held_up: u32,
    /// When what was held up arrives; nothing else does then.
    taken: u32,
    said: u32,
}

impl<'a> Script<'a> {
    pub fn new(dice: &'a mut Dice, scenario: &'a Scenario, tenant: TenantId, id: u64, out: &'a mut Vec<Planned>) -> Self {
        let latest = (scenario.minutes * BEGIN_WITHIN_PERCENT / 100).max(2);
        let minute = dice.between(2, latest);
        Self { dice, scenario, tenant, id, out, minute, held_up: 0, taken: 0, said: 0 }
    }

    /// The whole story.
    pub fn play(mut self, agents: &[AgentPlan]) {
        let shape = *self.dice.pick(&[
            Shape::Assisted,
            Shape::Assisted,
            Shape::Manual,
            Shape::Both,
            Shape::Both,
            Shape::Both,
            Shape::Informational,
        ]);
        let severity = *self.dice.pick(&["low", "low", "low", "high", "high", "critical"]);
        let target = self.target(agents);
        let plan = plan::plan(self.dice, shape, &target, severity == "critical", 1);
        if self.dice.percent(6) {
            // approval and the rest overtake the report: they are parked until it is there
            self.held_up = self.dice.between(HELD_UP_MINUTES.0, HELD_UP_MINUTES.1);
        }
        self.create(&plan, &target, shape, severity);
        if self.dice.percent(8) {
            self.wait(1, 5);
            self.say("vendor/soc", "incident_report.comment_added", json!({ "comment": "we are still looking at the logs" }));
        }
        if shape != Shape::Informational && self.dice.percent(30) {
            self.wait(1, 4);
            self.resolve(Role::SecurityEngineer, "looks done");
        }
        let reviewed = if plan.items.is_empty() { Some(plan) } else { self.review(plan, &target, shape) };
        let Some(plan) = reviewed else { return };
        self.work(&plan);
        self.close(&plan);
    }

    fn target(&mut self, agents: &[AgentPlan]) -> Target {
        if agents.is_empty() || self.dice.percent(15) {
            return Target::Identity { id: 500 + self.id, name: format!("user{}@org{}.example", self.id, self.tenant.organization) };
        }
        let agent = self.dice.pick(agents);
        Target::Agent { id: agent.id, hostname: agent.hostname.clone() }
    }

    fn create(&mut self, plan: &Plan, target: &Target, shape: Shape, severity: &str) {
        let (agent_id, identity, host, platform, kind) = match target {
            Target::Agent { id, hostname } => (json!(id), Value::Null, json!({ "hostname": hostname }), "windows", "malware_persistence"),
            Target::Identity { id, name } => {
                (Value::Null, json!({ "id": id, "name": name }), Value::Null, "microsoft_365", "identity_compromise")
            }
        };
        let at = self.scenario.end_of(self.minute).to_string();
        let report = json!({
            "id": self.id, "account_id": self.tenant.account, "organization_id": self.tenant.organization,
            "agent_id": agent_id, "identity": identity, "host": host, "platform": platform, "severity": severity, "status": "sent",
            "subject": format!("{} - Incident {} at organization {}", severity.to_uppercase(), self.id, self.tenant.organization),
            "summary": "Something starts at logon that should not.", "body": "Something starts at logon that should not.",
            "indicator_types": ["footholds"], "sent_at": at, "status_updated_at": at, "updated_at": at,
            "remediations": remediations(plan), "plan_revision": 1, "footholds": plan.footholds,
            "attack_kind": if shape == Shape::Informational { "unknown" } else { kind },
        });
        self.say("vendor/soc", "incident_report.created", json!({ "incident_report": report }));
    }

    /// Approval or rejection, in the end of a plan that may be another one; `None` if nobody ever looks.
    fn review(&mut self, mut plan: Plan, target: &Target, shape: Shape) -> Option<Plan> {
        if self.dice.percent(5) {
            return None;
        }
        let mut revision = 1;
        if self.dice.percent(5) {
            self.wait(1, 10);
            self.decide("remediations.approved", revision, Role::ReadOnly, json!({}));
        }
        if self.dice.percent(12) {
            if self.dice.percent(25) {
                self.wait(1, 10);
                self.decide("remediations.rejected", revision, Role::SecurityEngineer, json!({ "comment": " " }));
            }
            self.wait(2, 15);
            self.decide(
                "remediations.rejected",
                revision,
                Role::SecurityEngineer,
                json!({ "comment": "that is our administrators' own tool" }),
            );
            plan = self.revise(target, shape, &mut revision);
            if self.dice.percent(40) {
                self.wait(1, 3);
                self.decide("remediations.approved", 1, Role::User, json!({}));
            }
        }
        if self.dice.percent(3) {
            self.wait(1, 3);
            self.decide("remediations.approved", revision, Role::User, json!({ "remediation_ids": [9_999] }));
        }
        if plan.items.len() > 1 && self.dice.percent(8) {
            self.wait(1, 10);
            self.decide("remediations.approved", revision, Role::User, json!({ "remediation_ids": [plan.items[0].id] }));
        }
        self.wait(1, 25);
        self.decide("remediations.approved", revision, Role::User, json!({}));
        Some(plan)
    }

    /// The plan is issued again, sometimes twice in a row, and then sometimes the wrong way round.
    fn revise(&mut self, target: &Target, shape: Shape, revision: &mut u64) -> Plan {
        let mut plan = self.issue(target, shape, revision);
        if self.dice.percent(30) {
            plan = self.issue(target, shape, revision);
        }
        // what follows must not overtake a revision that is held up
        self.minute += HELD_UP_MINUTES.1;
        plan
    }

    fn issue(&mut self, target: &Target, shape: Shape, revision: &mut u64) -> Plan {
        *revision += 1;
        let plan = plan::plan(self.dice, shape, target, false, *revision * 100);
        self.wait(1, 6);
        if *revision == 2 && self.dice.percent(50) {
            self.held_up = self.dice.between(HELD_UP_MINUTES.0, HELD_UP_MINUTES.1);
        }
        let data =
            json!({ "plan_revision": *revision, "remediations": remediations(&plan), "footholds": plan.footholds, "comment": "revised" });
        self.say("vendor/soc", "incident_report.revised", data);
        plan
    }

    /// What people do while the agents work.
    fn work(&mut self, plan: &Plan) {
        for item in &plan.items {
            if item.assisted && self.dice.percent(5) {
                self.wait(1, 2);
                self.ask("remediation.cancel_requested", item.id, Role::User);
            }
            if !item.assisted && self.dice.percent(60) {
                self.wait(1, 8);
                self.ask("remediation.completed", item.id, Role::User);
                if self.dice.percent(10) {
                    self.wait(1, 4);
                    self.ask("remediation.uncompleted", item.id, Role::User);
                }
            }
            if item.assisted && self.dice.percent(3) {
                self.wait(1, 4);
                self.ask("remediation.completed", item.id, Role::User);
            }
        }
        if !plan.items.is_empty() && self.dice.percent(35) {
            self.wait(1, 12);
            self.resolve(Role::SecurityEngineer, "the task is gone");
        }
        for item in &plan.items {
            let patience = match item.fate {
                Fate::Refused => (25, 45),
                // five attempts take 15 surveys' time and a little
                Fate::Exhausted => (225, 250),
                Fate::Smooth | Fate::Bumpy | Fate::NeedsReboot => continue,
            };
            if self.dice.percent(65) {
                self.wait(patience.0, patience.1);
                self.ask("remediation.retry_requested", item.id, Role::SecurityEngineer);
            }
        }
    }

    /// Up to three requests to resolve, further and further apart.
    fn close(&mut self, plan: &Plan) {
        let pause = if plan.items.iter().any(|item| item.assisted) { 20 } else { 3 };
        if self.dice.percent(6) {
            self.wait(1, 5);
            self.resolve(Role::User, "please close");
        }
        for step in 1..=3 {
            if self.dice.percent(if step == 1 { 8 } else { 45 }) {
                return;
            }
            self.wait(pause * step, pause * step * 2);
            let role = *self.dice.pick(&[Role::SecurityEngineer, Role::Admin]);
            self.resolve(role, "done");
        }
    }

    fn wait(&mut self, least: u32, most: u32) {
        self.minute += self.dice.between(least.max(1), most.max(1));
        if self.minute == self.taken {
            self.minute += 1;
        }
    }

    fn decide(&mut self, kind: &str, revision: u64, role: Role, more: Value) {
        self.say_as(kind, role, with(json!({ "plan_revision": revision }), more));
    }

    fn ask(&mut self, kind: &str, remediation: u64, role: Role) {
        self.say_as(kind, role, json!({ "remediation_id": remediation, "reason": "asked by the customer" }));
    }

    fn resolve(&mut self, role: Role, reason: &str) {
        self.say_as("incident_report.resolution_requested", role, json!({ "reason": reason }));
    }

    fn say_as(&mut self, kind: &str, role: Role, data: Value) {
        self.say("msp/portal", kind, with(data, json!({ "actor": actor(role) })));
    }

    /// One event; now and then it reaches the broker twice.
    fn say(&mut self, source: &str, kind: &str, data: Value) {
        self.said += 1;
        let early = Span::from_secs(-i64::from(self.dice.between(0, 50)));
        let mut event = json!({
            "specversion": "1.0", "id": format!("{}-{}", self.id, self.said), "source": format!("{source}/{}", self.tenant),
            "type": kind, "time": after(self.scenario.end_of(self.minute), early).to_string(), "tenantid": self.tenant.to_string(),
            "subject": format!("incident_reports/{}", self.id), "data": data,
        });
        if kind != "incident_report.created" {
            event["data"]["incident_report_id"] = json!(self.id);
        }
        let body = event.to_string().into_bytes();
        let arrives = self.minute + self.held_up;
        if std::mem::take(&mut self.held_up) > 0 {
            self.taken = arrives;
        }
        if self.dice.percent(3) {
            self.out.push(Planned { arrives: arrives + self.dice.between(0, 20), body: body.clone() });
        }
        self.out.push(Planned { arrives, body });
    }
}

fn remediations(plan: &Plan) -> Value {
    let items: Vec<&Value> = plan.items.iter().map(|item| &item.json).collect();
    json!({ "total_count": items.len(), "has_more": false, "items": items })
}

/// The members of both objects.
fn with(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
