//! The producer: persistent messages to the broker, as many under way as a window holds, each until its confirm. Never
//! here: what is sent, and when. A message that is refused or returned ends the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation};

use super::rig::{PATIENCE, whole};
use crate::broker::amqp::Endpoint;
use crate::broker::amqp::connection::{Connection, call};
use crate::broker::amqp::settings::{TimeOuts, Tls};
use crate::broker::topology::TENANT_HEADER;

/// Publications under way: beyond a thousand throughput no longer grows.
const WINDOW: usize = 2_000;

/// A message to the exchange of all events.
pub struct Parcel {
    pub routing_key: String,
    pub tenantid: String,
    pub body: Vec<u8>,
}

/// To one partition, whoever's it is, and refused there.
pub struct Rubbish {
    pub exchange: String,
    pub routing_key: String,
    pub body: String,
}

pub struct Producer {
    pub channel: Channel,
    exchange: String,
    flights: FuturesUnordered<BoxFuture<'static, lapin::Result<Confirmation>>>,
    confirmed: Arc<AtomicU64>,
    _connection: Connection,
}

impl Producer {
    /// `confirmed` counts on for whoever reads it.
    pub async fn open(endpoint: &Endpoint, name: &str, exchange: String, confirmed: Arc<AtomicU64>) -> anyhow::Result<Self> {
        let connection = Connection::open(endpoint, name, &Tls::default(), TimeOuts::default()).await.map_err(whole)?;
        let channel = connection.lasting_channel().await.map_err(whole)?;
        let asked = channel.confirm_select(ConfirmSelectOptions::default());
        call("asking for confirms", connection.time_outs(), asked).await.map_err(whole)?;
        Ok(Self { channel, exchange, flights: FuturesUnordered::new(), confirmed, _connection: connection })
    }

    pub fn confirmed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.confirmed)
    }

    /// Hands them to the broker, and waits while more than [`WINDOW`] are under way.
    pub async fn send(&mut self, parcels: impl Iterator<Item = Parcel>) -> anyhow::Result<()> {
        for parcel in parcels {
            let mut headers = FieldTable::default();
            headers.insert(TENANT_HEADER.into(), AMQPValue::LongString(parcel.tenantid.into()));
            self.start(self.exchange.clone(), parcel.routing_key, parcel.body, headers).await;
        }
        while let Some(Some(landed)) = self.flights.next().now_or_never() {
            self.landed(landed, true)?;
        }
        while self.flights.len() > WINDOW {
            self.next(true).await?;
        }
        Ok(())
    }

    /// Waits for every confirm.
    pub async fn confirm_all(&mut self) -> anyhow::Result<()> {
        while !self.flights.is_empty() {
            self.next(true).await?;
        }
        Ok(())
    }

    /// Takes one confirm; never ready while none is awaited.
    pub async fn one_landed(&mut self) -> anyhow::Result<()> {
        match self.flights.next().await {
            Some(landed) => self.landed(landed, true),
            None => std::future::pending().await,
        }
    }

    /// Lets time pass, and takes the confirms that come meanwhile.
    pub async fn pause(&mut self, pause: Duration) -> anyhow::Result<()> {
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                landed = self.one_landed() => landed?,
            }
        }
    }

    /// Not counted: what is rubbish on purpose is no event.
    pub async fn send_rubbish(&mut self, rubbish: Rubbish) -> anyhow::Result<()> {
        self.confirm_all().await?;
        self.start(rubbish.exchange, rubbish.routing_key, rubbish.body.into_bytes(), FieldTable::default()).await;
        self.next(false).await
    }

    async fn start(&mut self, exchange: String, routing_key: String, body: Vec<u8>, headers: FieldTable) {
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_content_type("application/cloudevents+json".into()).with_headers(headers);
        let channel = self.channel.clone();
        let mut flight = async move {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let written = channel.basic_publish(exchange.into(), routing_key.into(), options, &body, properties);
            written.await?.await
        }
        .boxed();
        // the first poll queues the frames: one after the other here, so that the steps of a report keep their order
        match std::future::poll_fn(|cx| std::task::Poll::Ready(flight.as_mut().poll(cx))).await {
            std::task::Poll::Ready(landed) => self.flights.push(std::future::ready(landed).boxed()),
            std::task::Poll::Pending => self.flights.push(flight),
        }
    }

    async fn next(&mut self, counted: bool) -> anyhow::Result<()> {
        match tokio::time::timeout(PATIENCE, self.flights.next()).await {
            Ok(Some(landed)) => self.landed(landed, counted),
            Ok(None) => Ok(()),
            Err(_) => bail!("the broker has confirmed nothing for {} s", PATIENCE.as_secs()),
        }
    }

    fn landed(&self, landed: lapin::Result<Confirmation>, counted: bool) -> anyhow::Result<()> {
        let confirmation = landed.context("publishing")?;
        anyhow::ensure!(confirmation == Confirmation::Ack(None), "the broker refused or returned an event: {confirmation:?}");
        self.confirmed.fetch_add(u64::from(counted), Relaxed);
        Ok(())
    }
}
