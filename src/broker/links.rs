//! The links of several partitions seen as one: as well as the worst of them.
//!
//! Never here: a link, or anything that one of them is told.

use futures_util::future::select_all;
use tokio::sync::watch;

use super::LinkState;

/// The state of all `links` (one or more) together, as long as each of them is there: closed if one is, else connecting, blocked, ready.
/// Its epoch counts how often all have come to be connected: 1 for the first time, one more whenever one or several of
/// them had to connect again. Must be called within a tokio runtime.
pub fn together(mut links: Vec<watch::Receiver<LinkState>>) -> watch::Receiver<LinkState> {
    if links.len() == 1
        && let Some(only) = links.pop()
    {
        return only;
    }
    let mut epochs = Epochs::default();
    let mut look = move |links: &mut [watch::Receiver<LinkState>]| {
        let states: Vec<LinkState> = links.iter_mut().map(|link| link.borrow_and_update().clone()).collect();
        epochs.worst(&states)
    };
    let (seen, together) = watch::channel(look(&mut links));
    tokio::spawn(async move {
        loop {
            let changed = select_all(links.iter_mut().map(|link| Box::pin(link.changed())));
            tokio::select! {
                () = seen.closed() => return,
                (changed, _, _) = changed => if changed.is_err() { return },
            }
            let now = look(&mut links);
            seen.send_if_modified(|state| {
                let changed = *state != now;
                *state = now;
                changed
            });
        }
    });
    together
}

#[derive(Default)]
struct Epochs {
    /// Of each link, when all were connected last.
    last: Vec<u64>,
    times: u64,
}

impl Epochs {
    fn worst(&mut self, states: &[LinkState]) -> LinkState {
        if states.contains(&LinkState::Closed) {
            return LinkState::Closed;
        }
        let mut epochs = Vec::with_capacity(states.len());
        let mut blocked = None;
        for state in states {
            match state {
                LinkState::Ready { epoch } => epochs.push(*epoch),
                LinkState::Blocked { epoch, reason } => {
                    epochs.push(*epoch);
                    blocked.get_or_insert(reason);
                }
                LinkState::Connecting | LinkState::Closed => return LinkState::Connecting,
            }
        }
        // also when a connection was lost and made again between two looks
        if epochs != self.last {
            self.times += 1;
            self.last = epochs;
        }
        match blocked {
            Some(reason) => LinkState::Blocked { epoch: self.times, reason: reason.clone() },
            None => LinkState::Ready { epoch: self.times },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LinkState::{Closed, Connecting};

    fn ready(epoch: u64) -> LinkState {
        LinkState::Ready { epoch }
    }

    fn blocked(epoch: u64) -> LinkState {
        LinkState::Blocked { epoch, reason: "memory".into() }
    }

    #[test]
    fn the_worst_counts_and_each_time_that_all_are_connected() {
        let mut epochs = Epochs::default();
        for (states, expected) in [
            ([Connecting, Connecting], Connecting),
            ([ready(1), Connecting], Connecting),
            ([ready(2), ready(1)], ready(1)),
            ([ready(2), blocked(1)], blocked(1)),
            ([ready(2), ready(1)], ready(1)),
            ([ready(2), Connecting], Connecting),
            // both have connected again, one of them twice
            ([ready(3), ready(3)], ready(2)),
            // nobody has looked while it was away
            ([ready(4), ready(3)], ready(3)),
            ([blocked(4), Connecting], Connecting),
            ([ready(4), Closed], Closed),
            ([Connecting, Closed], Closed),
        ] {
            assert_eq!(epochs.worst(&states), expected, "{states:?}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_told() {
        let (one, other) = (watch::Sender::new(Connecting), watch::Sender::new(ready(1)));
        let mut state = together(vec![one.subscribe(), other.subscribe()]);
        assert_eq!(*state.borrow(), Connecting);
        one.send_replace(ready(1));
        state.wait_for(|state| *state == ready(1)).await.expect("they are there");
        other.send_replace(Closed);
        state.wait_for(|state| *state == Closed).await.expect("they are there");
        drop(one);
        assert!(state.changed().await.is_err(), "a link is gone");
    }

    #[tokio::test]
    async fn one_link_is_what_it_is() {
        let link = watch::Sender::new(ready(7));
        assert!(together(vec![link.subscribe()]).same_channel(&link.subscribe()));
    }
}
