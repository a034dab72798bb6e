//! Traces (feature `otlp`): an event that comes in a trace leaves spans of that trace at a collector, and carries its
//! context on to what it causes. An event without one leaves none.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and fails without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;

use outside::{Outside, Sent};
use process::{PATIENCE, Process};
use serde_json::{Value, json};
use service::sample;
use tempfile::TempDir;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector: takes whatever is posted, says 200, and hands on path and body.
fn collector() -> (SocketAddr, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (posted, posts) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut head, mut length) = (Vec::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let line = line.trim_end().to_owned();
                if line.is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push(line);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").unwrap();
            // the test may have ended
            let _ = posted.send((head.first().cloned().unwrap_or_default(), body));
        }
    });
    (address, posts)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn count(body: &[u8], part: &[u8]) -> usize {
    body.windows(part.len()).filter(|window| *window == part).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_events_of_a_trace_leave_its_spans_at_a_collector() {
    let (address, posts) = collector();
    let dir = TempDir::new().unwrap();
    let mut outside = Outside::connect("otlp").await;
    let mut command = outside.serve(dir.path());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    let mut service = Process::start(command);
    service.line("ready").await;
    outside.listen().await;

    let event: Value = serde_json::from_slice(&sample("able-moose")[1]).unwrap();
    let mut untraced = event.clone();
    untraced["id"] = json!("untraced");
    untraced["data"]["incident_report"]["id"] = json!(4711);
    let mut traced = event;
    traced["traceparent"] = json!(format!("00-{TRACE}-{PARENT}-01"));
    let mut caused = Vec::new();
    for (sent, id) in [(&untraced, "untraced"), (&traced, "soc-1001-1")] {
        outside.send(&Sent::structured(sent.to_string().as_bytes())).await;
        // status, triage, four items; the first report brings the agent as well
        for _ in 0..6 {
            let got = outside.status().await.event();
            let expected = if got["causationid"] == "untraced" { Value::Null } else { traced["traceparent"].clone() };
            assert_eq!(got["traceparent"], expected, "{got}");
            if got["causationid"] == id && id != "untraced" {
                caused.push(got["type"].as_str().unwrap().to_owned());
            }
        }
    }
    outside.barrier().await;
    // its end sends what is left
    service.stop().await;
    let (status, _) = outside.rest().await;
    caused.extend(
        status
            .iter()
            .map(|got| got.event())
            .filter(|got| !got["traceparent"].is_null())
            .map(|got| got["type"].as_str().unwrap().to_owned()),
    );
    assert!(caused.len() >= 6, "{caused:?}");

    let mut body = Vec::new();
    let (head, first) = posts.recv_timeout(PATIENCE).expect("spans at the collector");
    assert_eq!(head, "POST /v1/traces HTTP/1.1");
    body.extend(first);
    while let Ok((_, more)) = posts.try_recv() {
        body.extend(more);
    }
    // one for the event and one for each of what it caused, all of the trace and under its parent
    let spans = count(&body, &bytes(TRACE));
    assert_eq!(spans, 1 + caused.len(), "{caused:?}");
    assert_eq!(count(&body, &bytes(PARENT)), spans);
    assert_eq!(count(&body, b"process incident_report.created"), 1);
    for event_type in &caused {
        let sends = caused.iter().filter(|other| *other == event_type).count();
        assert_eq!(count(&body, format!("send {event_type}").as_bytes()), sends, "{event_type}");
    }
    assert!(count(&body, b"service.name") > 0 && count(&body, b"remedyd") > 0);
    // no customer's data
    assert_eq!(count(&body, b"AMA-LAPTOP-04"), 0);
    outside.clean().await;
}

#[test]
fn a_collector_that_cannot_be_is_a_wrong_setting() {
    let dir = TempDir::new().unwrap();
    let mut command = service::remedyd(["serve", "--store"]);
    let output = command.arg(dir.path()).env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("OTEL_EXPORTER_OTLP_ENDPOINT: expected http://host:port"), "{told}");
}
