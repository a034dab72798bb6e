//! Alerts and dashboard: right by the tools' judgement, about metrics that exist, and at work in a Prometheus that scrapes a
//! running service.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::outside::{Outside, Sent};
use crate::process::{Process, within};
use crate::service::sample;
use crate::tools::{check, read, root, run};
use serde_json::Value;
use tempfile::TempDir;

const ALERTS: &str = "deploy/observability/alerts.yml";
const DASHBOARD: &str = "deploy/observability/grafana/remedyd.json";
const TOKEN: &str = "a-token-of-some-length";
/// Metrics of others that the alerts use: Prometheus itself, node_exporter, the kubelet.
const FOREIGN: [&str; 5] = [
    "up",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
];

#[test]
fn the_alerts_are_right_and_each_has_fired_in_a_test() {
    check("promtool", ["check", "rules", ALERTS]);
    check("promtool", ["check", "config", "--syntax-only", "deploy/observability/prometheus.yml"]);
    check("promtool", ["test", "rules", "deploy/observability/alerts_test.yml"]);
    let tests = read("deploy/observability/alerts_test.yml");
    let alerts = alerts();
    assert!(alerts.len() >= 20, "{alerts:#?}");
    for (alert, _, _) in &alerts {
        let cases: Vec<&str> = tests.split(&format!("alertname: {alert}\n")).skip(1).collect();
        let fires = |case: &&&str| case.lines().nth(1).is_some_and(|line| line.trim() == "exp_alerts:");
        assert!(cases.iter().any(|case| fires(&case)), "no test in which {alert} fires");
        assert!(cases.iter().any(|case| !fires(&case)), "no test in which {alert} is silent");
    }
    // and the tests would notice each that never fires
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("alerts.yml"), read(ALERTS).replace("- alert: ", "- alert: Never")).unwrap();
    fs::write(dir.path().join("test.yml"), &tests).unwrap();
    let said = run("promtool", ["test", "rules", dir.path().join("test.yml").to_str().unwrap()]);
    for (alert, _, _) in &alerts {
        assert!(!said.well && said.all().contains(&format!("alertname: {alert}, ")), "nobody misses {alert}");
    }
}

/// (name, severity, runbook) of each.
pub fn alerts() -> Vec<(String, String, String)> {
    let text = read(ALERTS);
    let of = |rule: &str, key: &str| {
        let line = rule.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: ")));
        line.unwrap_or_else(|| panic!("no {key} in\n{rule}")).to_owned()
    };
    let rules = text.split("- alert: ").skip(1);
    rules.map(|rule| (rule.lines().next().unwrap().to_owned(), of(rule, "severity"), of(rule, "runbook"))).collect()
}

/// What the dashboard asks, as Prometheus gets it: for all jobs and instances.
fn questions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    targets.chain(annotations).map(|target| asked(target["expr"].as_str().unwrap())).collect()
}

fn asked(question: &str) -> String {
    question.replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "1m")
}

#[test]
fn the_dashboard_is_laid_out_and_its_questions_can_be_asked() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids that are there twice");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{} stands out of the grid", panel["title"]);
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(cells.insert((x, y)), "{} covers another panel", panel["title"]);
        }
    }
    let dir = TempDir::new().unwrap();
    let rules = dir.path().join("dashboard.yml");
    let mut text = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, question) in questions().iter().enumerate() {
        text += &format!("      - record: dashboard:{number}\n        expr: {}\n", Value::from(question.as_str()));
    }
    fs::write(&rules, text).unwrap();
    check("promtool", ["check", "rules", rules.to_str().unwrap()]);
}

/// What `panel` asks first, as Prometheus gets it.
fn question(panel: &str) -> String {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let found = dashboard["panels"].as_array().unwrap().iter().find(|found| found["title"] == panel);
    asked(found.unwrap()["targets"][0]["expr"].as_str().unwrap())
}

/// One of two partitions has a full outbox, and their ledgers are off by as much, one each way.
#[test]
fn the_dashboard_sees_one_partition_that_is_ill() {
    let dir = TempDir::new().unwrap();
    let mut text = "rule_files: []\ntests:\n  - interval: 1m\n    input_series:\n".to_owned();
    for (name, of_each) in [("outbox_rows", [0, 100]), ("outbox_limit_rows", [100, 100]), ("ledger_imbalance", [2, -2])] {
        for (partition, value) in of_each.iter().enumerate() {
            let series = format!("remedyd_{name}{{job=\"remedyd\", instance=\"a\", partition=\"{partition}\"}}");
            text += &format!("      - series: '{series}'\n        values: '{value}x5'\n");
        }
    }
    text += "    promql_expr_test:\n";
    for (panel, labels, value) in [("Outbox", "{}", 1), ("Ledger off by", "{instance=\"a\"}", 2)] {
        text += &format!("      - expr: {}\n        eval_time: 3m\n", Value::from(question(panel)));
        text += &format!("        exp_samples:\n          - labels: '{labels}'\n            value: {value}\n");
    }
    let test = dir.path().join("test.yml");
    fs::write(&test, text).unwrap();
    check("promtool", ["test", "rules", test.to_str().unwrap()]);
}

/// The words of an expression that look like metrics.
fn metrics(text: &str) -> BTreeSet<String> {
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let prefixes = ["remedyd_", "node_", "kubelet_"];
    let said = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    said.flat_map(|line| line.split(word))
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The names that the service exposes.
fn exposed(address: SocketAddr) -> BTreeSet<String> {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let samples = text.lines().filter(|line| line.starts_with("remedyd_"));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// A Prometheus with our configuration, but for addresses and intervals.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Prometheus {
    async fn watching(service: SocketAddr) -> Self {
        let (dir, address) = (TempDir::new().unwrap(), free_port());
        let path = |name: &str| dir.path().join(name);
        fs::write(path("token"), TOKEN).unwrap();
        fs::copy(root().join(ALERTS), path("alerts.yml")).unwrap();
        let replaced = [
            ("remedyd:9464", service.to_string()),
            ("/run/secrets/ops_token", path("token").display().to_string()),
            ("15s", "1s".to_owned()),
            // nobody: the broker's own figures are not asked here
            ("broker:15692", "127.0.0.1:1".to_owned()),
        ];
        let config = replaced.iter().fold(read("deploy/observability/prometheus.yml"), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        fs::write(path("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", path("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", path("data").display()));
        command.arg(format!("--web.listen-address={address}")).current_dir(dir.path());
        let mut process = Process::start(command);
        process.line_with(&["Server is ready to receive web requests"]).await;
        Self { address, _process: process, _dir: dir }
    }

    /// The lines of the answer; an answer that is an error fails the test.
    async fn ask(&self, question: &str) -> Vec<String> {
        let args = ["query".to_owned(), "instant".to_owned(), format!("http://{}", self.address), question.to_owned()];
        let answer = tokio::task::spawn_blocking(move || check("promtool", args)).await.unwrap();
        answer.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    async fn wait_for_an_answer(&self, question: &str) -> Vec<String> {
        let asking = async {
            let mut every = tokio::time::interval(Duration::from_millis(500));
            loop {
                every.tick().await;
                let answer = self.ask(question).await;
                if !answer.is_empty() {
                    return answer;
                }
            }
        };
        within(&format!("an answer to {question}"), asking).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prometheus_sees_what_alerts_and_dashboard_ask_for() {
    let (dir, mut outside) = (TempDir::new().unwrap(), Outside::connect("prometheus").await);
    let token = dir.path().join("token");
    fs::write(&token, TOKEN).unwrap();
    let mut command = outside.serve(&dir.path().join("store"));
    command.env("REMEDYD_OPS__TOKEN_FILE", &token);
    let (mut service, address) = Process::watched(command).await;
    service.line("ready").await;
    outside.listen().await;

    let prometheus = Prometheus::watching(address).await;
    prometheus.wait_for_an_answer("up{job=\"remedyd\"} == 1").await;
    for event in sample("critical-isolated") {
        outside.send(&Sent::structured(&event)).await;
    }
    // as soon as the first has been decided there is everything to see
    outside.status().await;

    let asked: BTreeSet<String> = questions().iter().chain([&read(ALERTS)]).flat_map(|text| metrics(text)).collect();
    let (ours, foreign): (BTreeSet<String>, BTreeSet<String>) = asked.into_iter().partition(|name| name.starts_with("remedyd_"));
    let there = exposed(address);
    let missing: Vec<&String> = ours.difference(&there).collect();
    assert!(ours.len() >= 20 && missing.is_empty(), "asked for and not there: {missing:?} of {ours:?}");
    assert!(foreign.iter().all(|name| FOREIGN.contains(&name.as_str())), "{foreign:?}");

    for question in questions() {
        // nothing has restarted, and that is what the annotations mark
        if question.starts_with("changes(") {
            assert_eq!(prometheus.ask(&question).await, [""; 0]);
        } else {
            prometheus.wait_for_an_answer(&question).await;
        }
    }
    assert_eq!(prometheus.ask("ALERTS{alertstate=\"firing\"}").await, [""; 0], "an alert on a service that is well");
    outside.barrier().await;
    let firing = prometheus.wait_for_an_answer("ALERTS{alertstate=\"firing\"}").await;
    assert!(firing.len() == 1 && firing[0].contains("RemedydDeadLetters") && firing[0].contains("malformed"), "{firing:#?}");
    service.stop().await;
    outside.clean().await;
}
