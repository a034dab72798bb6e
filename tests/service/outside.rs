//! The other side of the broker: a client of a private RabbitMQ that sends events and listens to what comes of them.
//!
//! Never here: the service's own broker code or names; what a consumer has to know stands here as documented. A
//! test without a broker fails.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};

use crate::process::{Process, within};
use crate::service::remedyd;

pub const URL: &str = "REMEDYD_TEST_AMQP_URL";
pub const STRUCTURED: &str = "application/cloudevents+json";
/// How the bodies of our own rubbish begin.
const MARKER: &[u8] = b"marker ";

/// The broker of the tests.
#[track_caller]
pub fn broker_url() -> String {
    std::env::var(URL).unwrap_or_else(|_| {
        panic!(
            "{URL} is not set: these tests need a RabbitMQ node of their own. \
             Run `make test`, or: tests/support/rabbitmq.sh start DIR, and export what DIR/url says"
        )
    })
}

/// A message to send.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    pub routing_key: String,
    pub content_type: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Sent {
    /// Persistent, with what it has.
    pub fn properties(&self) -> BasicProperties {
        let mut headers = FieldTable::default();
        for (name, value) in &self.headers {
            headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        match &self.content_type {
            Some(content_type) => properties.with_content_type(content_type.as_str().into()),
            None => properties,
        }
    }

    /// An event in structured mode, addressed by what it says itself.
    pub fn structured(body: &[u8]) -> Self {
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| event[name].as_str().unwrap_or("unknown").to_owned();
        let headers = event["tenantid"].as_str().map(|tenant| ("tenantid".to_owned(), tenant.to_owned()));
        Self {
            routing_key: format!("{}.{}", field("type"), field("tenantid")),
            content_type: Some(STRUCTURED.into()),
            headers: headers.into_iter().collect(),
            body: body.to_vec(),
        }
    }

    /// The same event in binary mode: attributes as headers, data as the body.
    pub fn binary(event: &[u8], header_prefix: &str) -> Self {
        let Value::Object(mut event) = serde_json::from_slice(event).unwrap() else { panic!("an event is an object") };
        let addressed = Self::structured(&serde_json::to_vec(&event).unwrap());
        let data = event.remove("data").unwrap();
        event.remove("datacontenttype");
        let attributes = event.iter().map(|(name, value)| (format!("{header_prefix}{name}"), value.as_str().unwrap().to_owned()));
        Self {
            content_type: Some("application/json".into()),
            headers: addressed.headers.iter().cloned().chain(attributes).collect(),
            body: serde_json::to_vec(&data).unwrap(),
            ..addressed
        }
    }
}

/// A message that came.
#[derive(Debug, Clone)]
pub struct Got {
    pub routing_key: String,
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    pub headers: BTreeMap<String, String>,
}

impl Got {
    pub fn of(delivery: lapin::message::Delivery) -> Self {
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            other => format!("{other:?}"),
        };
        let table = delivery.properties.headers().clone().unwrap_or_default();
        let headers = table.inner().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { routing_key: delivery.routing_key.to_string(), body: delivery.data, properties: delivery.properties, headers }
    }

    pub fn event(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What the service says beside the body (messages.md, AMQP properties).
#[track_caller]
pub fn check_properties(got: &Got) {
    let (event, properties) = (got.event(), &got.properties);
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let field = |name: &str| event[name].as_str().map(str::to_owned);
    assert_eq!(text(properties.message_id()), field("id"));
    assert_eq!(text(properties.content_type()).as_deref(), Some(STRUCTURED));
    assert_eq!(text(properties.app_id()).as_deref(), Some("remedyd"));
    assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
    let time: remedyd::model::time::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
    assert_eq!(properties.timestamp().map(i64::try_from), Some(Ok(time.as_second())));
    assert_eq!(got.routing_key, format!("{}.{}", event["type"].as_str().unwrap(), event["tenantid"].as_str().unwrap()));
    assert_eq!(Some(got.header("tenantid")), event["tenantid"].as_str());
}

/// One test's part of the broker: an installation with a prefix of its own.
pub struct Outside {
    pub prefix: String,
    pub url: String,
    partitions: u16,
    _connection: Connection,
    channel: Channel,
    heard: Option<Heard>,
    markers: u32,
}

/// What is listened to.
struct Heard {
    status: Consumer,
    dead_letters: Consumer,
    /// Dead letters that came while a marker was awaited.
    set_aside: VecDeque<Got>,
}

impl Outside {
    /// `test` names what is declared.
    pub async fn connect(test: &str) -> Self {
        Self::partitioned(test, 1).await
    }

    pub async fn partitioned(test: &str, partitions: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let url = broker_url();
        let connecting = Connection::connect(&url, ConnectionProperties::default());
        let connection = within("a connection to the broker", connecting).await.unwrap_or_else(|error| panic!("{URL}: {error}"));
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        // unique over runs too: a failed test leaves its queues behind
        let prefix = format!("e2e.{test}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { prefix, url, partitions, _connection: connection, channel, heard: None, markers: 0 }
    }

    /// `remedyd serve` for this installation, in the events' time.
    pub fn serve(&self, store: &Path) -> Command {
        let mut command = remedyd(["serve", "--clock", "events", "--apply-topology", "--store"]);
        command.arg(store).env("REMEDYD_AMQP_URL", &self.url).env("REMEDYD_AMQP__PREFIX", &self.prefix);
        command.env("REMEDYD_AMQP__PARTITIONS", self.partitions.to_string());
        command
    }

    /// The service, ready.
    pub async fn start(&self, store: &Path) -> Process {
        let mut service = Process::start(self.serve(store));
        service.line("ready").await;
        service
    }

    /// Declares the installation without starting a service.
    pub fn apply_topology(&self) {
        let mut apply = remedyd(["topology", "apply", "--prefix", &self.prefix, "--partitions", &self.partitions.to_string()]);
        let applied = apply.env("REMEDYD_AMQP_URL", &self.url).output().unwrap();
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    }

    /// Binds a queue to everything that is published, and consumes that and the dead letters. The topology must be there.
    pub async fn listen(&mut self) {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let queue = declared.name().to_string();
        let exchange = format!("{}.status", self.prefix);
        let binding = self.channel.queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        binding.await.unwrap();
        let status = self.consume(&queue).await;
        let dead_letters = self.consume(&format!("{}.dead-letters", self.prefix)).await;
        self.heard = Some(Heard { status, dead_letters, set_aside: VecDeque::new() });
    }

    async fn consume(&self, queue: &str) -> Consumer {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
    }

    fn heard(&mut self) -> &mut Heard {
        self.heard.as_mut().expect("listening")
    }

    /// The next outbound event.
    pub async fn status(&mut self) -> Got {
        next("an outbound event", &mut self.heard().status).await
    }

    /// The next dead letter.
    pub async fn dead_letter(&mut self) -> Got {
        let heard = self.heard();
        if let Some(got) = heard.set_aside.pop_front() {
            return got;
        }
        loop {
            let got = next("a dead letter", &mut heard.dead_letters).await;
            // a marker that was published once more after a crash
            if !got.body.starts_with(MARKER) {
                return got;
            }
        }
    }

    /// Sends an event; returns once the broker has it in a queue.
    pub async fn send(&self, sent: &Sent) {
        self.publish(&format!("{}.events", self.prefix), sent).await;
    }

    async fn publish(&self, exchange: &str, sent: &Sent) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing =
            self.channel.basic_publish(exchange.into(), sent.routing_key.as_str().into(), options, &sent.body, sent.properties());
        let confirm = within("publishing", publishing).await.unwrap();
        assert_eq!(within("a confirm", confirm).await.unwrap(), Confirmation::Ack(None), "{} was returned", sent.routing_key);
    }

    /// Waits until the service is through with everything that was sent to either lane before: rubbish is sent
    /// behind it, and comes back as a dead letter in its turn.
    pub async fn barrier(&mut self) {
        let name = self.marker();
        let mut awaited = Vec::new();
        for routing_key in ["agent.surveyed.5.4", "barrier.5.4"] {
            let body = format!("{name} {routing_key}").into_bytes();
            self.send(&Sent {
                routing_key: routing_key.into(),
                content_type: Some(STRUCTURED.into()),
                headers: Vec::new(),
                body: body.clone(),
            })
            .await;
            awaited.push(body);
        }
        while !awaited.is_empty() {
            let heard = self.heard();
            let got = next("a marker's return", &mut heard.dead_letters).await;
            match awaited.iter().position(|body| *body == got.body) {
                Some(index) => drop(awaited.remove(index)),
                // of an earlier barrier, published once more after a crash
                None if got.body.starts_with(MARKER) => {}
                None => heard.set_aside.push_back(got),
            }
        }
    }

    fn marker(&mut self) -> String {
        self.markers += 1;
        format!("marker {}", self.markers)
    }

    /// What is still in the queues of a service that has stopped: outbound events, dead letters.
    pub async fn rest(&mut self) -> (Vec<Got>, Vec<Got>) {
        let marker = self.marker().into_bytes();
        let (exchange, queue) = (format!("{}.status", self.prefix), format!("{}.dead-letters", self.prefix));
        self.publish(&exchange, &Sent { routing_key: "end".into(), body: marker.clone(), ..Sent::default() }).await;
        self.publish("", &Sent { routing_key: queue, body: marker.clone(), ..Sent::default() }).await;
        let heard = self.heard();
        let mut status = Vec::new();
        loop {
            let got = next("the end of the outbound events", &mut heard.status).await;
            if got.body == marker {
                break;
            }
            status.push(got);
        }
        let mut dead_letters: Vec<Got> = heard.set_aside.drain(..).collect();
        loop {
            let got = next("the end of the dead letters", &mut heard.dead_letters).await;
            if got.body == marker {
                return (status, dead_letters);
            }
            if !got.body.starts_with(MARKER) {
                dead_letters.push(got);
            }
        }
    }

    /// Deletes a queue of the installation, by its name without the prefix.
    pub async fn delete_queue(&self, name: &str) {
        let queue = format!("{}.{name}", self.prefix);
        self.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Deletes what was declared.
    pub async fn clean(self) {
        let mut queues = vec!["unrouted".to_owned(), "dead-letters".to_owned()];
        let mut exchanges = ["events", "status", "unrouted"].map(str::to_owned).to_vec();
        match self.partitions {
            1 => exchanges.push("events.rest".to_owned()),
            _ => exchanges.push("events.by-tenant".to_owned()),
        }
        for partition in 0..self.partitions {
            queues.extend(["reports", "surveys"].map(|lane| format!("p{partition}.{lane}")));
            if self.partitions > 1 {
                exchanges.extend(["events", "events.rest"].map(|name| format!("p{partition}.{name}")));
            }
        }
        for queue in queues {
            self.delete_queue(&queue).await;
        }
        for name in exchanges {
            let exchange = format!("{}.{name}", self.prefix);
            self.channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
        }
    }
}

async fn next(what: &str, consumer: &mut Consumer) -> Got {
    Got::of(within(what, consumer.next()).await.expect("the consumer goes on").expect("a delivery"))
}

/// Another client than ours: pika, in a process of its own.
pub struct Pika {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    exchange: String,
}

impl Pika {
    pub fn start(outside: &Outside) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/publish.py");
        // the system's Python: Debian's python3-pika is there and not in a version manager's
        let mut command = Command::new("/usr/bin/python3");
        let mut child =
            command.arg(script).arg(&outside.url).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("/usr/bin/python3 starts");
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut pika = Self { child, input, output, exchange: format!("{}.events", outside.prefix) };
        assert_eq!(pika.answer(), "connected", "python3-pika is needed (Debian: apt-get install python3-pika)");
        pika
    }

    /// Returns once the broker has the message in a queue.
    pub fn send(&mut self, sent: &Sent) {
        let headers: BTreeMap<&str, &str> = sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body_hex: String = sent.body.iter().map(|byte| format!("{byte:02x}")).collect();
        let message = json!({
            "exchange": self.exchange, "routing_key": sent.routing_key, "content_type": sent.content_type,
            "headers": headers, "body_hex": body_hex,
        });
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{message}").unwrap();
        input.flush().unwrap();
        assert_eq!(self.answer(), "confirmed", "{}", sent.routing_key);
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Pika {
    fn drop(&mut self) {
        // the end of its input is its end
        self.input = None;
        let _ = self.child.wait();
    }
}
