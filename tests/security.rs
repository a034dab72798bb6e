//! What an attacker, or a careless operator, gets from the real service: nothing of another tenant, no secret and no
//! customer's words where they do not belong. SECURITY.md says what each test stands for.
//!
//! Elsewhere: who may ask for what is in the tables of `tests/machine/` (roles), TLS in `tests/tls.rs`, what the AMQP
//! client would log in `tests/log.rs`, redaction of every setting in `tests/config.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/http.rs"]
mod http;
#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use http::request;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use outside::{Outside, STRUCTURED, Sent};
use process::{Process, within};
use serde_json::{Value, json};
use service::{remedyd, sample};
use tempfile::TempDir;

/// The login of the tests' broker, which may speak for account 5 alone.
const USER: &str = "guest";

struct Place {
    outside: Outside,
    service: Process,
    /// Another connection, to say whose a message is.
    _connection: Connection,
    channel: lapin::Channel,
    _dir: TempDir,
}

impl Place {
    async fn new(test: &str, users: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let mut outside = Outside::connect(test).await;
        let config = dir.path().join("remedyd.toml");
        fs::write(&config, users).unwrap();
        let mut command = outside.serve(&dir.path().join("store"));
        command.arg("--config").arg(config);
        let mut service = Process::start(command);
        service.line("ready").await;
        outside.listen().await;
        let connection = Connection::connect(&outside.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { outside, service, _connection: connection, channel, _dir: dir }
    }

    /// Publishes as `user` says it is; `Err` if the broker does not take it.
    async fn publish(&self, sent: &Sent, user: Option<&str>) -> lapin::Result<()> {
        let mut headers = FieldTable::default();
        for (name, value) in &sent.headers {
            headers.insert(name.as_str().into(), lapin::types::AMQPValue::LongString(value.as_str().into()));
        }
        let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers).with_content_type(STRUCTURED.into());
        if let Some(user) = user {
            properties = properties.with_user_id(user.into());
        }
        let exchange = format!("{}.events", self.outside.prefix);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing =
            self.channel.basic_publish(exchange.as_str().into(), sent.routing_key.as_str().into(), options, &sent.body, properties);
        within("a confirm", publishing.await?).await.map(|_| ())
    }

    /// It becomes a dead letter for this reason, and nothing else comes of it.
    async fn check_refused(&mut self, what: &str, event: &Sent, user: Option<&str>, detail: &str) {
        self.publish(event, user).await.unwrap();
        let got = self.outside.dead_letter().await;
        assert_eq!((got.header("reason"), &got.body), ("tenant_mismatch", &event.body), "{what}: {:?}", got.headers);
        assert!(got.header("detail").contains(detail), "{what}: {}", got.header("detail"));
    }
}

fn event(line: usize, edit: impl FnOnce(&mut Value)) -> Sent {
    let mut event: Value = serde_json::from_slice(&sample("able-moose")[line]).unwrap();
    edit(&mut event);
    Sent::structured(event.to_string().as_bytes())
}

fn of_tenant(event: &mut Value, tenant: &str, id: &str) {
    (event["tenantid"], event["id"]) = (json!(tenant), json!(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another_account() {
    let users =
        format!("[[users]]\nname = \"{USER}\"\naccounts = [5]\ntypes = [\"incident_report.*\", \"remediations.*\"]\nportal = false\n");
    let mut place = Place::new("crossing", &users).await;
    let created = event(1, |_| ());
    place.publish(&created, Some(USER)).await.unwrap();
    // the triage of the report: what its owner may say, he may say
    assert_eq!(place.outside.status().await.event()["tenantid"], "5.4");

    let other = event(1, |event| {
        of_tenant(event, "6.4", "crossing-1");
        event["data"]["incident_report"]["account_id"] = json!(6);
    });
    place.check_refused("another account, said consistently", &other, Some(USER), "may not speak for account 6").await;
    let body = event(1, |event| event["data"]["incident_report"]["account_id"] = json!(6));
    place.check_refused("another account in the body alone", &body, Some(USER), "data.incident_report.account_id").await;
    let mut header = event(1, |event| of_tenant(event, "5.4", "crossing-2"));
    header.headers = vec![("tenantid".into(), "6.4".into())];
    place.check_refused("another account in the header alone", &header, Some(USER), "tenantid: the header says").await;
    place.check_refused("nobody's message", &event(1, |event| of_tenant(event, "5.4", "crossing-3")), None, "no user_id").await;
    let survey = event(0, |_| ());
    place.check_refused("a type that is not this user's", &survey, Some(USER), "may not send").await;
    let approval = event(4, |_| ());
    place.check_refused("a person named by no portal", &approval, Some(USER), "not a portal").await;

    // to be somebody else is the broker's to refuse, and it does: the message arrives nowhere
    let posing = event(1, |event| of_tenant(event, "5.4", "crossing-4"));
    assert!(place.publish(&posing, Some("portal")).await.is_err(), "the broker took a message of another user");

    place.service.stop().await;
    let (status, dead_letters) = place.outside.rest().await;
    assert!(status.iter().all(|got| got.event()["causationid"] == "soc-1001-1"), "something came of a message that was refused");
    assert_eq!(dead_letters.len(), 0);
    place.outside.clean().await;
}

/// An id is no key to another tenant's report: under one's own name there is no such report.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_id_is_unknown() {
    let mut place = Place::new("foreign", "").await;
    place.publish(&event(1, |_| ()), None).await.unwrap();
    assert_eq!(place.outside.status().await.event()["tenantid"], "5.4");
    for (number, tenant) in ["5.5", "6.4"].into_iter().enumerate() {
        // approves, as somebody who may, every task of report 1001
        let approval = event(4, |event| {
            of_tenant(event, tenant, &format!("foreign-{number}"));
            event["data"]["actor"]["role"] = json!("admin");
        });
        place.publish(&approval, None).await.unwrap();
        // a report of one's own by the same number, later: past the time for which the approval is kept
        let own = event(1, |event| {
            of_tenant(event, tenant, &format!("later-{number}"));
            event["time"] = json!(format!("2026-11-23T1{number}:30:00Z"));
            let (account, organization) = tenant.split_once('.').unwrap();
            let report = &mut event["data"]["incident_report"];
            (report["account_id"], report["organization_id"]) =
                (account.parse::<u64>().unwrap().into(), organization.parse::<u64>().unwrap().into());
            report["id"] = json!(2000 + number);
        });
        place.publish(&own, None).await.unwrap();
        let got = place.outside.dead_letter().await;
        assert_eq!((got.header("reason"), got.event()["id"].as_str()), ("orphan", Some(format!("foreign-{number}").as_str())));
        let said = got.headers.values().any(|value| value.contains("5.4"));
        assert!(!said, "whose the report is, is told: {:?}", got.headers);
    }
    place.service.stop().await;
    let (status, _) = place.outside.rest().await;
    let touched = |got: &&outside::Got| got.event()["causationid"].as_str().is_some_and(|id| id.starts_with("foreign"));
    assert_eq!(status.iter().filter(touched).count(), 0);
    for got in &status {
        let event = got.event();
        let subject = event["subject"].as_str().unwrap();
        assert_eq!(subject == "incident_reports/1001", event["tenantid"] == "5.4" && subject.ends_with("1001"), "{event}");
    }
    place.outside.clean().await;
}

/// Words that must be nowhere but in the messages and the store. Each stands in a place of its own.
const PASSWORD: &str = "canary-password";
const HOSTNAME: &str = "CANARY-HOST-7";
const COMMAND_LINE: &str = "canary.exe -enc AAAA";
const PERSON: &str = "canary@ablemoose.example";
const BODY: &str = "canary of the body";
const BROKEN: &str = "canary of what is no event";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaries_stay_out_of_logs_headers_metrics_and_process_lists() {
    for filter in ["info", "debug"] {
        let dir = TempDir::new().unwrap();
        let mut outside = Outside::connect(&format!("canaries-{filter}")).await;
        // a query is part of a URL that holds secrets; the broker knows nothing of it
        let url = format!("{}?canary={PASSWORD}", outside.url);
        let mut command = outside.serve(&dir.path().join("store"));
        command.env("REMEDYD_AMQP_URL", &url).env("REMEDYD_LOG__FILTER", filter);
        let (mut service, ops) = Process::watched(command).await;
        service.line("ready").await;
        outside.listen().await;
        let survey = event(0, |event| event["data"]["hostname"] = json!(HOSTNAME));
        let created = event(1, |event| {
            let report = &mut event["data"]["incident_report"];
            (report["summary"], report["body"], report["subject"]) =
                (json!(format!("{COMMAND_LINE} by {PERSON}")), json!(BODY), json!(HOSTNAME));
            report["remediations"]["items"][0]["parameters"][0]["description"] = json!(COMMAND_LINE);
        });
        let approval = event(4, |event| event["data"]["actor"]["email"] = json!(PERSON));
        let broken = [
            event(1, |event| {
                of_tenant(event, "5.4", "broken-1");
                event["data"]["incident_report"]["severity"] = json!(COMMAND_LINE);
                event["data"]["incident_report"]["body"] = json!(BODY);
            }),
            event(0, |event| {
                of_tenant(event, "5.4", "broken-2");
                event["data"]["surveyed_at"] = json!(PERSON);
                event["data"]["hostname"] = json!(HOSTNAME);
            }),
            event(1, |event| {
                of_tenant(event, "5.4", "broken-3");
                event["data"]["incident_report"][BROKEN] = json!({ BODY: "x".repeat(70_000) });
            }),
            Sent {
                routing_key: "x.5.4".into(),
                content_type: Some(STRUCTURED.into()),
                headers: vec![],
                body: format!("{{\"{BROKEN}\": {PERSON}").into_bytes(),
            },
        ];
        for sent in [&survey, &created, &approval].into_iter().chain(&broken) {
            outside.send(sent).await;
        }
        for _ in &broken {
            let got = outside.dead_letter().await;
            for (name, value) in &got.headers {
                check_clean(&format!("dead letter header {name}"), value);
            }
        }
        outside.barrier().await;
        let pid = service.id();
        check_clean("argv", &String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap()));
        check_clean("thread names", &thread_names(pid));
        for path in ["/metrics", "/livez", "/readyz", "/startupz"] {
            let (status, told) = request("GET", ops, path, &[]);
            assert_eq!(status, 200, "{path}: {told}");
            check_clean(path, &told);
        }
        service.signal("TERM");
        assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
        assert!(filter == "info" || service.log.iter().any(|line| line.contains("DEBUG")), "the filter had no effect");
        for line in &service.log {
            check_clean("log", line);
            if filter == "info" {
                assert!(!line.contains("5.4"), "a tenant above debug: {line}");
            }
        }
        let mut printing = remedyd(["config", "print"]);
        let printed = printing.env("REMEDYD_AMQP_URL", &url).output().unwrap();
        assert!(printed.status.success());
        check_clean("config print", &String::from_utf8_lossy(&printed.stdout));
        // it was there to be found
        assert!(tree_contains(&dir.path().join("store"), HOSTNAME.as_bytes()), "the canaries never got as far as the store");
        outside.clean().await;
    }
}

#[track_caller]
fn check_clean(place: &str, text: &str) {
    for canary in [PASSWORD, HOSTNAME, COMMAND_LINE, PERSON, BODY, BROKEN, "guest:guest"] {
        assert!(!text.contains(canary), "{canary:?} in {place}: {text}");
    }
}

fn thread_names(pid: u32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // a thread may end while we look
    tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
}

fn tree_contains(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return tree_contains(&path, needle);
        }
        fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle)
    })
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Whatever the umask: the store holds what customers tell their security people.
#[tokio::test]
async fn the_store_is_for_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let serve = |store: &Path| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "umask 0; exec \"$0\" serve --store \"$1\"", env!("CARGO_BIN_EXE_remedyd")]).arg(store);
        command.env_clear().env("REMEDYD_AMQP_URL", "amqp://127.0.0.1:1").env("REMEDYD_OPS__LISTEN", "");
        Process::start(command)
    };
    let store = dir.path().join("deep/store");
    let mut service = serve(&store);
    service.line_with(&["connection lost"]).await;
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    for made in [dir.path().join("deep"), store.clone(), store.join("p0")] {
        assert_eq!(mode(&made), 0o700, "{}", made.display());
    }
    assert!(!service.log.iter().any(|line| line.contains("chmod")), "{:#?}", service.log);
    // what was there before stays as somebody made it, and is told
    for open in [&store, &store.join("p0")] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut service = serve(&store);
    service.line_with(&["WARN", "other accounts of this machine can read the store: chmod 700"]).await;
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
}
