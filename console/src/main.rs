//! `llmdeck`

use std::process::ExitCode;

use clap::Parser;
use llmdeck::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
