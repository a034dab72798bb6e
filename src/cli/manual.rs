//! `remedyd manual DIR`: writes the manual pages, one for each command. For packagers, so it is not listed.
//!
//! Never here: a text of its own; what a page says is what `--help` says.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command};

use super::exit::Exit;

#[derive(Debug, Args)]
pub struct ManualArgs {
    /// The directory to write to; it is made if need be
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(args: &ManualArgs, program: &Command) -> anyhow::Result<ExitCode> {
    let wrong = || format!("writing the manual to {}", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(wrong).context(Exit::Input)?;
    clap_mangen::generate_to(program.clone(), &args.dir).with_context(wrong).context(Exit::Input)?;
    Ok(Exit::Ok.into())
}
