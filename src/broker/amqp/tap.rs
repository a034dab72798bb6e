//! A tap: a queue of one's own on an exchange, for as long as somebody looks.
//!
//! Never here: a queue that outlives its connection, or one that grows without a bound behind a reader who has stopped.

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};

use super::connection::{AmqpError, Connection, call};
use super::message;
use crate::broker::Message;

/// Messages that wait for a reader at most, the oldest dropped first: some twenty megabytes at the broker.
const MOST_WAITING: i64 = 10_000;
/// Messages on their way.
const PREFETCH: u16 = 256;

/// See the module docs.
pub struct Tap {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
}

impl Tap {
    /// Listens to what `exchange` gets under these binding keys from now on.
    ///
    /// # Errors
    /// What the broker refuses: the exchange is not there, or a right is lacking.
    pub async fn open(connection: Connection, exchange: &str, keys: &[String]) -> Result<Self, AmqpError> {
        let time_outs = *connection.time_outs();
        let channel = connection.lasting_channel().await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MOST_WAITING));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        // the broker makes up a name
        let declaring = channel.queue_declare("".into(), options, arguments);
        let queue = call("declaring a queue to listen with", &time_outs, declaring).await?.name().clone();
        for key in keys {
            let (source, key) = (exchange.into(), key.as_str().into());
            let binding = channel.queue_bind(queue.clone(), source, key, QueueBindOptions::default(), FieldTable::default());
            call(format!("listening to exchange {exchange}"), &time_outs, binding).await?;
        }
        call("setting the prefetch", &time_outs, channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consuming = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        let consumer = call("consuming what is heard", &time_outs, consuming).await?;
        Ok(Self { connection, channel, consumer })
    }

    /// The next message. When it is cancelled, what it had begun to take is lost to this tap.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn next(&mut self) -> Result<Message, AmqpError> {
        let lost = || AmqpError::Broken("the connection to the broker ended".to_owned());
        let arrived = self.consumer.next().await.ok_or_else(lost)?;
        let arrived = arrived.map_err(|source| AmqpError::Failed { doing: "listening".to_owned(), source })?;
        let acking = self.channel.basic_ack(arrived.delivery_tag, BasicAckOptions { multiple: true });
        call("taking what was heard", self.connection.time_outs(), acking).await?;
        Ok(message::incoming(&arrived.exchange, &arrived.routing_key, &arrived.properties, arrived.data))
    }

    pub async fn close(self) {
        self.connection.close().await;
    }
}
