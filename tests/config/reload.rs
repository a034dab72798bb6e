//! SIGHUP to a running service: what changes at once, what waits for a restart, and that a mistake changes nothing.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::outside::{Outside, Sent};
use crate::process::Process;
use crate::service::sample;

const LISTED: &str = "[[users]]\nname = \"soc\"\naccounts = [5]\ntypes = [\"#\"]\n";

/// A report that the service has not heard of yet.
fn report(id: u64) -> Sent {
    let mut event: Value = serde_json::from_slice(&sample("able-moose")[1]).unwrap();
    event["id"] = json!(format!("reload-{id}"));
    event["data"]["incident_report"]["id"] = json!(id);
    Sent::structured(event.to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_service_takes_new_settings_on_sighup() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("remedyd.toml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    write("");
    let mut outside = Outside::connect("reload").await;
    let mut command = outside.serve(&dir.path().join("store"));
    command.arg("--config").arg(&file);
    let mut service = Process::start(command);
    service.line("ready").await;
    outside.listen().await;

    // two mistakes: both are told, and the one right setting between them is not taken
    write(&format!("[log]\nfilter = 5\n[amqp]\nprefetch_reports = 0\n{LISTED}"));
    service.signal("HUP");
    service.line_with(&["ERROR", "those in force stay: 2 wrong settings"]).await;
    service.line_with(&["amqp.prefetch_reports (file): 0"]).await;
    service.line_with(&["log.filter (file): 5"]).await;
    outside.send(&report(7001)).await;
    assert_eq!(outside.status().await.event()["causationid"], "reload-7001");

    // users at once; the prefetch was told to the broker at the start
    write(&format!("[amqp]\nprefetch_reports = 7\n{LISTED}"));
    service.signal("HUP");
    service.line_with(&["INFO", "the settings were read again", "users"]).await;
    service.line_with(&["WARN", "wait for a restart", "amqp.prefetch_reports"]).await;
    outside.send(&report(7002)).await;
    let refused = outside.dead_letter().await;
    assert_eq!((refused.header("reason"), refused.event()["id"].clone()), ("tenant_mismatch", json!("reload-7002")));

    // and back; from here on the log tells warnings only
    write("[amqp]\nprefetch_reports = 7\n[log]\nfilter = \"warn\"\n");
    service.signal("HUP");
    service.line_with(&["WARN", "wait for a restart", "amqp.prefetch_reports"]).await;
    outside.send(&report(7003)).await;
    loop {
        if outside.status().await.event()["causationid"] == "reload-7003" {
            break;
        }
    }
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    let last = service.log.iter().rposition(|line| line.contains("wait for a restart")).unwrap();
    assert!(!service.log[last..].iter().any(|line| line.contains("INFO")), "{:#?}", service.log);
    outside.clean().await;
}
