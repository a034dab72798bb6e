//! What producers may send `remedyd serve` over AMQP: both modes of CloudEvents, and everything that can never be
//! applied. A bad message becomes a dead letter that says why, and the good one behind it is applied.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and fails without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;

use outside::{Outside, STRUCTURED, Sent};
use process::Process;
use serde_json::{Value, json};
use service::{replay_lines, sample};
use tempfile::TempDir;

/// A ready service that knows report 1001 of the worked report.
struct Place {
    outside: Outside,
    service: Process,
    _dir: TempDir,
    /// Good events so far; each is 20 minutes after the one before, and so past the end of any parking.
    good: u32,
}

impl Place {
    async fn new(test: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut outside = Outside::connect(test).await;
        let service = outside.start(dir.path()).await;
        outside.listen().await;
        let created = sample("able-moose").remove(1);
        outside.send(&Sent::structured(&created)).await;
        let outbound = replay_lines(&[created], &[]).lines();
        for _ in 0..outbound.len() {
            let body = outside.status().await.body;
            assert!(outbound.contains(&body), "{}", String::from_utf8_lossy(&body));
        }
        Self { outside, service, _dir: dir, good: 0 }
    }

    /// The next outbound event that an event of ours has caused. Time alone causes others: the report of the worked
    /// example is never approved here, and its deadline passes.
    async fn answer(&mut self) -> Value {
        loop {
            let event = self.outside.status().await.event();
            if !by_timer(&event) {
                return event;
            }
        }
    }

    /// A request that is answered: by `resolution_refused`.
    fn good(&mut self) -> (String, Sent) {
        self.good += 1;
        let mut event: Value = serde_json::from_slice(&sample("able-moose")[2]).unwrap();
        let id = format!("good-{}", self.good);
        let minutes = 20 * self.good;
        event["id"] = json!(id);
        event["time"] = json!(format!("2026-11-23T{:02}:{:02}:00Z", 10 + minutes / 60, minutes % 60));
        (id, Sent::structured(event.to_string().as_bytes()))
    }

    /// A good survey of the report's agent: the first makes it online, which is published.
    async fn survey(&mut self) {
        self.outside.send(&Sent::structured(&sample("able-moose")[0])).await;
        assert_eq!(self.answer().await["causationid"], "survey-12-1");
    }

    /// `bad` becomes a dead letter with this reason and a detail that begins so; the message is otherwise as it was
    /// sent; a good event behind it is applied, and nothing else comes of either.
    async fn check(&mut self, what: &str, bad: &Sent, reason: &str, detail: &str) {
        let (id, good) = self.good();
        self.outside.send(bad).await;
        self.outside.send(&good).await;
        let got = self.outside.dead_letter().await;
        assert_eq!((got.header("reason"), got.body == bad.body), (reason, true), "{what}: {:?}", got.headers);
        assert!(got.header("detail").starts_with(detail), "{what}: {}", got.header("detail"));
        assert_eq!(got.header("original-exchange"), format!("{}.events", self.outside.prefix), "{what}");
        assert_eq!(got.header("original-routing-key"), bad.routing_key, "{what}");
        got.header("failed-at").parse::<remedyd::model::time::Timestamp>().unwrap_or_else(|error| panic!("{what}: failed-at: {error}"));
        let content_type = got.properties.content_type().as_ref().map(ToString::to_string);
        assert_eq!(content_type, bad.content_type, "{what}");
        assert_eq!(*got.properties.delivery_mode(), Some(2), "{what}: persistent");
        for (name, value) in bad.headers.iter().filter(|(name, _)| !name.starts_with("x-")) {
            assert_eq!(got.header(name), value, "{what}");
        }
        assert!(!got.headers.keys().any(|name| name.starts_with("x-")), "{what}: {:?}", got.headers);
        let event = self.answer().await;
        assert_eq!((&event["causationid"], &event["type"]), (&json!(id), &json!("incident_report.resolution_refused")), "{what}");
    }

    async fn end(mut self) {
        self.service.stop().await;
        let (status, dead_letters) = self.outside.rest().await;
        let unasked = status.iter().filter(|got| !by_timer(&got.event())).count();
        assert_eq!((unasked, dead_letters.len()), (0, 0), "more came than was asked for");
        self.outside.clean().await;
    }
}

fn by_timer(event: &Value) -> bool {
    event["causationid"].as_str().unwrap().starts_with("timer:")
}

/// The event of the worked report that creates it, as a report of its own, with `edit` applied.
fn created(edit: impl FnOnce(&mut Value)) -> Sent {
    let mut event: Value = serde_json::from_slice(&sample("able-moose")[1]).unwrap();
    event["id"] = json!("soc-2000-1");
    event["data"]["incident_report"]["id"] = json!(2000);
    edit(&mut event);
    Sent::structured(event.to_string().as_bytes())
}

fn raw(body: impl Into<Vec<u8>>) -> Sent {
    Sent {
        routing_key: "incident_report.created.5.4".into(),
        content_type: Some(STRUCTURED.into()),
        headers: vec![("tenantid".into(), "5.4".into())],
        body: body.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_an_event_is_malformed() {
    let mut place = Place::new("malformed").await;
    let good = String::from_utf8(sample("able-moose")[2].clone()).unwrap();
    for (what, bad, detail) in [
        ("no JSON", raw("{\"this is not\":\"an event\""), "message:"),
        ("no UTF-8", raw(b"{\"id\":\"\xff\"}".to_vec()), "invalid UTF-8 at byte 7"),
        ("nothing", raw(""), "message:"),
        ("an array", raw("[]"), "message: an event is a JSON object"),
        ("trailing bytes", raw(format!("{good}x")), "trailing characters"),
        ("a key twice", raw(good.replace("{\"specversion\"", "{\"id\":\"p-1\",\"specversion\"")), ""),
        ("33 levels", raw(good.replace("\"looks done\"", &format!("{}1{}", "[".repeat(33), "]".repeat(33)))), ""),
        ("no id", raw(good.replace("\"id\":\"p-1\",", "")), "id: missing"),
        ("a number out of range", raw(good.replace("1001,", "1e999,")), ""),
        ("no CloudEvents", Sent { content_type: Some("text/plain".into()), ..raw(good.clone()) }, "content type:"),
        (
            "batched CloudEvents",
            Sent { content_type: Some("application/cloudevents-batch+json".into()), ..raw(good.clone()) },
            "content type:",
        ),
    ] {
        place.check(what, &bad, "malformed", detail).await;
    }
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_applied_is_told_by_its_reason() {
    let mut place = Place::new("reasons").await;
    let invalid = created(|event| event["data"]["incident_report"]["severity"] = json!("dreadful"));
    place.check("an unknown severity", &invalid, "invalid", "data.incident_report.severity").await;
    let closed = created(|event| event["data"]["incident_report"]["status"] = json!("closed"));
    place.check("created closed", &closed, "invalid", "data.incident_report.status").await;
    let far = created(|event| event["data"]["incident_report"]["body"] = json!("x".repeat(64 * 1024 + 1)));
    place.check("a text too long", &far, "too_large", "data.incident_report.body").await;
    let large = raw(format!("{{\"filler\":\"{}\"}}", "x".repeat(256 * 1024)));
    place.check("a message too large", &large, "too_large", "message:").await;
    let many = created(|event| {
        let items = &mut event["data"]["incident_report"]["remediations"];
        let item = items["items"][2].clone();
        let numbered = |number| {
            let mut item = item.clone();
            item["id"] = json!(number);
            item["action"] = json!(format!("step {number}"));
            item
        };
        items["items"] = (1..=201).map(numbered).collect();
        items["total_count"] = json!(201);
    });
    place.check("too many remediations", &many, "too_large", "data.incident_report.remediations").await;
    let news = created(|event| event["type"] = json!("incident_report.mislaid"));
    place.check("an unknown type", &news, "unsupported_type", "type:").await;
    let next = created(|event| event["schemaversion"] = json!("2"));
    place.check("a later schema", &next, "unsupported_version", "schemaversion:").await;
    let partial = created(|event| {
        let plan = &mut event["data"]["incident_report"]["remediations"];
        plan["has_more"] = json!(true);
        plan["items"].as_array_mut().unwrap().pop();
    });
    place.check("half a plan", &partial, "plan_incomplete", "data.incident_report.remediations").await;
    let foreign = created(|event| event["data"]["incident_report"]["account_id"] = json!(6));
    place.check("another account's report", &foreign, "tenant_mismatch", "data.incident_report.account_id").await;
    let crossed = Sent { headers: vec![("tenantid".into(), "6.4".into())], ..created(|_| ()) };
    place.check("another tenant's header", &crossed, "tenant_mismatch", "tenantid:").await;

    // report 1001's creation again, with the same id and another text
    let reused = created(|event| {
        event["id"] = json!("soc-1001-1");
        event["data"]["incident_report"]["id"] = json!(1001);
        event["data"]["incident_report"]["summary"] = json!("something else");
    });
    place.check("an id used again", &reused, "id_reused", "id: an event with this id").await;

    // nothing is known of report 4711, nor 20 minutes later
    let mut orphan: Value = serde_json::from_slice(&sample("able-moose")[4]).unwrap();
    orphan["id"] = json!("p-4711");
    orphan["time"] = json!("2026-11-23T10:00:00Z");
    orphan["data"]["incident_report_id"] = json!(4711);
    orphan.as_object_mut().unwrap().remove("subject");
    place.check("a decision on nothing", &Sent::structured(orphan.to_string().as_bytes()), "orphan", "").await;
    // its replay is new, and comes to the same
    place.check("the same once more", &Sent::structured(orphan.to_string().as_bytes()), "orphan", "").await;
    place.end().await;
}

/// What a broker adds when it moves a message itself must not travel on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_sheds_the_headers_of_earlier_deaths() {
    let mut place = Place::new("deaths").await;
    let mut bad = raw("rubbish");
    for name in ["x-first-death-queue", "x-last-death-reason", "x-delivery-count"] {
        bad.headers.push((name.into(), "something".into()));
    }
    // of a dead letter that was sent back: replaced, not repeated
    bad.headers.push(("x-death".into(), "something".into()));
    place.check("a message with a past", &bad, "malformed", "message:").await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_survey_holds_up_no_survey() {
    let mut place = Place::new("surveys").await;
    let mut survey: Value = serde_json::from_slice(&sample("able-moose")[0]).unwrap();
    survey["data"]["surveyed_at"] = json!("yesterday");
    place.outside.send(&Sent::structured(survey.to_string().as_bytes())).await;
    let got = place.outside.dead_letter().await;
    assert_eq!(got.header("reason"), "invalid");
    assert!(got.header("detail").starts_with("data.surveyed_at"), "{}", got.header("detail"));
    assert_eq!(got.header("original-routing-key"), "agent.surveyed.5.4");
    place.survey().await;
    place.end().await;
}

/// Structured and both spellings of binary mode, and a structured one without a content type, come to the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_modes_are_accepted() {
    let events = sample("no-remediation");
    let expected = replay_lines(&events, &[]).lines();
    type Mode = fn(&[u8]) -> Sent;
    let modes: [(&str, Mode); 4] = [
        ("structured", Sent::structured),
        ("binary", |event| Sent::binary(event, "cloudEvents_")),
        ("binary-colon", |event| Sent::binary(event, "cloudEvents:")),
        ("structured-bare", |event| Sent { content_type: None, ..Sent::structured(event) }),
    ];
    for (name, mode) in modes {
        let dir = TempDir::new().unwrap();
        let mut outside = Outside::connect(&format!("mode-{name}")).await;
        let service = outside.start(dir.path()).await;
        outside.listen().await;
        for event in &events {
            outside.send(&mode(event)).await;
        }
        for expected in &expected {
            let got = outside.status().await;
            outside::check_properties(&got);
            assert_eq!(String::from_utf8_lossy(&got.body), String::from_utf8_lossy(expected), "{name}");
        }
        // sent again, each is known by its id
        for event in &events {
            outside.send(&mode(event)).await;
        }
        outside.barrier().await;
        service.stop().await;
        let (status, dead_letters) = outside.rest().await;
        assert_eq!((status.len(), dead_letters.len()), (0, 0), "{name}");
        outside.clean().await;
    }
}
