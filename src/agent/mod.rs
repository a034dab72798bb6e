//! Floor 2, the executor: what plays (today) or commands (later) the agent on a host.
//!
//! Never here: state. What a simulated host has done is in the records of its reports; the same order with
//! the same seed always has the same outcome.

pub mod simulated;
pub mod tries;
