//! `remedyd health`: asks a running service whether it is well, for supervisors that can only start a program.
//!
//! Never here: a judgement. The service says how it is; this passes it on as an exit code.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::ops::client::{self, AskError, OpsUrl, Probe};

use super::exit::Exit;

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The ops port of the service
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9464")]
    url: OpsUrl,
    /// What to ask
    #[arg(long, value_enum, default_value = "live")]
    probe: Question,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Question {
    /// Would a restart help? (/livez)
    Live,
    /// Does it take and publish? (/readyz)
    Ready,
    /// Has it read its store? (/startupz)
    Started,
}

impl From<Question> for Probe {
    fn from(question: Question) -> Self {
        match question {
            Question::Live => Probe::Live,
            Question::Ready => Probe::Ready,
            Question::Started => Probe::Started,
        }
    }
}

/// Exit 0: well. 1: not, and why on standard output. 69: nobody answers.
pub async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let answer = client::probe(&args.url, args.probe.into()).await.map_err(|error| {
        let exit = match error {
            AskError::Unreachable { .. } => Exit::Broker,
            AskError::Denied { .. } | AskError::Refused { .. } | AskError::BrokeOff { .. } | AskError::Output(_) => Exit::Internal,
        };
        anyhow::Error::from(error).context(exit)
    })?;
    match answer {
        Ok(()) => {
            println!("ok");
            Ok(Exit::Ok.into())
        }
        Err(why) => {
            println!("{why}");
            Ok(Exit::Negative.into())
        }
    }
}
