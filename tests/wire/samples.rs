//! The sample events: which are taken, and that what was written is what the machine gets.

use std::collections::BTreeSet;

use remedyd::machine::event::{AgentRequest, EventKind, FunnelCount, Payload, PlanDecision, ReportRequest, SettingsChange, TaskRequest};
use remedyd::model::actor::{Actor, Role};
use remedyd::model::ids::{AgentId, IdentityId, RemediationId, ReportId, SubjectKey};
use remedyd::model::organization::SlaSettings;
use remedyd::model::remediation::{Action, OutcomeCode, Parameter, Parameters, RemediationType};
use remedyd::model::report::{AttackKind, Severity};
use remedyd::wire::{Inbound, InboundType, Raw, decode};
use serde_json::{Value, json};

use super::{EVENTS, event, structured};

fn taken(id: &str) -> Inbound {
    structured(event(id).to_string().as_bytes()).unwrap_or_else(|no| panic!("{id}: {no}"))
}

#[test]
fn every_line_of_the_samples_is_answered_as_expected() {
    let mut refused = Vec::new();
    for (file, lines) in EVENTS {
        for line in lines.lines() {
            match structured(line.as_bytes()) {
                Ok(inbound) => {
                    let written: Value = serde_json::from_str(line).unwrap();
                    assert_eq!(written["id"], inbound.event.id);
                    assert_eq!(written["source"], inbound.source);
                    assert_eq!(written["type"], inbound.event.kind.name());
                    assert_eq!(written["tenantid"], inbound.event.tenant.to_string());
                    assert_eq!(written["time"], inbound.event.time.to_string());
                    assert_eq!(inbound.dedupe, written["type"] != "agent.surveyed");
                }
                Err(rejection) => {
                    refused.push(format!("{file} {} {}", rejection.id.unwrap_or_default(), rejection.reason.as_str()));
                }
            }
        }
    }
    assert_eq!(
        refused,
        [
            // the two that are wrong on purpose
            "disorder x1 unsupported_type",
            "disorder  malformed",
        ]
    );
}

#[test]
fn binary_mode_gives_the_same_event() {
    for line in EVENTS.iter().flat_map(|(_, lines)| lines.lines()) {
        let Ok(inbound) = structured(line.as_bytes()) else {
            continue;
        };
        let written: Value = serde_json::from_str(line).unwrap();
        let attributes = written.as_object().unwrap().iter().filter(|(name, _)| *name != "data");
        for prefix in ["cloudEvents_", "cloudEvents:"] {
            let headers: Vec<(String, String)> =
                attributes.clone().map(|(name, value)| (format!("{prefix}{name}"), value.as_str().unwrap().to_string())).collect();
            let body = written["data"].to_string();
            let raw = Raw { content_type: Some("application/json"), headers: &headers, body: body.as_bytes() };
            let binary = decode(&raw).unwrap_or_else(|no| panic!("{line}: {no}"));
            assert_eq!(Inbound { digest: inbound.digest, ..binary }, inbound);
        }
    }
}

#[test]
fn the_worked_report_arrives_whole() {
    let EventKind::ReportCreated(report) = taken("soc-1001-1").event.kind else { panic!("not a report") };
    assert_eq!(report.id, ReportId(1001));
    assert_eq!(report.agent_id, Some(AgentId(12)));
    assert_eq!(report.subject_key(), SubjectKey::Agent(AgentId(12)));
    assert_eq!((report.severity, report.attack_kind), (Severity::High, AttackKind::MalwarePersistence));
    assert_eq!((report.platform.as_str(), report.hostname.as_deref()), ("windows", Some("AMA-LAPTOP-04")));
    assert_eq!(report.text.subject, "HIGH - Incident on AMA-LAPTOP-04 (Able Moose Accounting)");
    assert_eq!(report.text.indicator_types, ["footholds"]);
    assert_eq!((report.plan_revision, report.simulated, report.isolate_host), (1, false, false));
    assert_eq!(report.sent_at.to_string(), "2026-11-23T09:00:00Z");
    assert_eq!(report.items.len(), 4);
    let item = &report.items[1];
    assert_eq!((item.id, item.kind), (RemediationId(2), RemediationType::Assisted));
    assert_eq!((item.action.original(), item.action.listed()), ("Quarantine File", Some(Action::QuarantineFile)));
    let path = Parameter { name: "path".into(), description: "C:\\ProgramData\\sync\\svc.exe".into() };
    assert_eq!(*item.parameters, Parameters::Named(vec![path]));
    let codes = ["file_in_use", "file_in_use", "file_in_use", "file_in_use", "ok"];
    assert_eq!(*item.simulate, codes.map(OutcomeCode::new));
    assert_eq!(*report.items[2].parameters, Parameters::None);
    assert_eq!(report.footholds[1].id, "fh-2");
    assert_eq!(report.footholds[1].remediation_ids, [RemediationId(2)]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let EventKind::ReportCreated(report) = taken("soc-1005-1").event.kind else { panic!("not a report") };
    assert_eq!(report.subject_key(), SubjectKey::Identity(IdentityId(77)));
    assert_eq!((report.plan_revision, report.simulated, report.isolate_host), (1, false, false));
    // neither sent_at nor created_at: the event's own time
    for at in [report.sent_at, report.updated_at, report.status_updated_at] {
        assert_eq!(at.to_string(), "2026-11-23T23:00:00Z");
    }
    assert_eq!(*report.items[0].parameters, Parameters::Text("office.manager@ablemoose.example".into()));

    let mut dated = event("soc-1005-1");
    dated["data"]["incident_report"]["created_at"] = "2026-11-23T22:58:00Z".into();
    dated["data"]["incident_report"]["updated_at"] = "2026-11-23T22:59:00Z".into();
    let EventKind::ReportCreated(report) = structured(dated.to_string().as_bytes()).unwrap().event.kind else { panic!("not a report") };
    assert_eq!(report.sent_at.to_string(), "2026-11-23T22:58:00Z");
    assert_eq!(report.updated_at.to_string(), "2026-11-23T22:59:00Z");
    assert_eq!(report.status_updated_at.to_string(), "2026-11-23T22:58:00Z");
}

#[test]
fn people_and_agents_are_heard() {
    let EventKind::Approved(PlanDecision { report, plan_revision, remediations, actor }) = taken("p-3").event.kind else {
        panic!("not an approval")
    };
    assert_eq!((report, plan_revision, remediations), (ReportId(1001), 1, None));
    assert_eq!((actor.id, actor.role), (32, Role::User));

    let EventKind::Rejected { comment, .. } = taken("p-10").event.kind else { panic!("not a rejection") };
    assert_eq!(comment, "psexec.exe is our administrators' own tool");

    let EventKind::ReportRevised(revision) = taken("soc-1002-2").event.kind else { panic!("not a revision") };
    assert_eq!((revision.plan_revision, revision.items.len(), revision.footholds), (2, 1, None));

    let EventKind::Surveyed(survey) = taken("survey-12-1").event.kind else { panic!("not a survey") };
    assert_eq!((survey.agent_id, survey.footholds_present, survey.isolated), (AgentId(12), None, None));

    let EventKind::ReportUpdated(update) = taken("soc-1001-2").event.kind else { panic!("not an update") };
    assert_eq!((update.severity, update.subject), (Some(Severity::Critical), None));
    assert_eq!(update.updated_at.to_string(), "2026-11-23T09:29:00Z");
    let payload = r#"{"incident_report_id":1001,"severity":"critical","summary":"A second host was reached.","updated_at":"2026-11-23T09:29:00Z","x_vendor":{"note":1.5}}"#;
    assert_eq!(update.data, Payload(payload.into()));
}

fn on_duty() -> Actor {
    let (name, email) = ("Security engineer on duty".into(), "seceng@msp.example".into());
    Actor { id: 31, name: Some(name), email: Some(email), role: Role::SecurityEngineer }
}

#[test]
fn there_is_an_event_of_every_type_that_is_applied() {
    let lines = EVENTS.iter().flat_map(|(_, lines)| lines.lines());
    let taken: BTreeSet<&str> =
        lines.filter_map(|line| structured(line.as_bytes()).ok()).map(|inbound| inbound.event.kind.name()).collect();
    let missing: Vec<&str> = InboundType::ALL.iter().map(|kind| kind.as_str()).filter(|name| !taken.contains(name)).collect();
    assert_eq!(missing, ["remediation.attempted"]);
}

#[test]
fn the_end_of_a_report_is_heard() {
    let report = ReportId(1001);
    let reason = Some("the partner's own backup tool".into());
    assert_eq!(taken("soc-1001-4").event.kind, EventKind::ReportDismissed { report, reason });

    let at = |text: &str| text.parse().unwrap();
    let status_updated_at = at("2026-11-23T09:34:30Z");
    assert_eq!(taken("soc-1001-5").event.kind, EventKind::ReportClosed { report, status_updated_at });
    let mut undated = event("soc-1001-5");
    undated["data"]["status_updated_at"] = Value::Null;
    let undated = structured(undated.to_string().as_bytes()).unwrap().event;
    assert_eq!(undated.kind, EventKind::ReportClosed { report, status_updated_at: at("2026-11-23T09:35:00Z") });

    let EventKind::Waived(TaskRequest { remediation, reason, actor, .. }) = taken("p-42").event.kind else { panic!("not a waiver") };
    assert_eq!((remediation, reason.as_deref(), actor.role), (RemediationId(2), Some("the disk was wiped"), Role::Admin));

    let request = |reason: &str| ReportRequest { report, reason: Some(reason.into()), actor: on_duty() };
    assert_eq!(taken("p-43").event.kind, EventKind::DismissalRequested(request("a penetration test of ours")));
    assert_eq!(taken("p-44").event.kind, EventKind::ReopenRequested(request("it is back")));
}

#[test]
fn a_call_for_help_is_passed_on_as_it_came() {
    let request = ReportRequest { report: ReportId(1003), reason: Some("other".into()), actor: on_duty() };
    let data = Payload(event("p-20")["data"].to_string());
    assert_eq!(taken("p-20").event.kind, EventKind::SocSupportRequested { request, data });
}

#[test]
fn hosts_are_isolated_released_and_removed() {
    let request = |agent: u64, reason: &str, force: bool| AgentRequest {
        agent: AgentId(agent),
        reason: Some(reason.into()),
        force,
        actor: on_duty(),
    };
    assert_eq!(taken("p-45").event.kind, EventKind::IsolationRequested(request(12, "stolen from a car", false)));
    assert_eq!(taken("p-22").event.kind, EventKind::ReleaseRequested(request(14, "user wants to work", false)));
    let mut forced = event("p-22");
    forced["data"]["force"] = true.into();
    let forced = structured(forced.to_string().as_bytes()).unwrap().event;
    assert_eq!(forced.kind, EventKind::ReleaseRequested(request(14, "user wants to work", true)));
    let removed = EventKind::AgentRemoved { agent: AgentId(12), reason: Some("uninstalled".into()) };
    assert_eq!(taken("removed-12").event.kind, removed);
}

fn settings(data: Value) -> SettingsChange {
    let mut event = event("org-1");
    event["data"] = data;
    let EventKind::OrganizationUpdated(change) = structured(event.to_string().as_bytes()).unwrap().event.kind else {
        panic!("no settings")
    };
    *change
}

#[test]
fn an_organization_sets_what_it_names() {
    let change = settings(event("org-1")["data"].take());
    let expected = SettingsChange {
        time_zone: Some("Australia/Sydney".into()),
        business_hours: Some((510, 1_020, [true, true, true, true, true, false, false])),
        managed_low: Some(true),
        managed_high: Some(false),
        managed_critical: Some(false),
        unresponsive_after_days: Some(30),
        release_on_resolve: Some(true),
        auto_close_when_footholds_cleared: Some(true),
        close_on_agent_removed: Some(false),
        resolve_when_unblocked: Some(true),
        sla: Some(SlaSettings { critical_minutes: 10, high_warning_minutes: 20, high_minutes: 30, low_business_minutes: 240 }),
    };
    assert_eq!(change, expected);

    assert_eq!(settings(json!({})), SettingsChange::default());
    assert_eq!(settings(json!({"release_on_resolve": null, "managed_response": {}})), SettingsChange::default());
    let only = settings(json!({"managed_response": {"high": true}, "sla": {"critical_minutes": 5}, "time_zone": "europe/berlin"}));
    let expected = SettingsChange {
        time_zone: Some("Europe/Berlin".into()),
        managed_high: Some(true),
        sla: Some(SlaSettings { critical_minutes: 5, ..SlaSettings::default() }),
        ..SettingsChange::default()
    };
    assert_eq!(only, expected);

    for data in [json!(null), json!({}), json!({"reason": "contract ended"})] {
        let mut deleted = event("org-2");
        deleted["data"] = data;
        assert_eq!(structured(deleted.to_string().as_bytes()).unwrap().event.kind, EventKind::OrganizationDeleted);
    }
    assert_eq!(taken("org-2").event.kind, EventKind::OrganizationDeleted);
}

#[test]
fn the_funnel_is_counted() {
    let count = FunnelCount { period: "2026-11".into(), events_analysed: 1_200_000, signals: 340, signals_investigated: 41 };
    assert_eq!(taken("funnel-11").event.kind, EventKind::FunnelCounted(count));
}

#[test]
fn the_key_is_source_and_id_and_the_digest_is_the_bytes() {
    let first = event("p-3");
    let mut other_id = first.clone();
    other_id["id"] = "p-3x".into();
    let mut other_source = first.clone();
    other_source["source"] = "elsewhere".into();
    let mut other_data = first.clone();
    other_data["data"]["plan_revision"] = 2.into();
    let [first, other_id, other_source, other_data] =
        [first, other_id, other_source, other_data].map(|event| structured(event.to_string().as_bytes()).unwrap());
    assert_ne!(first.key, other_id.key);
    assert_ne!(first.key, other_source.key);
    assert_eq!(first.key, other_data.key);
    assert_ne!(first.digest, other_data.digest);
    // sha256("msp/portal" 0 "p-3"), by another implementation
    let hex: String = first.key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0df14fe3a91b43c3d921130c11308169");
}
