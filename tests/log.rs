//! The log of the real service on a real broker: what its AMQP client would print of messages stays out of it.
//!
//! The unit tests of the filter know the client's module by name; this one notices when an update moves it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use remedyd::broker::Message;
use support::rabbit::{Rabbit, URL};
use support::{Place, within};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const CANARY: &str = "canary-3f9a";

/// A service that is killed when the test ends, and the lines of its log.
struct Service {
    process: Child,
    lines: UnboundedReceiver<String>,
    read: Vec<String>,
}

impl Service {
    fn start(prefix: &str, store: &TempDir) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_remedyd"))
            .args(["serve", "--apply-topology", "--store"])
            .arg(store.path().join("store"))
            .env("REMEDYD_AMQP_URL", std::env::var(URL).unwrap())
            .env("REMEDYD_AMQP__PREFIX", prefix)
            .env("REMEDYD_OPS__LISTEN", "")
            .env("REMEDYD_LOG__FILTER", "trace,lapin::returned_messages=trace")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (outlet, lines) = unbounded_channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| outlet.send(line)));
        Self { process, lines, read: Vec::new() }
    }

    /// Reads up to the first line that holds `text`.
    async fn says(&mut self, text: &str) {
        loop {
            let line = within(text, self.lines.recv()).await;
            let line = line.unwrap_or_else(|| panic!("the service ended without: {text}\n{:#?}", self.read));
            let found = line.contains(text);
            self.read.push(line);
            if found {
                return;
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_returned_message_is_not_in_the_log_even_at_trace() {
    let rabbit = Rabbit::new("log").await;
    let store = TempDir::new().unwrap();
    let mut service = Service::start(rabbit.topology().prefix(), &store);
    service.says("ready").await;
    // what cannot be applied goes to the dead letters; without their queue it is returned
    rabbit.delete_queue(&rabbit.topology().dead_letters()).await;
    let body = format!("{{\"not an event\": \"{CANARY}\"}}").into_bytes();
    rabbit.publish(Message { exchange: rabbit.topology().events(), routing_key: "x.5.4".into(), body, ..Message::default() }).await;
    service.says("the broker did not take a message").await;
    // and once more, so that everything about the first has been written
    service.says("the broker did not take a message").await;
    let told: Vec<_> =
        service.read.iter().filter(|line| line.contains(CANARY) || line.contains(&format!("{:?}", CANARY.as_bytes()))).collect();
    assert!(told.is_empty(), "{told:#?}");
    let traced = service.read.iter().any(|line| line.contains("TRACE") || line.contains("DEBUG lapin"));
    assert!(traced, "the filter of this test had no effect: {:#?}", service.read);
    drop(service);
    rabbit.clean().await;
}
