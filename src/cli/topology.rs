//! `remedyd topology`: the exchanges, queues and bindings at the broker, declared, checked or printed.
//!
//! Never here: a name or an argument of the topology; all are in [`Topology`](crate::broker::topology::Topology).

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use crate::broker::amqp::declare;

use super::broker::{BrokerArgs, whole};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum Command {
    /// Declare what is missing. Changes nothing that is there; fails where something is there but different
    Apply,
    /// Compare with what is there and change nothing; exits 1 if anything is absent or different
    Check,
    /// Print it in the shape of RabbitMQ's definitions.json; needs no broker
    Print,
}

#[derive(Debug, clap::Args)]
struct Shape {
    #[command(flatten)]
    broker: BrokerArgs,
    /// How many partitions tenants are shared out to; cannot be changed later without moving the data
    #[arg(long, global = true, env = "REMEDYD_AMQP__PARTITIONS", default_value_t = 1)]
    partitions: u16,
}

/// Does what `args` say. Exit code 1 is for differences found by `check`; everything else that goes wrong is an
/// error.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let topology = args.shape.broker.topology(args.shape.partitions)?;
    match args.command {
        Command::Print => {
            let definitions = serde_json::to_string_pretty(&topology.definitions("/"))?;
            say(&definitions)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Apply => {
            let connection = args.shape.broker.connect("remedyd topology").await?;
            let applied = declare::apply(&connection, &topology).await;
            applied.map_err(whole)?;
            connection.close().await;
            say(&format!(
                "{} exchanges, {} queues and {} bindings are in place",
                topology.exchanges.len(),
                topology.queues.len(),
                topology.bindings.len(),
            ))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => {
            let connection = args.shape.broker.connect("remedyd topology").await?;
            let mut differences = declare::check(&connection, &topology).await.map_err(whole)?;
            connection.close().await;
            if differences.is_empty() {
                let asking = args.shape.broker.connect("remedyd topology rights").await?;
                differences = declare::rights(asking, &topology).await.map_err(whole)?;
            }
            for difference in &differences {
                say(&difference.to_string())?;
            }
            if !differences.is_empty() {
                return Ok(ExitCode::from(1));
            }
            say(&format!(
                "{} exchanges and {} queues are as they should be; the {} bindings cannot be read over AMQP \
                 (`topology apply` sets them again harmlessly)",
                topology.exchanges.len(),
                topology.queues.len(),
                topology.bindings.len(),
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("writing to standard output")
}

/// What went wrong, with its exit code: the command line, or the broker.
pub fn with_exit(error: anyhow::Error) -> anyhow::Error {
    use super::exit::Exit;
    if error.is::<Exit>() {
        return error;
    }
    let exit = if error.is::<crate::broker::topology::TopologyError>() || error.is::<crate::broker::amqp::SettingsError>() {
        Exit::Config
    } else {
        Exit::Broker
    };
    error.context(exit)
}
