//! remedyd: drives every approved remediation of a security incident to done, refuses to close the report
//! until it is, says exactly what is in the way, and loses nothing.
//!
//! Floors, from the ground up; imports go only downwards (`tests/architecture.rs` holds the list):
//! [`model`] (nouns), [`machine`] (rules, pure), then side by side and unknown to each other [`wire`] (JSON),
//! [`store`] (disk), [`broker`] (AMQP), [`agent`] (simulated hosts) and [`config`]; [`pipeline`] joins them;
//! [`ops`] lets a running service be watched, [`cli`] is what a person starts. [`crash`] and [`mutation`]
//! are for the suite and compile to nothing.
//!
//! Reading order: `model`, `machine`, the ports in `store` and `broker`, `pipeline`, then the rest.

pub mod agent;
pub mod broker;
pub mod cli;
pub mod config;
pub mod crash;
pub mod load;
pub mod machine;
pub mod model;
pub mod mutation;
pub mod ops;
pub mod pipeline;
pub mod store;
pub mod wire;
