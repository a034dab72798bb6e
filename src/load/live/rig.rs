//! The rig: both ends of a service at a real broker. A producer with a window of confirms, a listener that takes what
//! is published, and a gauge that reads the depth of the queues.
//!
//! Never here: what is sent, and for how long. Nothing in it waits without a limit: what fails ends the run.
//!
//! ```text
//!  world ─▶ producer ─▶ events ─▶ [ service or bare relay ] ─▶ status ─▶ audit queue ─▶ listener ─▶ books
//!                          └──── depth of both lanes ──▶ gauge         dead letters ─▶ listener ─▶ books
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::stream::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::books::{Books, MARKER};
use super::flood::Flood;
use super::producer::{Parcel, Producer, Rubbish};
use super::world::{Event, Run, World};
use crate::broker::Lane;
use crate::broker::amqp::Endpoint;
use crate::broker::amqp::connection::{AmqpError, Connection, call};
use crate::broker::amqp::declare;
use crate::broker::amqp::settings::{TimeOuts, Tls};
use crate::broker::topology::Topology;
use crate::model::time::{Stopwatch, system_now};

/// Handed to the client at a time.
pub const TURN: usize = 64;
/// Often enough that a window of [`WATER`] never runs dry between two readings.
const GAUGE_EVERY: Duration = Duration::from_millis(50);
/// Messages that wait in the two lanes at saturation: at least so many that none of them runs dry between two readings,
/// at most so many that the broker keeps them in memory.
pub const WATER: std::ops::RangeInclusive<u64> = 500..=6_000;
/// Published messages taken at a time, under one lock of the books.
const CHUNK: usize = 256;
/// Dead letters on their way to us.
const LETTERS_AT_A_TIME: u16 = 1_000;
/// Without any progress for this long, whatever is awaited is not coming.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A reading of the gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    pub at_us: u64,
    /// Events that the broker has confirmed to us, malformed messages among them: they wait in the same lanes.
    pub confirmed: u64,
    /// Events that wait in the lanes of all partitions.
    pub waiting: u64,
    /// Messages that have been published in answer.
    pub outbound: u64,
    /// Reports and decisions without an answer.
    pub unanswered: u64,
}

pub struct Rig {
    pub world: World,
    pub books: Arc<Mutex<Books>>,
    clock: Stopwatch,
    endpoint: Endpoint,
    topology: Topology,
    producer: Producer,
    gauge: watch::Receiver<Depth>,
    readings: Arc<Mutex<Vec<Depth>>>,
    control: Connection,
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
    markers: u32,
    taking_letters: watch::Sender<bool>,
}

/// Where, and under which names.
pub struct Site {
    pub endpoint: Endpoint,
    pub topology: Topology,
    /// The queues are made anew, and removed at the end.
    pub owned: bool,
}

impl Rig {
    /// Declares what is needed and begins to listen.
    pub async fn open(site: &Site, world: World, run: Run, clock: Stopwatch) -> anyhow::Result<Self> {
        let control = Connection::open(&site.endpoint, "load listener", &Tls::default(), TimeOuts::default()).await.map_err(whole)?;
        if site.owned {
            remove(&control, &site.topology).await?;
            declare::apply(&control, &site.topology).await.map_err(whole)?;
        }
        declare_audit(&control, &site.topology).await?;
        let books = Arc::new(Mutex::new(Books::new(run)));
        let mut tasks = Vec::new();
        let taking_letters = watch::Sender::new(true);
        for (queue, source) in [
            (audit_queue(&site.topology), Source::Status),
            (site.topology.dead_letters(), Source::DeadLetters { taken: taking_letters.subscribe() }),
        ] {
            let channel = control.lasting_channel().await.map_err(whole)?;
            // what is published is kept back by no acks: the listener is no part of what is measured
            let no_ack = matches!(source, Source::Status);
            if !no_ack {
                let qos = channel.basic_qos(LETTERS_AT_A_TIME, BasicQosOptions::default());
                call("setting the prefetch", control.time_outs(), qos).await.map_err(whole)?;
            }
            let options = BasicConsumeOptions { no_ack, ..BasicConsumeOptions::default() };
            let consuming = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
            let consumer = call(format!("consuming {queue}"), control.time_outs(), consuming).await.map_err(whole)?;
            tasks.push(tokio::spawn(listen(consumer, channel, source, Arc::clone(&books), clock)));
        }
        let confirmed = Arc::new(AtomicU64::new(0));
        let producer = Producer::open(&site.endpoint, "load producer", site.topology.events(), Arc::clone(&confirmed)).await?;
        let (read, gauge) = watch::channel(Depth::default());
        let readings = Arc::new(Mutex::new(Vec::new()));
        let gauging = Gauging {
            channel: control.lasting_channel().await.map_err(whole)?,
            queues: (0..site.topology.partitions())
                .flat_map(|partition| [Lane::Reports, Lane::Surveys].map(|lane| site.topology.queue(partition, lane)))
                .collect(),
            confirmed,
            books: Arc::clone(&books),
            clock,
            readings: Arc::clone(&readings),
            read,
        };
        tasks.push(tokio::spawn(gauging.run()));
        let (endpoint, topology) = (site.endpoint.clone(), site.topology.clone());
        Ok(Self { world, books, clock, endpoint, topology, producer, gauge, readings, control, tasks, markers: 0, taking_letters })
    }

    pub fn now_us(&self) -> u64 {
        micros(self.clock)
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every reading since the beginning.
    pub fn readings(&self) -> Vec<Depth> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn depth(&self) -> Depth {
        *self.gauge.borrow()
    }

    /// Waits for the next reading, and takes the confirms that come meanwhile.
    pub async fn reading(&mut self) -> anyhow::Result<Depth> {
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                changed = self.gauge.changed() => match changed {
                    Ok(()) => return Ok(*self.gauge.borrow_and_update()),
                    Err(_) => break,
                },
                landed = self.producer.one_landed() => landed?,
                () = &mut patience => break,
            }
        }
        Err(self.failure().await)
    }

    /// Lets time pass, and takes the confirms that come meanwhile.
    pub async fn pause(&mut self, pause: Duration) -> anyhow::Result<()> {
        self.producer.pause(pause).await
    }

    /// Notes events in the books and hands them to the broker, each with the time at which it should have been sent.
    pub async fn send(&mut self, events: Vec<(Event, u64)>) -> anyhow::Result<()> {
        {
            let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
            for (event, intended_us) in &events {
                books.note(event.tenant, event.kind, *intended_us);
            }
        }
        let parcels = events.into_iter().map(|(Event { routing_key, tenantid, body, .. }, _)| Parcel { routing_key, tenantid, body });
        self.producer.send(parcels).await
    }

    /// Malformed messages of a tenant's, to be sent beside the load.
    pub async fn flood(&self, organization: u64) -> anyhow::Result<Flood> {
        let confirmed = self.producer.confirmed();
        let producer = Producer::open(&self.endpoint, "load malformed", self.topology.events(), confirmed).await?;
        Ok(Flood { producer, books: Arc::clone(&self.books), clock: self.clock, organization })
    }

    /// Whether dead letters are taken as they come. Nobody reads those of a flood while it lasts: they wait in their queue.
    pub fn take_dead_letters(&self, now: bool) {
        self.taking_letters.send_replace(now);
    }

    /// Sends events as fast as they are taken.
    pub async fn send_all(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let now_us = self.now_us();
            let turn = events.by_ref().take(TURN).map(|event| (event, now_us)).collect();
            self.send(turn).await?;
        }
        self.producer.confirm_all().await
    }

    /// Waits until nothing waits in the lanes any more.
    pub async fn drained(&mut self) -> anyhow::Result<()> {
        self.producer.confirm_all().await?;
        let (mut least, mut since) = (u64::MAX, Stopwatch::start());
        loop {
            // the one after the next was certainly begun after the last confirm
            self.reading().await?;
            let depth = self.reading().await?;
            if depth.waiting == 0 {
                return Ok(());
            }
            if depth.waiting < least {
                (least, since) = (depth.waiting, Stopwatch::start());
            } else if since.elapsed() > PATIENCE {
                bail!("{least} events wait in the queues and nobody takes them");
            }
        }
    }

    /// Brings every report to its end: asks, sees where each is, does what is needed, asks again.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        self.world.forget_steps();
        self.producer.confirm_all().await?;
        // the longest way: approve, survey, retry, survey, resolve
        for _ in 0..8 {
            self.passed().await?;
            let standings = self.books().standings().to_vec();
            let asked = self.world.ask(&standings, system_now());
            if asked.is_empty() {
                return Ok(());
            }
            self.send_all(asked).await?;
            self.passed().await?;
            let standings = self.books().standings().to_vec();
            let mended = self.world.mend(&standings, system_now());
            self.send_all(mended).await?;
        }
        self.passed().await
    }

    /// Waits until the service is through with everything sent: rubbish sent behind it, in each lane of each partition, has
    /// come back as a dead letter,
    /// and every report and decision is answered. Answers that never come are for the audit to find.
    async fn passed(&mut self) -> anyhow::Result<()> {
        self.markers += 1;
        let mut markers = Vec::new();
        for partition in 0..self.topology.partitions() {
            for kind in ["agent.surveyed", "marker"] {
                let marker = format!("{} {kind} p{partition}", self.markers);
                let exchange = self.topology.entry(partition);
                let event = Rubbish { exchange, routing_key: format!("{kind}.0.0"), body: format!("{MARKER}{marker}") };
                self.producer.send_rubbish(event).await?;
                markers.push(marker);
            }
        }
        self.producer.confirm_all().await?;
        let (mut seen, mut since) = (0, Stopwatch::start());
        loop {
            let depth = self.reading().await?;
            let (through, unanswered) = {
                let books = self.books();
                (markers.iter().all(|marker| books.has_marker(marker)), books.unanswered())
            };
            if through && unanswered == 0 {
                return Ok(());
            }
            let progress = depth.outbound.wrapping_sub(depth.waiting).wrapping_sub(unanswered);
            if progress != seen {
                (seen, since) = (progress, Stopwatch::start());
            } else if since.elapsed() > PATIENCE {
                if through {
                    return Ok(());
                }
                bail!("the service has not come to the end of its queues: {} events wait, and nothing moves", depth.waiting);
            }
        }
    }

    /// Takes what has been published by a service that has stopped, to the last message.
    pub async fn listen_to_the_end(&mut self) -> anyhow::Result<()> {
        self.markers += 1;
        let marker = format!("{} end", self.markers);
        // behind everything else in each of the two queues; what the listener makes of either is noted as a marker
        for queue in [audit_queue(&self.topology), self.topology.dead_letters()] {
            let body = format!("{MARKER}{marker} {queue}");
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let sent =
                self.producer.channel.basic_publish("".into(), queue.as_str().into(), options, body.as_bytes(), BasicProperties::default());
            let confirm = sent.await.context("publishing the end")?;
            anyhow::ensure!(confirm.await.context("publishing the end")? == Confirmation::Ack(None), "queue {queue} is gone");
        }
        let since = Stopwatch::start();
        loop {
            self.reading().await?;
            let queues = [audit_queue(&self.topology), self.topology.dead_letters()];
            if queues.iter().all(|queue| self.books().has_marker(&format!("{marker} {queue}"))) {
                return Ok(());
            }
            anyhow::ensure!(since.elapsed() < PATIENCE, "what was published does not come to its end");
        }
    }

    /// Removes what was declared.
    pub async fn close(mut self, site: &Site) -> anyhow::Result<()> {
        for task in self.tasks.drain(..) {
            task.abort();
        }
        let channel = self.control.channel().await.map_err(whole)?;
        let queue = audit_queue(&site.topology);
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.context("removing the audit queue")?;
        if site.owned {
            remove(&self.control, &site.topology).await?;
        }
        Ok(())
    }

    /// Why a task has ended.
    async fn failure(&mut self) -> anyhow::Error {
        for task in &mut self.tasks {
            if task.is_finished()
                && let Ok(Err(error)) = task.await
            {
                return error;
            }
        }
        anyhow::anyhow!("the broker no longer answers")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

pub fn whole(error: AmqpError) -> anyhow::Error {
    anyhow::Error::new(crate::load::live::BrokerFailed(error.chain()))
}

pub fn micros(clock: Stopwatch) -> u64 {
    u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn audit_queue(topology: &Topology) -> String {
    format!("{}.audit", topology.prefix())
}

/// The listener's queue: as durable as any consumer's who must not miss a page.
async fn declare_audit(connection: &Connection, topology: &Topology) -> anyhow::Result<()> {
    let channel = connection.channel().await.map_err(whole)?;
    let queue = audit_queue(topology);
    // what an earlier run has left there is of no use
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .context("removing the audit queue of an earlier run")?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declaring = channel.queue_declare(queue.as_str().into(), options, arguments);
    call(format!("declaring {queue}"), connection.time_outs(), declaring).await.map_err(whole)?;
    let binding = channel.queue_bind(
        queue.as_str().into(),
        topology.status().as_str().into(),
        "#".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    call(format!("binding {queue}"), connection.time_outs(), binding).await.map_err(whole)
}

/// Everything of the topology, with what is in it.
async fn remove(connection: &Connection, topology: &Topology) -> anyhow::Result<()> {
    let channel = connection.channel().await.map_err(whole)?;
    for queue in &topology.queues {
        channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await.context("removing a queue")?;
    }
    for exchange in &topology.exchanges {
        channel.exchange_delete(exchange.name.as_str().into(), ExchangeDeleteOptions::default()).await.context("removing an exchange")?;
    }
    Ok(())
}

enum Source {
    Status,
    /// Acknowledged, and so at most [`LETTERS_AT_A_TIME`] come while they are not `taken`.
    DeadLetters {
        taken: watch::Receiver<bool>,
    },
}

async fn listen(
    consumer: lapin::Consumer,
    channel: Channel,
    mut source: Source,
    books: Arc<Mutex<Books>>,
    clock: Stopwatch,
) -> anyhow::Result<()> {
    let mut chunks = consumer.ready_chunks(CHUNK);
    while let Some(chunk) = chunks.next().await {
        let now_us = micros(clock);
        let mut last = 0;
        {
            let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
            for delivery in chunk {
                let delivery = delivery.context("listening")?;
                last = delivery.delivery_tag;
                match source {
                    Source::Status if !delivery.data.starts_with(MARKER.as_bytes()) => books.published(&delivery.data, now_us),
                    Source::Status | Source::DeadLetters { .. } => books.dead_lettered(&delivery.data),
                }
            }
        }
        if let Source::DeadLetters { taken } = &mut source {
            // without the rig nobody listens any more
            if taken.wait_for(|taken| *taken).await.is_err() {
                return Ok(());
            }
            channel.basic_ack(last, BasicAckOptions { multiple: true }).await.context("taking dead letters")?;
        }
    }
    bail!("the broker has ended a consumer of the load run")
}

struct Gauging {
    channel: Channel,
    queues: Vec<String>,
    confirmed: Arc<AtomicU64>,
    books: Arc<Mutex<Books>>,
    clock: Stopwatch,
    readings: Arc<Mutex<Vec<Depth>>>,
    read: watch::Sender<Depth>,
}

impl Gauging {
    async fn run(self) -> anyhow::Result<()> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        loop {
            // before asking: what is confirmed after this is not counted as waiting, nor as taken
            let confirmed = self.confirmed.load(Relaxed);
            let mut waiting = 0;
            for queue in &self.queues {
                let asked = self.channel.queue_declare(queue.as_str().into(), passive, FieldTable::default());
                waiting += u64::from(asked.await.with_context(|| format!("reading the depth of {queue}"))?.message_count());
            }
            let (outbound, unanswered) = {
                let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
                (books.outbound().0, books.unanswered())
            };
            let depth = Depth { at_us: micros(self.clock), confirmed, waiting, outbound, unanswered };
            self.readings.lock().unwrap_or_else(PoisonError::into_inner).push(depth);
            self.read.send_replace(depth);
            tokio::time::sleep(GAUGE_EVERY).await;
        }
    }
}
