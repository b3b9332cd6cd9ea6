use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use color_eyre::eyre::{Result, eyre};
use llmdeck_engine::Pool;
use llmdeck_engine::batch::Batch;
use llmdeck_engine::large_pages::LargePages;
use llmdeck_engine::model::Model;
use llmdeck_engine::session::Session;
use llmdeck_kernels::logits::summarize_logits;
use serde::{Deserialize, Serialize};

const PROMPTS: [usize; 2] = [128, 512];
const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];
const WARM: usize = 8;
const STEPS: usize = 32;
const REPEATS: usize = 3;
const MOST_TEXT_TOKENS: usize = 512;

/// What one process measured.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Measurement {
    /// From the start of loading to ready.
    pub(crate) load_s: f64,
    /// Tokens a second, by length of the prompt.
    pub(crate) prefill: BTreeMap<usize, f64>,
    /// Tokens a second of all sequences together, by their number.
    pub(crate) decode: BTreeMap<usize, f64>,
    /// Peak resident memory.
    pub(crate) peak_bytes: f64,
    /// Of the text, at most 512.
    pub(crate) tokens: Vec<u32>,
    /// Of those, each seen with all before it.
    pub(crate) perplexity: f64,
}

/// Measures our engine in this process.
pub(crate) fn ours(path: &Path, text: &Path, threads: usize) -> Result<Measurement> {
    let began = Instant::now();
    let pool = Arc::new(Pool::new(threads)?);
    let model = Arc::new(Model::load(path, &pool)?);
    let load_s = began.elapsed().as_secs_f64();
    // As the agent does behind a load, until the first request comes.
    let mut large_pages = LargePages::new(&model);
    while large_pages.gather() {}
    let token = |position: usize, sequence: usize| 1_000 + ((position * 31 + sequence * 7) % 4_000) as u32;
    let mut prefill = BTreeMap::new();
    for length in PROMPTS {
        let prompt: Vec<u32> = (0..length).map(|position| token(position, 0)).collect();
        let mut run = Batch::new(&model, 1, length)?;
        let mut measure = || {
            run.forget();
            let began = Instant::now();
            run.step(std::slice::from_ref(&prompt))?;
            Ok(length as f64 / began.elapsed().as_secs_f64())
        };
        // The first finds memory that was never touched, and does not count.
        measure()?;
        prefill.insert(length, repeated(measure)?);
    }
    let mut decode = BTreeMap::new();
    for sequences in BATCHES {
        let mut run = Batch::new(&model, sequences, WARM + REPEATS * STEPS)?;
        let mut position = 0;
        let mut step = || {
            position += 1;
            let tokens: Vec<_> = (0..sequences).map(|sequence| vec![token(position, sequence)]).collect();
            run.step(&tokens).map(|_| ())
        };
        (0..WARM).try_for_each(|_| step())?;
        let rate = repeated(|| {
            let began = Instant::now();
            (0..STEPS).try_for_each(|_| step())?;
            Ok((STEPS * sequences) as f64 / began.elapsed().as_secs_f64())
        })?;
        decode.insert(sequences, rate);
    }
    let peak_bytes = peak_bytes()?;
    let (tokens, perplexity) = perplexity(&model, &std::fs::read_to_string(text)?)?;
    Ok(Measurement { load_s, prefill, decode, peak_bytes, tokens, perplexity })
}

fn perplexity(model: &Arc<Model>, text: &str) -> Result<(Vec<u32>, f64)> {
    let mut tokens = model.tokenizer.encode(text)?;
    tokens.truncate(MOST_TEXT_TOKENS);
    let mut session = Session::new(model, tokens.len())?;
    let logits = session.all(&tokens)?;
    let vocabulary = model.decoder.description().vocabulary;
    let rows = logits.chunks_exact(vocabulary).zip(&tokens[1..]);
    let total: f64 = rows
        .map(|(row, next)| f64::from(summarize_logits(row).log_normalizer) - f64::from(row[*next as usize]))
        .sum();
    let perplexity = (total / (tokens.len() - 1) as f64).exp();
    Ok((tokens, perplexity))
}

fn repeated(mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    let rates = (0..REPEATS).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    Ok(median(rates))
}

pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

fn peak_bytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix("kB"))
        .ok_or_else(|| eyre!("/proc/self/status has no VmHWM"))?
        .trim()
        .parse()?;
    Ok(kib * 1_024.0)
}
