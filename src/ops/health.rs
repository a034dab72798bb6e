//! Health in three questions. Live: would a restart help? Ready: does it take and publish? Started: has it recovered?
//!
//! Never here: the broker as a reason not to be live. It may be away for days, and a restart loop would only add to that.

use crate::broker::LinkState;
use crate::pipeline::vitals::Signs;

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

/// Why it is not live; empty when it is. While it starts there is nothing yet that could be dead, and while it drains its
/// consumers have ended.
pub fn not_live(stage: Stage, signs: Option<&Signs>) -> Vec<String> {
    match (stage, signs) {
        (Stage::Running, Some(signs)) => signs.ailments(),
        (Stage::Starting | Stage::Running | Stage::Draining, _) => Vec::new(),
    }
}

/// Why it is not ready; empty when it is.
pub fn not_ready(stage: Stage, link: Option<&LinkState>, outbox_rows: u64, outbox_limit: u64) -> Vec<String> {
    let mut why = Vec::new();
    match stage {
        Stage::Starting => why.push("service: starting, the store is being read".to_owned()),
        Stage::Draining => why.push("service: stopping, it takes no more".to_owned()),
        Stage::Running => {}
    }
    match link {
        Some(LinkState::Ready { .. }) | None => {}
        Some(LinkState::Connecting) => why.push("broker: not connected, trying".to_owned()),
        // what it says why is the broker's own text
        Some(LinkState::Blocked { reason, .. }) => why.push(format!("broker: it blocks publishing ({})", reason.escape_debug())),
        Some(LinkState::Closed) => why.push("broker: the connection has been closed".to_owned()),
    }
    if outbox_limit > 0 && outbox_rows >= outbox_limit {
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
    use std::time::Duration;

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
            assert_eq!(not_ready(stage, Some(link), rows, 10), expected);
        }
        assert_eq!(not_ready(Stage::Starting, None, 0, 0), ["service: starting, the store is being read"]);
    }

    #[test]
    fn only_a_running_service_can_be_dead() {
        let long = Duration::from_secs(3_600);
        let ill = Signs { engine: long, store: long, tasks: [("a", Some(long)), ("b", None), ("c", None)] };
        assert_eq!(not_live(Stage::Running, Some(&ill)).len(), 3);
        for stage in [Stage::Starting, Stage::Draining] {
            assert_eq!(not_live(stage, Some(&ill)), Vec::<String>::new());
        }
    }
}
