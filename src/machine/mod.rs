//! Floor 1, the rules: `decide(subject, event, now, policy) -> Decision`, total and pure.
//!
//! Never here: I/O, async, a clock, randomness, logging, JSON. Time, policy and the subject come in as
//! values; what is to be done leaves as values. So every interleaving can be tested, and live traffic,
//! timers, outcomes of attempts and recovery after a crash take one path.
//!
//! Reading order: [`event`] (what can happen), [`decision`] (what can come of it), [`decide`], then one file
//! per table of the lifecycle: [`reports`] (R), [`tasks`] (T), [`presence`] (A). [`gate`] derives phase and
//! blockers, [`policy`] holds roles and figures, [`triage`] the helpdesk's four questions.

// pub mod decide;
pub mod decision;
// pub mod draft;
pub mod event;
// pub mod gate;
pub mod notice;
// pub mod order;
pub mod policy;
// pub mod presence;
// pub mod reports;
pub mod subject;
// pub mod tasks;
// pub mod timers;
// pub mod triage;

// pub use decide::decide;
