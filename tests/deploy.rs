//! Everything under `deploy/`, held against the tools of those who will use it, and started where one machine can start it.
//!
//! Needs the packages that `tests/run.sh` lists, a broker for the parts that run the service, and PyPI at the first run.
//! Never here: a tool that is left out because it is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "deploy/broker.rs"]
mod broker;
#[path = "deploy/files.rs"]
mod files;
#[path = "deploy/health.rs"]
mod health;
#[path = "deploy/kubernetes.rs"]
mod kubernetes;
#[path = "support/node.rs"]
mod node;
#[path = "deploy/observability.rs"]
mod observability;
#[path = "service/outside.rs"]
mod outside;
#[path = "deploy/package.rs"]
mod package;
#[path = "service/process.rs"]
mod process;
#[path = "deploy/runbooks.rs"]
mod runbooks;
mod service;
#[path = "deploy/systemd.rs"]
mod systemd;
#[path = "deploy/tools.rs"]
mod tools;
