//! Where the log goes: stderr, so that stdout stays a command's answer. Never here: what is logged.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts the log of a long-running command.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Pretty => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
    }
    Ok(())
}
