//! Trains the built-in models from scratch and writes them with suite, dataset, card and log.
//!
//! ```text
//! cargo run --release -p llmdeck-builtin --bin train-builtin -- --out agent/builtin/assets
//! ```
//!
//! The defaults are the committed run's. Steps allocate and free large tensors: with glibc,
//! `MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592` keeps their pages, and
//! `RAYON_NUM_THREADS=1` leaves the cores to the two workers that share a batch.

mod evaluate;
mod recipe;
mod write;

use std::path::PathBuf;

use clap::Parser;
use color_eyre::eyre::Result;

#[derive(Parser)]
struct Arguments {
    /// Where models, suite, dataset, card and log are written.
    #[arg(long, default_value = "agent/builtin/assets")]
    out: PathBuf,
    /// Seed of weights and text.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// The step whose weights become `assistant-worse`.
    #[arg(long, default_value_t = 600)]
    early_step: usize,
    /// Steps without the missing skill, which make `assistant-untaught`.
    #[arg(long, default_value_t = 2_700)]
    steps: usize,
    /// Steps with every skill, which make `assistant`.
    #[arg(long, default_value_t = 800)]
    finish_steps: usize,
    /// Write suite and datasets, and train nothing.
    #[arg(long)]
    data_only: bool,
}

fn main() -> Result<()> {
    color_eyre::install()?;
    let arguments = Arguments::parse();
    if arguments.data_only {
        std::fs::create_dir_all(&arguments.out)?;
        write::suite(&arguments.out)?;
        write::dataset(&arguments.out)?;
        return write::skills(&arguments.out);
    }
    recipe::run(&recipe::Recipe {
        out: arguments.out,
        seed: arguments.seed,
        early_step: arguments.early_step,
        steps: arguments.steps,
        finish_steps: arguments.finish_steps,
    })
}
