//! `llmdeck-agent`

use std::process::ExitCode;

use clap::Parser;
use llmdeck_agent::cli::{Cli, run};
use llmdeck_engine::give_memory_back;

fn main() -> ExitCode {
    give_memory_back();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llmdeck-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
