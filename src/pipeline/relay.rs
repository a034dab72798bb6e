//! The relay: from the outbox to the broker, in order. A row is done when its message is confirmed and was
//! not returned; until then it is published again, identically. Never here: the store.
//!
//! Of one order key (a report, an agent) a few messages are under way at a time, in the order of `sequence`. When the
//! broker does not take one, those behind it may have overtaken it. They are held, and all come again after it, as in
//! go-back-N: who takes what is next in sequence and passes over the rest gets everything, in order, without a gap.
//! What was refused rests before its next try, and takes no place meanwhile: a subscriber that is full is in nobody's way
//! but that of the subjects it refuses.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::broker::{Link, PublishError};
use crate::crash::{self, Point};
use crate::model::ids::TenantId;
use crate::model::time::Stopwatch;
use crate::mutation::{self, Defect};

use super::counters::Counters;
use super::histogram::Histogram;
use super::rows::OutboxRow;
use super::spans::Sending;

/// The first pause before a refused message is published again; doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The engine, whose thread each word wakes, is told of so many confirms at a time, or after as long; at once if no other
/// is on its way.
const TOLD_AT_ONCE: usize = 64;
const TOLD_WITHIN: Duration = Duration::from_millis(4);

/// Messages of one order key under way at a time. A new report with its tasks, and the page for it, are about so many.
const OF_A_KEY: u32 = 16;

/// What wakes somebody.
const PAGE: &str = "on_call.paged.";

type Numbered = (u64, OutboxRow);

/// A word from the engine.
pub(super) enum ToRelay {
    /// Durable rows, to be published.
    Rows(Vec<Numbered>),
    /// So many confirmed rows are no longer in the store.
    Removed(usize),
}

/// Whose rows wait in one line: a tenant's, or all dead letters.
type Flow = Option<TenantId>;

/// A pause and then what it was for.
type Rest = BoxFuture<'static, Settled>;

/// The rows that wait, and which keys are under way. Tenants take turns, a message each: what one has waiting by the
/// thousand is no more in the way of another's than a single message.
struct Queue {
    /// One line for all, in the outbox's own order.
    one_line: bool,
    lines: HashMap<Flow, VecDeque<Waiting>>,
    /// Lines with something in them, the next to be served first.
    round: VecDeque<Flow>,
    chains: HashMap<Arc<str>, Chain>,
}

/// What stands in a line.
enum Waiting {
    Row(Numbered),
    /// The first of those that wait behind others of this key.
    Behind(Arc<str>),
}

/// A row on its way to the broker, with its place in its chain if it has an order key.
struct Going {
    row: Numbered,
    place: Option<Place>,
}

/// Where a message stands among those of its key.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: u64,
    /// The link's, in which it may be published, once; without one it is published until it has arrived, and none goes beside it.
    epoch: Option<u64>,
}

/// The messages of an order key that are under way or wait for those.
#[derive(Default)]
struct Chain {
    /// The link's epoch of those that are under way: none goes out on a later connection before these have been looked at.
    epoch: u64,
    /// So many have been given a place.
    placed: u64,
    /// So many have arrived, as has each before them.
    arrived: u64,
    /// What has settled behind one that has not arrived, and whether it has arrived itself.
    held: Vec<(u64, Numbered, bool)>,
    /// The broker did not take one: until that has arrived, none goes beside it.
    alone: bool,
    behind: VecDeque<Numbered>,
    /// [`Waiting::Behind`] stands in the line.
    announced: bool,
}

impl Chain {
    /// Whether one more may go now.
    fn has_room(&self) -> bool {
        let most = if self.alone { 1 } else { u64::from(OF_A_KEY) };
        self.placed - self.arrived < most && self.held.iter().all(|(_, _, arrived)| *arrived)
    }

    fn place(&mut self, epoch: u64) -> Place {
        if self.placed == self.arrived {
            self.epoch = epoch;
        }
        self.placed += 1;
        Place { index: self.placed - 1, epoch: (!self.alone).then_some(self.epoch) }
    }

    /// A message has arrived, or has not been taken. The numbers of those that are done come into `done`; given is how many
    /// have to go again.
    fn settled(&mut self, index: u64, row: Numbered, arrived: bool, done: &mut Vec<u64>) -> usize {
        if arrived && index == self.arrived {
            done.push(row.0);
            (self.arrived, self.alone) = (index + 1, false);
        } else {
            self.held.push((index, row, arrived));
        }
        while let Some(next) = self.held.iter().position(|(index, _, arrived)| *arrived && *index == self.arrived) {
            done.push(self.held.swap_remove(next).1.0);
            self.arrived += 1;
        }
        if self.held.is_empty() || self.placed - self.arrived > self.held.len() as u64 {
            return 0;
        }
        // all have settled, and the first was not taken: back to it
        (self.placed, self.alone) = (self.arrived, true);
        self.held.sort_unstable_by_key(|(index, ..)| std::cmp::Reverse(*index));
        let before = self.behind.len();
        for (_, row, arrived) in self.held.drain(..) {
            if arrived && mutation::seeded(Defect::OvertakenIsDone) {
                done.push(row.0);
            } else {
                self.behind.push_front(row);
            }
        }
        self.behind.len() - before
    }

    /// Whether somebody has to see to it that the next one goes.
    fn announce(&mut self) -> bool {
        let now = !self.announced && !self.behind.is_empty() && self.has_room();
        self.announced |= now;
        now
    }

    fn is_over(&self) -> bool {
        self.placed == self.arrived && self.behind.is_empty()
    }
}

impl Queue {
    fn new(one_line: bool) -> Self {
        Self { one_line, lines: HashMap::new(), round: VecDeque::new(), chains: HashMap::new() }
    }

    fn push(&mut self, row: Numbered) {
        self.line_of(row.1.order_key.as_deref()).push_back(Waiting::Row(row));
    }

    fn line_of(&mut self, key: Option<&str>) -> &mut VecDeque<Waiting> {
        // <tenant>:<subject>
        let flow = key.filter(|_| !self.one_line).and_then(|key| key.split_once(':')?.0.parse().ok());
        self.lines.entry(flow).or_insert_with(|| {
            self.round.push_back(flow);
            VecDeque::new()
        })
    }

    /// The next to be published, in the link's `epoch`.
    fn next(&mut self, epoch: u64) -> Option<Going> {
        while let Some(flow) = self.round.pop_front() {
            let line = self.lines.get_mut(&flow)?;
            let going = first_to_go(line, &mut self.chains, epoch);
            if line.is_empty() {
                self.lines.remove(&flow);
            } else {
                self.round.push_back(flow);
            }
            if going.is_some() {
                return going;
            }
        }
        None
    }

    /// As [`Chain::settled`]. What may go then is the first of its line.
    fn settled(&mut self, Settled { row, place, fate }: Settled, done: &mut Vec<u64>) -> usize {
        let arrived = fate == Fate::Arrived;
        let chain = row.1.order_key.clone().and_then(|key| Some((self.chains.get_mut(&key)?, key))).zip(place);
        let Some(((chain, key), place)) = chain else {
            if arrived {
                done.push(row.0);
            } else {
                self.line_of(None).push_front(Waiting::Row(row));
            }
            return usize::from(!arrived);
        };
        let again = chain.settled(place.index, row, arrived, done);
        if chain.is_over() {
            self.chains.remove(&key);
        } else if chain.announce() {
            self.line_of(Some(&key)).push_front(Waiting::Behind(key));
        }
        again
    }
}

/// Takes the first row of a line that may go; those before it go behind others of their key.
fn first_to_go(line: &mut VecDeque<Waiting>, chains: &mut HashMap<Arc<str>, Chain>, epoch: u64) -> Option<Going> {
    while let Some(waiting) = line.pop_front() {
        match waiting {
            Waiting::Behind(key) => {
                let Some(chain) = chains.get_mut(&key) else { continue };
                chain.announced = false;
                if chain.has_room()
                    && let Some(row) = chain.behind.pop_front()
                {
                    let place = Some(chain.place(epoch));
                    if chain.announce() {
                        line.push_front(Waiting::Behind(key));
                    }
                    return Some(Going { row, place });
                }
            }
            Waiting::Row(row) => {
                let Some(key) = &row.1.order_key else { return Some(Going { row, place: None }) };
                let chain = chains.entry(Arc::clone(key)).or_default();
                if chain.behind.is_empty() && chain.has_room() {
                    let place = Some(chain.place(epoch));
                    return Some(Going { row, place });
                }
                chain.behind.push_back(row);
            }
        }
    }
    None
}

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
    let mut queue = Queue::new(window <= 1);
    let mut under_way = FuturesUnordered::new();
    // what the broker did not take, between two tries, and how often it did not
    let mut resting: FuturesUnordered<Rest> = FuturesUnordered::new();
    let mut refusals: HashMap<u64, u32> = HashMap::new();
    let mut done: Vec<u64> = Vec::new();
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
            under_way.push(publish(Arc::clone(&link), Arc::clone(&counters), going));
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
                Ok(permit) => permit.send(std::mem::take(&mut done)),
                Err(_) => return,
            },
            Some(outcome) = under_way.next() => match outcome {
                // it takes no place while it rests: one tenant's may be refused for hours
                Some(settled) if settled.fate == Fate::Refused => {
                    in_store -= 1;
                    let refused = refusals.entry(settled.row.0).or_insert(0);
                    let rest = tokio::time::sleep(pause(*refused));
                    resting.push(rest.map(|()| settled).boxed());
                    *refused += 1;
                }
                Some(settled) => {
                    if done.is_empty() {
                        tell_by = Instant::now() + TOLD_WITHIN;
                    }
                    if settled.fate == Fate::Arrived {
                        refusals.remove(&settled.row.0);
                    }
                    // what goes again will be counted again
                    in_store -= queue.settled(settled, &mut done);
                }
                None => return,
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
    row: Numbered,
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
async fn publish<L: Link>(link: Arc<L>, counters: Arc<Counters>, Going { row, place }: Going) -> Option<Settled> {
    let span = Sending::begin(&row.1.message);
    let number = row.0;
    let page = row.1.message.routing_key.starts_with(PAGE).then(Stopwatch::start);
    let epoch = place.and_then(|place| place.epoch);
    let fate = loop {
        match link.publish_in(epoch, Arc::clone(&row.1.message)).await {
            Ok(()) => {
                if let Some(page) = page {
                    counters.page.observe(Histogram::micros(page.elapsed()));
                }
                span.end();
                crash::point(Point::Confirmed);
                break Fate::Arrived;
            }
            Err(PublishError::Closed) => return None,
            Err(PublishError::Lost(_)) if mutation::seeded(Defect::LostIsConfirmed) => break Fate::Arrived,
            Err(PublishError::Returned(_)) if mutation::seeded(Defect::ReturnedIsConfirmed) => break Fate::Arrived,
            // it was checked at the edge that this cannot be; should it happen, nothing behind it may wait for ever
            Err(PublishError::Unsendable(why)) => {
                tracing::error!(number, kind = kind(&row.1), why, "a message cannot be sent at all and is given up");
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
                    tracing::debug!(number, kind = kind(&row.1), error = %refused, "the broker did not take a message");
                } else {
                    tracing::warn!(number, kind = kind(&row.1), error = %refused, "the broker did not take a message, publishing again");
                }
                break Fate::Refused;
            }
        }
    };
    Some(Settled { row, place, fate })
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

    const A: Option<&str> = Some("5.4:a");

    fn row(number: u64, key: Option<&str>) -> Numbered {
        (number, OutboxRow { message: Arc::default(), order_key: key.map(Arc::from) })
    }

    fn queue(one_line: bool, rows: &[(u64, Option<&str>)]) -> Queue {
        let mut queue = Queue::new(one_line);
        rows.iter().for_each(|(number, key)| queue.push(row(*number, *key)));
        queue
    }

    /// What may go now.
    fn going(queue: &mut Queue) -> Vec<Going> {
        std::iter::from_fn(|| queue.next(1)).collect()
    }

    fn numbers(waiting: &[Going]) -> Vec<u64> {
        waiting.iter().map(|going| going.row.0).collect()
    }

    /// Settles message `number` of those under way; gives what is done.
    fn settle(queue: &mut Queue, under_way: &mut Vec<Going>, number: u64, arrived: bool) -> Vec<u64> {
        let index = under_way.iter().position(|going| going.row.0 == number).unwrap();
        let Going { row, place } = under_way.remove(index);
        let mut done = Vec::new();
        let fate = if arrived { Fate::Arrived } else { Fate::Lost };
        queue.settled(Settled { row, place, fate }, &mut done);
        done
    }

    #[test]
    fn of_a_key_a_few_are_under_way_in_order() {
        let most = u64::from(OF_A_KEY);
        let rows: Vec<_> = (1..=most + 2).map(|number| (number, A)).chain([(90, Some("5.4:b")), (91, None)]).collect();
        let mut queue = queue(true, &rows);
        let mut under_way = going(&mut queue);
        assert_eq!(numbers(&under_way), (1..=most).chain([90, 91]).collect::<Vec<_>>());
        // what has arrived out of order waits for those before it
        assert_eq!(settle(&mut queue, &mut under_way, 2, true), [0; 0]);
        assert_eq!(numbers(&going(&mut queue)), [0; 0]);
        assert_eq!(settle(&mut queue, &mut under_way, 1, true), [1, 2]);
        under_way.extend(going(&mut queue));
        assert_eq!(numbers(&under_way)[under_way.len() - 2..], [most + 1, most + 2]);
        for number in (3..=most + 2).chain([90, 91]) {
            assert_eq!(settle(&mut queue, &mut under_way, number, true), [number]);
        }
        assert!(queue.chains.is_empty() && queue.lines.is_empty());
    }

    #[test]
    fn what_has_overtaken_one_that_was_not_taken_goes_again_after_it() {
        let mut queue = queue(false, &[(1, A), (2, A), (3, A), (4, A)]);
        let mut under_way = going(&mut queue);
        assert_eq!(settle(&mut queue, &mut under_way, 1, true), [1]);
        assert_eq!(settle(&mut queue, &mut under_way, 2, false), [0; 0]);
        queue.push(row(5, A));
        assert_eq!(settle(&mut queue, &mut under_way, 4, true), [0; 0]);
        // nothing goes as long as one is under way, and then the first alone
        assert_eq!(numbers(&going(&mut queue)), [0; 0]);
        assert_eq!(settle(&mut queue, &mut under_way, 3, true), [0; 0]);
        under_way = going(&mut queue);
        assert_eq!(numbers(&under_way), [2]);
        assert!(under_way[0].place.unwrap().epoch.is_none());
        assert_eq!(settle(&mut queue, &mut under_way, 2, true), [2]);
        under_way = going(&mut queue);
        assert_eq!(numbers(&under_way), [3, 4, 5]);
        for number in [3, 4, 5] {
            assert_eq!(settle(&mut queue, &mut under_way, number, true), [number]);
        }
        assert!(queue.chains.is_empty());
    }

    #[test]
    fn tenants_take_turns_and_dead_letters_are_one_of_them() {
        let many = (1..=4).map(|number| (number, Some(["5.4:a", "5.4:b", "5.4:c", "5.4:d"][number as usize - 1])));
        let rows: Vec<_> = many.chain([(5, None), (6, None), (7, Some("6.4:a")), (8, Some("6.4:b"))]).collect();
        assert_eq!(numbers(&going(&mut queue(false, &rows))), [1, 5, 7, 2, 6, 8, 3, 4]);
        assert_eq!(numbers(&going(&mut queue(true, &rows))), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_was_behind_a_key_waits_for_its_tenants_turn() {
        let mut queue = queue(false, &[(1, A), (2, A)]);
        let mut under_way = going(&mut queue);
        settle(&mut queue, &mut under_way, 1, false);
        settle(&mut queue, &mut under_way, 2, true);
        queue.push(row(3, Some("6.4:a")));
        let mut under_way = going(&mut queue);
        assert_eq!(numbers(&under_way), [1, 3]);
        queue.push(row(4, Some("6.4:a")));
        settle(&mut queue, &mut under_way, 1, true);
        assert_eq!(numbers(&going(&mut queue)), [4, 2]);
    }

    /// A broker that refuses whatever is routed by 5.4.
    struct Refusing(tokio::sync::watch::Sender<crate::broker::LinkState>);

    impl Link for Refusing {
        async fn next(&self, _: crate::broker::Lane) -> Option<crate::broker::Delivery> {
            std::future::pending().await
        }
        fn settle(&self, _: crate::broker::Token, _: crate::broker::Settlement) {}
        async fn publish_in(&self, _: Option<u64>, message: impl Into<Arc<Message>> + Send) -> Result<(), PublishError> {
            if message.into().routing_key.ends_with("5.4") { Err(PublishError::Nacked) } else { Ok(()) }
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
        let link = Arc::new(Refusing(tokio::sync::watch::Sender::new(crate::broker::LinkState::Connecting)));
        let (engine, words) = mpsc::channel(8);
        let (confirmed, mut told) = mpsc::channel(8);
        let relaying = tokio::spawn(relay(link, 8, 8, Arc::default(), words, confirmed));
        let of = |number: u64, routing_key: &str, key: Option<String>| {
            let message = Message { routing_key: routing_key.into(), ..Message::default() };
            (number, OutboxRow { message: Arc::new(message), order_key: key.map(Arc::from) })
        };
        // far more subjects than places, and dead letters
        let refused = (1..=100).map(|number| of(number, "5.4", Some(format!("5.4:{number}"))));
        let letters = (101..=200).map(|number| of(number, "5.4", None));
        engine.send(ToRelay::Rows(refused.chain(letters).collect())).await.expect("sent");
        let for_an_hour = tokio::time::timeout(Duration::from_secs(3_600), told.recv());
        assert!(for_an_hour.await.is_err(), "none of them is taken");
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
