//! What waits to be published, and in which order it may go: tenants take turns, and of one order key (a report, an agent) a
//! few are under way at a time, in the order of `sequence`.
//!
//! When the broker does not take one of those, the ones behind it may have overtaken it. They are held, and all come again after
//! it, as in go-back-N: who takes what is next in sequence and passes over the rest gets everything, in order, without a gap.
//! Never here: the broker, a pause.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::model::ids::TenantId;
use crate::model::time::Stopwatch;
use crate::mutation::{self, Defect};
use crate::pipeline::rows::OutboxRow;

use super::{Fate, Settled};

/// Messages of one order key under way at a time. A new report with its tasks, and the page for it, are about so many.
const OF_A_KEY: usize = 16;
/// Of the messages under way, one in so many may be a dead letter: a flood of them is slower then, and in nobody's way.
const LETTERS_IN: usize = 4;

/// What wakes somebody.
const PAGE: &str = "on_call.paged.";

/// A row of the outbox on its way to the broker.
#[derive(Debug)]
pub(super) struct Entry {
    pub number: u64,
    pub row: OutboxRow,
    /// Of a page: since when it waits.
    pub page: Option<Stopwatch>,
}

/// Whose rows wait in one line: a tenant's, or all dead letters.
type Flow = Option<TenantId>;

/// The rows that wait, and which keys are under way. Tenants take turns, a message each: what one has waiting by the
/// thousand is no more in the way of another's than a single message.
pub(super) struct Queue {
    /// One line for all, in the outbox's own order.
    pub one_line: bool,
    lines: HashMap<Flow, VecDeque<Waiting>>,
    /// Lines with something in them, the next to be served first.
    round: VecDeque<Flow>,
    chains: HashMap<Arc<str>, Chain>,
    /// Dead letters under way, and how many may be.
    letters: usize,
    most_letters: usize,
}

/// What stands in a line.
enum Waiting {
    Row(Entry),
    /// The first of those that wait behind others of this key.
    Behind(Arc<str>),
}

/// A row on its way to the broker, with its place in its chain if it has an order key.
#[derive(Debug)]
pub(super) struct Going {
    pub entry: Entry,
    pub place: Option<Place>,
}

/// Where a message stands among those of its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    index: usize,
    /// The link's, in which it may be published, once; without one it is published until it has arrived, and none goes beside it.
    pub epoch: Option<u64>,
}

/// The messages of an order key that are under way or wait for those.
struct Chain {
    /// The link's epoch of those that are under way: none goes out on a later connection before these have been looked at.
    epoch: u64,
    /// So many have arrived, as has each before them: the index of the first of `places`.
    arrived: usize,
    /// Those that have been given a place since, in order.
    places: VecDeque<At>,
    /// So many may be under way: one after a refusal, and with each that arrives twice as many. Where a subscriber is full and takes
    /// one now and then, few would be taken in vain.
    most: usize,
    behind: VecDeque<Entry>,
    /// [`Waiting::Behind`] stands in the line.
    announced: bool,
}

/// What has become of a message that has a place.
enum At {
    UnderWay,
    /// The broker has refused it; it rests before it is settled.
    Refused,
    /// It has arrived, and one before it has not.
    Ahead(Entry),
    NotTaken(Entry),
}

impl Default for Chain {
    fn default() -> Self {
        Self { epoch: 0, arrived: 0, places: VecDeque::new(), most: OF_A_KEY, behind: VecDeque::new(), announced: false }
    }
}

impl Chain {
    /// Whether one more may go now.
    fn has_room(&self) -> bool {
        self.places.len() < self.most && !self.places.iter().any(|at| matches!(at, At::Refused | At::NotTaken(_)))
    }

    fn place(&mut self, epoch: u64) -> Place {
        if self.places.is_empty() {
            self.epoch = epoch;
        }
        self.places.push_back(At::UnderWay);
        let epoch = (self.most > 1).then_some(self.epoch);
        Place { index: self.arrived + self.places.len() - 1, epoch }
    }

    /// What has become of the message with that place.
    fn becomes(&mut self, index: usize, now: At) {
        if let Some(at) = self.places.get_mut(index - self.arrived) {
            *at = now;
        }
    }

    /// A message has arrived, or has not been taken. Those that are done come into `done`; given is how many have to go again.
    fn settled(&mut self, index: usize, entry: Entry, arrived: bool, done: &mut Vec<Entry>) -> usize {
        self.becomes(index, if arrived { At::Ahead(entry) } else { At::NotTaken(entry) });
        while let Some(At::Ahead(_)) = self.places.front()
            && let Some(At::Ahead(entry)) = self.places.pop_front()
        {
            done.push(entry);
            self.arrived += 1;
            self.most = (self.most * 2).min(OF_A_KEY);
        }
        if self.places.is_empty() || self.places.iter().any(|at| matches!(at, At::UnderWay | At::Refused)) {
            return 0;
        }
        // all have settled, and the first was not taken: back to it
        self.most = 1;
        let before = self.behind.len();
        for at in self.places.drain(..).rev() {
            match at {
                At::UnderWay | At::Refused => {}
                At::Ahead(entry) if mutation::seeded(Defect::OvertakenIsDone) => done.push(entry),
                At::Ahead(entry) | At::NotTaken(entry) => self.behind.push_front(entry),
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
        self.places.is_empty() && self.behind.is_empty()
    }
}

impl Entry {
    fn new((number, row): (u64, OutboxRow)) -> Self {
        let page = row.message.routing_key.starts_with(PAGE).then(Stopwatch::start);
        Self { number, row, page }
    }
}

impl Queue {
    /// With so many messages under way at a time; one means the outbox's own order.
    pub fn new(window: usize) -> Self {
        Self {
            one_line: window <= 1,
            lines: HashMap::new(),
            round: VecDeque::new(),
            chains: HashMap::new(),
            letters: 0,
            most_letters: (window / LETTERS_IN).max(1),
        }
    }

    pub fn push(&mut self, row: (u64, OutboxRow)) {
        let entry = Entry::new(row);
        self.line_of(entry.row.order_key.as_deref()).push_back(Waiting::Row(entry));
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
    pub fn next(&mut self, epoch: u64) -> Option<Going> {
        // a line that gives nothing is empty after that, so each is looked at once
        for _ in 0..self.round.len() {
            let flow = self.round.pop_front()?;
            if flow.is_none() && !self.one_line && self.letters >= self.most_letters {
                self.round.push_back(flow);
                continue;
            }
            let line = self.lines.get_mut(&flow)?;
            let going = first_to_go(line, &mut self.chains, epoch);
            if line.is_empty() {
                self.lines.remove(&flow);
            } else {
                self.round.push_back(flow);
            }
            if let Some(going) = going {
                self.letters += usize::from(going.place.is_none());
                return Some(going);
            }
        }
        None
    }

    /// A message is no longer under way. It may rest before it is [`Queue::settled`]: until then none goes behind it.
    pub fn landed(&mut self, Settled { entry, place, fate }: &Settled) {
        let Some(place) = place else {
            self.letters -= 1;
            return;
        };
        if *fate == Fate::Refused
            && let Some(chain) = entry.row.order_key.as_ref().and_then(|key| self.chains.get_mut(key))
        {
            chain.becomes(place.index, At::Refused);
        }
    }

    /// What has become of a message that is no longer under way, as [`Chain::settled`]. What may go then is the first of its line.
    pub fn settled(&mut self, Settled { entry, place, fate }: Settled, done: &mut Vec<Entry>) -> usize {
        let arrived = fate == Fate::Arrived;
        let chain = entry.row.order_key.clone().and_then(|key| Some((self.chains.get_mut(&key)?, key))).zip(place);
        let Some(((chain, key), place)) = chain else {
            if arrived {
                done.push(entry);
            } else {
                self.line_of(None).push_front(Waiting::Row(entry));
            }
            return usize::from(!arrived);
        };
        let again = chain.settled(place.index, entry, arrived, done);
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
                    && let Some(entry) = chain.behind.pop_front()
                {
                    let place = Some(chain.place(epoch));
                    if chain.announce() {
                        line.push_front(Waiting::Behind(key));
                    }
                    return Some(Going { entry, place });
                }
            }
            Waiting::Row(entry) => {
                let Some(key) = &entry.row.order_key else { return Some(Going { entry, place: None }) };
                let chain = chains.entry(Arc::clone(key)).or_default();
                if chain.behind.is_empty() && chain.has_room() {
                    let place = Some(chain.place(epoch));
                    return Some(Going { entry, place });
                }
                chain.behind.push_back(entry);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<&str> = Some("5.4:a");

    fn row(number: u64, key: Option<&str>) -> (u64, OutboxRow) {
        (number, OutboxRow { message: Arc::default(), order_key: key.map(Arc::from) })
    }

    fn queue(one_line: bool, rows: &[(u64, Option<&str>)]) -> Queue {
        let mut queue = Queue::new(if one_line { 1 } else { 100 });
        rows.iter().for_each(|(number, key)| queue.push(row(*number, *key)));
        queue
    }

    /// What may go now.
    fn going(queue: &mut Queue) -> Vec<Going> {
        std::iter::from_fn(|| queue.next(1)).collect()
    }

    fn numbers(waiting: &[Going]) -> Vec<u64> {
        waiting.iter().map(|going| going.entry.number).collect()
    }

    /// Settles message `number` of those under way; gives what is done.
    fn settle(queue: &mut Queue, under_way: &mut Vec<Going>, number: u64, arrived: bool) -> Vec<u64> {
        let index = under_way.iter().position(|going| going.entry.number == number).unwrap();
        let Going { entry, place } = under_way.remove(index);
        let mut done = Vec::new();
        let settled = Settled { entry, place, fate: if arrived { Fate::Arrived } else { Fate::Lost } };
        queue.landed(&settled);
        queue.settled(settled, &mut done);
        done.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn of_a_key_a_few_are_under_way_in_order() {
        let most = OF_A_KEY as u64;
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
        (6..=10).for_each(|number| queue.push(row(number, A)));
        assert_eq!(settle(&mut queue, &mut under_way, 2, true), [2]);
        // then with each that has arrived twice as many
        under_way = going(&mut queue);
        assert_eq!(numbers(&under_way), [3, 4]);
        assert_eq!(settle(&mut queue, &mut under_way, 3, true), [3]);
        under_way.extend(going(&mut queue));
        assert_eq!(numbers(&under_way), [4, 5, 6, 7]);
        assert_eq!(settle(&mut queue, &mut under_way, 4, true), [4]);
        under_way.extend(going(&mut queue));
        for number in 5..=10 {
            assert_eq!(settle(&mut queue, &mut under_way, number, true), [number]);
        }
        assert!(queue.chains.is_empty());
    }

    #[test]
    fn behind_one_that_rests_nothing_goes() {
        let mut queue = queue(false, &[(1, A), (2, A)]);
        let mut under_way = going(&mut queue);
        let Going { entry, place } = under_way.remove(0);
        let refused = Settled { entry, place, fate: Fate::Refused };
        queue.landed(&refused);
        queue.push(row(3, A));
        assert_eq!(numbers(&going(&mut queue)), [0; 0]);
        // nor when what was beside it has arrived
        assert_eq!(settle(&mut queue, &mut under_way, 2, true), [0; 0]);
        assert_eq!(numbers(&going(&mut queue)), [0; 0]);
        assert_eq!(queue.settled(refused, &mut Vec::new()), 2);
        assert_eq!(numbers(&going(&mut queue)), [1]);
    }

    #[test]
    fn tenants_take_turns_and_dead_letters_are_one_of_them() {
        let many = (1..=4).map(|number| (number, Some(["5.4:a", "5.4:b", "5.4:c", "5.4:d"][number as usize - 1])));
        let rows: Vec<_> = many.chain([(5, None), (6, None), (7, Some("6.4:a")), (8, Some("6.4:b"))]).collect();
        assert_eq!(numbers(&going(&mut queue(false, &rows))), [1, 5, 7, 2, 6, 8, 3, 4]);
        assert_eq!(numbers(&going(&mut queue(true, &rows))), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_flood_of_dead_letters_leaves_places_to_others() {
        let mut queue = queue(false, &(1..=60).map(|number| (number, None)).collect::<Vec<_>>());
        queue.push(row(90, A));
        let mut under_way = going(&mut queue);
        assert_eq!(under_way.len(), 100 / LETTERS_IN + 1);
        assert!(numbers(&under_way).contains(&90));
        assert_eq!(settle(&mut queue, &mut under_way, 1, true), [1]);
        assert_eq!(numbers(&going(&mut queue)).len(), 1);
        // in the outbox's own order nothing goes past them
        assert_eq!(going(&mut super::tests::queue(true, &[(1, None), (2, None), (3, A)])).len(), 3);
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
}
