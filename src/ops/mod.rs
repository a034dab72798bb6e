//! The ops port: how a running service is watched and asked. Health, metrics, the questions of `inspect` and one page for
//! people, over HTTP.
//!
//! ```text
//! /livez /readyz /startupz      probes; no token
//! /metrics                      OpenMetrics
//! /                             the status page
//! /api/v1/…                     what `inspect` and `explain` answer, a page at a time
//! POST /api/v1/backup           the whole store (?partition=N, one of several) as of one moment, as lines
//! ```
//!
//! Reading only (a POST for the one question that costs the service something), beside the engine and never in its way: figures come from atomics, rows from committed batches, one
//! question at a time and each with a budget of rows.
//!
//! Never here: a write, a decision, a secret, or a reason to restart that a restart does not mend.

mod access;
mod api;
pub mod backup;
pub mod client;
pub mod explain;
mod facts;
mod health;
pub mod inspect;
mod metrics;
mod page;
pub mod port;
mod process;
pub mod systemd;
pub mod watched;

pub use access::Access;
