//! `remedyd config`: are the settings right, and what are they?
//!
//! Never here: what a setting means. Never printed: a secret.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::exit::Exit;
use crate::config::{ConfigErrors, Overrides, Settings};

#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    question: Question,
}

#[derive(Subcommand)]
enum Question {
    /// Say OK, or name everything that is wrong (exit 64)
    Check(SettingsArgs),
    /// Print the settings in force as TOML, defaults included, secrets redacted
    Print(PrintArgs),
}

#[derive(Args)]
struct PrintArgs {
    /// A line for each key: its value, and whether that is a default or from a file, a credential, the environment or a flag
    #[arg(long)]
    sources: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// The flags by which any command takes its settings: flags win over the environment, that over the file.
///
/// A command line can be read by every user of the machine: where the URL holds a password, prefer the
/// environment or `amqp.url_file`.
#[derive(Clone, Default, Args)]
pub struct SettingsArgs {
    /// Settings file (TOML)
    #[arg(long, value_name = "FILE", env = "REMEDYD_CONFIG")]
    pub config: Option<PathBuf>,
    /// The broker [amqp.url]
    #[arg(long, value_name = "URL")]
    pub amqp_url: Option<String>,
    /// Directory of the store [store.dir]
    #[arg(long, value_name = "DIR")]
    pub store: Option<String>,
    /// The partitions this process serves: all, 2, 0-3, 0,2,5-7 [amqp.partition]
    #[arg(long, value_name = "WHICH")]
    pub partition: Option<String>,
    /// Declare the broker's topology at start-up [amqp.apply_topology]
    #[arg(long)]
    pub apply_topology: bool,
    /// How simulated hosts answer: steady, seeded [agents.model]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Seed of the seeded model [agents.seed]
    #[arg(long, value_name = "N")]
    pub seed: Option<String>,
    /// Where `now` comes from: system, events [clock.source]
    #[arg(long, value_name = "SOURCE")]
    pub clock: Option<String>,
    /// Form of the log: pretty, json [log.format]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// What is logged, e.g. info,remedyd=debug [log.filter]
    #[arg(long, value_name = "FILTER")]
    pub log_filter: Option<String>,
}

impl SettingsArgs {
    /// File, environment of this process and these flags, checked together.
    pub fn load(&self) -> Result<Settings, ConfigErrors> {
        Settings::load(self.config.as_deref(), &self.overrides())
    }

    fn overrides(&self) -> Overrides {
        Overrides::default()
            .set("--amqp-url", "amqp.url", self.amqp_url.as_deref())
            .set("--store", "store.dir", self.store.as_deref())
            .set("--partition", "amqp.partition", self.partition.as_deref())
            .set("--apply-topology", "amqp.apply_topology", self.apply_topology.then_some("true"))
            .set("--model", "agents.model", self.model.as_deref())
            .set("--seed", "agents.seed", self.seed.as_deref())
            .set("--clock", "clock.source", self.clock.as_deref())
            .set("--log-format", "log.format", self.log_format.as_deref())
            .set("--log-filter", "log.filter", self.log_filter.as_deref())
    }
}

pub fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    match args.question {
        Question::Check(settings) => {
            settings.load()?;
            println!("OK");
        }
        Question::Print(PrintArgs { sources: false, settings }) => print!("{}", settings.load()?.to_toml()),
        Question::Print(PrintArgs { sources: true, settings }) => {
            let (in_force, sources) = Settings::load_sourced(settings.config.as_deref(), &settings.overrides())?;
            print!("{}", in_force.with_sources(&sources));
        }
    }
    Ok(Exit::Ok.into())
}
