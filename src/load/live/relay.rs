//! The bare relay: consumes, publishes the service's fan-out with confirms, acks. What the broker and the client
//! library allow at all; the service's throughput is held against it.
//!
//! Never here: state, a decision, a store. It uses the client as well as it can be used: deliveries of both lanes
//! under the service's own prefetch, publications pipelined on a connection of their own, acks for many at a time. Of several
//! partitions each has what the service gives it: two connections, windows and a task of its own, in one process.

use std::collections::VecDeque;

use anyhow::Context as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{BoxStream, FuturesUnordered, ReadyChunks, SelectAll, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::task::JoinSet;

use crate::broker::Lane;
use crate::broker::amqp::Endpoint;
use crate::broker::amqp::connection::{AmqpError, Connection};
use crate::broker::amqp::settings::{TimeOuts, Tls};
use crate::broker::topology::{TENANT_HEADER, Topology};
use crate::config::Settings;

/// Deliveries taken at a time: what waits for no confirm is acked with so many others.
const CHUNK: usize = 64;

/// What the relay does for each event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// Messages published for each that is consumed, on average.
    pub fan_out: f64,
    /// Length of each.
    pub bytes: usize,
}

/// A publication under way: the lane and tag of what caused it.
type Flight = BoxFuture<'static, (usize, u64, lapin::Result<Confirmation>)>;

/// Relays until the process is ended. Says `ready` on standard error, as the service does.
pub async fn run(url: &str, topology: &Topology, work: Work) -> anyhow::Result<()> {
    let endpoint = Endpoint::parse(url)?;
    let mut relays = Vec::new();
    for partition in 0..topology.partitions() {
        relays.push(Relay::open(&endpoint, topology, partition, work).await?);
    }
    eprintln!("ready");
    // one of them here: a single one is handed to no other thread
    let Some(here) = relays.pop() else { return Ok(()) };
    let mut others: JoinSet<anyhow::Result<()>> = relays.into_iter().map(Relay::run).collect();
    tokio::select! {
        ended = here.run() => ended,
        Some(ended) = others.join_next() => ended?,
    }
}

/// A delivery, and its lane.
type Arrived = (usize, lapin::Result<Delivery>);

/// The relay of one partition.
struct Relay {
    deliveries: ReadyChunks<SelectAll<BoxStream<'static, Arrived>>>,
    lanes: Vec<Unsettled>,
    outlet: Outlet,
    publish_window: usize,
    _connections: [Connection; 2],
}

impl Relay {
    async fn open(endpoint: &Endpoint, topology: &Topology, partition: u16, work: Work) -> anyhow::Result<Self> {
        // the service's own windows: a wider one would measure something else
        let settings = Settings::default().amqp;
        let open = async |name: &str| Connection::open(endpoint, name, &Tls::default(), TimeOuts::default()).await.map_err(whole);
        let (consuming, publishing) = (open("bare relay consumer").await?, open("bare relay publisher").await?);
        let mut lanes = Vec::new();
        let mut deliveries = SelectAll::new();
        for (number, (lane, prefetch)) in
            [(Lane::Reports, settings.prefetch_reports), (Lane::Surveys, settings.prefetch_surveys)].into_iter().enumerate()
        {
            let channel = consuming.lasting_channel().await.map_err(whole)?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await.context("setting the prefetch")?;
            let queue = topology.queue(partition, lane);
            let consumer = channel.basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
            deliveries.push(consumer.await.context("consuming")?.map(move |delivery| (number, delivery)).boxed());
            lanes.push(Unsettled { channel, open: VecDeque::new() });
        }
        let channel = publishing.lasting_channel().await.map_err(whole)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.context("asking for confirms")?;
        Ok(Self {
            deliveries: deliveries.ready_chunks(CHUNK),
            lanes,
            outlet: Outlet::new(channel, topology, work),
            publish_window: settings.publish_window,
            _connections: [consuming, publishing],
        })
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self { mut deliveries, mut lanes, mut outlet, publish_window, _connections } = self;
        let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(landed) = flights.next(), if !flights.is_empty() => {
                    landed_one(&mut lanes, landed)?;
                    while let Some(Some(landed)) = flights.next().now_or_never() {
                        landed_one(&mut lanes, landed)?;
                    }
                    for lane in &mut lanes {
                        lane.ack().await?;
                    }
                }
                Some(arrived) = deliveries.next(), if flights.len() < publish_window => {
                    for (lane, delivery) in arrived {
                        let tag = delivery.context("consuming")?.delivery_tag;
                        let publications = outlet.owed();
                        lanes[lane].open.push_back((tag, publications));
                        flights.extend((0..publications).map(|_| outlet.publish(lane, tag)));
                    }
                    // what waits for no confirm
                    for lane in &mut lanes {
                        lane.ack().await?;
                    }
                }
            }
        }
    }
}

fn landed_one(lanes: &mut [Unsettled], (lane, tag, confirmed): (usize, u64, lapin::Result<Confirmation>)) -> anyhow::Result<()> {
    anyhow::ensure!(confirmed.context("publishing")? == Confirmation::Ack(None), "the broker refused or returned a message");
    lanes[lane].landed(tag);
    Ok(())
}

/// A lane's deliveries, oldest first, each with the confirms it waits for.
struct Unsettled {
    channel: Channel,
    open: VecDeque<(u64, usize)>,
}

impl Unsettled {
    fn landed(&mut self, tag: u64) {
        if let Ok(at) = self.open.binary_search_by_key(&tag, |(tag, _)| *tag) {
            self.open[at].1 -= 1;
        }
    }

    /// Everything from the oldest on that waits for nothing, by one frame.
    async fn ack(&mut self) -> anyhow::Result<()> {
        let mut up_to = None;
        while let Some((tag, 0)) = self.open.front().copied() {
            self.open.pop_front();
            up_to = Some(tag);
        }
        if let Some(tag) = up_to {
            self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await.context("acking")?;
        }
        Ok(())
    }
}

/// What is published for each event.
struct Outlet {
    channel: Channel,
    exchange: String,
    properties: BasicProperties,
    body: Vec<u8>,
    fan_out: f64,
    credit: f64,
}

impl Outlet {
    fn new(channel: Channel, topology: &Topology, work: Work) -> Self {
        let mut headers = FieldTable::default();
        headers.insert(TENANT_HEADER.into(), AMQPValue::LongString("700.1".into()));
        // as the service's own, to the length of the id
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/cloudevents+json".into())
            .with_message_id("700.100:incident_reports/2829600000000001:12".into())
            .with_app_id("remedyd".into())
            .with_timestamp(1_795_000_000)
            .with_headers(headers);
        let mut body = b"{\"relayed\":\"".to_vec();
        body.resize(work.bytes.max(body.len() + 2) - 2, b'x');
        body.extend_from_slice(b"\"}");
        Self { channel, exchange: topology.status(), properties, body, fan_out: work.fan_out, credit: 0.0 }
    }

    /// How many messages the next event is worth.
    fn owed(&mut self) -> usize {
        self.credit += self.fan_out;
        let whole = self.credit.floor();
        self.credit -= whole;
        whole as usize
    }

    fn publish(&self, lane: usize, tag: u64) -> Flight {
        let (channel, exchange, properties, body) =
            (self.channel.clone(), self.exchange.clone(), self.properties.clone(), self.body.clone());
        async move {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let written = channel.basic_publish(exchange.into(), "remediation.status_changed.700.1".into(), options, &body, properties);
            let confirmed = match written.await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            (lane, tag, confirmed)
        }
        .boxed()
    }
}

fn whole(error: AmqpError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}
