//! Where the broker is, for commands that speak to it themselves, and a connection to it.
//!
//! Never here: what is done there; the settings of the service, which has a file for them.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::broker::amqp::Endpoint;
use crate::broker::amqp::connection::{AmqpError, Connection};
use crate::broker::amqp::settings::{TimeOuts, Tls};
use crate::broker::topology::{DEFAULT_PREFIX, Topology, TopologyError};
use crate::config::PemFile;

use super::exit::Exit;

#[derive(clap::Args)]
pub(super) struct BrokerArgs {
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
    /// What all names start with; lets two installations share one virtual host
    #[arg(long, global = true, env = "REMEDYD_AMQP__PREFIX", default_value = DEFAULT_PREFIX)]
    prefix: String,
}

impl std::fmt::Debug for BrokerArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // the URL may carry a password
        f.debug_struct("BrokerArgs").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl BrokerArgs {
    /// The names under the prefix.
    pub fn topology(&self, partitions: u16) -> Result<Topology, TopologyError> {
        Topology::with_prefix(&self.prefix, partitions)
    }

    pub fn endpoint(&self) -> anyhow::Result<Endpoint> {
        Ok(Endpoint::parse(&self.amqp_url)?)
    }

    /// `name` is what the broker's operator will see.
    pub async fn connect(&self, name: &str) -> anyhow::Result<Connection> {
        let endpoint = self.endpoint()?;
        let read = |path: &Option<PathBuf>, label: &str| {
            let file = path.as_ref().filter(|path| !path.as_os_str().is_empty()).map(|path| (path, PemFile::read(path, label)));
            file.map(|(path, read)| read.map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))).transpose()
        };
        let ca = read(&self.tls_ca_file, "CERTIFICATE")?;
        let (certificate, key) = (read(&self.tls_cert_file, "CERTIFICATE")?, read(&self.tls_key_file, "PRIVATE KEY")?);
        let identity = certificate.as_ref().zip(key.as_ref()).map(|(certificate, key)| (certificate.expose(), key.expose()));
        let (tls, time_outs) = (Tls::new(ca.as_ref().map(PemFile::expose), identity), TimeOuts::default());
        Connection::open(&endpoint, name, &tls, time_outs).await.map_err(whole)
    }

    /// As [`Self::connect`], with the exit codes of a command that is not `topology`.
    pub async fn connect_or_exit(&self, name: &str) -> anyhow::Result<Connection> {
        self.endpoint().context(Exit::Config)?;
        self.connect(name).await.context(Exit::Broker)
    }
}

/// With its causes in one line, the broker's own words among them.
pub(super) fn whole(error: AmqpError) -> anyhow::Error {
    anyhow::anyhow!(error.chain())
}
