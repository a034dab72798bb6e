//! Scenarios: what many tenants' reports, people and agents send, made from a seed.
//!
//! Never here: a clock, I/O, the pipeline. The demonstration and the load test publish what comes out; a
//! scenario knows nothing of how it is taken.

mod dice;
mod noise;
mod people;
mod plan;
pub mod scenario;
mod script;
