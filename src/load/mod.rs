//! Load: what many tenants' reports, people and agents send, made from a seed.
//!
//! [`scenario`] is a pure function of its figures: no clock, no I/O, and no idea of how it is taken. The demonstration
//! plays it in virtual time. [`live`] sends to a real broker and measures a real service; its worlds are as pure, its
//! rig is not.

mod dice;
pub mod live;
mod noise;
mod people;
mod plan;
pub mod scenario;
mod script;
