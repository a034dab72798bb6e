//! The broker as an operator sees it: queues that are filled, read and bound from outside.
//!
//! Never here: the service's own broker code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};

use crate::outside::{Got, broker_url};
use crate::process::within;

pub struct Broker {
    _connection: Connection,
    channel: Channel,
}

impl Broker {
    pub async fn connect() -> Self {
        let connection = Connection::connect(&broker_url(), ConnectionProperties::default()).await.expect("a broker");
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel }
    }

    /// Listens to all that an exchange gets from now on.
    pub async fn ear(&self, exchange: &str) -> Ear {
        let queue = self.queue_on("", exchange, "#", true).await;
        Ear { consumer: self.consumer(&queue).await }
    }

    /// A queue that keeps a copy of what an exchange gets; gives its name.
    pub async fn queue_on(&self, name: &str, exchange: &str, key: &str, exclusive: bool) -> String {
        let options = QueueDeclareOptions { exclusive, durable: !exclusive, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
        let name = queue.name().to_string();
        self.bind(&name, exchange, key).await;
        name
    }

    pub async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueBindOptions::default();
        self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await.unwrap();
    }

    pub async fn publish(&self, exchange: &str, routing_key: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        let properties =
            BasicProperties::default().with_delivery_mode(2).with_content_type("application/cloudevents+json".into()).with_headers(table);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await.unwrap();
        assert_eq!(within("a confirm", confirm).await.unwrap(), Confirmation::Ack(None), "{routing_key} was returned");
    }

    /// What waits in a queue, taken out.
    pub async fn drain(&self, queue: &str) -> Vec<Got> {
        let count = self.waiting(queue).await;
        let mut ear = Ear { consumer: self.consumer(queue).await };
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(ear.next().await);
        }
        self.channel.basic_cancel(ear.consumer.tag(), lapin::options::BasicCancelOptions::default()).await.unwrap();
        found
    }

    pub async fn waiting(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    pub async fn purge(&self, queue: &str) {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
    }

    pub async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    async fn consumer(&self, queue: &str) -> Consumer {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        self.channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
    }
}

pub struct Ear {
    consumer: Consumer,
}

impl Ear {
    pub async fn next(&mut self) -> Got {
        Got::of(within("a message", self.consumer.next()).await.expect("the consumer goes on").expect("a delivery"))
    }
}
