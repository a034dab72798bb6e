//! The commands a person or a supervisor starts; one file per command.
//!
//! Never here: rules, or work that another entry point would need too. A command gathers its settings,
//! calls the floors below and says how it went.

mod broker;
pub mod config;
pub mod dead_letters;
pub mod demo;
mod embedded;
pub mod exit;
pub mod explain;
pub mod health;
pub mod inspect;
pub mod load;
mod log;
mod manual;
mod new_file;
mod reload;
pub mod replay;
pub mod schema;
pub mod serve;
pub mod store;
pub mod tail;
pub mod topology;
#[cfg(feature = "otlp")]
mod traces;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::exit::Exit;

/// Drives every approved remediation of a security incident to done.
#[derive(Parser)]
#[command(name = "remedyd", version, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service: consume from the broker until told to stop
    Serve(Box<config::SettingsArgs>),
    /// Play event files through the real pipeline in virtual time
    Replay(replay::ReplayArgs),
    /// Declare, check or print the exchanges and queues
    Topology(topology::Args),
    /// Watch the worked report, then some hundred tenants, in an embedded pipeline
    Demo(demo::DemoArgs),
    /// Measure a service under load at a real broker
    Load(Box<load::LoadArgs>),
    /// Look into a store that no service is using, or ask a running service
    Inspect(inspect::InspectArgs),
    /// Say in sentences why a report is where it is, what happens next and what somebody has to do
    Explain(explain::ExplainArgs),
    /// List, show, replay and discard what could never be applied
    DeadLetters(Box<dead_letters::DeadLettersArgs>),
    /// Write a store down, make one of what was written, verify it, or take a backup of a running service
    Store(store::StoreArgs),
    /// Watch the service's events as they are published
    Tail(Box<tail::TailArgs>),
    /// Check the settings, or print those in force
    Config(config::ConfigArgs),
    /// Ask a running service whether it is well
    Health(health::HealthArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Manual(manual::ManualArgs),
    /// Print the JSON Schemas of every event, and an AsyncAPI document, for those who send and read them
    Schema(schema::SchemaArgs),
}

/// The most for one partition: its engine has a thread of its own, commits have theirs, and the client another for each
/// connection. A worker that wakes is a switch for each message, which on a small machine costs more than it gains.
const WORKERS: usize = 2;

fn run_async(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    block_on(command)?
}

fn run_on(workers: usize, command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    block_on_workers(workers, command)?
}

/// Half of the cores: the other half is for the engines' threads and those that commit. What may block has tokio's bound of
/// 512 threads: one for a commit and one for a look at the store of each of the most partitions that there may be. A running
/// backup holds one more, a question at the ops port another: with so many partitions a commit may have to wait for a look to end.
fn workers_for(partitions: usize) -> usize {
    let half = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2);
    half.clamp(1, WORKERS * partitions)
}

fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    block_on_workers(workers_for(1), work)
}

fn block_on_workers<T>(workers: usize, work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let done = runtime.block_on(work);
    // what still blocks then, a store that is being read or a disk that hangs, is not waited for: it may last for ever
    runtime.shutdown_background();
    Ok(done)
}

/// Runs the command line and reports a failure on standard error, as one chain of causes.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => {
            // nothing is left to be done when even the terminal is gone
            let _ = usage.print();
            return if usage.use_stderr() { Exit::Config.into() } else { Exit::Ok.into() };
        }
    };
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Replay(args) => run_async(replay::run(args)),
        Command::Topology(args) => run_async(topology::run(args)).map_err(topology::with_exit),
        Command::Demo(args) => run_async(demo::run(args)),
        Command::Load(args) => run_on(workers_for(args.partitions_served()), load::run(*args)),
        Command::Inspect(args) => inspect::run(args),
        Command::Explain(args) => explain::run(args),
        Command::DeadLetters(args) => dead_letters::run(*args),
        Command::Store(args) => store::run(args),
        Command::Tail(args) => run_async(tail::run(*args)),
        Command::Config(args) => config::run(args),
        Command::Health(args) => run_async(health::run(args)),
        Command::Manual(args) => manual::run(&args, &Cli::command()),
        Command::Schema(args) => schema::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("remedyd: {error:#}");
        Exit::of(&error).into()
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    /// A conflict or a requirement that names an argument which is not there shows only when its command is run.
    #[test]
    fn every_command_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
