//! The consuming connection: both lanes' deliveries in, settlements out.
//!
//! Never here: a publication. What is published on a connection lets the broker block it, and a blocked
//! connection writes no acks either.
//!
//! Each lane has a channel of its own, since prefetch and `multiple` acks count per channel. The broker sends
//! no more than the prefetch ahead, so a lane's buffer, as large as the prefetch, never makes anybody wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::connection::{AmqpError, Connection, call};
use super::ledger::{Frame, Ledger};
use super::message;
use super::settings::{AmqpSettings, HEARTBEAT_SECONDS, TimeOuts};
use super::standing::Standing;
use super::supervisor::Session;
use crate::broker::{Delivery, Lane, Token};
use crate::crash::{self, Point};

/// What the link's callers and the consuming session share.
pub struct Intake {
    pub reports: Ledger,
    pub surveys: Ledger,
    /// There is something to take from a ledger.
    pub settled: Notify,
    /// No further delivery is wanted.
    pub stopping: CancellationToken,
}

impl Intake {
    pub fn ledger(&self, lane: Lane) -> &Ledger {
        match lane {
            Lane::Reports => &self.reports,
            Lane::Surveys => &self.surveys,
        }
    }
}

/// Where a lane's deliveries go.
pub struct Outlets {
    pub reports: mpsc::Sender<Delivery>,
    pub surveys: mpsc::Sender<Delivery>,
}

pub struct Consuming {
    pub settings: AmqpSettings,
    pub intake: Arc<Intake>,
    pub standing: Arc<Standing>,
    pub closing: CancellationToken,
    /// `None` once stopped: that ends the callers' waiting.
    pub outlets: Option<Outlets>,
}

/// One lane on one connection.
struct LaneSession {
    lane: Lane,
    queue: String,
    channel: Channel,
    consumer: Option<Consumer>,
}

impl Session for Consuming {
    const NAME: &'static str = "consumer";

    async fn run(&mut self, connection: &Connection, epoch: u64) -> Result<(), AmqpError> {
        self.intake.reports.begin(epoch);
        self.intake.surveys.begin(epoch);
        let mut reports = self.open(connection, Lane::Reports).await?;
        let mut surveys = self.open(connection, Lane::Surveys).await?;
        self.standing.consuming(epoch);

        let channels = [(Lane::Reports, reports.channel.clone()), (Lane::Surveys, surveys.channel.clone())];
        let settling = settle(connection, &self.intake, &channels);
        tokio::pin!(settling);
        let answering = keep_asking(connection, &channels[0].1, self.settings.prefetch.of(Lane::Reports));
        tokio::pin!(answering);
        if let Some(outlets) = &self.outlets {
            let arriving = async {
                tokio::try_join!(
                    reports.forward(&self.intake.reports, &outlets.reports, epoch),
                    surveys.forward(&self.intake.surveys, &outlets.surveys, epoch),
                )
            };
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                () = self.intake.stopping.cancelled() => {}
                never = arriving => match never? {},
                never = &mut answering => match never? {},
                never = &mut settling => match never? {},
            }
            self.outlets = None;
            let cancelling = async {
                reports.cancel(connection).await?;
                surveys.cancel(connection).await
            };
            // closing does not wait for the broker's word on it
            if let Some(cancelled) = self.closing.run_until_cancelled(cancelling).await {
                cancelled?;
            }
            crash::point(Point::ConsumersCancelled);
        }
        tokio::select! {
            biased;
            () = self.closing.cancelled() => {}
            never = &mut settling => match never? {},
            error = failure(connection) => return Err(error),
        }
        let time_outs = TimeOuts { call: connection.time_outs().close, ..*connection.time_outs() };
        for (lane, channel) in &channels {
            write(&time_outs, channel, self.intake.ledger(*lane).take_all()).await?;
        }
        Ok(())
    }

    fn ended(&mut self) -> Duration {
        self.intake.reports.end();
        self.intake.surveys.end();
        if self.intake.stopping.is_cancelled() {
            self.outlets = None;
        }
        self.standing.not_consuming()
    }

    fn closed(&mut self) {
        self.outlets = None;
    }
}

impl Consuming {
    async fn open(&self, connection: &Connection, lane: Lane) -> Result<LaneSession, AmqpError> {
        let queue = self.settings.topology.queue(self.settings.partition, lane);
        let channel = connection.lasting_channel().await?;
        let consumer = if self.outlets.is_some() {
            let prefetch = self.settings.prefetch.of(lane);
            let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
            call("setting the prefetch", connection.time_outs(), qos).await?;
            let consuming = channel.basic_consume(
                queue.as_str().into(),
                // The broker makes up a tag.
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let doing = format!("consuming from queue {queue}");
            Some(call(doing, connection.time_outs(), consuming).await?)
        } else {
            None
        };
        Ok(LaneSession { lane, queue, channel, consumer })
    }
}

impl LaneSession {
    /// Ends only with an error: lapin ends the stream of a consumer that the broker has cancelled.
    async fn forward(&mut self, ledger: &Ledger, outlet: &mpsc::Sender<Delivery>, epoch: u64) -> Result<Infallible, AmqpError> {
        if let Some(consumer) = &mut self.consumer {
            while let Some(arrived) = consumer.next().await {
                let arrived =
                    arrived.map_err(|source| AmqpError::Failed { doing: format!("consuming from queue {}", self.queue), source })?;
                let token = Token { epoch, lane: self.lane, tag: arrived.delivery_tag };
                ledger.note(token.tag);
                let delivery = Delivery {
                    token,
                    redelivered: arrived.redelivered,
                    message: message::incoming(&arrived.exchange, &arrived.routing_key, &arrived.properties, arrived.data),
                };
                if outlet.send(delivery).await.is_err() {
                    return Err(AmqpError::Broken("nobody takes deliveries".to_owned()));
                }
            }
        }
        Err(AmqpError::Broken(format!("the broker cancelled the consumer of queue {}: was it deleted?", self.queue)))
    }

    async fn cancel(&mut self, connection: &Connection) -> Result<(), AmqpError> {
        let Some(consumer) = &self.consumer else {
            return Ok(());
        };
        let options = BasicCancelOptions::default();
        let cancelling = self.channel.basic_cancel(consumer.tag(), options);
        let doing = format!("cancelling the consumer of queue {}", self.queue);
        call(doing, connection.time_outs(), cancelling).await
    }
}

/// Writes settlements as they come in; while one write is under way, the next ones gather.
async fn settle(connection: &Connection, intake: &Intake, channels: &[(Lane, Channel); 2]) -> Result<Infallible, AmqpError> {
    loop {
        intake.settled.notified().await;
        for (lane, channel) in channels {
            write(connection.time_outs(), channel, intake.ledger(*lane).take()).await?;
        }
        crash::point(Point::AllAcked);
    }
}

async fn write(time_outs: &TimeOuts, channel: &Channel, frames: Vec<Frame>) -> Result<(), AmqpError> {
    if frames.is_empty() {
        return Ok(());
    }
    let writes = try_join_all(frames.into_iter().map(|frame| write_one(channel, frame)));
    call("settling deliveries", time_outs, writes).await?;
    crash::point(Point::SomeAcked);
    Ok(())
}

async fn write_one(channel: &Channel, frame: Frame) -> lapin::Result<()> {
    match frame {
        Frame::AckUpTo(tag) => {
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(tag, options).await
        }
        Frame::Ack(tag) => channel.basic_ack(tag, BasicAckOptions::default()).await,
        Frame::Requeue(tag) => {
            // Not `nack`: from RabbitMQ 4.3 on that counts towards the delivery limit.
            let options = BasicRejectOptions { requeue: true };
            channel.basic_reject(tag, options).await
        }
    }
}

/// Asks something of the broker at the pace of heartbeats, and fails when there is no answer. A heartbeat only shows
/// that bytes arrive: after a damaged length the client would take them all for the payload of one endless frame, and
/// wait for deliveries for ever. Setting the prefetch again changes nothing.
async fn keep_asking(connection: &Connection, channel: &Channel, prefetch: u16) -> Result<Infallible, AmqpError> {
    let mut pace = tokio::time::interval(Duration::from_secs(HEARTBEAT_SECONDS.into()));
    loop {
        pace.tick().await;
        let asking = channel.basic_qos(prefetch, BasicQosOptions::default());
        call("asking whether the broker still answers", connection.time_outs(), asking).await?;
    }
}

/// Waits until the connection has failed.
async fn failure(connection: &Connection) -> AmqpError {
    let mut events = std::pin::pin!(connection.lapin().events_listener());
    while let Some(event) = events.next().await {
        if let lapin::Event::Error(source) = event {
            return AmqpError::Failed { doing: "waiting on the connection".to_owned(), source };
        }
    }
    AmqpError::Broken("the connection ended".to_owned())
}
