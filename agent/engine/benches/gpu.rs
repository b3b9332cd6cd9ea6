//! One model on the CPU and on a GPU, with candle's products and with batch-invariant ones: whether all say the same, and how fast
//! each is.
//!
//! `cargo bench -p llmdeck-engine --features cuda --bench gpu [-- MODEL [TEXT]]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use llmdeck_engine::device::Device;
use llmdeck_engine::engine::EngineOptions;
use llmdeck_engine::model::Model;
use llmdeck_engine::roofline::{GpuLimits, MachineLimits, ModelRate, measure_model};
use llmdeck_engine::session::Session;
use llmdeck_engine::{Isa, Pool};
use llmdeck_kernels::logits::summarize_logits;

const MODEL: &str = "../../target/gemma/gemma-3-270m-q4_k_m.gguf";
const TEXT: &str = "../../LICENSE-APACHE";
const TEXT_TOKENS: usize = 512;
const PROMPT_TOKENS: usize = 64;
const GREEDY_TOKENS: usize = 64;
const MEMORY_BYTES: u64 = 1 << 30;

/// What one device did.
struct Measured {
    load_s: f64,
    rates: Vec<ModelRate>,
    perplexity: f64,
    greedy: Vec<u32>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let given = |index: usize, usual: &str| match arguments.get(index) {
        Some(path) => PathBuf::from(path),
        None => here.join(usual),
    };
    let (path, text) = (given(0, MODEL), std::fs::read_to_string(given(1, TEXT))?);
    let pool = Arc::new(Pool::of_machine()?);
    let gpus = GpuLimits::measure_all()?;
    let gpu = gpus.first().ok_or("there is no GPU that this program can use")?;
    let limits = MachineLimits::measure(&pool, MEMORY_BYTES)?;
    println!(
        "{}: copies {:.0} GB/s, bf16 {:.0} TFLOP/s. CPU: {} threads, {}, {:.0} GB/s\n",
        gpu.name,
        gpu.copy_bytes_per_s / 1e9,
        gpu.bf16_operations_per_s / 1e12,
        pool.threads(),
        Isa::widest().as_str(),
        limits.memory_read_bytes_per_s / 1e9,
    );
    let run = |device, batch_invariant| {
        let options = EngineOptions { device, batch_invariant, ..EngineOptions::default() };
        measure(&options, &path, &text, &pool, &limits, &gpus)
    };
    let on_gpu = [run(gpu.device, false)?, run(gpu.device, true)?];
    print(&run(Device::Cpu, false)?, &on_gpu);
    Ok(())
}

fn measure(
    options: &EngineOptions,
    path: &Path,
    text: &str,
    pool: &Arc<Pool>,
    limits: &MachineLimits,
    gpus: &[GpuLimits],
) -> Result<Measured, Box<dyn Error>> {
    let began = Instant::now();
    let model = Arc::new(Model::load_on(options, path, pool, &mut |_| {})?);
    let load_s = began.elapsed().as_secs_f64();
    let mut tokens = model.tokenizer.encode(text)?;
    tokens.truncate(TEXT_TOKENS);
    let perplexity = perplexity(&model, &tokens)?;
    let greedy = greedy(&model, &tokens[..PROMPT_TOKENS.min(tokens.len())])?;
    let rates = measure_model(&model, |_| true)?.iter().map(|step| step.rate(limits, gpus)).collect();
    Ok(Measured { load_s, rates, perplexity, greedy })
}

fn perplexity(model: &Arc<Model>, tokens: &[u32]) -> Result<f64, Box<dyn Error>> {
    let mut session = Session::new(model, tokens.len())?;
    let vocabulary = model.decoder.description().vocabulary;
    let rows = session.all(tokens)?.chunks_exact(vocabulary).zip(&tokens[1..]);
    let surprise = |(row, next): (&[f32], &u32)| {
        f64::from(summarize_logits(row).log_normalizer) - f64::from(row[*next as usize])
    };
    Ok((rows.map(surprise).sum::<f64>() / (tokens.len() - 1) as f64).exp())
}

fn greedy(model: &Arc<Model>, prompt: &[u32]) -> Result<Vec<u32>, Box<dyn Error>> {
    let mut session = Session::new(model, prompt.len() + GREEDY_TOKENS)?;
    let (mut next, mut chosen) = (prompt.to_vec(), Vec::new());
    for _ in 0..GREEDY_TOKENS {
        let logits = session.next(&next)?;
        let likeliest = (0..logits.len()).max_by(|one, other| logits[*one].total_cmp(&logits[*other]));
        next = vec![likeliest.unwrap_or(0) as u32];
        chosen.push(next[0]);
    }
    Ok(chosen)
}

fn print(cpu: &Measured, gpu: &[Measured; 2]) {
    println!("| | CPU | GPU | of the limit | GPU, batch-invariant | of the limit |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    let [fastest, invariant] = gpu;
    println!("| load, s | {:.2} | {:.2} | | {:.2} | |", cpu.load_s, fastest.load_s, invariant.load_s);
    let reached = |rate: &ModelRate| {
        let share = 100.0 * rate.memory_share.max(rate.arithmetic_share);
        format!("{:.0} | {share:.0} % {:?}", rate.tokens_per_s, rate.bound)
    };
    for (rate, ours) in fastest.rates.iter().zip(&invariant.rates) {
        let same = |other: &&ModelRate| (&other.phase, other.sequences) == (&rate.phase, rate.sequences);
        let on_cpu = cpu.rates.iter().find(same).map(|rate| format!("{:.0}", rate.tokens_per_s));
        println!(
            "| {}, {} at once, tokens/s | {} | {} | {} |",
            rate.phase,
            rate.sequences,
            on_cpu.unwrap_or_default(),
            reached(rate),
            reached(ours)
        );
    }
    let perplexities = gpu.each_ref().map(|measured| format!("{:.4}", measured.perplexity));
    println!("| perplexity of the text | {:.4} | {} | |", cpu.perplexity, perplexities.join(" | | "));
    let same = gpu.each_ref().map(|measured| {
        let both = cpu.greedy.iter().zip(&measured.greedy);
        format!("{} of {}", both.take_while(|(one, other)| one == other).count(), measured.greedy.len())
    });
    println!("| greedy tokens that are the CPU's | | {} | |", same.join(" | | "));
}
