//! Our fine-tuning and PEFT's on one model, from the same adapter, on the same batches: losses, steps a second, memory, and
//! whether each side's adapter says the same on the other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use color_eyre::eyre::{Result, WrapErr, eyre};
use llmdeck_builtin::assets::{DATASET, MODELS};
use llmdeck_engine::Pool;
use llmdeck_engine::adapter::{Adapter, MergedFormat};
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::finetune::{FineTune, Sample, TrainingData, TrainingSettings, Turn, conversation};
use llmdeck_engine::model::Model;
use llmdeck_engine::session::Session;
use llmdeck_kernels::limits::f32_operations_per_s;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PROBES: usize = 8;

/// Compares fine-tuning with PEFT: `benches/peft/install` first.
#[derive(Parser)]
struct Arguments {
    /// Threads that each may use; all of the machine where it is absent.
    #[arg(long)]
    threads: Option<usize>,
    /// Steps that both take.
    #[arg(long, default_value_t = 100)]
    steps: usize,
    /// Examples to a step.
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Python with PEFT.
    #[arg(long, default_value = "target/peft/bin/python")]
    python: PathBuf,
    /// Keep what layers computed in bfloat16.
    #[arg(long)]
    bf16: bool,
    /// A GGUF file or a folder; the built-in model that lacks a skill where it is absent.
    #[arg(long)]
    model: Option<PathBuf>,
}

#[derive(Serialize)]
struct Ours {
    losses: Vec<f64>,
    seconds: f64,
    tokens: usize,
    peak_bytes: u64,
}

#[derive(Deserialize)]
struct Theirs {
    /// The largest difference of logits with the adapter that we have trained, as a share of the largest.
    trained_by_us: f64,
    losses: Vec<f64>,
    seconds: f64,
    tokens: usize,
    peak_bytes: u64,
    probes: Vec<Probe>,
}

#[derive(Deserialize, Serialize)]
struct Probe {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn main() -> Result<()> {
    color_eyre::install()?;
    let arguments = Arguments::parse();
    let threads = match arguments.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("model.gguf");
    let path = match &arguments.model {
        Some(path) => path.clone(),
        None => {
            let model = MODELS.iter().find(|asset| asset.tag == "assistant-untaught");
            std::fs::write(&file, model.ok_or_else(|| eyre!("the model is missing"))?.bytes)?;
            file
        }
    };
    let pool = Arc::new(Pool::new(threads)?);
    let stored = Model::load(&path, &pool)?;
    let base = folder.path().join("base");
    std::fs::create_dir(&base)?;
    stored.write_merged(None, MergedFormat::F32, &base)?;
    let samples = samples(&stored)?;
    // Both sides on the same 32-bit numbers.
    write_words(&base, stored.decoder.description().vocabulary)?;
    let model = Arc::new(Model::load(&base, &pool)?);
    let settings = TrainingSettings {
        batch_size: arguments.batch,
        epochs: Some(1_000),
        held_out: 0.0,
        bf16: arguments.bf16,
        ..TrainingSettings::default()
    };
    let data = TrainingData { samples: samples.clone(), ..TrainingData::default() };
    let mut run =
        FineTune::new(Arc::clone(&model), pool, data, settings.clone()).map_err(|why| eyre!(why))?;
    let description = model.decoder.description();
    let written = |name: &str, run: &FineTune| -> Result<PathBuf> {
        let folder = folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        run.adapter().write(&folder, description, "base")?;
        Ok(folder)
    };
    written("first", &run)?;
    let (ours, learning_rates) = train(&mut run, arguments.steps)?;
    let trained = written("trained", &run)?;
    let probes = probes(&model, &trained, &samples[..PROBES.min(samples.len())])?;
    let work = json!({
        "samples": samples.iter().map(|sample| json!({ "tokens": sample.tokens, "weights": sample.weights })).collect::<Vec<Value>>(),
        "batches": batches(&run, samples.len(), arguments.batch, arguments.steps),
        "learning_rates": learning_rates,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "probes": probes,
    });
    std::fs::write(folder.path().join("work.json"), work.to_string())?;
    let theirs = theirs(&arguments.python, folder.path(), threads)?;
    let backwards = difference(&model, &folder.path().join("theirs"), &theirs.probes)?;
    let limit = Limit {
        operations_per_s: f32_operations_per_s(&model.pool),
        parameters: description.parameters(),
        trained: run.trained_parameters(),
    };
    print(&ours, &theirs, backwards, &limit, threads);
    Ok(())
}

/// A vocabulary that nobody reads: everything is in tokens already.
fn write_words(base: &Path, size: usize) -> Result<()> {
    let words: serde_json::Map<String, Value> = (0..size).map(|id| (format!("t{id}"), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "t0" },
    });
    Ok(std::fs::write(base.join("tokenizer.json"), tokenizer.to_string())?)
}

fn samples(model: &Model) -> Result<Vec<Sample>> {
    let lines = std::str::from_utf8(DATASET.bytes)?.lines();
    lines
        .map(|line| {
            let line: Value = serde_json::from_str(line)?;
            let turn = |message: &Value| -> Result<Turn> {
                Ok(Turn { message: serde_json::from_value::<Message>(message.clone())?, weight: 1.0 })
            };
            let turns = line["messages"].as_array().into_iter().flatten().map(turn);
            conversation(model, &turns.collect::<Result<Vec<Turn>>>()?).map_err(|why| eyre!(why))
        })
        .collect()
}

fn train(run: &mut FineTune, steps: usize) -> Result<(Ours, Vec<f64>)> {
    let mut ours = Ours { losses: Vec::new(), seconds: 0.0, tokens: 0, peak_bytes: 0 };
    let mut rates = Vec::new();
    let before = peak_bytes()?;
    for _ in 0..steps {
        let began = Instant::now();
        let report = run.step().map_err(|why| eyre!(why))?;
        ours.seconds += began.elapsed().as_secs_f64();
        ours.losses.push(report.loss);
        ours.tokens += report.tokens;
        rates.push(report.learning_rate);
    }
    ours.peak_bytes = peak_bytes()?.max(before);
    Ok((ours, rates))
}

fn batches(run: &FineTune, samples: usize, size: usize, steps: usize) -> Vec<Vec<usize>> {
    let an_epoch = samples.div_ceil(size);
    (0..steps)
        .map(|step| {
            let order = run.order(step / an_epoch);
            order[step % an_epoch * size..].iter().take(size).copied().collect()
        })
        .collect()
}

fn logits(model: &Arc<Model>, adapter: &Arc<Adapter>, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
    let mut session = Session::new(model, tokens.len())?.with_adapter(adapter);
    let all = session.all(tokens).map_err(|_| eyre!("the session is too short"))?;
    Ok(all.chunks_exact(model.decoder.description().vocabulary).map(<[f32]>::to_vec).collect())
}

fn probes(model: &Arc<Model>, trained: &Path, samples: &[Sample]) -> Result<Vec<Probe>> {
    let adapter = Arc::new(Adapter::load(trained, model)?);
    let probe = |sample: &Sample| {
        Ok(Probe { logits: logits(model, &adapter, &sample.tokens)?, tokens: sample.tokens.clone() })
    };
    samples.iter().map(probe).collect()
}

fn difference(model: &Arc<Model>, trained: &Path, probes: &[Probe]) -> Result<f64> {
    let adapter = Arc::new(Adapter::load(trained, model)?);
    let mut worst: f64 = 0.0;
    for probe in probes {
        let ours = logits(model, &adapter, &probe.tokens)?;
        let most = probe.logits.iter().flatten().fold(0.0f32, |most, logit| most.max(logit.abs()));
        let apart = ours.iter().flatten().zip(probe.logits.iter().flatten());
        let apart = apart.fold(0.0f32, |worst, (ours, theirs)| worst.max((ours - theirs).abs()));
        worst = worst.max(f64::from(apart / most));
    }
    Ok(worst)
}

fn theirs(python: &Path, folder: &Path, threads: usize) -> Result<Theirs> {
    let output = Command::new(python)
        .arg("benches/peft/train.py")
        .arg(folder)
        .arg(threads.to_string())
        .stderr(Stdio::inherit())
        .output()
        .wrap_err_with(|| format!("{} could not be run; benches/peft/install makes it", python.display()))?;
    if !output.status.success() {
        return Err(eyre!("PEFT's side failed"));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn peak_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
    Ok(kib * 1_024)
}

/// What bounds a training: the products of 32-bit floats that the machine can do.
struct Limit {
    operations_per_s: f64,
    /// All of the model's.
    parameters: u64,
    trained: usize,
}

fn print(ours: &Ours, theirs: &Theirs, backwards: f64, limit: &Limit, threads: usize) {
    let tail = |losses: &[f64]| {
        let last = &losses[losses.len().saturating_sub(10)..];
        last.iter().sum::<f64>() / last.len() as f64
    };
    let steps = ours.losses.len() as f64;
    let (our_speed, their_speed) = (steps / ours.seconds, steps / theirs.seconds);
    // Frozen weights need two of the three products (Kaplan et al. 2020, section 2.1), trained ones all three.
    let a_token = 4.0 * limit.parameters as f64 + 6.0 * limit.trained as f64;
    let most_tokens_per_s = limit.operations_per_s / a_token;
    let share = |tokens: usize, seconds: f64| tokens as f64 / seconds / most_tokens_per_s * 100.0;
    println!("| {threads} threads, {steps} steps | llmdeck | PEFT | ratio |");
    println!("| --- | --- | --- | --- |");
    println!("| steps/s | {our_speed:.2} | {their_speed:.2} | {:.2} |", our_speed / their_speed);
    println!(
        "| tokens/s | {:.0} | {:.0} | |",
        ours.tokens as f64 / ours.seconds,
        theirs.tokens as f64 / theirs.seconds
    );
    println!(
        "| share of the arithmetic limit, {most_tokens_per_s:.0} tokens/s at {:.0} GFLOP/s | {:.0} % | {:.0} % | |",
        limit.operations_per_s / 1e9,
        share(ours.tokens, ours.seconds),
        share(theirs.tokens, theirs.seconds)
    );
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "| peak memory of the process, MiB | {} | {} | {:.2} |",
        mib(ours.peak_bytes),
        mib(theirs.peak_bytes),
        ours.peak_bytes as f64 / theirs.peak_bytes as f64
    );
    println!("| first loss | {:.4} | {:.4} | |", ours.losses[0], theirs.losses[0]);
    println!("| mean of the last 10 losses | {:.4} | {:.4} | |", tail(&ours.losses), tail(&theirs.losses));
    println!("| logits apart with our adapter | | {:.1e} | |", theirs.trained_by_us);
    println!("| logits apart with their adapter | {backwards:.1e} | | |");
}
