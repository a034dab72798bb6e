//! The topology at a broker: declared, or compared with what is there.
//!
//! Never here: a name or an argument; they are all in [`Topology`]. [`check`] must never create anything.

use std::fmt;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lapin::options::{BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Event};
use tokio::time::timeout;

use super::connection::{AmqpError, Connection, call};
use super::settings::TimeOuts;
use crate::broker::topology::{Argument, Arguments, Destination, Exchange, ExchangeKind, Queue, Topology};

/// A broker that does not block answers a question about rights within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Something at the broker that is not as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `exchange remedyd.status`, `queue remedyd.p0.reports`.
    pub object: String,
    pub what: Discrepancy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discrepancy {
    Absent,
    /// There with other properties. The broker names the first one that differs.
    Differs {
        argument: Option<String>,
        detail: String,
    },
    /// There, but not ours to look at.
    Refused {
        detail: String,
    },
    /// There, but not ours to publish to.
    MayNotPublish {
        detail: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = &self.object;
        match &self.what {
            Discrepancy::Absent => write!(f, "{object}: absent"),
            Discrepancy::Differs { argument: Some(argument), detail } => write!(f, "{object}: {argument} differs ({detail})"),
            Discrepancy::Differs { argument: None, detail } => write!(f, "{object}: differs ({detail})"),
            Discrepancy::Refused { detail } => write!(f, "{object}: access refused ({detail})"),
            Discrepancy::MayNotPublish { detail } => write!(f, "{object}: the right to write is lacking ({detail})"),
        }
    }
}

/// Declares everything: exchanges, queues, bindings. Doing it again changes nothing. Fails at the first object
/// that the broker does not take, naming it; what was declared before stays.
pub async fn apply(connection: &Connection, topology: &Topology) -> Result<(), AmqpError> {
    let channel = connection.channel().await?;
    let time_outs = connection.time_outs();
    let exchanges = topology.exchanges.iter().map(Object::Exchange);
    for object in exchanges.chain(topology.queues.iter().map(Object::Queue)) {
        let declaring = object.declare(&channel, false);
        call(format!("declaring {object}"), time_outs, declaring).await?;
    }
    for binding in &topology.bindings {
        let (source, key) = (binding.source.as_str().into(), binding.routing_key.as_str().into());
        let none = FieldTable::default();
        match &binding.destination {
            Destination::Queue(name) => {
                let doing = format!("binding queue {name} to {}", binding.source);
                let options = QueueBindOptions::default();
                let binding = channel.queue_bind(name.as_str().into(), source, key, options, none);
                call(doing, time_outs, binding).await?;
            }
            Destination::Exchange(name) => {
                let doing = format!("binding exchange {name} to {}", binding.source);
                let options = ExchangeBindOptions::default();
                let binding = channel.exchange_bind(name.as_str().into(), source, key, options, none);
                call(doing, time_outs, binding).await?;
            }
        }
    }
    Ok(())
}

/// Compares exchanges and queues with the table; empty means equal. Bindings cannot be read over AMQP 0-9-1:
/// [`apply`] sets them again harmlessly.
///
/// First each object is looked up passively, which tells only that it is there. If it is, it is declared as the
/// table has it: of an object that exists this changes nothing, and the broker names what differs. A user
/// without the right to configure learns only of absence.
pub async fn check(connection: &Connection, topology: &Topology) -> Result<Vec<Difference>, AmqpError> {
    let exchanges = topology.exchanges.iter().map(Object::Exchange);
    let queues = topology.queues.iter().map(Object::Queue);
    let mut differences = Vec::new();
    for object in exchanges.chain(queues) {
        differences.extend(look(connection, object).await?);
    }
    Ok(differences)
}

/// Where this user may not publish and a service has to. Without this a right that is lacking would show only with the first
/// event to publish, perhaps a page at night.
///
/// Asked within a transaction that is rolled back: the broker looks at the right when it gets the message, and nothing
/// arrives anywhere. To the broker that is publishing all the same: while it has an alarm it blocks the connection that
/// asks. Then nothing is known, and nothing is said to be lacking. So `asking` is a connection of its own, closed in the end,
/// on which nothing else has been asked either: a refusal is taken from what lapin tells the connection's listeners.
pub async fn rights(asking: Connection, topology: &Topology) -> Result<Vec<Difference>, AmqpError> {
    let mut events = pin!(asking.lapin().events_listener());
    let mut lacking = Vec::new();
    for (exchange, routing_key) in [(topology.status(), String::new()), (String::new(), topology.dead_letters())] {
        match try_to_publish(&asking, events.as_mut(), &exchange, &routing_key).await {
            Ok(found) => lacking.extend(found),
            Err(AmqpError::TimedOut { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    // one that is blocked would not even take our goodbye; dropped, it is cut
    if !asking.lapin().status().blocked() {
        asking.close().await;
    }
    Ok(lacking)
}

async fn try_to_publish(
    connection: &Connection,
    events: Pin<&mut (impl Stream<Item = Event> + Send)>,
    exchange: &str,
    routing_key: &str,
) -> Result<Option<Difference>, AmqpError> {
    let object = match exchange {
        "" => "the default exchange (for dead letters)".to_owned(),
        name => format!("exchange {name}"),
    };
    let time_outs = TimeOuts { call: ANSWER_WITHIN, ..*connection.time_outs() };
    let doing = format!("asking whether we may publish to {object}");
    // closed with the connection, which soon follows
    let channel = connection.lasting_channel().await?;
    let asked = async {
        channel.tx_select().await?;
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel.basic_publish(exchange.into(), routing_key.into(), options, b"", properties).await?;
        channel.tx_rollback().await
    };
    let Err(mut error) = call(doing.as_str(), &time_outs, asked).await else { return Ok(None) };
    // If the refusal came before the rollback was asked for, all that the failed call says is that the channel is closed.
    if (channel_refusal(&error).is_some() || is_closed_channel(&error))
        && let Ok(Some(source)) = timeout(ANSWER_WITHIN, next_error(events)).await
    {
        error = AmqpError::Failed { doing, source };
    }
    match channel_refusal(&error) {
        Some((403, detail)) => Ok(Some(Difference { object, what: Discrepancy::MayNotPublish { detail } })),
        Some(_) | None => Err(error),
    }
}

/// Why the broker closed a channel, or the connection.
async fn next_error(mut events: Pin<&mut (impl Stream<Item = Event> + Send)>) -> Option<lapin::Error> {
    while let Some(event) = events.next().await {
        if let Event::Error(error) = event {
            return Some(error);
        }
    }
    None
}

/// The channel was closed when something was asked on it.
fn is_closed_channel(error: &AmqpError) -> bool {
    matches!(error, AmqpError::Failed { source, .. } if matches!(source.kind(), lapin::ErrorKind::InvalidChannelState(..)))
}

/// What has a name at the broker.
#[derive(Clone, Copy)]
enum Object<'a> {
    Exchange(&'a Exchange),
    Queue(&'a Queue),
}

async fn look(connection: &Connection, object: Object<'_>) -> Result<Option<Difference>, AmqpError> {
    for passive in [true, false] {
        // A channel each: the broker closes it with its refusal.
        let channel = connection.channel().await?;
        let doing = format!("checking {object}");
        let asked = object.declare(&channel, passive);
        let Err(error) = call(doing, connection.time_outs(), asked).await else {
            continue;
        };
        let Some((code, detail)) = channel_refusal(&error) else {
            return Err(error);
        };
        let what = match code {
            404 => Discrepancy::Absent,
            403 if passive => Discrepancy::Refused { detail },
            // There, and comparing needs a right that a service does well without.
            403 => continue,
            _ => Discrepancy::Differs { argument: detail.split('\'').nth(1).map(str::to_owned), detail },
        };
        return Ok(Some(Difference { object: object.to_string(), what }));
    }
    Ok(None)
}

/// The broker's code and text, if it refused this one request and the connection lives on.
fn channel_refusal(error: &AmqpError) -> Option<(u16, String)> {
    match error {
        AmqpError::Failed { source, .. } if source.is_amqp_soft_error() => match source.kind() {
            lapin::ErrorKind::ProtocolError(refusal) => Some((refusal.get_id(), refusal.get_message().to_string())),
            _ => None,
        },
        _ => None,
    }
}

impl Object<'_> {
    async fn declare(self, channel: &lapin::Channel, passive: bool) -> lapin::Result<()> {
        match self {
            Self::Exchange(exchange) => {
                let kind = match exchange.kind {
                    ExchangeKind::Topic => lapin::ExchangeKind::Topic,
                    ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
                    ExchangeKind::TenantHash => lapin::ExchangeKind::Custom(exchange.kind.wire_name().into()),
                };
                let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                let (name, arguments) = (exchange.name.as_str().into(), table(&exchange.arguments));
                let declared = channel.exchange_declare(name, kind, options, arguments);
                declared.await
            }
            Self::Queue(queue) => {
                let options = QueueDeclareOptions { durable: true, passive, ..QueueDeclareOptions::default() };
                let (name, arguments) = (queue.name.as_str().into(), table(&queue.arguments));
                let declared = channel.queue_declare(name, options, arguments);
                declared.await.map(|_| ())
            }
        }
    }
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(exchange) => match exchange.kind {
                ExchangeKind::Topic | ExchangeKind::Fanout => {
                    write!(f, "exchange {}", exchange.name)
                }
                ExchangeKind::TenantHash => write!(f, "exchange {} (plugin rabbitmq_consistent_hash_exchange)", exchange.name),
            },
            Self::Queue(queue) => write!(f, "queue {}", queue.name),
        }
    }
}

fn table(arguments: &Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, argument) in arguments {
        let value = match argument {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Integer(number) => AMQPValue::LongLongInt(*number),
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert((*name).into(), value);
    }
    table
}
