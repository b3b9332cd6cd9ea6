//! `llmdeck-agent`

use std::process::ExitCode;

use clap::Parser;
use llmdeck_agent::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llmdeck-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
