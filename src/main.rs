//! The program: parses the command line, runs one command, turns its end into an exit code.
//!
//! Never here: anything worth testing without a process.

use std::process::ExitCode;

/// Decisions are made of small short-lived pieces: with the system's allocator a fifth more of the CPU goes into them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    remedyd::cli::main(std::env::args_os())
}
