//! What waits to be published, and in which order it may go: tenants take turns, and of one order key (a report, an agent) a
//! few are under way at a time, in the order of `sequence`.
//!
//! When the broker does not take one of those, the ones behind it may have overtaken it. They are held, and all come again after
//! it, as in go-back-N: who takes what is next in sequence and passes over the rest gets everything, in order, without a gap.
//! Never here: the broker, a clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::model::ids::TenantId;
use crate::mutation::{self, Defect};
use crate::pipeline::rows::OutboxRow;

use super::{Fate, Settled};

/// Messages of one order key under way at a time. A new report with its tasks, and the page for it, are about so many.
const OF_A_KEY: u32 = 16;

pub(super) type Numbered = (u64, OutboxRow);

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
}

/// What stands in a line.
enum Waiting {
    Row(Numbered),
    /// The first of those that wait behind others of this key.
    Behind(Arc<str>),
}

/// A row on its way to the broker, with its place in its chain if it has an order key.
pub(super) struct Going {
    pub row: Numbered,
    pub place: Option<Place>,
}

/// Where a message stands among those of its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    index: u64,
    /// The link's, in which it may be published, once; without one it is published until it has arrived, and none goes beside it.
    pub epoch: Option<u64>,
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
    pub fn new(one_line: bool) -> Self {
        Self { one_line, lines: HashMap::new(), round: VecDeque::new(), chains: HashMap::new() }
    }

    pub fn push(&mut self, row: Numbered) {
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
    pub fn next(&mut self, epoch: u64) -> Option<Going> {
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
    pub fn settled(&mut self, Settled { row, place, fate }: Settled, done: &mut Vec<u64>) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
