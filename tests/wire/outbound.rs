//! Golden output: what is published for each kind of notice, to the byte.

use remedyd::machine::event::Payload;
use remedyd::machine::notice::*;
use remedyd::model::actor::{Actor, Role};
use remedyd::model::agent::{FirewallStatus, Presence};
use remedyd::model::ids::{AgentId, RemediationId, ReportId, TenantId};
use remedyd::model::remediation::{ActionName, Cancellation, RemediationType, State};
use remedyd::model::report::{AttackKind, Foothold, Phase, ReportStatus, Severity};
use remedyd::model::time::Timestamp;
use remedyd::wire::{Outbound, encode};

const TENANT: TenantId = TenantId { account: 5, organization: 4 };
const REPORT: About = About::Report { report: ReportId(1001), agent: Some(AgentId(12)) };

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn notice(about: About, body: Body) -> Notice {
    Notice { about, sequence: 7, time: at("2026-11-23T09:05:00.250Z"), fired_at: None, cause: "p-3".into(), traceparent: None, body }
}

fn text(outbound: &Outbound) -> &str {
    std::str::from_utf8(&outbound.body).unwrap()
}

/// The whole event is checked by the first tests; the others show `data`.
fn check(about: About, body: Body, data: &str) {
    let name = body.name();
    let outbound = encode(TENANT, &notice(about, body));
    assert_eq!(outbound.routing_key, format!("{name}.5.4"));
    let start = text(&outbound).find(",\"data\":").expect("data") + 8;
    assert_eq!(&text(&outbound)[start..text(&outbound).len() - 1], data, "{name}");
}

#[test]
fn the_whole_event_about_a_report() {
    let outbound = encode(TENANT, &notice(REPORT, Body::ResolutionUnblocked));
    assert_eq!(
        text(&outbound),
        concat!(
            r#"{"specversion":"1.0","id":"5.4:incident_reports/1001:7","source":"remedyd","#,
            r#""type":"incident_report.resolution_unblocked","subject":"incident_reports/1001","#,
            r#""time":"2026-11-23T09:05:00.25Z","datacontenttype":"application/json","tenantid":"5.4","#,
            r#""schemaversion":"1","sequence":"7","causationid":"p-3","#,
            r#""data":{"incident_report_id":1001,"agent_id":12}}"#,
        )
    );
    assert_eq!(
        Outbound { body: Vec::new(), ..outbound },
        Outbound {
            routing_key: "incident_report.resolution_unblocked.5.4".into(),
            message_id: "5.4:incident_reports/1001:7".into(),
            content_type: "application/cloudevents+json",
            timestamp_s: 1_795_424_700,
            body: Vec::new(),
            tenantid: "5.4".into(),
        }
    );
}

#[test]
fn the_whole_event_about_an_agent_of_a_late_timer_in_a_trace() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let notice = Notice {
        sequence: 2,
        fired_at: Some(at("2026-11-23T10:00:00Z")),
        traceparent: Some(trace.into()),
        ..notice(About::Agent(AgentId(12)), Body::AgentStatusChanged { from: Some(Presence::Online), to: Presence::Offline })
    };
    let outbound = encode(TENANT, &notice);
    assert_eq!(
        text(&outbound),
        concat!(
            r#"{"specversion":"1.0","id":"5.4:agents/12:2","source":"remedyd","type":"agent.status_changed","#,
            r#""subject":"agents/12","time":"2026-11-23T09:05:00.25Z","datacontenttype":"application/json","#,
            r#""tenantid":"5.4","schemaversion":"1","sequence":"2","causationid":"p-3","#,
            r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","#,
            r#""data":{"agent_id":12,"from":"online","to":"offline","fired_at":"2026-11-23T10:00:00Z"}}"#,
        )
    );
    assert_eq!(encode(TENANT, &notice), outbound);
}

#[test]
fn triaged() {
    let triage = Triage {
        severity: Severity::High,
        urgency: Urgency::WithinHour,
        respond_by: at("2026-11-23T10:00:00Z"),
        finding: Finding {
            attack_kind: AttackKind::MalwarePersistence,
            subject: "HIGH".into(),
            summary: "A \"task\"".into(),
            indicator_types: vec!["footholds".into()],
            hosts: vec!["AMA-LAPTOP-04".into()],
            identities: vec![],
            footholds: vec![Foothold {
                id: "fh-1".into(),
                kind: "scheduled_task".into(),
                description: "at logon".into(),
                remediation_ids: vec![RemediationId(1)],
            }],
        },
        plan_shape: PlanShape::Both,
        next_action: NextAction::ReviewPlan,
        isolation: Some(FirewallStatus::PendingIsolation),
        containment_alone_enough: false,
    };
    check(
        REPORT,
        Body::Triaged(Box::new(triage)),
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"severity":"high","urgency":"within_hour","#,
            r#""respond_by":"2026-11-23T10:00:00Z","finding":{"attack_kind":"malware_persistence","#,
            r#""subject":"HIGH","summary":"A \"task\"","indicator_types":["footholds"],"#,
            r#""hosts":["AMA-LAPTOP-04"],"identities":[],"footholds":[{"id":"fh-1","kind":"scheduled_task","#,
            r#""description":"at logon","remediation_ids":[1]}]},"plan_shape":"both","#,
            r#""next_action":"review_plan","isolation":"Pending Isolation","containment_alone_enough":false}"#,
        ),
    );
}

#[test]
fn status_changed_at_creation_and_at_the_end() {
    check(
        About::Report { report: ReportId(1004), agent: None },
        Body::StatusChanged {
            from: None,
            to: ReportStatus::Sent,
            phase: Some(Phase::Ready),
            cause: "created",
            actor: None,
            counts: Counts::default(),
        },
        concat!(
            r#"{"incident_report_id":1004,"agent_id":null,"from":null,"to":"sent","phase":"ready","#,
            r#""cause":"created","actor":null,"counts":{"unapproved":0,"open":0,"completed":0,"failed":0,"#,
            r#""cancelled":0,"footholds_remaining":0}}"#,
        ),
    );
    check(
        REPORT,
        Body::StatusChanged {
            from: Some(ReportStatus::Sent),
            to: ReportStatus::Closed,
            phase: None,
            cause: "resolved",
            actor: Some(Actor { id: 31, name: Some("Security engineer on duty".into()), email: None, role: Role::SecurityEngineer }),
            counts: Counts { unapproved: 1, open: 2, completed: 3, failed: 4, cancelled: 5, footholds_remaining: 6 },
        },
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"from":"sent","to":"closed","phase":null,"#,
            r#""cause":"resolved","actor":{"id":31,"name":"Security engineer on duty","email":null,"#,
            r#""role":"security_engineer"},"counts":{"unapproved":1,"open":2,"completed":3,"failed":4,"#,
            r#""cancelled":5,"footholds_remaining":6}}"#,
        ),
    );
}

#[test]
fn phase_changed() {
    check(
        REPORT,
        Body::PhaseChanged { from: Phase::Remediating, to: Phase::Ready },
        r#"{"incident_report_id":1001,"agent_id":12,"from":"remediating","to":"ready"}"#,
    );
}

#[test]
fn resolution_refused() {
    let blockers = vec![
        Blocker { code: BlockerCode::InRevision, task: None, agent_id: None },
        Blocker {
            code: BlockerCode::TaskPending,
            task: Some(BlockedTask {
                remediation_id: RemediationId(2),
                plan_revision: 1,
                action: ActionName::new("Quarantine File"),
                state: State::RetryWait,
                attempt: 1,
                max_attempts: 5,
                reason: Some("file_in_use".into()),
                next_attempt_at: Some(at("2026-11-23T09:18:00Z")),
                deliver_by: Some(at("2026-11-30T09:04:00Z")),
            }),
            agent_id: Some(AgentId(12)),
        },
    ];
    check(
        REPORT,
        Body::ResolutionRefused { blockers },
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"blockers":[{"code":"in_revision","#,
            r#""remediation_id":null,"plan_revision":null,"action":null,"state":null,"attempt":null,"#,
            r#""max_attempts":null,"reason":null,"next_attempt_at":null,"deliver_by":null,"agent_id":null,"#,
            r#""clears_by":"the SOC issuing a revised plan"},{"code":"task_pending","remediation_id":2,"#,
            r#""plan_revision":1,"action":"Quarantine File","state":"retry_wait","attempt":1,"#,
            r#""max_attempts":5,"reason":"file_in_use","next_attempt_at":"2026-11-23T09:18:00Z","#,
            r#""deliver_by":"2026-11-30T09:04:00Z","agent_id":12,"#,
            r#""clears_by":"the agent running it at a survey"}]}"#,
        ),
    );
}

#[test]
fn passed_on_without_saying_anything_twice() {
    check(
        REPORT,
        Body::Updated(Payload(r#"{"incident_report_id":9,"agent_id":9,"severity":"high","x":{"b":1,"a":[]}}"#.into())),
        r#"{"incident_report_id":1001,"agent_id":12,"severity":"high","x":{"a":[],"b":1}}"#,
    );
    check(
        REPORT,
        Body::CommentAdded(Payload(r#"{"comment":"We are watching.","incident_report_id":1001}"#.into())),
        r#"{"incident_report_id":1001,"agent_id":12,"comment":"We are watching."}"#,
    );
}

#[test]
fn remediation_status_changed() {
    let change = RemediationChange {
        remediation_id: RemediationId(2),
        kind: RemediationType::Assisted,
        action: ActionName::new("Quarantine File"),
        from: Some(State::Queued),
        to: State::Delivered,
        verified: false,
        attempt: 1,
        max_attempts: 5,
        tries: 0,
        reason: None,
        next_attempt_at: None,
        deliver_by: Some(at("2026-11-30T09:04:00Z")),
        plan_revision: 1,
        attempt_id: Some("5.4/1001/1/2/g1/a1".into()),
    };
    check(
        REPORT,
        Body::RemediationStatusChanged(Box::new(change.clone())),
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"remediation_id":2,"type":"assisted","#,
            r#""action":"Quarantine File","from":"queued","to":"delivered","status":"approved","#,
            r#""verified":false,"attempt":1,"max_attempts":5,"tries":0,"reason":null,"#,
            r#""next_attempt_at":null,"deliver_by":"2026-11-30T09:04:00Z","plan_revision":1,"#,
            r#""attempt_id":"5.4/1001/1/2/g1/a1"}"#,
        ),
    );
    // the cancellation is the reason, whatever the last attempt had come to
    let cancelled = RemediationChange {
        from: None,
        to: State::Cancelled(Cancellation::Superseded),
        reason: Some("file_in_use".into()),
        next_attempt_at: Some(at("2026-11-23T09:18:00Z")),
        attempt_id: None,
        ..change
    };
    check(
        REPORT,
        Body::RemediationStatusChanged(Box::new(cancelled)),
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"remediation_id":2,"type":"assisted","#,
            r#""action":"Quarantine File","from":null,"to":"cancelled","status":"cancelled","#,
            r#""verified":false,"attempt":1,"max_attempts":5,"tries":0,"reason":"superseded","#,
            r#""next_attempt_at":"2026-11-23T09:18:00Z","deliver_by":"2026-11-30T09:04:00Z","#,
            r#""plan_revision":1,"attempt_id":null}"#,
        ),
    );
}

#[test]
fn agent_status_changed() {
    check(
        About::Agent(AgentId(12)),
        Body::AgentStatusChanged { from: None, to: Presence::Known },
        r#"{"agent_id":12,"from":null,"to":"known"}"#,
    );
}

#[test]
fn paged() {
    check(
        REPORT,
        Body::Paged { reason: PageReason::CriticalReport, severity: Severity::Critical, respond_by: at("2026-11-23T22:25:00Z") },
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"reason":"critical_report","severity":"critical","#,
            r#""respond_by":"2026-11-23T22:25:00Z"}"#,
        ),
    );
}

#[test]
fn request_refused() {
    check(
        REPORT,
        Body::RequestRefused {
            request_type: "remediations.approved",
            code: RefusalCode::StalePlan,
            message: "the plan is at revision 2".into(),
        },
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"request_type":"remediations.approved","#,
            r#""code":"stale_plan","message":"the plan is at revision 2"}"#,
        ),
    );
}
