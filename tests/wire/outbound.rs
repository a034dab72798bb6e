//! Golden output: what is published for each kind of notice, to the byte.

use remedyd::machine::event::Payload;
use remedyd::machine::notice::*;
use remedyd::model::actor::{Actor, Role};
use remedyd::model::agent::{FirewallStatus, Holder, Presence};
use remedyd::model::ids::{AgentId, RemediationId, ReportId, TenantId};
use remedyd::model::organization::FunnelMonth;
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

fn person() -> Author {
    Author::Person(Actor { id: 31, name: Some("Security engineer on duty".into()), email: None, role: Role::SecurityEngineer })
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
fn the_whole_event_about_an_organization() {
    let month = FunnelMonth { events_analysed: 1_200_000, signals: 340, signals_investigated: 41, incidents_reported: 3, counted_at: None };
    let outbound = encode(TENANT, &notice(About::Organization, Body::FunnelUpdated { period: "2026-11".into(), month }));
    assert_eq!(
        text(&outbound),
        concat!(
            r#"{"specversion":"1.0","id":"5.4:organization:7","source":"remedyd","type":"funnel.updated","#,
            r#""subject":"organization","time":"2026-11-23T09:05:00.25Z","datacontenttype":"application/json","#,
            r#""tenantid":"5.4","schemaversion":"1","sequence":"7","causationid":"p-3","data":{"period":"2026-11","#,
            r#""events_analysed":1200000,"signals":340,"signals_investigated":41,"incidents_reported":3}}"#,
        )
    );
    assert_eq!((outbound.message_id.as_str(), outbound.routing_key.as_str()), ("5.4:organization:7", "funnel.updated.5.4"));
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
            residual: None,
        },
        concat!(
            r#"{"incident_report_id":1004,"agent_id":null,"from":null,"to":"sent","phase":"ready","#,
            r#""cause":"created","actor":null,"counts":{"unapproved":0,"open":0,"completed":0,"failed":0,"#,
            r#""cancelled":0,"footholds_remaining":0},"residual":null}"#,
        ),
    );
    check(
        REPORT,
        Body::StatusChanged {
            from: Some(ReportStatus::Sent),
            to: ReportStatus::Closed,
            phase: None,
            cause: "resolved",
            actor: Some(person()),
            counts: Counts { unapproved: 1, open: 2, completed: 3, failed: 4, cancelled: 5, footholds_remaining: 6 },
            residual: Some(2),
        },
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"from":"sent","to":"closed","phase":null,"#,
            r#""cause":"resolved","actor":{"id":31,"name":"Security engineer on duty","email":null,"#,
            r#""role":"security_engineer"},"counts":{"unapproved":1,"open":2,"completed":3,"failed":4,"#,
            r#""cancelled":5,"footholds_remaining":6},"residual":2}"#,
        ),
    );
}

#[test]
fn what_no_person_did_has_an_actor_of_the_same_shape() {
    for (author, actor) in [
        (person(), r#"{"id":31,"name":"Security engineer on duty","email":null,"role":"security_engineer"}"#),
        (Author::Policy, r#"{"id":null,"name":"policy","email":null,"role":"policy"}"#),
        (Author::Soc, r#"{"id":null,"name":"soc","email":null,"role":"soc"}"#),
    ] {
        check(
            REPORT,
            Body::StatusChanged {
                from: Some(ReportStatus::AutoRemediating),
                to: ReportStatus::Dismissed,
                phase: None,
                cause: "dismissed",
                actor: Some(author),
                counts: Counts::default(),
                residual: None,
            },
            &format!(
                concat!(
                    r#"{{"incident_report_id":1001,"agent_id":12,"from":"auto_remediating","to":"dismissed","phase":null,"#,
                    r#""cause":"dismissed","actor":{actor},"counts":{{"unapproved":0,"open":0,"completed":0,"failed":0,"#,
                    r#""cancelled":0,"footholds_remaining":0}},"residual":null}}"#,
                ),
                actor = actor,
            ),
        );
    }
}

#[test]
fn reopened() {
    for (cause, word, remediation_id, shown) in [
        (ReopenCause::Requested, "requested", None, "null"),
        (ReopenCause::FootholdReturned, "foothold_returned", Some(RemediationId(2)), "2"),
        (ReopenCause::ResidualFailed, "residual_failed", Some(RemediationId(1)), "1"),
    ] {
        check(
            REPORT,
            Body::Reopened { cause, remediation_id },
            &format!(r#"{{"incident_report_id":1001,"agent_id":12,"cause":"{word}","remediation_id":{shown}}}"#),
        );
    }
}

#[test]
fn residual_cleared() {
    check(REPORT, Body::ResidualCleared, r#"{"incident_report_id":1001,"agent_id":12}"#);
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
    check(
        REPORT,
        Body::SocSupportRequested(Payload(
            r#"{"actor":{"id":31,"role":"admin"},"channel":"callback","comment":"tonight?","incident_report_id":1001,"reason":"other"}"#
                .into(),
        )),
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"actor":{"id":31,"role":"admin"},"channel":"callback","#,
            r#""comment":"tonight?","reason":"other"}"#,
        ),
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
        waived: false,
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
            r#""verified":false,"waived":false,"attempt":1,"max_attempts":5,"tries":0,"reason":null,"#,
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
            r#""verified":false,"waived":false,"attempt":1,"max_attempts":5,"tries":0,"reason":"superseded","#,
            r#""next_attempt_at":"2026-11-23T09:18:00Z","deliver_by":"2026-11-30T09:04:00Z","#,
            r#""plan_revision":1,"attempt_id":null}"#,
        ),
    );
}

#[test]
fn remediation_waived() {
    let waived = RemediationChange {
        remediation_id: RemediationId(2),
        kind: RemediationType::Assisted,
        action: ActionName::new("Quarantine File"),
        from: Some(State::Failed),
        to: State::Failed,
        verified: false,
        waived: true,
        attempt: 5,
        max_attempts: 5,
        tries: 15,
        reason: Some("file_in_use".into()),
        next_attempt_at: None,
        deliver_by: None,
        plan_revision: 1,
        attempt_id: None,
    };
    check(
        REPORT,
        Body::RemediationStatusChanged(Box::new(waived)),
        concat!(
            r#"{"incident_report_id":1001,"agent_id":12,"remediation_id":2,"type":"assisted","#,
            r#""action":"Quarantine File","from":"failed","to":"failed","status":"failed","#,
            r#""verified":false,"waived":true,"attempt":5,"max_attempts":5,"tries":15,"reason":"file_in_use","#,
            r#""next_attempt_at":null,"deliver_by":null,"plan_revision":1,"attempt_id":null}"#,
        ),
    );
}

#[test]
fn remediation_verified() {
    check(
        REPORT,
        Body::RemediationVerified { remediation_id: RemediationId(2), plan_revision: 1 },
        r#"{"incident_report_id":1001,"agent_id":12,"remediation_id":2,"plan_revision":1}"#,
    );
}

#[test]
fn isolation_changed() {
    check(
        About::Agent(AgentId(12)),
        Body::IsolationChanged {
            from: FirewallStatus::Enabled,
            to: FirewallStatus::PendingIsolation,
            holders: vec![Holder::Report(ReportId(1001)), Holder::Report(ReportId(1003)), Holder::Manual],
            reason: Some("stolen from a car".into()),
            actor: Some(person()),
        },
        concat!(
            r#"{"agent_id":12,"from":"Enabled","to":"Pending Isolation","holders":[1001,1003,"manual"],"#,
            r#""reason":"stolen from a car","actor":{"id":31,"name":"Security engineer on duty","email":null,"#,
            r#""role":"security_engineer"}}"#,
        ),
    );
    check(
        About::Agent(AgentId(12)),
        Body::IsolationChanged {
            from: FirewallStatus::PendingRelease,
            to: FirewallStatus::Enabled,
            holders: vec![],
            reason: None,
            actor: None,
        },
        r#"{"agent_id":12,"from":"Pending Release","to":"Enabled","holders":[],"reason":null,"actor":null}"#,
    );
}

#[test]
fn isolation_drifted() {
    check(
        About::Agent(AgentId(12)),
        Body::IsolationDrifted { holders: vec![Holder::Report(ReportId(1003))] },
        r#"{"agent_id":12,"holders":[1003]}"#,
    );
}

#[test]
fn response_times() {
    let data = r#"{"incident_report_id":1001,"agent_id":12,"severity":"high","respond_by":"2026-11-23T10:00:00Z"}"#;
    let (severity, respond_by) = (Severity::High, at("2026-11-23T10:00:00Z"));
    check(REPORT, Body::SlaWarning { severity, respond_by }, data);
    check(REPORT, Body::SlaBreached { severity, respond_by }, data);
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
    for (reason, word) in [
        (PageReason::CriticalReport, "critical_report"),
        (PageReason::NotActedOn, "not_acted_on"),
        (PageReason::SlaBreached, "sla_breached"),
        (PageReason::IsolationFailed, "isolation_failed"),
    ] {
        check(
            REPORT,
            Body::Paged { reason, severity: Severity::Critical, respond_by: at("2026-11-23T22:25:00Z") },
            &format!(
                concat!(
                    r#"{{"incident_report_id":1001,"agent_id":12,"reason":"{word}","severity":"critical","#,
                    r#""respond_by":"2026-11-23T22:25:00Z"}}"#,
                ),
                word = word,
            ),
        );
    }
}

#[test]
fn request_refused() {
    for (about, ids) in [
        (REPORT, r#""incident_report_id":1001,"agent_id":12,"#),
        (About::Agent(AgentId(12)), r#""agent_id":12,"#),
        (About::Organization, ""),
    ] {
        for (code, word) in [
            (RefusalCode::RoleNotAllowed, "role_not_allowed"),
            (RefusalCode::StalePlan, "stale_plan"),
            (RefusalCode::EmptyComment, "empty_comment"),
            (RefusalCode::WrongState, "wrong_state"),
            (RefusalCode::IsolationHeld, "isolation_held"),
            (RefusalCode::NotCritical, "not_critical"),
            (RefusalCode::UnknownRemediation, "unknown_remediation"),
            (RefusalCode::UnknownAgent, "unknown_agent"),
        ] {
            check(
                about,
                Body::RequestRefused { request_type: "remediations.approved", code, message: "why".into() },
                &format!(r#"{{{ids}"request_type":"remediations.approved","code":"{word}","message":"why"}}"#),
            );
        }
    }
}
