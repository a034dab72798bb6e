//! The load: tells stories through a real broker, keeps the ledger, and goes on whatever dies on the other side. A
//! task of its own, so that a test can kill and start processes meanwhile.
//!
//! Never here: a judgement. What the connection does not say is asked again: a publication without a confirm is
//! repeated, a delivery without an ack comes again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::ledger::{Entry, Fate, Heard, Ledger, digest};
use super::story::{Message, Story, Teller};
use crate::outside::Sent;
use crate::process::{PATIENCE, within};

/// Reports on their way at a time: enough that every batch holds several, few enough that the end is near.
const STORIES: usize = 12;
/// Everything that has begun has to come to its end so long after the last fault (invariant 18). Generous for a
/// shared machine; the figures name the longest that was needed.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How long the broker may be away.
const BROKER_AWAY: Duration = Duration::from_secs(150);
/// Messages kept, to be sent again or falsified.
const REMEMBERED: usize = 8;
/// How often the time is looked at when nothing comes.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// A broker that has just started takes its time.
const CONNECTS_WITHIN: Duration = Duration::from_secs(20);
/// A confirm takes milliseconds. Without one for so long the connection is taken for lost.
const CONFIRMS_WITHIN: Duration = Duration::from_secs(20);
const MARKER: &[u8] = b"the end";

enum Command {
    /// Begin no more, and answer when every story has come to its end: how long that took.
    Finish(oneshot::Sender<Duration>),
    Resume,
    /// Virtual days pass.
    Jump(i64),
    /// Goes into the ledger.
    Crash(String),
    /// So much rubbish of a size that must be kept whole.
    Flood(usize),
    /// How far the stories are.
    Tell(oneshot::Sender<String>),
    End(oneshot::Sender<()>),
}

/// The tests' side of it.
pub struct Load {
    commands: mpsc::UnboundedSender<Command>,
    /// How many outbound events have been heard.
    heard: watch::Receiver<u64>,
    /// Whether the broker may be called.
    broker_is_there: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Worker {
    url: String,
    prefix: String,
    wire: Wire,
    ledger: Ledger,
    teller: Teller,
    stories: Vec<Story>,
    recent: VecDeque<Message>,
    /// Bodies' digests that have to come back as dead letters.
    awaited: BTreeSet<String>,
    /// Ids of outbound events that have been heard.
    known: BTreeSet<String>,
    winding_down: bool,
    finishing: Option<(Instant, oneshot::Sender<Duration>)>,
    markers: usize,
    commands: mpsc::UnboundedReceiver<Command>,
    heard: watch::Sender<u64>,
    broker_is_there: watch::Receiver<bool>,
}

struct Wire {
    _connection: Connection,
    channel: Channel,
    status: Consumer,
    dead_letters: Consumer,
}

impl Load {
    /// The topology has to be there.
    pub async fn start(url: &str, prefix: &str, ledger: &Path, seed: u64, with_identities: bool) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (heard, listening) = watch::channel(0);
        let (there, broker_is_there) = watch::channel(true);
        let wire = within("the checker's connection", Wire::connect(url, prefix)).await.expect("the broker is there");
        let worker = Worker {
            url: url.into(),
            prefix: prefix.into(),
            wire,
            ledger: Ledger::create(ledger),
            teller: Teller::new(seed, &format!("checker/{prefix}"), with_identities),
            stories: Vec::new(),
            recent: VecDeque::new(),
            awaited: BTreeSet::new(),
            known: BTreeSet::new(),
            winding_down: false,
            finishing: None,
            markers: 0,
            commands: received,
            heard,
            broker_is_there,
        };
        Self { commands, heard: listening, broker_is_there: there, task: tokio::spawn(worker.run()) }
    }

    pub fn heard(&self) -> u64 {
        *self.heard.borrow()
    }

    /// Waits until `more` further events have been heard.
    pub async fn hears(&mut self, more: u64) {
        let wanted = self.heard() + more;
        let hearing = self.heard.wait_for(|heard| *heard >= wanted);
        if let Ok(heard) = timeout(PATIENCE, hearing).await {
            drop(heard.expect("the load has failed, see above"));
            return;
        }
        panic!("[18] fewer than {more} outbound events within {PATIENCE:?}; the stories:\n{}", self.tell().await);
    }

    /// How far the stories are, for a person who looks at a failure.
    pub async fn tell(&self) -> String {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Tell(answer));
        match timeout(PATIENCE, answered).await {
            Ok(told) => told.expect("the load has failed, see above"),
            Err(_) => "the publisher itself is stuck".to_owned(),
        }
    }

    pub fn flood(&self, messages: usize) {
        self.command(Command::Flood(messages));
    }

    /// Ends only if the load fails, which is this test's end.
    pub async fn broken(&mut self) -> ! {
        let ended = (&mut self.task).await;
        panic!("the load has ended: {ended:?}");
    }

    fn command(&self, command: Command) {
        self.commands.send(command).expect("the load has failed, see above");
    }

    pub fn crashed(&self, how: impl Into<String>) {
        self.command(Command::Crash(how.into()));
    }

    /// Nobody waits for a broker whose queues have no leaders (`Node::again` says why).
    pub fn broker_is_there(&self, there: bool) {
        self.broker_is_there.send_replace(there);
    }

    pub fn resume(&self) {
        self.command(Command::Resume);
    }

    pub fn jump(&self, days: i64) {
        self.command(Command::Jump(days));
    }

    /// Ends every story. Returns how long that took.
    pub async fn finish(&self) -> Duration {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Finish(answer));
        answered.await.expect("not everything settles, see above")
    }

    /// Hears what is left of a service that has stopped, and closes the ledger.
    pub async fn end(self) {
        let (answer, answered) = oneshot::channel();
        self.command(Command::End(answer));
        within("the end of the load", answered).await.expect("the load has failed, see above");
        self.task.await.expect("it has ended well");
    }
}

impl Worker {
    async fn run(mut self) {
        loop {
            self.top_up();
            self.say().await;
            self.look_at_the_end();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Finish(answer)) => {
                        self.winding_down = true;
                        self.finishing = Some((Instant::now(), answer));
                    }
                    Some(Command::Resume) => self.winding_down = false,
                    Some(Command::Jump(days)) => {
                        self.teller.jump(days);
                        // beyond the dedupe window an id is new again
                        self.recent.clear();
                    }
                    Some(Command::Crash(how)) => {
                        self.ledger.note(&Entry::Crash { how });
                        self.ledger.sync();
                    }
                    Some(Command::Flood(messages)) => {
                        let flood: Vec<Message> = (0..messages).map(|_| self.teller.large_rubbish()).collect();
                        self.awaited.extend(flood.iter().map(|message| message.sending.digest.clone()));
                        self.publish(flood).await;
                    }
                    // who asked may have failed meanwhile
                    Some(Command::Tell(answer)) => drop(answer.send(self.tell())),
                    Some(Command::End(answer)) => {
                        self.hear_the_rest().await;
                        // who asked may have failed meanwhile
                        let _ = answer.send(());
                        return;
                    }
                    None => return,
                },
                got = timeout(LOOKS_EVERY, self.wire.next()) => match got {
                    Ok(Some(got)) => self.take(got).await,
                    Ok(None) => self.reconnect().await,
                    Err(_) => {}
                },
            }
        }
    }

    fn look_at_the_end(&mut self) {
        let settled = self.stories.is_empty() && self.awaited.is_empty();
        let Some((since, answer)) = self.finishing.take() else { return };
        if settled {
            // who asked may have failed meanwhile
            let _ = answer.send(since.elapsed());
            return;
        }
        if since.elapsed() > SETTLES_WITHIN {
            panic!("[18] unsettled after {SETTLES_WITHIN:?}:\n{}", self.tell());
        }
        self.finishing = Some((since, answer));
    }

    fn tell(&self) -> String {
        let stories: Vec<String> = self.stories.iter().map(Story::tell).collect();
        format!("{}\n{} dead letters awaited", stories.join("\n"), self.awaited.len())
    }

    fn top_up(&mut self) {
        self.stories.retain(|story| !story.is_closed());
        while !self.winding_down && self.stories.len() < STORIES {
            let story = self.teller.begin();
            self.ledger.note(&Entry::Wanted { tenant: story.tenant.clone(), report: story.report });
            self.stories.push(story);
        }
    }

    /// Everything that the stories say now, with what goes wrong at publishers: repetitions, rubbish, ids used twice.
    async fn say(&mut self) {
        let mut said = Vec::new();
        for story in &mut self.stories {
            for message in story.next(&mut self.teller) {
                let twice = self.teller.dice.percent(20).then(|| self.teller.duplicate(&message));
                self.recent.push_back(self.teller.duplicate(&message));
                said.push(message);
                said.extend(twice);
            }
        }
        // each is asked, since the answer is given once
        let waiting = self.stories.iter_mut().map(Story::needs_time).fold(false, |any, one| any | one);
        if waiting {
            said.push(self.teller.time_passes());
        }
        if said.is_empty() {
            return;
        }
        if self.teller.dice.percent(10) {
            said.push(self.teller.rubbish());
        }
        while self.recent.len() > REMEMBERED {
            let Some(old) = self.recent.pop_front() else { break };
            match self.teller.dice.roll(10) {
                0 => said.push(old),
                1 if old.sending.kind == "incident_report.comment_added" && self.is_through(&old) => said.push(self.teller.reuse(&old)),
                _ => {}
            }
        }
        for message in &said {
            if let Fate::Refused { .. } = message.sending.fate {
                self.awaited.insert(message.sending.digest.clone());
            }
        }
        self.publish(said).await;
    }

    fn is_through(&self, message: &Message) -> bool {
        self.stories.iter().all(|story| !story.awaits(&message.sending.id))
    }

    /// Returns when the broker has everything; what is not confirmed is said again.
    async fn publish(&mut self, mut messages: Vec<Message>) {
        while !messages.is_empty() {
            messages.iter().for_each(|message| self.ledger.note(&Entry::Sending(message.sending.clone())));
            self.ledger.sync();
            let exchange = format!("{}.events", self.prefix);
            let outcomes = join_all(messages.iter().map(|message| self.wire.publish(&exchange, message))).await;
            let mut unconfirmed = Vec::new();
            for (message, confirmed) in messages.into_iter().zip(outcomes) {
                if confirmed {
                    let Message { sending, .. } = &message;
                    self.ledger.note(&Entry::Confirmed { id: sending.id.clone(), digest: sending.digest.clone() });
                } else {
                    unconfirmed.push(message);
                }
            }
            self.ledger.sync();
            if !unconfirmed.is_empty() {
                self.reconnect().await;
            }
            messages = unconfirmed;
        }
    }

    async fn reconnect(&mut self) {
        let back = timeout(BROKER_AWAY, self.broker_is_there.wait_for(|there| *there)).await;
        back.expect("the broker comes back").expect("the test goes on");
        let (away, mut pace) = (Instant::now(), tokio::time::interval(Duration::from_millis(200)));
        loop {
            pace.tick().await;
            let why = match timeout(CONNECTS_WITHIN, Wire::connect(&self.url, &self.prefix)).await {
                Ok(Ok(wire)) => {
                    self.wire = wire;
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nothing within {CONNECTS_WITHIN:?}"),
            };
            assert!(away.elapsed() < BROKER_AWAY, "the broker has not come back within {BROKER_AWAY:?}: {why}");
        }
    }

    /// Takes a delivery and all that have come with it: into the ledger, to the disk, then acks.
    async fn take(&mut self, first: Got) {
        let mut got = vec![first];
        while let Some(Some(more)) = self.wire.next().now_or_never() {
            got.push(more);
        }
        let mut events = 0;
        for Got { is_status, delivery } in &got {
            if delivery.data == MARKER {
                self.markers += 1;
                continue;
            }
            let heard = heard(delivery);
            if *is_status {
                events += 1;
                self.hear(&heard);
                self.ledger.note(&Entry::Heard(heard));
            } else {
                self.awaited.remove(&digest(&delivery.data));
                self.ledger.note(&Entry::DeadLetter(heard));
            }
        }
        self.ledger.sync();
        // an ack that is lost brings the delivery again, marked as such
        join_all(got.iter().map(|got| got.delivery.ack(BasicAckOptions::default()))).await;
        self.heard.send_modify(|heard| *heard += events);
    }

    fn hear(&mut self, heard: &Heard) {
        let event: Value = serde_json::from_str(&heard.body).expect("an outbound event is JSON");
        // a copy is for the judge; a story that is told something twice would live it twice
        let id = event["id"].as_str().expect("an id").to_owned();
        if !self.known.insert(id) {
            return;
        }
        let (tenant, report) = (event["tenantid"].as_str(), event["data"]["incident_report_id"].as_u64());
        if let Some(story) = self.stories.iter_mut().find(|story| Some(story.tenant.as_str()) == tenant && Some(story.report) == report) {
            story.hear(&event);
        }
    }

    /// What is still in the queues: a marker behind it comes last.
    async fn hear_the_rest(&mut self) {
        for (exchange, key) in
            [(format!("{}.status", self.prefix), "end".to_owned()), (String::new(), format!("{}.dead-letters", self.prefix))]
        {
            let sent = Sent { routing_key: key, body: MARKER.to_vec(), ..Sent::default() };
            assert!(self.wire.send(&exchange, &sent).await, "the broker takes a marker");
        }
        while self.markers < 2 {
            let got = within("the end of the queues", self.wire.next()).await.expect("the broker stays");
            self.take(got).await;
        }
        for queue in ["p0.reports", "p0.surveys", "unrouted", "dead-letters", "checker"] {
            let name = format!("{}.{queue}", self.prefix);
            self.wire.channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
        }
        for exchange in ["events", "events.rest", "status", "unrouted"] {
            let name = format!("{}.{exchange}", self.prefix);
            self.wire.channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await.expect("deleted");
        }
    }
}

/// A delivery, and from which of the two queues.
struct Got {
    is_status: bool,
    delivery: Delivery,
}

fn heard(delivery: &Delivery) -> Heard {
    let text = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => format!("{other:?}"),
    };
    let table = delivery.properties.headers().clone().unwrap_or_default();
    // the broker's own count of deliveries is no part of the message
    let own = table.inner().iter().filter(|(name, _)| name.as_str() != "x-delivery-count");
    Heard {
        redelivered: delivery.redelivered,
        routing_key: delivery.routing_key.to_string(),
        properties: format!("{:?}", delivery.properties.clone().with_headers(FieldTable::default())),
        headers: own.map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: String::from_utf8_lossy(&delivery.data).into_owned(),
    }
}

impl Wire {
    async fn connect(url: &str, prefix: &str) -> lapin::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channel.basic_qos(500, BasicQosOptions::default()).await?;
        let queue = format!("{prefix}.checker");
        // classic, which keeps what it has confirmed from kill -9
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await?;
        let exchange = format!("{prefix}.status");
        let (bound, all) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(queue.as_str().into(), exchange.as_str().into(), "#".into(), bound, all).await?;
        let consume = |queue: String| {
            let channel = channel.clone();
            async move { channel.basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await }
        };
        let status = consume(queue).await?;
        let dead_letters = consume(format!("{prefix}.dead-letters")).await?;
        Ok(Self { _connection: connection, channel, status, dead_letters })
    }

    /// `None` when the connection is lost.
    async fn next(&mut self) -> Option<Got> {
        let (is_status, got) = tokio::select! {
            biased;
            got = self.status.next() => (true, got),
            got = self.dead_letters.next() => (false, got),
        };
        got.and_then(Result::ok).map(|delivery| Got { is_status, delivery })
    }

    async fn publish(&self, exchange: &str, message: &Message) -> bool {
        self.send(exchange, &message.sent).await
    }

    /// Whether it was confirmed. Unroutable is this test's own fault.
    async fn send(&self, exchange: &str, sent: &Sent) -> bool {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = async {
            let publishing =
                self.channel.basic_publish(exchange.into(), sent.routing_key.as_str().into(), options, &sent.body, sent.properties());
            publishing.await?.await
        };
        match timeout(CONFIRMS_WITHIN, publishing).await {
            Ok(Ok(Confirmation::Ack(None))) => true,
            Ok(Ok(other)) => panic!("{} was not taken: {other:?}", sent.routing_key),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}
