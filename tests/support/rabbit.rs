//! A RabbitMQ to run links against: a private node, named by `REMEDYD_TEST_AMQP_URL`.
//!
//! Never here: the node's start (`rabbitmq.sh`), or a test that passes because there is no node. Each test has
//! names of its own, so that tests run side by side on one node; it deletes them when it ends well.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, ConnectionProperties, Consumer};
use remedyd::broker::amqp::settings::AtConnect;
use remedyd::broker::amqp::{AmqpLink, AmqpSettings, Endpoint, Prefetch};
use remedyd::broker::topology::Topology;
use remedyd::broker::{HeaderValue, Message};

use super::proxy::Proxy;
use super::{Place, ready, within};

pub const URL: &str = "REMEDYD_TEST_AMQP_URL";

/// One test's part of the node.
pub struct Rabbit {
    topology: Topology,
    /// Past the proxy.
    outside: lapin::Connection,
    channel: Channel,
    proxy: Proxy,
    /// Through the proxy.
    url: String,
}

impl Rabbit {
    /// `test` names the queues, and has to be unique among tests.
    pub async fn new(test: &str) -> Self {
        Self::partitioned(test, 1).await
    }

    pub async fn partitioned(test: &str, partitions: u16) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let url = std::env::var(URL).unwrap_or_else(|_| {
            panic!(
                "{URL} is not set: these tests need a RabbitMQ node of their own. \
                 Run `make test`, or: tests/support/rabbitmq.sh start DIR, and export what DIR/url says"
            )
        });
        let endpoint = Endpoint::parse(&url).unwrap_or_else(|error| panic!("{URL}: {error}"));
        let connecting = lapin::Connection::connect(&url, ConnectionProperties::default());
        let outside =
            within("a connection to the node", connecting).await.unwrap_or_else(|error| panic!("{URL}: no broker at {endpoint}: {error}"));
        let channel = outside.create_channel().await.expect("a channel");
        let confirming = channel.confirm_select(ConfirmSelectOptions::default());
        confirming.await.expect("publisher confirms");
        let (host, port) = endpoint.address();
        let proxy = Proxy::start((host.to_owned(), port));
        let through = url.replacen(&format!("{host}:{port}"), &proxy.address.to_string(), 1);
        assert_ne!(through, url, "{URL} must name host and port");
        // Unique over runs too: a failed test leaves its queues behind.
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let prefix = format!("test.{test}.{process}.{count}");
        Self {
            topology: Topology::with_prefix(&prefix, partitions).expect("a short, plain test name"),
            outside,
            channel,
            proxy,
            url: through,
        }
    }

    pub fn settings(&self, prefetch: u16) -> AmqpSettings {
        let mut settings = AmqpSettings::new(&self.url, self.topology.clone(), 0).expect("valid settings");
        settings.prefetch = Prefetch { reports: prefetch, surveys: prefetch };
        settings.at_connect = AtConnect::Apply;
        settings
    }

    /// The links' connections stay, and nothing gets through any more.
    pub fn fall_silent(&self) {
        self.proxy.fall_silent();
    }

    /// Another channel past the proxy, for what closes channels.
    pub async fn channel(&self) -> Channel {
        self.outside.create_channel().await.expect("a channel")
    }

    /// Deletes what the test declared.
    pub async fn clean(self) {
        for queue in &self.topology.queues {
            self.delete_queue(&queue.name).await;
        }
        for exchange in &self.topology.exchanges {
            let options = ExchangeDeleteOptions::default();
            let deleting = self.channel.exchange_delete(exchange.name.as_str().into(), options);
            deleting.await.expect("deleting an exchange");
        }
    }

    /// Takes everything that is in `queue`: a message behind all of it marks the end.
    pub async fn all(&self, queue: &str) -> Vec<usize> {
        const END: &str = "end";
        let end =
            self.channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), END.as_bytes(), BasicProperties::default());
        let confirm = within("publishing", end).await.expect("published");
        within("a confirm", confirm).await.expect("confirmed");
        let mut consumer = self.consumer(queue).await;
        let mut numbers = Vec::new();
        loop {
            let body = body(&mut consumer).await;
            if body == END {
                return numbers;
            }
            numbers.push(body.parse().expect("a number"));
        }
    }

    async fn consumer(&self, queue: &str) -> Consumer {
        let channel = self.channel().await;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        within("a consumer", consuming).await.expect("the queue is there")
    }

    pub async fn delete_queue(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        let deleting = self.channel.queue_delete(queue.into(), options);
        within("deleting a queue", deleting).await.expect("deleted");
    }
}

impl Place for Rabbit {
    type Link = AmqpLink;

    fn topology(&self) -> &Topology {
        &self.topology
    }

    async fn link(&self, prefetch: u16) -> AmqpLink {
        let link = AmqpLink::connect(self.settings(prefetch)).expect("valid settings");
        ready(&link, 0).await;
        link
    }

    async fn publish(&self, message: Message) {
        let mut properties = BasicProperties::default().with_delivery_mode(2);
        if let Some(id) = &message.message_id {
            properties = properties.with_message_id(id.as_str().into());
        }
        let mut headers = FieldTable::default();
        for (name, value) in &message.headers {
            if let HeaderValue::Text(text) = value {
                let value = AMQPValue::LongString(text.as_str().into());
                headers.insert(name.as_str().into(), value);
            }
        }
        let properties = properties.with_headers(headers);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (message.exchange.as_str(), message.routing_key.as_str());
        let publishing = self.channel.basic_publish(exchange.into(), key.into(), options, &message.body, properties);
        let confirm = within("publishing", publishing).await.expect("published");
        let confirmation = within("a confirm", confirm).await.expect("confirmed");
        assert_eq!(confirmation, Confirmation::Ack(None));
    }

    async fn cut(&self) {
        self.proxy.cut();
    }

    async fn contents(&self, queue: &str, count: usize) -> Vec<usize> {
        // A consumer rather than `basic.get`: it waits for what is not there yet.
        let mut consumer = self.consumer(queue).await;
        let mut numbers = Vec::with_capacity(count);
        for _ in 0..count {
            numbers.push(body(&mut consumer).await.parse().expect("a number"));
        }
        numbers
    }
}

async fn body(consumer: &mut Consumer) -> String {
    let delivery = within("a message", consumer.next()).await;
    let delivery = delivery.expect("the consumer goes on").expect("a message");
    String::from_utf8(delivery.data).expect("UTF-8")
}
