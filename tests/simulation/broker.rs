//! The model broker behind the link port: two lanes in, a subscriber and a dead letter queue out, and everything that
//! the contract of the port allows a broker to do to us. Order is kept within a lane, but for what is redelivered.
//!
//! Never here: routing (one partition, one subscriber), or a rule of the service.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use remedyd::broker::{Delivery, Lane, Link, LinkState, Message, PublishError, Settlement, Token};
use tokio::sync::watch;
use tokio::time::Instant;

use super::scene::{Look, Scene, State};

/// As of the link: a confirm that has not come by then is not waited for.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Broker {
    /// Ready deliveries by lane: the number of the event in the judge's ledger, and whether it was delivered before.
    ready: BTreeMap<Lane, VecDeque<(usize, bool)>>,
    unacked: BTreeMap<(Lane, u64), usize>,
    stalled: BTreeMap<Lane, Instant>,
    epoch: u64,
    tag: u64,
    /// The broker takes connections.
    pub up: bool,
    /// The life under way has one.
    connected: bool,
    consuming: bool,
    pub blocked: bool,
    pub prefetch: usize,
    link: watch::Sender<LinkState>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            ready: BTreeMap::new(),
            unacked: BTreeMap::new(),
            stalled: BTreeMap::new(),
            epoch: 0,
            tag: 0,
            up: true,
            connected: false,
            consuming: false,
            blocked: false,
            prefetch: 16,
            link: watch::Sender::new(LinkState::Connecting),
        }
    }
}

impl Broker {
    pub fn is_empty(&self) -> bool {
        self.unacked.is_empty() && self.ready.values().all(VecDeque::is_empty)
    }

    fn announce(&self) {
        let epoch = self.epoch;
        self.link.send_replace(match (self.connected, self.blocked) {
            (false, _) => LinkState::Connecting,
            (true, true) => LinkState::Blocked { epoch, reason: "alarm".into() },
            (true, false) => LinkState::Ready { epoch },
        });
    }
}

impl State {
    /// An event reaches its queue.
    pub fn enqueue(&mut self, lane: Lane, number: usize) {
        self.broker.ready.entry(lane).or_default().push_back((number, false));
        self.changed.notify_waiters();
    }

    pub fn stall(&mut self, lane: Lane, until: Instant) {
        self.fault("lane stalled");
        self.note(format_args!("{lane:?} stalls"));
        self.broker.stalled.insert(lane, until);
    }

    pub fn clear_stalls(&mut self) {
        self.broker.stalled.clear();
        self.changed.notify_waiters();
    }

    /// The life under way gets a connection, if the broker is there.
    pub fn connect(&mut self, starting: bool) {
        if starting {
            self.broker.consuming = true;
        }
        if self.life != 0 && self.broker.up && !self.broker.connected {
            self.broker.epoch += 1;
            self.broker.connected = true;
            let epoch = self.broker.epoch;
            self.note(format_args!("connected, epoch {epoch}"));
        }
        self.broker.announce();
        self.changed.notify_waiters();
    }

    /// What was not acked comes again, before what has not been delivered yet.
    pub fn disconnect(&mut self) {
        if self.broker.connected {
            let unacked = self.broker.unacked.len();
            self.note(format_args!("disconnected, {unacked} unacked"));
        }
        self.broker.connected = false;
        for ((lane, _), number) in std::mem::take(&mut self.broker.unacked).into_iter().rev() {
            self.broker.ready.entry(lane).or_default().push_front((number, true));
        }
        self.broker.announce();
        self.changed.notify_waiters();
    }

    pub fn set_blocked(&mut self, blocked: bool) {
        if blocked {
            self.fault("connection blocked");
        }
        self.note(format_args!("blocked: {blocked}"));
        self.broker.blocked = blocked;
        self.broker.announce();
        self.changed.notify_waiters();
    }

    fn take(&mut self, life: u64, lane: Lane) -> Look<Option<Delivery>> {
        if self.life != life || !self.broker.consuming {
            return Look::Is(None);
        }
        if !self.broker.connected || self.broker.unacked.keys().filter(|(of, _)| *of == lane).count() >= self.broker.prefetch {
            return Look::Not;
        }
        if let Some(until) = self.broker.stalled.get(&lane).copied().filter(|until| *until > Instant::now()) {
            return Look::At(until);
        }
        let Some((number, redelivered)) = self.broker.ready.entry(lane).or_default().pop_front() else { return Look::Not };
        if !self.step(life) {
            // died at this step: it is still the queue's
            self.broker.ready.entry(lane).or_default().push_front((number, redelivered));
            return Look::Is(None);
        }
        self.broker.tag += 1;
        let token = Token { epoch: self.broker.epoch, lane, tag: self.broker.tag };
        self.broker.unacked.insert((lane, token.tag), number);
        self.note(format_args!("delivered {lane:?} {} as event {number}", token.tag));
        let message = self.judge.delivered(token, number);
        Look::Is(Some(Delivery { token, redelivered, message }))
    }

    /// What becomes of a message that is handed over now: the answer and when it comes.
    fn hand_over(&mut self, life: u64, message: &Message) -> (Result<(), PublishError>, Duration) {
        let weather = self.weather;
        let name = message.message_id.clone().unwrap_or_default();
        self.judge.handed_over(life, message);
        if self.dice.permille(weather.nack) {
            self.fault("publish nacked");
            self.note(format_args!("nacked {name}"));
            self.judge.not_taken(message);
            return (Err(PublishError::Nacked), Duration::from_millis(self.dice.between(0, 20)));
        }
        if self.dice.permille(weather.give_back) {
            self.fault("publish returned");
            self.note(format_args!("returned {name}"));
            self.judge.not_taken(message);
            return (Err(PublishError::Returned("312 NO_ROUTE".into())), Duration::from_millis(self.dice.between(0, 20)));
        }
        let lost = || Err(PublishError::Lost("no confirm in time".into()));
        if self.dice.permille(weather.lose) {
            self.fault("publish lost");
            self.note(format_args!("lost {name}"));
            self.judge.not_taken(message);
            return (lost(), CONFIRM_TIMEOUT);
        }
        self.note(format_args!("arrived {name}"));
        self.judge.arrived(message);
        if self.dice.permille(weather.lose_confirm) {
            self.fault("confirm lost");
            return (lost(), CONFIRM_TIMEOUT);
        }
        if self.dice.permille(weather.slow_confirm) {
            self.fault("confirm slow");
            return (Ok(()), Duration::from_millis(self.dice.between(500, 20_000)));
        }
        (Ok(()), Duration::from_millis(self.dice.between(0, 10)))
    }
}

/// A process's connection.
pub struct ModelLink {
    pub scene: Arc<Scene>,
    pub life: u64,
}

impl Link for ModelLink {
    async fn next(&self, lane: Lane) -> Option<Delivery> {
        self.scene.wait(|state| state.take(self.life, lane)).await
    }

    fn settle(&self, token: Token, how: Settlement) {
        let mut state = self.scene.lock();
        if !state.step(self.life) {
            return;
        }
        let life = self.life;
        state.judge.settled(life, token, how);
        if !state.broker.connected || state.broker.epoch != token.epoch {
            state.note(format_args!("{how:?} of {:?} {} is too late", token.lane, token.tag));
            return;
        }
        state.note(format_args!("{how:?} {:?} {}", token.lane, token.tag));
        let settled = state.broker.unacked.remove(&(token.lane, token.tag));
        match (settled, how) {
            (Some(_), Settlement::Ack) => {}
            (Some(number), Settlement::Requeue) => state.broker.ready.entry(token.lane).or_default().push_front((number, true)),
            (None, _) => state.judge.violation(format!("a delivery was settled twice: {token:?}")),
        }
        state.changed.notify_waiters();
    }

    async fn publish_in(&self, only_in: Option<u64>, message: impl Into<Arc<Message>> + Send) -> Result<(), PublishError> {
        let (life, message) = (self.life, message.into());
        let sent = self.scene.wait(|state| {
            if state.life != life {
                return Look::Is(None);
            }
            if !state.broker.connected || state.broker.blocked {
                return Look::Not;
            }
            if only_in.is_some_and(|only_in| only_in != state.broker.epoch) {
                return Look::Is(Some((Err(PublishError::Lost("it has ended".into())), Instant::now(), state.broker.epoch)));
            }
            if !state.step(life) {
                return Look::Is(None);
            }
            let (answer, takes) = state.hand_over(life, &message);
            Look::Is(Some((answer, Instant::now() + takes, state.broker.epoch)))
        });
        let Some((answer, at, epoch)) = sent.await else { return Err(PublishError::Closed) };
        self.scene
            .wait(move |state| {
                if state.life != life {
                    return Look::Is(Err(PublishError::Closed));
                }
                if !state.broker.connected || state.broker.epoch != epoch {
                    return Look::Is(Err(PublishError::Lost("the connection ended".into())));
                }
                if Instant::now() < at {
                    return Look::At(at);
                }
                if answer.is_ok() {
                    state.judge.confirmed(&message);
                }
                Look::Is(answer.clone())
            })
            .await
    }

    fn publishing_epoch(&self) -> u64 {
        self.scene.lock().broker.epoch
    }

    fn stop_consuming(&self) {
        let mut state = self.scene.lock();
        if state.life == self.life {
            state.broker.consuming = false;
        }
        state.changed.notify_waiters();
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.scene.lock().broker.link.subscribe()
    }

    async fn close(&self) {
        self.scene.end_life("closed");
    }
}
