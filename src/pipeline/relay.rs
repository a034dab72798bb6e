//! The relay: from the outbox to the broker, in order. A row is done when its message is confirmed and was
//! not returned; until then it is published again, identically. Never here: the store.
//!
//! What goes next is the [`Queue`]'s business. What was refused rests before its next try, and takes no place meanwhile: a
//! subscriber that is full is in nobody's way but that of the subjects it refuses.

mod queue;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::broker::{Link, PublishError};
use crate::crash::{self, Point};
use crate::mutation::{self, Defect};

use super::counters::Counters;
use super::histogram::Histogram;
use super::rows::OutboxRow;
use super::spans::Sending;
use queue::{Entry, Going, Place, Queue};

/// The first pause before a refused message is published again; doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The engine, whose thread each word wakes, is told of so many confirms at a time, or after as long; at once if no other
/// is on its way.
const TOLD_AT_ONCE: usize = 64;
const TOLD_WITHIN: Duration = Duration::from_millis(4);

/// A word from the engine.
pub(super) enum ToRelay {
    /// Durable rows, to be published.
    Rows(Vec<(u64, OutboxRow)>),
    /// So many confirmed rows are no longer in the store.
    Removed(usize),
}

/// A pause and then what it was for.
type Rest = BoxFuture<'static, Settled>;

/// Runs until the engine is gone or the link is closed.
///
/// `window`: messages under way at a time; 1 publishes in the outbox's own order. `repeats`: messages handed to the
/// broker whose rows are still in the store. A crash publishes those once more, confirmed or not, and so their number
/// is what has to be bounded.
pub(super) async fn relay<L: Link>(
    link: Arc<L>,
    window: usize,
    repeats: usize,
    counters: Arc<Counters>,
    mut engine: mpsc::Receiver<ToRelay>,
    confirmed: mpsc::Sender<Vec<u64>>,
) {
    let mut queue = Queue::new(window);
    let mut under_way = FuturesUnordered::new();
    // what the broker did not take, between two tries, and how often it did not
    let mut resting: FuturesUnordered<Rest> = FuturesUnordered::new();
    let mut refusals: HashMap<u64, u32> = HashMap::new();
    let mut done: Vec<Entry> = Vec::new();
    let mut in_store = 0;
    let mut tell_by = Instant::now();
    loop {
        // in the outbox's own order nothing goes past what rests
        let in_the_way = if queue.one_line { resting.len() } else { 0 };
        while under_way.len() + in_the_way < window.max(1)
            && in_store < repeats.max(1)
            && let Some(going) = queue.next(link.publishing_epoch())
        {
            in_store += 1;
            under_way.push(publish(Arc::clone(&link), going));
        }
        let tells = under_way.is_empty() || done.len() >= TOLD_AT_ONCE || Instant::now() >= tell_by;
        tokio::select! {
            // the end of the engine first: after a failed commit nothing more is handed to the broker
            biased;
            word = engine.recv() => match word {
                Some(ToRelay::Rows(more)) => more.into_iter().for_each(|row| queue.push(row)),
                Some(ToRelay::Removed(count)) => in_store -= count,
                None => return,
            },
            permit = confirmed.reserve(), if !done.is_empty() && tells => match permit {
                Ok(permit) => permit.send(done.drain(..).map(|entry| entry.number).collect()),
                Err(_) => return,
            },
            Some(outcome) = under_way.next() => {
                let Some(settled) = outcome else { return };
                queue.landed(&settled);
                // it takes no place while it rests: one tenant's may be refused for hours
                if settled.fate == Fate::Refused {
                    in_store -= 1;
                    Counters::add(&counters.publications_refused, 1);
                    let refused = refusals.entry(settled.entry.number).or_insert(0);
                    let rest = tokio::time::sleep(pause(*refused));
                    resting.push(rest.map(|()| settled).boxed());
                    *refused += 1;
                    continue;
                }
                if settled.fate == Fate::Arrived {
                    refusals.remove(&settled.entry.number);
                }
                let already = done.len();
                if already == 0 {
                    tell_by = Instant::now() + TOLD_WITHIN;
                }
                // what goes again will be counted again
                in_store -= queue.settled(settled, &mut done);
                for page in done[already..].iter().filter_map(|entry| entry.page) {
                    counters.page.observe(Histogram::micros(page.elapsed()));
                }
            },
            Some(rested) = resting.next() => {
                in_store += 1;
                in_store -= queue.settled(rested, &mut done);
            }
            () = sleep_until(tell_by), if !done.is_empty() && !tells => {}
        }
    }
}

/// What has become of a message.
struct Settled {
    entry: Entry,
    place: Option<Place>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Or given up: nothing waits for it any more.
    Arrived,
    /// Its connection ended before the confirm.
    Lost,
    /// It rests before it goes again.
    Refused,
}

/// The pause after a message has been refused, so many times before.
fn pause(refused: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << refused.min(20)).min(LONGEST_PAUSE)
}

/// Publishes one row, again after a lost connection unless others of its key are under way; `None` when the link is closed.
async fn publish<L: Link>(link: Arc<L>, Going { mut entry, place }: Going) -> Option<Settled> {
    let Entry { number, row, .. } = &entry;
    let span = Sending::begin(&row.message);
    let epoch = place.and_then(|place| place.epoch).filter(|_| !mutation::seeded(Defect::EpochIgnored));
    let fate = loop {
        match link.publish_in(epoch, Arc::clone(&row.message)).await {
            Ok(()) => {
                span.end();
                crash::point(Point::Confirmed);
                break Fate::Arrived;
            }
            Err(PublishError::Closed) => return None,
            Err(PublishError::Lost(_)) if mutation::seeded(Defect::LostIsConfirmed) => break Fate::Arrived,
            Err(PublishError::Returned(_)) if mutation::seeded(Defect::ReturnedIsConfirmed) => break Fate::Arrived,
            // it was checked at the edge that this cannot be; should it happen, nothing behind it may wait for ever
            Err(PublishError::Unsendable(why)) => {
                tracing::error!(number, kind = kind(row), why, "a message cannot be sent at all and is given up");
                // nobody has got it
                entry.page = None;
                break Fate::Arrived;
            }
            // the link itself waits for its next connection
            Err(PublishError::Lost(why)) => {
                tracing::debug!(number, why, "not confirmed, publishing again");
                if epoch.is_some() {
                    break Fate::Lost;
                }
            }
            Err(refused @ (PublishError::Returned(_) | PublishError::Nacked)) => {
                // others may have been beside it, all of them refused: who has to know hears of the next try
                if epoch.is_some() {
                    tracing::debug!(number, kind = kind(row), error = %refused, "the broker did not take a message");
                } else {
                    tracing::warn!(number, kind = kind(row), error = %refused, "the broker did not take a message, publishing again");
                }
                break Fate::Refused;
            }
        }
    };
    Some(Settled { entry, place, fate })
}

/// What may be said of a message in the log: its type, and not whose it is.
fn kind(row: &OutboxRow) -> &str {
    match row.order_key {
        // <type>.<account>.<organization>
        Some(_) => row.message.routing_key.rsplitn(3, '.').nth(2).unwrap_or("event"),
        None => "dead letter",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Message;

    #[test]
    fn the_log_names_the_type_of_a_message_and_not_the_tenant() {
        let row = |routing_key: &str, key: Option<&str>| {
            let message = Message { routing_key: routing_key.into(), ..Message::default() };
            OutboxRow { message: Arc::new(message), order_key: key.map(Arc::from) }
        };
        assert_eq!(kind(&row("incident_report.triaged.5.4", Some("a"))), "incident_report.triaged");
        assert_eq!(kind(&row("remedyd.dead-letters", None)), "dead letter");
    }

    /// A broker that refuses whatever is routed by 5.4.
    struct Refusing(tokio::sync::watch::Sender<crate::broker::LinkState>, std::sync::Mutex<std::collections::BTreeSet<Vec<u8>>>);

    impl Link for Refusing {
        async fn next(&self, _: crate::broker::Lane) -> Option<crate::broker::Delivery> {
            std::future::pending().await
        }
        fn settle(&self, _: crate::broker::Token, _: crate::broker::Settlement) {}
        async fn publish_in(&self, _: Option<u64>, message: impl Into<Arc<Message>> + Send) -> Result<(), PublishError> {
            let message = message.into();
            self.1.lock().expect("tries").insert(message.body.clone());
            if message.routing_key.ends_with("5.4") { Err(PublishError::Nacked) } else { Ok(()) }
        }
        fn publishing_epoch(&self) -> u64 {
            1
        }
        fn stop_consuming(&self) {}
        fn state(&self) -> tokio::sync::watch::Receiver<crate::broker::LinkState> {
            self.0.subscribe()
        }
        async fn close(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_hours_is_in_nobodys_way() {
        let link = Arc::new(Refusing(tokio::sync::watch::Sender::new(crate::broker::LinkState::Connecting), Default::default()));
        let (engine, words) = mpsc::channel(8);
        let (confirmed, mut told) = mpsc::channel(8);
        let relaying = tokio::spawn(relay(Arc::clone(&link), 8, 8, Arc::default(), words, confirmed));
        let of = |number: u64, routing_key: &str, key: Option<String>| {
            let message = Message { routing_key: routing_key.into(), body: number.to_string().into_bytes(), ..Message::default() };
            (number, OutboxRow { message: Arc::new(message), order_key: key.map(Arc::from) })
        };
        // far more subjects than places, and dead letters
        let refused = (1..=100).map(|number| of(number, "5.4", Some(format!("5.4:{number}"))));
        let letters = (101..=200).map(|number| of(number, "5.4", None));
        engine.send(ToRelay::Rows(refused.chain(letters).collect())).await.expect("sent");
        let for_an_hour = tokio::time::timeout(Duration::from_secs(3_600), told.recv());
        assert!(for_an_hour.await.is_err(), "none of them is taken");
        assert_eq!(link.1.lock().expect("tries").len(), 200, "each has had its turn");
        engine.send(ToRelay::Rows(vec![of(201, "6.4", Some("6.4:a".into()))])).await.expect("sent");
        let told = tokio::time::timeout(Duration::from_secs(1), told.recv()).await;
        assert_eq!(told.expect("within a second"), Some(vec![201]));
        drop(engine);
        relaying.await.expect("ends");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!([0, 1, 2].map(pause), [100, 200, 400].map(Duration::from_millis));
        assert_eq!([9, 60, u32::MAX].map(pause), [LONGEST_PAUSE; 3]);
    }
}
