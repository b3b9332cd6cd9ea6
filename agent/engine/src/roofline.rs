//! How far a model is from what its machine can do (the roofline of Williams, Waterman and Patterson 2009): every step
//! reads all weights once, and multiplies each of them with every row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_kernels::gpu::limits::copy_bytes_per_s;
use llmdeck_kernels::gpu::{self, gpu_count, gpu_state};
use llmdeck_kernels::limits::{
    bf16_operations_per_s, f32_operations_per_s, int8_operations_per_s, memory_read_bytes_per_s,
};
use llmdeck_kernels::{Isa, Pool, WeightFormat};
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::batch::Batch;
use crate::description::{DecoderDescription, TensorRole};
use crate::device::Device;
use crate::model::Model;

/// Memory that is read through, in bytes: several times the caches of most machines.
const MOST_MEMORY_BYTES: u64 = 1 << 30;
const LEAST_MEMORY_BYTES: u64 = 128 << 20;
const PROMPT_TOKENS: usize = 512;
const SEQUENCES: [usize; 3] = [1, 8, 16];
/// A GPU takes more to be busy.
const GPU_SEQUENCES: [usize; 4] = [1, 8, 32, 64];
const COPIED_BYTES: usize = 1 << 30;
const MATRIX_WIDTH: usize = 8_192;
const WARM_STEPS: usize = 4;
const STEPS: usize = 24;
/// What each figure is measured for at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// A limit that is used to this share is what holds a model up.
const NEAR: f64 = 0.6;

/// What a machine can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineLimits {
    /// Threads that compute.
    pub threads: usize,
    /// Widest instruction set that the kernels use.
    pub instructions: String,
    /// All threads together.
    pub memory_read_bytes_per_s: f64,
    /// Multiplications and additions of 8-bit numbers.
    pub int8_operations_per_s: f64,
    /// The same of bfloat16; absent where the machine has no instruction for it.
    pub bf16_operations_per_s: Option<f64>,
    /// The same of 32-bit floats.
    pub f32_operations_per_s: f64,
}

/// What a GPU can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuLimits {
    /// `cuda:0`.
    pub device: Device,
    /// As its driver calls it.
    pub name: String,
    /// Within its memory, reads and writes together.
    pub copy_bytes_per_s: f64,
    /// Multiplications and additions in products of large matrices.
    pub bf16_operations_per_s: f64,
}

impl GpuLimits {
    /// Measures every GPU that this program can use; none where it was built without CUDA.
    ///
    /// # Errors
    /// When a GPU has no room, or fails.
    pub fn measure_all() -> Result<Vec<Self>, EngineError> {
        (0..gpu_count()).map(|index| Self::measure(Device::Cuda(index))).collect()
    }

    fn measure(device: Device) -> Result<Self, EngineError> {
        let gpu = device.open()?;
        let name = gpu_state(&gpu)?.map(|state| state.name).unwrap_or_default();
        let copy_bytes_per_s = copy_bytes_per_s(&gpu, COPIED_BYTES)?;
        let bf16_operations_per_s = gpu::limits::bf16_operations_per_s(&gpu, MATRIX_WIDTH)?;
        Ok(Self { device, name, copy_bytes_per_s, bf16_operations_per_s })
    }
}

/// What keeps a model from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Reading weights and cache.
    Memory,
    /// Multiplying.
    Arithmetic,
    /// Neither: what happens between products, and threads that wait for each other.
    Scheduling,
}

/// How fast a model is at one thing, and what share of the limits that takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRate {
    /// `prefill` or `decode`.
    pub phase: String,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens a second of all together.
    pub tokens_per_s: f64,
    /// Share of the memory's rate that its reads take.
    pub memory_share: f64,
    /// Share of the arithmetic's rate that its products take.
    pub arithmetic_share: f64,
    /// What holds it up.
    pub bound: Bound,
}

impl MachineLimits {
    /// Measures for about a second; `free_bytes` bounds the memory that is read through.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn measure(pool: &Pool, free_bytes: u64) -> std::io::Result<Self> {
        Ok(Self {
            threads: pool.threads(),
            instructions: Isa::widest().as_str().to_owned(),
            memory_read_bytes_per_s: memory_read_bytes_per_s(pool, memory_bytes(free_bytes))?,
            int8_operations_per_s: int8_operations_per_s(pool),
            bf16_operations_per_s: bf16_operations_per_s(pool),
            f32_operations_per_s: f32_operations_per_s(pool),
        })
    }

    /// Measures the memory once more, and keeps the better figure: what disturbs it makes it slower, never faster.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn measure_memory_again(&mut self, pool: &Pool, free_bytes: u64) -> std::io::Result<()> {
        let again = memory_read_bytes_per_s(pool, memory_bytes(free_bytes))?;
        self.memory_read_bytes_per_s = self.memory_read_bytes_per_s.max(again);
        Ok(())
    }

    /// `in_bfloat16`: for weights that have such products.
    fn operations_per_s(&self, format: WeightFormat, in_bfloat16: bool) -> f64 {
        if in_bfloat16
            && format.has_bfloat16_products()
            && let Some(rate) = self.bf16_operations_per_s
        {
            return rate;
        }
        match format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16 => self.f32_operations_per_s,
            _ => self.int8_operations_per_s,
        }
    }
}

/// One thing that a model does, and how long it took.
pub struct MeasuredStep {
    phase: &'static str,
    sequences: usize,
    tokens: usize,
    seconds: f64,
    read_bytes: f64,
    operations: f64,
    format: WeightFormat,
    in_bfloat16: bool,
    device: Device,
}

impl MeasuredStep {
    /// `rows` in a step, one of each sequence with logits, over `seen_tokens` of keys and values in all.
    fn new(
        model: &Model,
        phase: &'static str,
        sequences: usize,
        rows: usize,
        seen_tokens: usize,
        seconds: f64,
    ) -> Self {
        let description = model.decoder.description();
        let (layers, table) = (layer_parameters(description), table_parameters(description));
        let cache = 2 * seen_tokens * description.kv_heads * description.head_dim * description.layers;
        Self {
            phase,
            sequences,
            tokens: rows,
            seconds,
            read_bytes: model.decoder.bytes_read_a_step() as f64 + (cache * size_of::<u16>()) as f64,
            operations: 2.0 * (layers as f64 * rows as f64 + table as f64 * sequences as f64),
            format: model.decoder.layer_format(),
            in_bfloat16: model.bfloat16_tokens(rows / sequences.max(1)) > 0,
            device: model.device,
        }
    }

    /// Held against what the machine can do, or the GPU that computed it where `gpus` has it.
    pub fn rate(&self, limits: &MachineLimits, gpus: &[GpuLimits]) -> ModelRate {
        let gpu = gpus.iter().find(|gpu| gpu.device == self.device);
        let (bytes_per_s, operations_per_s) = match gpu {
            Some(gpu) => (gpu.copy_bytes_per_s, gpu.bf16_operations_per_s),
            None => (limits.memory_read_bytes_per_s, limits.operations_per_s(self.format, self.in_bfloat16)),
        };
        let memory_share = self.read_bytes / self.seconds / bytes_per_s;
        let arithmetic_share = self.operations / self.seconds / operations_per_s;
        let bound = if memory_share.max(arithmetic_share) < NEAR {
            Bound::Scheduling
        } else if memory_share >= arithmetic_share {
            Bound::Memory
        } else {
            Bound::Arithmetic
        };
        ModelRate {
            phase: self.phase.to_owned(),
            sequences: self.sequences,
            tokens_per_s: self.tokens as f64 / self.seconds,
            memory_share,
            arithmetic_share,
            bound,
        }
    }
}

fn memory_bytes(free_bytes: u64) -> usize {
    (free_bytes / 4).clamp(LEAST_MEMORY_BYTES, MOST_MEMORY_BYTES) as usize
}

fn layer_parameters(description: &DecoderDescription) -> usize {
    let tensors = description.tensors();
    let layers = tensors.iter().filter(|(role, _)| matches!(role, TensorRole::Layer(..)));
    layers.map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

fn table_parameters(description: &DecoderDescription) -> usize {
    description.vocabulary * description.width
}

/// Measures prompts and answers of a model, seconds in all, beside whatever else the machine does. `goes_on` hears the
/// share that is done, and ends it by saying `false`.
///
/// # Errors
/// When memory does not suffice for a cache beside the model's own, or a GPU fails.
pub fn measure_model(
    model: &Arc<Model>,
    mut goes_on: impl FnMut(f64) -> bool,
) -> Result<Vec<MeasuredStep>, EngineError> {
    let description = model.decoder.description();
    let token = |position: usize, sequence: usize| {
        ((position * 31 + sequence * 7 + 11) % description.vocabulary) as u32
    };
    let mut steps = Vec::new();
    let counts = if model.device == Device::Cpu { SEQUENCES.as_slice() } else { &GPU_SEQUENCES };
    let stages = (counts.len() + 1) as f64;

    let length = PROMPT_TOKENS.min(description.context / 2).max(1);
    let prompt: Vec<u32> = (0..length).map(|position| token(position, 0)).collect();
    let mut batch = Batch::new(model, 1, length)?;
    let step_s = fastest(3, || {
        batch.forget();
        batch.step(std::slice::from_ref(&prompt)).is_ok()
    });
    steps.push(MeasuredStep::new(model, "prefill", 1, length, length, step_s));

    for (index, sequences) in counts.iter().copied().enumerate() {
        if !goes_on((index + 1) as f64 / stages) {
            break;
        }
        let room = (WARM_STEPS + STEPS).min(description.context);
        let mut batch = Batch::new(model, sequences, room)?;
        let mut position = 0;
        let mut step = || {
            position += 1;
            batch
                .step(&(0..sequences).map(|sequence| vec![token(position, sequence)]).collect::<Vec<_>>())
                .is_ok()
        };
        (0..WARM_STEPS.min(room / 2)).for_each(|_| {
            step();
        });
        let step_s = typical(room - WARM_STEPS.min(room / 2), &mut step);
        let seen = sequences * room / 2;
        steps.push(MeasuredStep::new(model, "decode", sequences, sequences, seen, step_s));
    }
    Ok(steps)
}

fn fastest(times: usize, mut work: impl FnMut() -> bool) -> f64 {
    let began = Instant::now();
    let mut best = f64::INFINITY;
    for _ in 0..times {
        let start = Instant::now();
        if !work() || began.elapsed() > PATIENCE {
            return best.min(start.elapsed().as_secs_f64());
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// The median of single steps.
fn typical(times: usize, mut work: impl FnMut() -> bool) -> f64 {
    let began = Instant::now();
    let mut seconds = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        if !work() {
            break;
        }
        seconds.push(start.elapsed().as_secs_f64());
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::INFINITY)
}
