//! `remedyd topology`: the exchanges, queues and bindings at the broker, declared, checked or printed.
//!
//! Never here: a name or an argument of the topology; all are in [`Topology`].

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use crate::broker::amqp::Endpoint;
use crate::broker::amqp::connection::{AmqpError, Connection};
use crate::broker::amqp::declare;
use crate::broker::amqp::settings::{TimeOuts, Tls};
use crate::broker::topology::{DEFAULT_PREFIX, Topology};
use crate::config::PemFile;

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

#[derive(clap::Args)]
struct Shape {
    /// The broker; amqps:// unless it is on this machine
    #[arg(long, global = true, env = "REMEDYD_AMQP_URL", hide_env_values = true, default_value = "amqp://guest:guest@127.0.0.1:5672/%2f")]
    amqp_url: String,
    /// PEM certificates to trust besides the system's
    #[arg(long, global = true, env = "REMEDYD_AMQP__TLS_CA_FILE")]
    tls_ca_file: Option<PathBuf>,
    /// PEM certificate of our own, for a broker that asks for one
    #[arg(long, global = true, env = "REMEDYD_AMQP__TLS_CERT_FILE", requires = "tls_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its private key
    #[arg(long, global = true, env = "REMEDYD_AMQP__TLS_KEY_FILE", requires = "tls_cert_file")]
    tls_key_file: Option<PathBuf>,
    /// How many partitions tenants are shared out to; cannot be changed later without moving the data
    #[arg(long, global = true, default_value_t = 1)]
    partitions: u16,
    /// What all names start with; lets two installations share one virtual host
    #[arg(long, global = true, default_value = DEFAULT_PREFIX)]
    prefix: String,
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may carry a password.
        f.debug_struct("Shape").field("partitions", &self.partitions).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Does what `args` say. Exit code 1 is for differences found by `check`; everything else that goes wrong is an
/// error.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let topology = Topology::with_prefix(&args.shape.prefix, args.shape.partitions)?;
    match args.command {
        Command::Print => {
            let definitions = serde_json::to_string_pretty(&topology.definitions("/"))?;
            say(&definitions)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Apply => {
            let connection = connect(&args.shape).await?;
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
            let connection = connect(&args.shape).await?;
            let checked = declare::check_with_rights(&connection, &topology).await;
            let differences = checked.map_err(whole)?;
            connection.close().await;
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

async fn connect(shape: &Shape) -> anyhow::Result<Connection> {
    let endpoint = Endpoint::parse(&shape.amqp_url)?;
    let read = |path: &Option<PathBuf>, label: &str| {
        let file = path.as_ref().filter(|path| !path.as_os_str().is_empty()).map(|path| (path, PemFile::read(path, label)));
        file.map(|(path, read)| read.map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))).transpose()
    };
    let ca = read(&shape.tls_ca_file, "CERTIFICATE")?;
    let (certificate, key) = (read(&shape.tls_cert_file, "CERTIFICATE")?, read(&shape.tls_key_file, "PRIVATE KEY")?);
    let identity = certificate.as_ref().zip(key.as_ref()).map(|(certificate, key)| (certificate.expose(), key.expose()));
    let (tls, time_outs) = (Tls::new(ca.as_ref().map(PemFile::expose), identity), TimeOuts::default());
    let opened = Connection::open(&endpoint, "remedyd topology", &tls, time_outs);
    opened.await.map_err(whole)
}

/// With its causes in one line, the broker's own words among them.
fn whole(error: AmqpError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
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
