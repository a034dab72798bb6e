//! SIGHUP: the settings are read again, and what may change while the service runs is changed.
//!
//! Never here: a half-way. Settings with a mistake change nothing; the line that says so names every mistake. What may
//! change is the list in [`crate::config::RELOADABLE`].

use std::sync::Arc;

use tokio::signal::unix::Signal;

use super::config::SettingsArgs;
use super::log::LogFilter;
use crate::config::{Changes, Publishers, Settings};

/// What the service runs by, and the places where it can be changed.
pub struct Reload {
    pub args: SettingsArgs,
    pub in_force: Settings,
    pub filter: LogFilter,
    pub publishers: Arc<Publishers>,
}

impl Reload {
    /// Answers every signal, until it is dropped.
    pub async fn on(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            self.again();
        }
    }

    fn again(&mut self) {
        let new = match self.args.load() {
            Ok(new) => new,
            Err(errors) => {
                tracing::error!("the settings were not read again, those in force stay: {errors}");
                return;
            }
        };
        let changes = Changes::between(&self.in_force, &new);
        if self.in_force.log.filter != new.log.filter
            && let Err(error) = self.filter.set(&new.log.filter)
        {
            // it has been parsed before; only the log itself can be gone
            tracing::error!("the settings were not read again, those in force stay: log.filter: {error:#}");
            return;
        }
        self.publishers.replace(new.users.clone());
        self.in_force.log.filter = new.log.filter;
        self.in_force.users = new.users;
        tracing::info!(changed = shown(&changes.at_once), "the settings were read again");
        if !changes.with_a_restart.is_empty() {
            tracing::warn!(settings = shown(&changes.with_a_restart), "changed settings wait for a restart");
        }
    }
}

fn shown(paths: &[&str]) -> String {
    if paths.is_empty() { "nothing".to_owned() } else { paths.join(", ") }
}
