//! A CloudEvents client that is not ours (PyPI: cloudevents, over pika) through a real broker: it makes what the service
//! takes, in both modes, and reads what the service publishes.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use remedyd::model::time::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::outside::Outside;
use crate::root;
use crate::service::{replay_lines, sample};
use crate::tool::{installed, run};

const NEEDS: &str = "This test needs Debian's Python with venv and pika (apt-get install python3-venv python3-pika), and PyPI once.";

/// A Python that has the client, and Debian's pika.
fn python() -> PathBuf {
    let requirements = "tests/contracts/interop/requirements.txt";
    let place = installed("interop", requirements, |dir| {
        run(Command::new("/usr/bin/python3").args(["-m", "venv", "--system-site-packages"]).arg(dir.join("venv")), NEEDS);
        let pip =
            ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:"];
        run(Command::new(dir.join("venv/bin/python")).args(pip).arg("--requirement").arg(root().join(requirements)), NEEDS);
    });
    place.join("venv/bin/python")
}

/// As the client sees an event: attributes, with a time that is one, and data.
fn seen(event: &Value) -> Value {
    let mut attributes = event.as_object().unwrap().clone();
    let data = attributes.remove("data");
    let time: Timestamp = attributes["time"].as_str().unwrap().parse().unwrap();
    attributes["time"] = json!(time.as_millisecond());
    json!({ "attributes": attributes, "data": data })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_carries_between_us_and_another_cloudevents_client() {
    let python = python();
    let events = sample("no-remediation");
    let expected: Vec<Value> = replay_lines(&events, &[]).events().iter().map(seen).collect();
    assert!(expected.len() > 2, "{expected:?}");
    for mode in ["structured", "binary"] {
        let dir = TempDir::new().unwrap();
        let outside = Outside::connect(&format!("interop-{mode}")).await;
        let service = outside.start(dir.path()).await;
        let (url, prefix, count) = (outside.url.clone(), outside.prefix.clone(), expected.len().to_string());
        let mut client = Command::new(&python);
        client.arg(root().join("tests/contracts/interop/client.py")).args([mode, &url, &prefix, &count]);
        let mut child = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for event in &events {
            let mut input = child.stdin.as_ref().unwrap();
            input.write_all(event).and_then(|()| input.write_all(b"\n")).unwrap();
        }
        drop(child.stdin.take());
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{mode}: {}\n{NEEDS}", String::from_utf8_lossy(&output.stderr));
        let read: Vec<Value> = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(read, expected, "{mode}");
        service.stop().await;
        outside.clean().await;
    }
}

#[test]
fn the_client_is_pinned() {
    let requirements = fs::read_to_string(root().join("tests/contracts/interop/requirements.txt")).unwrap();
    let pinned = requirements.lines().filter(|line| !line.starts_with('#'));
    assert!(
        pinned.clone().count() >= 4 && pinned.into_iter().all(|line| line.contains("==") && line.contains("--hash=sha256:")),
        "{requirements}"
    );
}
