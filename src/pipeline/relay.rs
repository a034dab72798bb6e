//! The relay: from the outbox to the broker, in order. A row is done when its message is confirmed and was
//! not returned; until then it is published again, identically. Never here: the store.
//!
//! Of one order key (a report, an agent) one message is under way at a time: when the broker refuses one,
//! none behind it has overtaken it, and `sequence` arrives gapless.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

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

/// The rows that wait, and which keys are under way. Tenants take turns, a message each: what one has waiting by the
/// thousand is no more in the way of another's than a single message.
struct Queue {
    /// One line for all, in the outbox's own order.
    one_line: bool,
    lines: HashMap<Flow, VecDeque<Waiting>>,
    /// Lines with something in them, the next to be served first.
    round: VecDeque<Flow>,
    /// Per key under way, what waits behind it.
    behind: HashMap<Arc<str>, VecDeque<Numbered>>,
}

/// A row in a line.
struct Waiting {
    row: Numbered,
    /// The one before it of its key has arrived.
    may_go: bool,
}

impl Queue {
    fn new(one_line: bool) -> Self {
        Self { one_line, lines: HashMap::new(), round: VecDeque::new(), behind: HashMap::new() }
    }

    fn push(&mut self, row: Numbered) {
        self.line_of(row.1.order_key.as_deref()).push_back(Waiting { row, may_go: false });
    }

    fn line_of(&mut self, key: Option<&str>) -> &mut VecDeque<Waiting> {
        // <tenant>:<subject>
        let flow = key.filter(|_| !self.one_line).and_then(|key| key.split_once(':')?.0.parse().ok());
        self.lines.entry(flow).or_insert_with(|| {
            self.round.push_back(flow);
            VecDeque::new()
        })
    }

    fn next(&mut self) -> Option<Numbered> {
        while let Some(flow) = self.round.pop_front() {
            let line = self.lines.get_mut(&flow)?;
            let row = first_to_go(line, &mut self.behind);
            if line.is_empty() {
                self.lines.remove(&flow);
            } else {
                self.round.push_back(flow);
            }
            if row.is_some() {
                return row;
            }
        }
        None
    }

    /// A message has arrived: the next of its key is the first of its line.
    fn done(&mut self, key: Option<&Arc<str>>) {
        let Some(key) = key else { return };
        match self.behind.get_mut(key).and_then(VecDeque::pop_front) {
            Some(row) => self.line_of(Some(key)).push_front(Waiting { row, may_go: true }),
            None => drop(self.behind.remove(key)),
        }
    }
}

/// Takes the first row of a line of whose key none is under way; those before it go behind theirs.
fn first_to_go(line: &mut VecDeque<Waiting>, behind: &mut HashMap<Arc<str>, VecDeque<Numbered>>) -> Option<Numbered> {
    while let Some(Waiting { row, may_go }) = line.pop_front() {
        let Some(key) = row.1.order_key.as_ref().filter(|_| !may_go) else { return Some(row) };
        match behind.get_mut(key) {
            Some(waiting) => waiting.push_back(row),
            None => {
                behind.insert(Arc::clone(key), VecDeque::new());
                return Some(row);
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
    let mut done: Vec<u64> = Vec::new();
    let mut in_store = 0;
    let mut tell_by = Instant::now();
    loop {
        while under_way.len() < window.max(1)
            && in_store < repeats.max(1)
            && let Some(row) = queue.next()
        {
            in_store += 1;
            under_way.push(publish(Arc::clone(&link), Arc::clone(&counters), row));
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
            Some(outcome) = under_way.next(), if !under_way.is_empty() => match outcome {
                Some((number, key)) => {
                    queue.done(key.as_ref());
                    if done.is_empty() {
                        tell_by = Instant::now() + TOLD_WITHIN;
                    }
                    done.push(number);
                }
                None => return,
            },
            permit = confirmed.reserve(), if !done.is_empty() && tells => match permit {
                Ok(permit) => permit.send(std::mem::take(&mut done)),
                Err(_) => return,
            },
            () = sleep_until(tell_by), if !done.is_empty() && !tells => {}
        }
    }
}

/// Publishes one row until it is confirmed; `None` when the link is closed.
async fn publish<L: Link>(link: Arc<L>, counters: Arc<Counters>, (number, row): Numbered) -> Option<(u64, Option<Arc<str>>)> {
    let mut pause = FIRST_PAUSE;
    let span = Sending::begin(&row.message);
    let page = row.message.routing_key.starts_with(PAGE).then(Stopwatch::start);
    loop {
        match link.publish(Arc::clone(&row.message)).await {
            Ok(()) => {
                if let Some(page) = page {
                    counters.page.observe(Histogram::micros(page.elapsed()));
                }
                span.end();
                crash::point(Point::Confirmed);
                return Some((number, row.order_key));
            }
            Err(PublishError::Closed) => return None,
            Err(PublishError::Lost(_)) if mutation::seeded(Defect::LostIsConfirmed) => return Some((number, row.order_key)),
            Err(PublishError::Returned(_)) if mutation::seeded(Defect::ReturnedIsConfirmed) => return Some((number, row.order_key)),
            // it was checked at the edge that this cannot be; should it happen, nothing behind it may wait for ever
            Err(PublishError::Unsendable(why)) => {
                tracing::error!(number, kind = kind(&row), why, "a message cannot be sent at all and is given up");
                return Some((number, row.order_key));
            }
            // the link itself waits for its next connection
            Err(PublishError::Lost(why)) => tracing::debug!(number, why, "not confirmed, publishing again"),
            Err(refused @ (PublishError::Returned(_) | PublishError::Nacked)) => {
                tracing::warn!(number, kind = kind(&row), error = %refused, "the broker did not take a message, publishing again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
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

    fn row(number: u64, key: Option<&str>) -> Numbered {
        (number, OutboxRow { message: Arc::default(), order_key: key.map(Arc::from) })
    }

    fn queue(one_line: bool, rows: &[(u64, Option<&str>)]) -> Queue {
        let mut queue = Queue::new(one_line);
        rows.iter().for_each(|(number, key)| queue.push(row(*number, *key)));
        queue
    }

    fn numbers(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.next()).map(|(number, _)| number).collect()
    }

    #[test]
    fn one_of_a_key_is_under_way_and_the_next_is_the_first_to_go() {
        let mut queue = queue(true, &[(1, Some("5.4:a")), (2, Some("5.4:a")), (3, Some("5.4:b")), (4, Some("5.4:a")), (5, None)]);
        assert_eq!(numbers(&mut queue), [1, 3, 5]);
        queue.done(Some(&"5.4:a".into()));
        assert_eq!(numbers(&mut queue), [2]);
        queue.done(Some(&"5.4:a".into()));
        assert_eq!(numbers(&mut queue), [4]);
    }

    #[test]
    fn tenants_take_turns_and_dead_letters_are_one_of_them() {
        let many = (1..=4).map(|number| (number, Some(["5.4:a", "5.4:b", "5.4:c", "5.4:d"][number as usize - 1])));
        let rows: Vec<_> = many.chain([(5, None), (6, None), (7, Some("6.4:a")), (8, Some("6.4:b"))]).collect();
        assert_eq!(numbers(&mut queue(false, &rows)), [1, 5, 7, 2, 6, 8, 3, 4]);
        assert_eq!(numbers(&mut queue(true, &rows)), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn what_was_behind_a_key_waits_for_its_tenants_turn() {
        let mut queue = queue(false, &[(1, Some("5.4:a")), (2, Some("5.4:a"))]);
        assert_eq!(numbers(&mut queue), [1]);
        queue.push(row(3, Some("6.4:a")));
        queue.done(Some(&"5.4:a".into()));
        assert_eq!(numbers(&mut queue), [3, 2]);
    }
}
