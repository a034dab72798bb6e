//! The publishing connection: one task, two channels, a bounded window of unconfirmed messages.
//!
//! What goes straight to a queue, as dead letters do, has the second channel: the broker works through a channel's messages one
//! after the other, and a flood of them would stand before everybody's. (The socket is one, and the broker may
//! stop reading it when hundreds of them are under way.) The order of messages is that of each channel.
//!
//! Never here: a second task on a channel (two could swap their messages), a retry (the outbox's business), a
//! success without the broker's confirm.
//!
//! lapin hands a returned message to whichever confirm completes next (lapin#254), which need not be its own.
//! The broker sends a return before the confirm of the same message, so: take every confirm that is there,
//! match each return in them to its message by content, and only then call the others a success. A return that
//! matches nothing in flight means that some success may have been none, and ends the connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Event};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connection::{AmqpError, Connection, call};
use super::declare;
use super::message::{self, Outgoing};
use super::settings::{AmqpSettings, AtConnect};
use super::standing::Standing;
use super::supervisor::Session;
use crate::broker::{Message, PublishError};
use crate::crash::{self, Point};
use crate::mutation::{self, Defect};

/// Messages started per turn of the loop: enough to fill the socket, few enough that confirms are not kept
/// waiting behind a thousand encodings.
const TURN: usize = 64;

/// A message and who waits for its end.
pub struct Job {
    pub message: Arc<Message>,
    /// The only one in which it may be published.
    pub epoch: Option<u64>,
    pub answer: oneshot::Sender<Result<(), PublishError>>,
}

pub struct Publishing {
    pub settings: AmqpSettings,
    pub standing: Arc<Standing>,
    pub closing: CancellationToken,
    pub jobs: mpsc::Receiver<Job>,
}

impl Session for Publishing {
    const NAME: &'static str = "publisher";

    async fn run(&mut self, connection: &Connection, _epoch: u64) -> Result<(), AmqpError> {
        if self.settings.at_connect == AtConnect::Check {
            self.look_at_rights().await?;
        }
        let events = connection.lapin().events_listener();
        let channels = Channels { events: confirming(connection).await?, letters: confirming(connection).await? };
        self.standing.publishing();
        let mut window = Window::new(channels, self.standing.publishing_epoch());
        let worked = self.work(&mut window, events).await;
        if let Err(error) = &worked {
            window.lose(&error.chain());
        }
        worked
    }

    /// All that was in flight has its answer.
    fn ended(&mut self) -> Duration {
        self.standing.not_publishing()
    }

    fn closed(&mut self) {
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            // Nobody may be waiting any more.
            let _ = job.answer.send(Err(PublishError::Closed));
        }
    }
}

impl Publishing {
    async fn look_at_rights(&self) -> Result<(), AmqpError> {
        let AmqpSettings { endpoint, topology, tls, time_outs, .. } = &self.settings;
        let asking = Connection::open(endpoint, &format!("{} rights", topology.prefix()), tls, *time_outs).await?;
        let lacking = declare::rights(asking, topology).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        Err(AmqpError::Rights(lacking.iter().map(ToString::to_string).collect()))
    }

    async fn work(&mut self, window: &mut Window, events: impl futures_util::Stream<Item = Event> + Send) -> Result<(), AmqpError> {
        let mut events = std::pin::pin!(events);
        let mut turn = Vec::with_capacity(TURN);
        let mut blocked = false;
        loop {
            let closing = self.closing.is_cancelled();
            if closing && window.is_empty() {
                return Ok(());
            }
            let free = self.settings.publish_window.saturating_sub(window.len());
            let patience = if closing { self.settings.time_outs.close } else { self.settings.time_outs.confirm };
            let deadline = window.oldest().map(|oldest| oldest + patience);
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(reason, "the broker blocks publishing");
                        blocked = true;
                        self.standing.blocked(Some(reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes publications again");
                        blocked = false;
                        window.restart_clocks();
                        self.standing.blocked(None);
                    }
                    Some(Event::Error(source)) => {
                        return Err(AmqpError::Failed { doing: "publishing".to_owned(), source });
                    }
                    Some(_) => {}
                    None => return Err(AmqpError::Broken("the connection ended".to_owned())),
                },
                settled = window.progress(), if !window.is_empty() => settled?,
                count = self.jobs.recv_many(&mut turn, free.min(TURN)), if free > 0 && !blocked && !closing => {
                    if count == 0 {
                        return Ok(()); // The link is gone.
                    }
                    let now = Instant::now();
                    for job in turn.drain(..) {
                        window.start(job, now).await;
                    }
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() && (!blocked || closing) => {
                    return Err(AmqpError::TimedOut {
                        doing: "waiting for publisher confirms".to_owned(),
                        seconds: patience.as_secs(),
                    });
                }
                () = self.closing.cancelled(), if !closing => {}
            }
        }
    }
}

/// A channel on which every message is confirmed.
async fn confirming(connection: &Connection) -> Result<Channel, AmqpError> {
    let channel = connection.lasting_channel().await?;
    if !mutation::seeded(Defect::NotRequestedIsConfirm) {
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        call("asking for publisher confirms", connection.time_outs(), selecting).await?;
    }
    Ok(channel)
}

struct Channels {
    events: Channel,
    letters: Channel,
}

impl Channels {
    fn of(&self, message: &Message) -> Channel {
        if message.exchange.is_empty() { self.letters.clone() } else { self.events.clone() }
    }
}

type Confirmed = (u64, lapin::Result<Confirmation>);

/// What is in flight on one connection.
struct Window {
    channels: Channels,
    epoch: u64,
    /// Counts messages, in the order in which they were handed to the channel.
    next: u64,
    flights: BTreeMap<u64, Flight>,
    /// Waiting for the socket, and then for the broker.
    publications: FuturesUnordered<BoxFuture<'static, Confirmed>>,
}

struct Flight {
    message: Arc<Message>,
    answer: oneshot::Sender<Result<(), PublishError>>,
    started: Instant,
    /// The broker's reason, once it has handed the message back.
    returned: Option<String>,
}

impl Window {
    fn new(channels: Channels, epoch: u64) -> Self {
        Self { channels, epoch, next: 0, flights: BTreeMap::new(), publications: FuturesUnordered::new() }
    }

    fn len(&self) -> usize {
        self.flights.len()
    }

    fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// When the message that has waited longest was started.
    fn oldest(&self) -> Option<Instant> {
        self.flights.first_key_value().map(|(_, flight)| flight.started)
    }

    fn restart_clocks(&mut self) {
        let now = Instant::now();
        for flight in self.flights.values_mut() {
            flight.started = now;
        }
    }

    /// Hands a message to the channel. Its frames are queued there, in order, when this returns.
    async fn start(&mut self, job: Job, now: Instant) {
        let Job { message, epoch, answer } = job;
        if answer.is_closed() {
            return;
        }
        if epoch.is_some_and(|epoch| epoch != self.epoch) {
            // The asker may have gone since.
            let _ = answer.send(Err(PublishError::Lost("the connection it was for has ended".to_owned())));
            return;
        }
        let outgoing = match message::outgoing(&message) {
            Ok(outgoing) => outgoing,
            Err(reason) => {
                // The asker may have gone since.
                let _ = answer.send(Err(PublishError::Unsendable(reason)));
                return;
            }
        };
        let number = self.next;
        self.next += 1;
        let mut publication = publication(self.channels.of(&message), number, outgoing, Arc::clone(&message));
        let flight = Flight { message, answer, started: now, returned: None };
        self.flights.insert(number, flight);
        // The first poll queues the frames: one after the other here, so that their order is ours.
        match std::future::poll_fn(|cx| std::task::Poll::Ready(publication.as_mut().poll(cx))).await {
            std::task::Poll::Ready(confirmed) => self.publications.push(std::future::ready(confirmed).boxed()),
            std::task::Poll::Pending => self.publications.push(publication),
        }
    }

    /// Waits until something has been confirmed, and takes all that has.
    async fn progress(&mut self) -> Result<(), AmqpError> {
        let first = self.publications.next().await;
        let mut ready = vec![first.ok_or_else(|| AmqpError::Broken("a publication went missing".to_owned()))?];
        while let Some(Some(confirmed)) = self.publications.next().now_or_never() {
            ready.push(confirmed);
        }
        self.judge(ready)
    }

    fn judge(&mut self, ready: Vec<Confirmed>) -> Result<(), AmqpError> {
        let mut verdicts = Vec::with_capacity(ready.len());
        for (number, confirmed) in ready {
            let (verdict, returned) = match confirmed.map_err(failed)? {
                Confirmation::Ack(returned) => (Ok(()), returned),
                Confirmation::Nack(returned) => (Err(PublishError::Nacked), returned),
                Confirmation::NotRequested if mutation::seeded(Defect::NotRequestedIsConfirm) => (Ok(()), None),
                Confirmation::NotRequested => {
                    return Err(AmqpError::Broken(
                        "confirms were not asked for on this channel: nothing is known of what was published".to_owned(),
                    ));
                }
            };
            if let Some(returned) = returned {
                self.returned(&returned)?;
            }
            verdicts.push((number, verdict));
        }
        for (number, verdict) in verdicts {
            if let Some(flight) = self.flights.remove(&number) {
                flight.end(verdict);
            }
        }
        Ok(())
    }

    fn returned(&mut self, returned: &BasicReturnMessage) -> Result<(), AmqpError> {
        let flight = self.flights.values_mut().find(|flight| flight.returned.is_none() && flight.is(returned));
        let Some(flight) = flight else {
            return Err(AmqpError::Broken("the broker returned a message that is not in flight".to_owned()));
        };
        flight.returned = Some(format!("{} {}", returned.reply_code, returned.reply_text));
        Ok(())
    }

    /// The connection is gone: nothing is known of what was in flight.
    fn lose(&mut self, reason: &str) {
        for flight in std::mem::take(&mut self.flights).into_values() {
            flight.end(Err(PublishError::Lost(reason.to_owned())));
        }
    }
}

impl Flight {
    fn is(&self, returned: &BasicReturnMessage) -> bool {
        let ours = &*self.message;
        let id = returned.delivery.properties.message_id().as_ref().map(|id| id.as_str());
        ours.message_id.as_deref() == id
            && ours.exchange == returned.delivery.exchange.as_str()
            && ours.routing_key == returned.delivery.routing_key.as_str()
            && ours.body == returned.delivery.data
    }

    fn end(self, verdict: Result<(), PublishError>) {
        let verdict = match self.returned {
            Some(reason) => Err(PublishError::Returned(reason)),
            None => verdict,
        };
        // The asker may have gone.
        let _ = self.answer.send(verdict);
    }
}

fn publication(channel: Channel, number: u64, outgoing: Outgoing, message: Arc<Message>) -> BoxFuture<'static, Confirmed> {
    async move {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let Outgoing { exchange, routing_key, properties } = outgoing;
        let written = channel.basic_publish(exchange, routing_key, options, &message.body, properties).await;
        drop(message);
        let confirmed = match written {
            Ok(confirm) => {
                crash::point(Point::Published);
                confirm.await
            }
            Err(error) => Err(error),
        };
        (number, confirmed)
    }
    .boxed()
}

fn failed(source: lapin::Error) -> AmqpError {
    AmqpError::Failed { doing: "publishing".to_owned(), source }
}
