//! The load run: a real broker, a real service, and what both come to under load.
//!
//! Open loop: an event is sent when it is meant to be, whatever the service does meanwhile, and its latency counts from
//! there; a generator that waits for answers would hide every stall. Only the maximum is found in a closed window: as
//! many events as keep the service's queues from running dry. It is not found by preloading a queue: what one process
//! drains from a full queue alone is more than producer, broker and service can keep up together, half of it may be
//! beyond their maximum, and the steps of a report would have lost their order in time. The bare relay that the
//! maximum is held against is fed by the same producer in the same way.
//!
//! Never here: the service's own code paths, counters or rows as evidence. It is judged by what it publishes; the one
//! look into its store, after it has stopped, is for surveys, which need no answer.

pub mod books;
pub mod child;
pub mod figures;
pub mod html;
pub mod mix;
pub mod relay;
pub mod run;

mod beat;
mod bodies;
mod flood;
mod host;
mod phases;
mod producer;
mod rig;
mod sequences;
mod svg;
mod world;

/// The broker cannot be reached, or takes nothing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BrokerFailed(pub String);
