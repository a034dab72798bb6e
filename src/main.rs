//! The program: parses the command line, runs one command, turns its end into an exit code.
//!
//! Never here: anything worth testing without a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    remedyd::cli::main(std::env::args_os())
}
