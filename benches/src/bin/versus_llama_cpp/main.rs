//! Our engine and llama.cpp on one file, taken in turns: load, prefill, decode of several sequences, memory.

mod measure;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Parser, ValueEnum};
use color_eyre::eyre::{Result, WrapErr, eyre};
use llmdeck_engine::{Allocator, Isa, give_memory_back};
use measure::Measurement;

/// As the agent has it.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Compares the engine with llama.cpp: `tests/fetch-gemma && benches/llama-cpp/install` first.
#[derive(Parser)]
struct Arguments {
    /// The file that both run.
    #[arg(long, default_value = "target/gemma/gemma-3-270m-q4_k_m.gguf")]
    model: PathBuf,
    /// Threads that each may use; all of the machine where it is absent.
    #[arg(long)]
    threads: Option<usize>,
    /// How often each is measured; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Python with llama-cpp-python.
    #[arg(long, default_value = "target/llama-cpp/bin/python")]
    python: PathBuf,
    /// A text whose perplexity both say.
    #[arg(long, default_value = "LICENSE-APACHE")]
    text: PathBuf,
    /// Only our engine, once, as JSON.
    #[arg(long)]
    alone: bool,
    /// With --alone: nothing wider than these instructions.
    #[arg(long, value_enum, requires = "alone")]
    instructions: Option<Instructions>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Instructions {
    Plain,
    Avx2,
    /// With VNNI.
    Avx512,
}

fn main() -> Result<()> {
    color_eyre::install()?;
    let arguments = Arguments::parse();
    let threads = match arguments.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    if arguments.alone {
        // As the agent does.
        give_memory_back();
        let limit = arguments.instructions.map(|instructions| match instructions {
            Instructions::Plain => Isa::Plain,
            Instructions::Avx2 => Isa::Avx2,
            Instructions::Avx512 => Isa::Avx512Vnni,
        });
        if limit.is_some_and(|limit| !limit.limit_to()) {
            return Err(eyre!("this machine does not have these instructions"));
        }
        println!("{}", serde_json::to_string(&measure::ours(&arguments.model, &arguments.text, threads)?)?);
        return Ok(());
    }
    let this = std::env::current_exe()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("llama-cpp/measure.py");
    let count = threads.to_string();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        // Each in a process of its own, so that its memory is its own.
        let own = Command::new(&this)
            .args(["--alone", "--threads", &count, "--model"])
            .arg(&arguments.model)
            .arg("--text")
            .arg(&arguments.text)
            .output();
        ours.push(read("our engine", own)?);
        let peer = Command::new(&arguments.python)
            .arg(&script)
            .arg(&arguments.model)
            .arg(&count)
            .arg(&arguments.text)
            .stderr(Stdio::null())
            .output();
        theirs.push(read("llama.cpp (benches/llama-cpp/install builds it)", peer)?);
    }
    print!("{}", table::render(&ours, &theirs));
    Ok(())
}

fn read(who: &str, output: std::io::Result<std::process::Output>) -> Result<Measurement> {
    let output = output.wrap_err_with(|| format!("{who} could not be started"))?;
    if !output.status.success() {
        return Err(eyre!("{who} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).wrap_err_with(|| format!("{who} printed no measurement"))
}
