//! Where the log goes: stderr, so that stdout stays a command's answer. And what never gets there, whatever the
//! filter says. Never here: what is logged.

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, registry, reload};

use crate::config::{Log, LogFormat};

/// The AMQP client. At trace it prints frames: the login with its password, whole bodies.
const CLIENT: &str = "lapin";
/// It logs a message that the broker has returned, with its body, as a warning. The relay says that one was.
const RETURNED_MESSAGES: &str = "lapin::returned_messages";

/// The filter of a log that runs.
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// From the next event on, these directives.
    pub fn set(&self, directives: &str) -> anyhow::Result<()> {
        Ok(self.0.reload(EnvFilter::try_new(directives)?)?)
    }
}

/// Starts the log of a long-running command.
pub fn start(log: &Log) -> anyhow::Result<LogFilter> {
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let (subscriber, filter) = subscriber(log, ansi, std::io::stderr)?;
    subscriber.init();
    Ok(filter)
}

fn subscriber<W>(log: &Log, ansi: bool, writer: W) -> anyhow::Result<(Box<dyn Subscriber + Send + Sync>, LogFilter)>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // Not a directive of the filter: a more specific one in the settings would win over it.
    let may_be_seen = filter_fn(may_be_seen).with_max_level_hint(LevelFilter::TRACE);
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&log.filter)?);
    let filter = filter.and(may_be_seen);
    let layer = fmt::layer().with_writer(writer);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match log.format {
        LogFormat::Json => Box::new(registry().with(layer.json().with_filter(filter))),
        LogFormat::Pretty => Box::new(registry().with(layer.with_ansi(ansi).with_filter(filter))),
    };
    Ok((subscriber, LogFilter(handle)))
}

fn may_be_seen(metadata: &Metadata<'_>) -> bool {
    let within = |module: &str| metadata.target().strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let frames = within(CLIENT) && *metadata.level() == Level::TRACE;
    !frames && !within(RETURNED_MESSAGES)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nothing panics while writing").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written under `filter` of one event each: a returned message, a frame, a warning, a debug line of ours.
    fn written(filter: &str, format: LogFormat) -> String {
        // which events anybody listens to is remembered for the whole process: one listener at a time
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().expect("no test has failed");
        let lines = Lines::default();
        let copy = lines.clone();
        let log = Log { format, filter: "off".to_owned() };
        let (subscriber, handle) = subscriber(&log, false, move || copy.clone()).expect("a filter");
        // as a service does whose settings were read again
        handle.set(filter).expect("a log");
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::error_span!(target: "lapin::returned_messages", "work", body = "canary").entered();
            tracing::warn!(target: "lapin::returned_messages", body = "canary", "returned");
            tracing::error!(target: "lapin::returned_messages::inner", body = "canary", "returned");
            tracing::trace!(target: "lapin::internal_rpc", password = "canary", "command");
            tracing::warn!(target: "lapin::channels", "from the client");
            tracing::debug!(target: "remedyd", "from us");
        });
        let bytes = lines.0.lock().expect("nothing panics while writing").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn no_filter_lets_out_what_the_client_prints_of_messages() {
        for format in [LogFormat::Pretty, LogFormat::Json] {
            for filter in [
                "trace",
                "lapin=trace",
                "lapin::returned_messages=trace",
                "[work]=trace",
                "lapin::returned_messages[work{body}]=trace,trace",
            ] {
                let written = written(filter, format);
                assert!(!written.contains("canary"), "{filter}: {written}");
            }
        }
    }

    #[test]
    fn the_rest_is_as_the_filter_says() {
        for (filter, client, ours) in [("info", true, false), ("debug", true, true), ("off", false, false), ("remedyd=debug", false, true)]
        {
            let written = written(filter, LogFormat::Pretty);
            assert_eq!((written.contains("from the client"), written.contains("from us")), (client, ours), "{filter}: {written}");
        }
    }
}
