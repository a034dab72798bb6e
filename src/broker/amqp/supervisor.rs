//! Keeps one connection: connect, check the topology, work until anything fails, drop everything, wait, again.
//!
//! Never here: what the connection is for ([`Session`]), and giving up.

use tokio_util::sync::CancellationToken;

use super::connection::{AmqpError, Connection};
use super::declare;
use super::retry::Retry;
use super::settings::{AmqpSettings, AtConnect};
use crate::broker::topology::Topology;

/// What one of the link's connections is for.
pub trait Session: Send {
    /// For logs and for the broker's list of connections.
    const NAME: &'static str;

    /// Works on a new connection until it fails, or until the link is closing (`Ok`). `epoch` counts this
    /// session's connections from 1.
    fn run(&mut self, connection: &Connection, epoch: u64) -> impl Future<Output = Result<(), AmqpError>> + Send;

    /// The connection is no more. Returns how long it had been of use.
    fn ended(&mut self) -> std::time::Duration;

    /// No further connection follows.
    fn closed(&mut self);
}

/// Runs `session` on one connection after the other until `closing`.
pub async fn supervise(mut session: impl Session, settings: AmqpSettings, closing: CancellationToken, seed: u64) {
    let mut retry = Retry::new(seed);
    let mut epoch = 0;
    while let Some(outcome) = closing.run_until_cancelled(connect(&settings, session_name(&session))).await {
        let outcome = match outcome {
            Ok(connection) => {
                epoch += 1;
                let worked = session.run(&connection, epoch).await;
                retry.held(session.ended());
                if worked.is_ok() {
                    connection.close().await;
                    break;
                }
                worked
            }
            Err(error) => Err(error),
        };
        let delay = retry.delay();
        if let Err(error) = outcome {
            report(&session, &error, delay);
        }
        if closing.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            break;
        }
    }
    session.closed();
}

async fn connect(settings: &AmqpSettings, role: &str) -> Result<Connection, AmqpError> {
    let name = format!("{} p{} {role}", settings.topology.prefix(), settings.partition);
    let connection = Connection::open(&settings.endpoint, &name, &settings.tls, settings.time_outs).await?;
    prepare(&connection, &settings.topology, settings.at_connect).await?;
    Ok(connection)
}

/// Both connections do this: each needs its half of the table, and either may be the first.
async fn prepare(connection: &Connection, topology: &Topology, at_connect: AtConnect) -> Result<(), AmqpError> {
    match at_connect {
        AtConnect::Trust => Ok(()),
        AtConnect::Apply => declare::apply(connection, topology).await,
        AtConnect::Check => {
            let differences = declare::check(connection, topology).await?;
            if differences.is_empty() {
                return Ok(());
            }
            let differences = differences.iter().map(ToString::to_string).collect();
            Err(AmqpError::Topology(differences))
        }
    }
}

fn session_name<S: Session>(_: &S) -> &'static str {
    S::NAME
}

fn report<S: Session>(_: &S, error: &AmqpError, delay: std::time::Duration) {
    let (role, error_chain) = (S::NAME, error.chain());
    let retry_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    if error.is_configuration() {
        tracing::error!(role, error = error_chain, retry_ms, "the broker refuses us: configuration");
    } else if error.is_tls() {
        tracing::error!(role, error = error_chain, retry_ms, "no encrypted connection to the broker: certificates");
    } else {
        tracing::warn!(role, error = error_chain, retry_ms, "connection lost");
    }
}
