//! One pass over a queue: whatever is in it by now is handed out once, in order. What is not taken out goes back to its
//! place when the pass ends, however it ends.
//!
//! Never here: a second pass, or taking a message out before its successor is confirmed (the caller's order: publish,
//! then take out; a death between the two leaves both).
//!
//! Putting back is the broker's work: a quorum queue that loses a consumer gives back, in order, what that consumer had,
//! but *behind* what it still has itself (seen with RabbitMQ 3.10 and a delivery limit). So a pass takes hold of the whole
//! queue at once, also where only its beginning is wanted: then there is nothing to come behind. Each time counts towards
//! the queue's delivery limit, which is why ours is so high ([`crate::broker::topology::DELIVERY_LIMIT`]).

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Consumer};

use super::connection::{AmqpError, Connection, call};
use super::message::{self, Outgoing};
use super::settings::{Endpoint, TimeOuts};
use crate::broker::{Message, PublishError};

/// Messages that one pass can hold: the widest prefetch there is.
pub const MOST: u16 = u16::MAX;
/// A queue that has said how much it holds hands it out at once; nothing for this long, and somebody else has it.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the broker to notice that a consumer has gone, and how often it is asked.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Why a pass ended early. What was not taken out is back in the queue.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    #[error("{}", .0.chain())]
    Amqp(AmqpError),
    #[error("{consumers} others consume from {queue}: two at a time would take its messages out of their order; stop them first")]
    Occupied { queue: String, consumers: u32 },
    #[error(
        "{queue} has {found} messages, and one pass can hold {MOST}: what is put back would come behind the rest; \
         --partial if their order does not matter"
    )]
    TooMany { queue: String, found: u32 },
    #[error("publishing: {0}")]
    Publish(#[from] PublishError),
}

impl From<AmqpError> for PassError {
    fn from(error: AmqpError) -> Self {
        Self::Amqp(error)
    }
}

/// A message that is held; it is still in the queue as far as the broker is concerned.
#[derive(Debug)]
pub struct Held {
    tag: u64,
    pub message: Message,
}

/// See the module docs.
pub struct Pass {
    queue: String,
    consumer: Option<Consumer>,
    channel: Channel,
    /// Its end is the end of the pass.
    holding: Connection,
    /// With confirms.
    outlet: Channel,
    looking: Channel,
    /// Publishes, which lets a broker block it, and looks.
    other: Connection,
    /// Messages that are still to come.
    left: u32,
    /// How many the queue had.
    pub found: u32,
    user_id: Option<String>,
}

impl Pass {
    /// Begins at the head of `queue`. `partial`: also if there is more in it than a pass can hold. The connections are
    /// the pass's own from here: one to hold messages, one for everything else.
    ///
    /// # Errors
    /// [`PassError::Occupied`] when there are other consumers; [`PassError::TooMany`]; [`PassError::Amqp`].
    pub async fn begin([holding, other]: [Connection; 2], endpoint: &Endpoint, queue: &str, partial: bool) -> Result<Self, PassError> {
        let time_outs = *holding.time_outs();
        let channel = holding.lasting_channel().await?;
        let (outlet, looking) = (other.lasting_channel().await?, other.lasting_channel().await?);
        let selecting = outlet.confirm_select(ConfirmSelectOptions::default());
        call("asking for publisher confirms", &time_outs, selecting).await?;
        let mut pass = Self {
            queue: queue.to_owned(),
            consumer: None,
            channel,
            holding,
            outlet,
            looking,
            other,
            left: 0,
            found: 0,
            user_id: endpoint.password_user().map(str::to_owned),
        };
        let consumers = wait_for_the_end_of_others(&pass.looking, queue, &time_outs).await?;
        if consumers > 0 {
            return Err(PassError::Occupied { queue: pass.queue, consumers });
        }
        (pass.found, _) = state(&pass.looking, queue, &time_outs).await?;
        pass.left = pass.found.min(u32::from(MOST));
        if pass.left < pass.found && !partial {
            return Err(PassError::TooMany { queue: pass.queue, found: pass.found });
        }
        if pass.left > 0 {
            let qos = pass.channel.basic_qos(MOST, BasicQosOptions::default());
            call("setting the prefetch", &time_outs, qos).await?;
            // the broker makes up a tag
            let consuming = pass.channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
            pass.consumer = Some(call(format!("consuming from queue {queue}"), &time_outs, consuming).await?);
        }
        Ok(pass)
    }

    /// The next message; `None` at the end of the pass.
    ///
    /// # Errors
    /// [`PassError::Amqp`].
    pub async fn next(&mut self) -> Result<Option<Held>, PassError> {
        let Some(consumer) = self.consumer.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        let Ok(arrived) = tokio::time::timeout(PATIENCE, consumer.next()).await else {
            self.left = 0;
            return Ok(None);
        };
        let Some(arrived) = arrived else {
            let what = format!("the broker cancelled the consumer of queue {}: was it deleted?", self.queue);
            return Err(AmqpError::Broken(what).into());
        };
        let arrived = arrived.map_err(|source| AmqpError::Failed { doing: format!("consuming from queue {}", self.queue), source })?;
        self.left -= 1;
        let message = message::incoming(&arrived.exchange, &arrived.routing_key, &arrived.properties, arrived.data);
        Ok(Some(Held { tag: arrived.delivery_tag, message }))
    }

    /// Publishes as the user of this connection; `Ok` means that the broker has it in a queue.
    ///
    /// # Errors
    /// [`PassError::Publish`], [`PassError::Amqp`].
    pub async fn publish(&self, message: &Message) -> Result<(), PassError> {
        let Outgoing { exchange, routing_key, properties } = message::outgoing(message).map_err(PublishError::Unsendable)?;
        let properties = match &self.user_id {
            Some(user) => properties.with_user_id(user.as_str().into()),
            None => properties,
        };
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (doing, to) = (format!("publishing to exchange {exchange}"), exchange.clone());
        let publishing = async {
            let confirm = self.outlet.basic_publish(to, routing_key, options, &message.body, properties).await?;
            confirm.await
        };
        let time_outs = self.other.time_outs();
        let confirmed = tokio::time::timeout(time_outs.confirm, publishing).await;
        let Ok(confirmed) = confirmed else {
            return Err(AmqpError::TimedOut { doing, seconds: time_outs.confirm.as_secs() }.into());
        };
        // one at a time: a message that is returned is this one
        match confirmed.map_err(|source| AmqpError::Failed { doing, source })? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                Err(PublishError::Returned(format!("{} {}", returned.reply_code, returned.reply_text)).into())
            }
            Confirmation::Nack(None) => Err(PublishError::Nacked.into()),
            Confirmation::NotRequested => Err(AmqpError::Broken("confirms were not asked for on this channel".to_owned()).into()),
        }
    }

    /// Removes a message from the queue.
    ///
    /// # Errors
    /// [`PassError::Amqp`].
    pub async fn take_out(&self, held: Held) -> Result<(), PassError> {
        let acking = self.channel.basic_ack(held.tag, BasicAckOptions::default());
        call("taking a message out of the queue", self.holding.time_outs(), acking).await?;
        Ok(())
    }

    /// Puts back what has not been taken out; returns when the broker has noticed, so that the next look at the queue
    /// finds it whole.
    ///
    /// # Errors
    /// [`PassError::Amqp`].
    pub async fn end(self) -> Result<(), PassError> {
        let Self { queue, consumer, channel, holding, outlet, looking, other, .. } = self;
        // in the order of the connection: after every ack
        holding.close().await;
        // not before: a consumer that is dropped has itself cancelled
        drop((consumer, channel));
        let settled = wait_for_the_end_of_others(&looking, &queue, other.time_outs()).await;
        drop(outlet);
        other.close().await;
        settled.map(drop)
    }
}

/// How many others there still are: one that has ended may be listed a little longer.
async fn wait_for_the_end_of_others(looking: &Channel, queue: &str, time_outs: &TimeOuts) -> Result<u32, PassError> {
    let mut asked = Duration::ZERO;
    loop {
        let (_, consumers) = state(looking, queue, time_outs).await?;
        if consumers == 0 || asked >= GONE_WITHIN {
            return Ok(consumers);
        }
        tokio::time::sleep(ASK_EVERY).await;
        asked += ASK_EVERY;
    }
}

/// Messages that wait, and consumers.
async fn state(looking: &Channel, queue: &str, time_outs: &TimeOuts) -> Result<(u32, u32), PassError> {
    let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let asking = looking.queue_declare(queue.into(), options, FieldTable::default());
    let queue = call(format!("looking at queue {queue}"), time_outs, asking).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}
