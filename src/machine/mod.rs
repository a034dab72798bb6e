//! Floor 1, the rules: `decide(subject, event, now, policy) -> Decision`, total and pure.
//!
//! Never here: I/O, async, a clock, randomness, logging, JSON. Time, policy and the subject come in as
//! values; what is to be done leaves as values. So every interleaving can be tested, and live traffic,
//! timers, outcomes of attempts and recovery after a crash take one path.
//!
//! Reading order: [`event`] (what can happen), [`decision`] (what can come of it), [`decide()`], then one file
//! per table of the lifecycle: `reports` and `closing` (R), `tasks`, `requests` and `footholds` (T), `isolation`
//! (I), `presence` (A). [`gate`] derives phase and blockers, [`timers`] what is due when, [`policy`] holds roles and
//! figures, `sla` how soon somebody must act, [`triage`] the helpdesk's four questions. [`organization`] decides
//! about the tenant as a whole.

mod closing;
pub mod decide;
pub mod decision;
mod draft;
pub mod event;
mod footholds;
pub mod gate;
pub mod invariants;
mod isolation;
pub mod notice;
pub mod order;
pub mod organization;
pub mod policy;
mod presence;
mod reports;
mod requests;
mod sla;
pub mod subject;
mod tasks;
pub mod timers;
pub mod triage;

pub use decide::decide;
