//! What a model takes in memory, exactly, known from its header before any weight is read.

use std::fmt;
use std::path::Path;

use llmdeck_kernels::attention::KeyValueStore;
use llmdeck_kernels::gpu::GpuStore;

use crate::EngineError;
use crate::blocks::BlockPool;
use crate::description::DecoderDescription;
use crate::device::Device;
use crate::engine::EngineOptions;
use crate::scratch::Scratch;
use crate::source::Source;
use crate::speculation::MOST_GUESSED_A_STEP;

/// Largest cache of a model whose settings name none.
const MOST_DEFAULT_CACHE_BYTES: u64 = 1 << 30;
/// Shortest context that is worth proposing.
const LEAST_USEFUL_TOKENS: usize = 256;
const MIB: u64 = 1 << 20;

/// Memory of a model under its settings. Tokenizer and program come on top, some megabytes, and what each compute thread keeps to unpack
/// for prompts in bfloat16, a megabyte or two.
#[derive(Clone, Debug, PartialEq)]
pub struct Footprint {
    /// Matrices and vectors, as the engine lays them out.
    pub weights_bytes: u64,
    /// Keys and values.
    pub cache_bytes: u64,
    /// Room for the numbers of the largest step.
    pub scratch_bytes: u64,
    /// Longest prompt and answer together that context and cache hold, in tokens.
    pub context_tokens: usize,
    /// Sequences of that length that the cache holds at once.
    pub sequences: usize,
    description: DecoderDescription,
    options: EngineOptions,
}

impl Footprint {
    /// Reads the header of a GGUF file, or the configuration and headers of a folder.
    ///
    /// # Errors
    /// What is missing or malformed, by file.
    pub fn of(path: &Path, options: &EngineOptions) -> Result<Self, EngineError> {
        let source = Source::open(path)?;
        let description = source.description().clone();
        let weights_bytes = source.resident_bytes()?;
        Ok(Self::new(description, weights_bytes, options))
    }

    /// Of a description whose weights take so much.
    pub fn new(description: DecoderDescription, weights_bytes: u64, options: &EngineOptions) -> Self {
        let context_tokens = context_tokens(&description, options);
        let blocks = cache_blocks(&description, options);
        let of_one = BlockPool::most_for(&description.windows(), context_tokens, max_step_tokens(options));
        Self {
            weights_bytes,
            cache_bytes: blocks as u64 * block_bytes(&description, options),
            scratch_bytes: scratch_bytes(&description, options),
            context_tokens,
            sequences: blocks.checked_div(of_one).unwrap_or(0).min(options.max_sequences.max(1)),
            description,
            options: *options,
        }
    }

    /// Where the model is to compute.
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// All of it that is the node's memory. A model on a GPU keeps its cache there, and a second copy of its weights.
    pub fn total_bytes(&self) -> u64 {
        let cache_bytes = if self.options.device == Device::Cpu { self.cache_bytes } else { 0 };
        self.weights_bytes.saturating_add(cache_bytes).saturating_add(self.scratch_bytes)
    }

    /// The settings nearest to those asked for that fit into `bytes`: a smaller cache, or fewer requests at once where
    /// that is not enough. `None` where not even one short sequence fits.
    pub fn fitting(&self, bytes: u64) -> Option<(EngineOptions, Self)> {
        let least = LEAST_USEFUL_TOKENS.min(self.context_tokens);
        let halved = std::iter::successors(Some(self.options.max_sequences.max(1)), |sequences| {
            (*sequences > 1).then(|| sequences / 2)
        });
        halved.into_iter().find_map(|max_sequences| {
            let options = EngineOptions { max_sequences, ..self.options };
            let fixed = self.weights_bytes.saturating_add(scratch_bytes(&self.description, &options));
            let left = bytes.checked_sub(fixed)?;
            if options.device != Device::Cpu {
                return Some((options, Self::new(self.description.clone(), self.weights_bytes, &options)));
            }
            let cache_bytes = left.min(self.cache_bytes) / MIB * MIB;
            let options = EngineOptions { cache_bytes: Some(cache_bytes), ..options };
            let fitting = Self::new(self.description.clone(), self.weights_bytes, &options);
            (fitting.context_tokens >= least).then_some((options, fitting))
        })
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let (total, weights, scratch) =
            (mib(self.total_bytes()), mib(self.weights_bytes), mib(self.scratch_bytes));
        let cache = format!(
            "cache {} for {} x {} tokens",
            mib(self.cache_bytes),
            self.sequences,
            self.context_tokens
        );
        match self.options.device {
            Device::Cpu => write!(f, "{total} MiB (weights {weights}, {cache}, scratch {scratch})"),
            gpu @ Device::Cuda(_) => {
                write!(f, "{total} MiB (weights {weights}, scratch {scratch}; on {gpu}: weights, {cache})")
            }
        }
    }
}

/// Most tokens in one step.
pub(crate) fn max_step_tokens(options: &EngineOptions) -> usize {
    options.max_step_tokens.max(options.max_sequences).max(1)
}

/// Bytes of a block of keys and values.
pub fn block_bytes(description: &DecoderDescription, options: &EngineOptions) -> u64 {
    let (kv_heads, head_dim) = (description.kv_heads, description.head_dim);
    let bytes = match options.device {
        Device::Cpu => KeyValueStore::block_bytes(options.cache_format, kv_heads, head_dim),
        Device::Cuda(_) => GpuStore::block_bytes(options.cache_format, kv_heads, head_dim),
    };
    bytes.max(1)
}

/// Blocks of the cache: as many as the settings' bytes hold, or else as `max_sequences` of the full context need, up to
/// a limit.
pub(crate) fn cache_blocks(description: &DecoderDescription, options: &EngineOptions) -> usize {
    let bytes = options.cache_bytes.unwrap_or(MOST_DEFAULT_CACHE_BYTES);
    let blocks = usize::try_from(bytes / block_bytes(description, options)).unwrap_or(usize::MAX);
    if options.cache_bytes.is_some() {
        return blocks;
    }
    let of_one = BlockPool::most_for(
        &description.windows(),
        longest_context(description, options),
        max_step_tokens(options),
    );
    blocks.min(of_one.saturating_mul(options.max_sequences.max(1)))
}

fn longest_context(description: &DecoderDescription, options: &EngineOptions) -> usize {
    options.context_tokens.map_or(description.context, |tokens| tokens.clamp(1, description.context))
}

/// What the context and the cache both hold.
pub(crate) fn context_tokens(description: &DecoderDescription, options: &EngineOptions) -> usize {
    let (windows, step) = (description.windows(), max_step_tokens(options));
    let blocks = cache_blocks(description, options);
    let fits = |tokens: usize| BlockPool::most_for(&windows, tokens, step) <= blocks;
    let (mut least, mut most) = (0, longest_context(description, options));
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        if fits(middle) { least = middle } else { most = middle - 1 }
    }
    least
}

/// Rows of a step whose logits may be wanted: one of each sequence, and guesses.
pub(crate) fn max_logit_rows(options: &EngineOptions) -> usize {
    (options.max_sequences.max(1) + MOST_GUESSED_A_STEP).min(max_step_tokens(options))
}

fn scratch_bytes(description: &DecoderDescription, options: &EngineOptions) -> u64 {
    Scratch::bytes_for(description, max_step_tokens(options), max_logit_rows(options))
}
