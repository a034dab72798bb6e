//! The broker port: bytes in and out over AMQP 0-9-1, with acks, confirms and epochs.
//!
//! Never here: the domain, JSON, the store. A [`Link`] moves [`Message`]s; what is in them is the
//! business of the floors above.
//!
//! ## The contract (one suite, `tests/link.rs`, runs over both implementations)
//! 1. A delivery is handed out by [`Link::next`] and settled once by [`Link::settle`]. What was not acked
//!    when its connection ended is delivered again, later, with `redelivered` set.
//! 2. A [`Token`] belongs to a connection epoch; settling one of an earlier epoch does nothing.
//! 3. [`Link::publish`] returns `Ok` only when the broker has confirmed the message *and* has not returned
//!    it as unroutable. Messages published by one task, one after the other, arrive in that order, those to exchanges and
//!    those straight to a queue each among themselves; across a lost connection those that name one epoch do, since none of
//!    them goes out on the next connection.
//! 4. A lost connection is not the caller's business: `next` waits, `publish` answers
//!    [`PublishError::Lost`] for what was in flight and waits for the next connection otherwise.
//! 5. Not more than the prefetch of unsettled deliveries per lane are handed out at a time.

pub mod amqp;
pub mod links;
pub mod memory;
pub mod topology;

use std::future::Future;
use std::sync::Arc;

/// Which of a partition's two queues a delivery came from (messages.md, AMQP topology).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Reports, decisions and everything that is not a survey.
    Reports,
    /// `agent.surveyed`.
    Surveys,
}

/// A header value, as far as the service cares for types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// Anything else (tables, arrays, floats): carried by no one, kept only as its printed form.
    Other(String),
}

/// A message without its delivery: what is published, or what arrived.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    pub exchange: String,
    pub routing_key: String,
    pub content_type: Option<String>,
    pub message_id: Option<String>,
    pub app_id: Option<String>,
    /// The broker-validated publisher (AMQP `user_id`).
    pub user_id: Option<String>,
    /// AMQP `timestamp`, seconds since the epoch.
    pub timestamp: Option<u64>,
    pub headers: Vec<(String, HeaderValue)>,
    pub body: Vec<u8>,
}

/// Names one delivery within one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// Counts connections of the link, from 1.
    pub epoch: u64,
    pub lane: Lane,
    /// The AMQP delivery tag.
    pub tag: u64,
}

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub token: Token,
    pub redelivered: bool,
    pub message: Message,
}

/// How a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Its effect (or its dead letter) is durable.
    Ack,
    /// Give it back to the queue.
    Requeue,
}

/// Why a publication is not known to have arrived. The row stays in the outbox in every case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker handed it back as unroutable (`mandatory`).
    #[error("returned as unroutable: {0}")]
    Returned(String),
    /// The broker refused responsibility (`basic.nack`).
    #[error("refused by the broker (nack)")]
    Nacked,
    /// The connection ended, or no confirm came in time.
    #[error("not confirmed: {0}")]
    Lost(String),
    /// No broker could take it as it is: a name or a property longer than AMQP allows. Trying again is useless.
    #[error("cannot be sent: {0}")]
    Unsendable(String),
    /// The link has been closed by us.
    #[error("the link is closed")]
    Closed,
}

/// What can be said of a link from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    /// Consuming on both lanes and able to publish.
    Ready {
        epoch: u64,
    },
    /// The broker has blocked publishing (`connection.blocked`); consuming goes on.
    Blocked {
        epoch: u64,
        reason: String,
    },
    Closed,
}

/// One partition's connection to the broker. See the module docs for the contract.
pub trait Link: Send + Sync + 'static {
    /// The next delivery of `lane`; `None` once [`Link::stop_consuming`] was called and nothing is buffered.
    /// Cancel-safe. One task per lane.
    fn next(&self, lane: Lane) -> impl Future<Output = Option<Delivery>> + Send;

    /// Settles a delivery. Returns at once; the frame follows in the background, that of an ack perhaps only when older
    /// deliveries are settled too, and at the latest when the link is closed.
    fn settle(&self, token: Token, how: Settlement);

    /// Whether acks of a lane may wait for older deliveries, as at first they may. Those that wait occupy the prefetch.
    fn hold_acks(&self, _lane: Lane, _may: bool) {}

    /// Publishes persistently with `mandatory` and waits for the confirm. The order of messages is the order
    /// in which the calls were first polled (what goes straight to a queue, by the default exchange, among itself).
    fn publish(&self, message: impl Into<Arc<Message>> + Send) -> impl Future<Output = Result<(), PublishError>> + Send {
        self.publish_in(None, message)
    }

    /// The same, but on no later connection than that of `epoch`: after it the message is [`PublishError::Lost`].
    fn publish_in(
        &self,
        epoch: Option<u64>,
        message: impl Into<Arc<Message>> + Send,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// The epoch of publishing. It ends with each connection on which something may have been published, when all of that
    /// has its answer.
    fn publishing_epoch(&self) -> u64;

    /// Cancels the consumers: nothing new is handed out; unsettled deliveries can still be settled.
    fn stop_consuming(&self);

    /// The state, and a way to wait for its changes.
    fn state(&self) -> tokio::sync::watch::Receiver<LinkState>;

    /// Sends what is still to be settled and closes the connections.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
