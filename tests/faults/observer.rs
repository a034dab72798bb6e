//! A producer and a consumer outside the service that outlive their broker: what they have sent, and what has come
//! of it, judged without a look into the service's store.
//!
//! Never here: a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};

use crate::outside::{Got, Sent};
use crate::process::within;
use crate::service::{check_sequences, replay_lines, sample};
use crate::steps::{Ledger, by_subject};

/// How often a broker that is not ready is asked again.
const AGAIN: Duration = Duration::from_millis(100);

pub struct Observer {
    url: String,
    prefix: String,
    session: Option<Session>,
    /// Everything published and confirmed, in order.
    sent: Vec<Vec<u8>>,
    /// The ids of events that nothing has come of yet.
    open: BTreeSet<String>,
    heard: Ledger,
    /// Per source and subject, the last sequence that was new.
    last: BTreeMap<(Source, String), u64>,
    pairs: usize,
}

/// The queue that is bound, or the one for what no binding takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Bound,
    Unrouted,
}

struct Session {
    _connection: Connection,
    channel: Channel,
    bound: Consumer,
    unrouted: Consumer,
}

impl Observer {
    /// Of an installation whose topology is there.
    pub async fn new(url: &str, prefix: &str) -> Self {
        let observer = Self {
            url: url.to_owned(),
            prefix: prefix.to_owned(),
            session: None,
            sent: Vec::new(),
            open: BTreeSet::new(),
            heard: Ledger::default(),
            last: BTreeMap::new(),
            pairs: 0,
        };
        let (_connection, channel) = observer.channel().await;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(observer.queue().as_str().into(), options, quorum).await.unwrap();
        observer.bind(&channel).await;
        observer
    }

    fn queue(&self) -> String {
        format!("{}.heard", self.prefix)
    }

    fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    async fn bind(&self, channel: &Channel) {
        let (queue, exchange) = (self.queue(), self.name("status"));
        let binding = channel.queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        binding.await.unwrap();
    }

    /// Takes up listening again where a fault has taken the binding away.
    pub async fn listen_again(&self) {
        let (_connection, channel) = self.channel().await;
        self.bind(&channel).await;
    }

    /// Takes away every binding by which an event could arrive anywhere.
    pub async fn stop_listening(&self) {
        let (_connection, channel) = self.channel().await;
        for (queue, exchange, key) in [(self.queue(), self.name("status"), "#"), (self.name("unrouted"), self.name("unrouted"), "")] {
            let none = FieldTable::default();
            channel.queue_unbind(queue.as_str().into(), exchange.as_str().into(), key.into(), none).await.unwrap();
        }
    }

    /// A channel with confirms for whatever a fault needs, on a connection of its own.
    pub async fn channel(&self) -> (Connection, Channel) {
        let connecting = Connection::connect(&self.url, ConnectionProperties::default());
        let connection = within("the observer's connection", connecting).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        (connection, channel)
    }

    /// The session, made anew if a fault has ended it. The broker is there or coming back.
    async fn session(&mut self) -> &mut Session {
        if self.session.is_none() {
            let mut pace = tokio::time::interval(AGAIN);
            let opening = async {
                loop {
                    pace.tick().await;
                    if let Ok(session) = self.open_session().await {
                        return session;
                    }
                }
            };
            let session = within("a session of the observer", opening).await;
            self.session = Some(session);
        }
        self.session.as_mut().unwrap()
    }

    async fn open_session(&self) -> lapin::Result<Session> {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let consume = async |queue: String| {
            channel.basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
        };
        let (bound, unrouted) = (consume(self.queue()).await?, consume(self.name("unrouted")).await?);
        Ok(Session { _connection: connection, channel, bound, unrouted })
    }

    /// Forgets its connection: a fault has ended that.
    pub fn disconnect(&mut self) {
        self.session = None;
    }

    /// Sends `pairs` reports and their acknowledgements. Returns when the broker has confirmed all; what it has not
    /// confirmed is sent again, as a producer would.
    pub async fn send(&mut self, pairs: usize) {
        let mut left: Vec<Vec<u8>> = (0..pairs)
            .flat_map(|_| {
                self.pairs += 1;
                pair(self.pairs)
            })
            .collect();
        for event in &left {
            let event: Value = serde_json::from_slice(event).unwrap();
            self.open.insert(event["id"].as_str().unwrap().to_owned());
        }
        self.sent.extend(left.iter().cloned());
        let exchange = self.name("events");
        let sending = async {
            while !left.is_empty() {
                let session = self.session().await;
                let published = join_all(left.iter().map(|event| publish(&session.channel, &exchange, event))).await;
                let mut taken = published.iter();
                left.retain(|_| !taken.next().unwrap());
                if !left.is_empty() {
                    self.disconnect();
                }
            }
        };
        within("sending", sending).await;
    }

    /// Hears the next event that the service has published.
    async fn hear(&mut self) {
        loop {
            let session = self.session().await;
            let (source, arrived) = tokio::select! {
                arrived = session.bound.next() => (Source::Bound, arrived),
                arrived = session.unrouted.next() => (Source::Unrouted, arrived),
            };
            let Some(Ok(delivery)) = arrived else {
                self.disconnect();
                continue;
            };
            // what is not acked comes again, as a copy
            let _ = delivery.ack(BasicAckOptions::default()).await;
            self.judge(source, &Got::of(delivery));
            return;
        }
    }

    fn judge(&mut self, source: Source, got: &Got) {
        let (event, known) = (got.event(), self.heard.outbound.len());
        self.heard.hear(got);
        self.open.remove(event["causationid"].as_str().unwrap());
        if self.heard.outbound.len() > known {
            let subject = format!("{} {}", event["tenantid"].as_str().unwrap(), event["subject"].as_str().unwrap());
            let sequence: u64 = event["sequence"].as_str().unwrap().parse().unwrap();
            let last = self.last.insert((source, subject), sequence).unwrap_or(0);
            assert!(sequence > last, "{sequence} came after {last}: {event}");
        }
    }

    /// Waits until something has come of every event sent.
    pub async fn settle(&mut self) {
        let settling = async {
            while !self.open.is_empty() {
                self.hear().await;
            }
        };
        if tokio::time::timeout(crate::process::PATIENCE, settling).await.is_err() {
            panic!("nothing came of {:?}", self.open);
        }
    }

    /// Sends one more report, and waits until that and everything before it has come to something. Returns the time
    /// since `healed`.
    pub async fn recovered(&mut self, healed: Instant) -> Duration {
        self.send(1).await;
        let last = format!("soc-1004-1-{}", self.pairs);
        let hearing = async {
            while self.open.contains(&last) {
                self.hear().await;
            }
        };
        if tokio::time::timeout(crate::process::PATIENCE, hearing).await.is_err() {
            panic!("the service is not back; nothing came of {:?}", self.open);
        }
        let took = healed.elapsed();
        self.settle().await;
        took
    }

    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    pub fn copies(&self) -> usize {
        self.heard.copies
    }

    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// After the service has stopped: everything sent has been applied once, as in a replay that knows of no faults.
    pub async fn check(mut self) {
        let expected = by_subject(&replay_lines(&self.sent, &[]).lines());
        let total: usize = expected.values().map(Vec::len).sum();
        let hearing = async {
            while self.heard.outbound.len() < total {
                self.hear().await;
            }
        };
        if tokio::time::timeout(crate::process::PATIENCE, hearing).await.is_err() {
            let ids: BTreeSet<&String> = self.heard.outbound.iter().map(|(id, _)| id).collect();
            let missing: Vec<&String> =
                expected.values().flatten().filter(|body| !ids.iter().any(|id| body.contains(id.as_str()))).collect();
            panic!("{} of {total} events never came: {missing:#?}", total - self.heard.outbound.len());
        }
        let sequence = |body: &Vec<u8>| -> u64 {
            let event: Value = serde_json::from_slice(body).unwrap();
            event["sequence"].as_str().unwrap().parse().unwrap()
        };
        let mut found: Vec<Vec<u8>> = self.heard.outbound.iter().map(|(_, body)| body.clone()).collect();
        found.sort_by_key(sequence);
        let events: Vec<Value> = found.iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
        check_sequences(&events);
        assert_eq!(by_subject(&found), expected);
    }
}

async fn publish(channel: &Channel, exchange: &str, event: &[u8]) -> bool {
    let sent = Sent::structured(event);
    let mut headers = FieldTable::default();
    for (name, value) in &sent.headers {
        headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
    }
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_headers(headers).with_content_type(crate::outside::STRUCTURED.into());
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    match channel.basic_publish(exchange.into(), sent.routing_key.as_str().into(), options, event, properties).await {
        Ok(confirm) => matches!(confirm.await, Ok(Confirmation::Ack(None))),
        Err(_) => false,
    }
}

/// A report and its acknowledgement at the same time, so that no order of arrival changes what comes of them.
fn pair(number: usize) -> [Vec<u8>; 2] {
    let lines = sample("no-remediation");
    let event = |line: &[u8]| -> Value {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        event["id"] = json!(format!("{}-{number}", event["id"].as_str().unwrap()));
        event["time"] = json!("2026-11-23T22:10:00Z");
        event.as_object_mut().unwrap().remove("subject");
        event
    };
    let (mut created, mut acknowledged) = (event(&lines[0]), event(&lines[1]));
    created["data"]["incident_report"]["id"] = json!(number);
    created["data"]["incident_report"]["identity"]["id"] = json!(number);
    acknowledged["data"]["incident_report_id"] = json!(number);
    [created, acknowledged].map(|event| event.to_string().into_bytes())
}
