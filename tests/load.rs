//! `remedyd load` as somebody runs it: against a real broker, in a few seconds, down to both reports; and what it refuses.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and fails without one. The figures of so short a run on a machine that does
//! other things are of no meaning; that they are there, and that the audit is clean, is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod service;

use std::fs;
use std::process::Output;

use serde_json::Value;
use service::remedyd;
use tempfile::TempDir;

/// A run with a second for each phase under a prefix of its own. It must end well.
#[track_caller]
fn run(test: &str, args: &[&str]) -> (Value, String, String) {
    let url = std::env::var("REMEDYD_TEST_AMQP_URL").expect("REMEDYD_TEST_AMQP_URL: this test needs a RabbitMQ node of its own");
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let prefix = format!("load.{test}.{}", std::process::id());
    let (store, json, html) = (file("store"), file("figures.json"), file("page.html"));
    let fixed = ["load", "--prefix", &prefix, "--store", &store, "--json", &json, "--html", &html, "--duration", "1"];
    // so quick that decisions fall into the second, and so critical that pages do
    let fixed = fixed.iter().chain(&["--approval-delay-ms", "20-100", "--severities", "1:1:2"]);
    let output = remedyd(fixed.chain(args)).env("REMEDYD_AMQP_URL", url).output().unwrap();
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
    let figures = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    (figures, fs::read_to_string(html).unwrap(), stdout)
}

#[track_caller]
fn number(figures: &Value, path: &str) -> f64 {
    figures.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {figures}"))
}

#[track_caller]
fn check_audit(figures: &Value) {
    for wrong in ["lost", "gaps", "late", "changed", "misplaced", "dead_letters", "duplicates", "surveys_behind"] {
        assert_eq!(figures["audit"][wrong], 0, "{wrong}: {}", figures["audit"]);
    }
    assert_eq!(figures["audit"]["balances"], true, "{}", figures["audit"]);
}

/// Everything at once: references, maximum, surveys, half, a noisy tenant, a backlog.
#[test]
fn a_short_run_has_every_figure_and_a_clean_audit() {
    let (figures, html, stdout) = run("whole", &["--reference", "--noisy-tenant", "--tenants", "30", "--agents", "40"]);
    for path in [
        "/events_per_s",
        "/outbound_per_s",
        "/fan_out",
        "/reference_relay_per_s",
        "/ratio_to_reference",
        "/surveys_per_s",
        "/fairness/jain",
        "/fairness/quiet_p99_ratio",
        "/audit/sent",
        "/audit/answered",
        "/audit/surveys",
    ] {
        assert!(number(&figures, path) > 0.0, "{path}: {figures}");
    }
    for kind in ["decision_latency_ms", "page_latency_ms"] {
        let of = |quantile: &str| number(&figures, &format!("/{kind}/{quantile}"));
        let quantiles = ["p50", "p95", "p99", "p999", "max"].map(of);
        assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{kind}: {quantiles:?}");
    }
    assert!(number(&figures, "/fairness/jain") <= 1.0);
    check_audit(&figures);
    assert!(figures["commit"].is_string() && figures["host"]["processors"].is_u64(), "{figures}");
    let phases: Vec<&str> = figures["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["reference", "maximum", "surveys", "half of maximum", "half of maximum, one tenant noisy", "reference"]);
    assert!(figures["phases"][1]["cpu"]["worker"].is_f64(), "{figures}");
    // every one of a thousand printed lines would do; these two say that it is the same run
    assert!(stdout.contains("ratio to the bare relay") && stdout.ends_with("clean\n"), "{stdout}");

    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"));
    for foreign in ["<script", "<link", "<img", "src=", "href=", "url(", "@import"] {
        assert!(!html.contains(foreign), "{foreign} in the page");
    }
    assert_eq!(html.matches("<svg ").count(), 4, "throughput, backlog, latency, fairness");
    assert!(html.matches("<polyline").count() >= 6, "curves");
}

#[test]
fn a_given_rate_is_kept_to_and_its_latencies_are_told() {
    let (figures, _, _) = run("rate", &["--rate", "150", "--tenants", "10", "--agents", "20"]);
    let phase = &figures["phases"][0];
    assert_eq!((phase["name"].as_str(), phase["target_per_s"].as_f64()), (Some("steady rate"), Some(150.0)));
    assert!(number(&figures, "/decision_latency_ms/count") > 0.0, "{figures}");
    assert_eq!(figures["ratio_to_reference"], Value::Null, "nothing was held against a reference");
    check_audit(&figures);
}

#[test]
fn malformed_messages_come_out_as_dead_letters_and_nothing_is_lost() {
    let (figures, html, stdout) = run("malformed", &["--rate", "150", "--malformed", "200", "--tenants", "10", "--agents", "20"]);
    let count = |name: &str| number(&figures, &format!("/malformed/{name}"));
    // a machine that stands still for a tenth of a second sends fewer, and says so
    assert_eq!((count("asked_per_s"), count("dead_lettered") + count("unsent"), count("lost")), (200.0, 200.0, 0.0), "{figures}");
    for some in ["sent_per_s", "dead_lettered", "p99_alone_ms", "p99_beside_ms", "decision_p99_ratio"] {
        assert!(count(some) > 0.0, "{some}: {figures}");
    }
    let phases: Vec<&str> = figures["phases"].as_array().unwrap().iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["steady rate", "beside nothing malformed", "beside malformed messages"]);
    assert!(stdout.contains("0 lost; p99 of decisions") && html.contains("malformed messages a second"), "{stdout}");
    check_audit(&figures);
}

/// All partitions by one service, and a relay for each as the reference.
#[test]
fn several_partitions_balance_together() {
    let (figures, _, _) = run("partitions", &["--partitions", "3", "--pairs", "1", "--tenants", "30", "--agents", "20"]);
    assert_eq!(figures["settings"]["partitions"], 3);
    assert!(number(&figures, "/events_per_s") > 0.0 && number(&figures, "/ratio_to_reference") > 0.0, "{figures}");
    check_audit(&figures);
}

#[track_caller]
fn check_refused(args: &[&str], told: &str) {
    let output = remedyd(["load"].iter().chain(args)).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{args:?}: {stderr}");
    assert!(stderr.contains(told), "{args:?}: {stderr}");
}

#[test]
fn wrong_arguments_are_named() {
    let store = ["--store", "unused"];
    let with = |args: &[&'static str]| [&store[..], args].concat();
    check_refused(&[], "--store");
    check_refused(&with(&["--attach"]), "--attach");
    check_refused(&with(&["--shapes", "1:2"]), "--shapes");
    check_refused(&with(&["--severities", "0:0:0"]), "--severities");
    check_refused(&with(&["--approval-delay-ms", "9-1"]), "--approval-delay-ms");
    check_refused(&with(&["--fail-percent", "101"]), "--fail-percent");
    check_refused(&with(&["--duration", "0"]), "--duration");
    check_refused(&with(&["--partitions", "0"]), "--partitions");
    check_refused(&with(&["--surveys-only", "--rate", "5"]), "--rate");
    check_refused(&with(&["--surveys-only", "--malformed", "5"]), "--malformed");
    check_refused(&with(&["--malformed", "0"]), "--malformed");
    check_refused(&with(&["--malformed", "100001"]), "--malformed");
    check_refused(&with(&["--noisy-tenant", "--tenants", "1"]), "--tenants");
    check_refused(&with(&["--prefix", "remedyd"]), "--prefix");
    check_refused(&with(&["--prefix", "No Such"]), "--prefix");
    check_refused(&with(&["--amqp-url", "amqps://u:p@broker.example/"]), "--remote-broker");
    check_refused(&with(&["--amqp-url", "amqp://u:p@broker.example/", "--remote-broker"]), "unencrypted");
    check_refused(&with(&["--json", "/no/such/directory/x.json"]), "/no/such/directory/x.json");
}

#[test]
fn a_broker_that_is_not_there_is_told() {
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("store");
    let args = ["load", "--amqp-url", "amqp://127.0.0.1:1/", "--store", store.to_str().unwrap()];
    let output = remedyd(args).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", String::from_utf8_lossy(&output.stderr));
}
