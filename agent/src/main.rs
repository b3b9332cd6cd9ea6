//! `llmdeck-agent`

use std::process::ExitCode;

use clap::Parser;
use llmdeck_agent::cli::{Cli, run};
use llmdeck_engine::{Allocator, give_memory_back};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

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
