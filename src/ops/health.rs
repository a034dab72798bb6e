//! Health in three questions. Live: would a restart help? Ready: does it take and publish? Started: has it recovered?
//!
//! Never here: the broker as a reason not to be live. It may be away for days, and a restart loop would only add to that.

use crate::broker::LinkState;

/// How far the process has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Opening the store and recovering from it.
    Starting,
    Running,
    /// Told to stop: takes no more.
    Draining,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Starting => "starting",
            Stage::Running => "running",
            Stage::Draining => "draining",
        }
    }
}

/// Of which partition something is said; of the only one it need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose(Option<u16>);

impl Whose {
    pub fn of(number: u16, partitions: usize) -> Self {
        Self((partitions > 1).then_some(number))
    }

    pub fn all(self, why: Vec<String>) -> impl Iterator<Item = String> {
        why.into_iter().map(move |why| match self.0 {
            Some(number) => format!("partition {number}: {why}"),
            None => why,
        })
    }
}

/// What one partition needs to take and to publish.
#[derive(Debug)]
pub struct Flow {
    pub whose: Whose,
    pub link: LinkState,
    pub outbox_rows: u64,
    pub outbox_limit: u64,
}

/// Why it is not live; empty when it is. While it starts there is nothing yet that could be dead, and while it drains its
/// consumers have ended.
pub fn not_live(stage: Stage, ailments: impl FnOnce() -> Vec<String>) -> Vec<String> {
    match stage {
        Stage::Running => ailments(),
        Stage::Starting | Stage::Draining => Vec::new(),
    }
}

/// Why it is not ready; empty when it is: when each of its partitions is.
pub fn not_ready(stage: Stage, flows: &[Flow]) -> Vec<String> {
    let process = match stage {
        Stage::Starting => Some("service: starting, the store is being read".to_owned()),
        Stage::Draining => Some("service: stopping, it takes no more".to_owned()),
        Stage::Running => None,
    };
    process.into_iter().chain(flows.iter().flat_map(|flow| flow.whose.all(in_the_way(flow)))).collect()
}

fn in_the_way(flow: &Flow) -> Vec<String> {
    let Flow { whose: _, link, outbox_rows, outbox_limit } = flow;
    let mut why = Vec::new();
    match link {
        LinkState::Ready { .. } => {}
        LinkState::Connecting => why.push("broker: not connected, trying".to_owned()),
        // what it says why is the broker's own text
        LinkState::Blocked { reason, .. } => why.push(format!("broker: it blocks publishing ({})", reason.escape_debug())),
        LinkState::Closed => why.push("broker: the connection has been closed".to_owned()),
    }
    if outbox_rows >= outbox_limit {
        why.push(format!("outbox: full ({outbox_rows} of {outbox_limit} rows wait for their confirm)"));
    }
    why
}

/// `connecting`, `ready`, `blocked`, `closed`: the closed set of the metric's label.
pub const LINK_STATES: [&str; 4] = ["connecting", "ready", "blocked", "closed"];

pub fn link_state(link: &LinkState) -> &'static str {
    match link {
        LinkState::Connecting => LINK_STATES[0],
        LinkState::Ready { .. } => LINK_STATES[1],
        LinkState::Blocked { .. } => LINK_STATES[2],
        LinkState::Closed => LINK_STATES[3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(number: u16, partitions: usize, link: &LinkState, outbox_rows: u64) -> Flow {
        Flow { whose: Whose::of(number, partitions), link: link.clone(), outbox_rows, outbox_limit: 10 }
    }

    #[test]
    fn ready_says_what_is_in_the_way() {
        let blocked = LinkState::Blocked { epoch: 1, reason: "low on\nmemory".into() };
        for (stage, link, rows, expected) in [
            (Stage::Running, &LinkState::Ready { epoch: 1 }, 9, vec![]),
            (Stage::Running, &LinkState::Connecting, 0, vec!["broker: not connected, trying"]),
            (
                Stage::Running,
                &blocked,
                10,
                vec!["broker: it blocks publishing (low on\\nmemory)", "outbox: full (10 of 10 rows wait for their confirm)"],
            ),
            (Stage::Draining, &LinkState::Ready { epoch: 1 }, 0, vec!["service: stopping, it takes no more"]),
        ] {
            assert_eq!(not_ready(stage, &[flow(3, 1, link, rows)]), expected);
        }
        assert_eq!(not_ready(Stage::Starting, &[]), ["service: starting, the store is being read"]);
    }

    #[test]
    fn of_several_partitions_each_says_what_is_in_its_way() {
        let ready = LinkState::Ready { epoch: 1 };
        let flows = [flow(0, 3, &ready, 9), flow(1, 3, &LinkState::Connecting, 0), flow(2, 3, &ready, 10)];
        assert_eq!(
            not_ready(Stage::Draining, &flows),
            [
                "service: stopping, it takes no more",
                "partition 1: broker: not connected, trying",
                "partition 2: outbox: full (10 of 10 rows wait for their confirm)"
            ]
        );
        assert_eq!(not_ready(Stage::Running, &flows[..1]), Vec::<String>::new());
    }

    #[test]
    fn only_a_running_service_can_be_dead() {
        let ill = || vec!["engine: no heartbeat for 31 s".to_owned()];
        assert_eq!(not_live(Stage::Running, ill), ill());
        for stage in [Stage::Starting, Stage::Draining] {
            assert_eq!(not_live(stage, ill), Vec::<String>::new());
        }
    }
}
