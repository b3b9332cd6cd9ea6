//! Inference over a ragged batch: the tokens of all sequences are rows of one matrix for every product; only attention
//! looks at sequences one by one, each over its own blocks. What a row gives does not depend on the rows beside it.

mod layer;
mod rows;
mod step;

use std::sync::Arc;

use llmdeck_kernels::attention::{CacheFormat, KeyValueStore};
use llmdeck_kernels::elementwise::{rms_norm, scale};
use llmdeck_kernels::{Isa, Matrix, Pool, Product, WeightFormat, matmul};

pub(crate) use layer::Layer;
use rows::normalize;
pub use step::Chunk;
pub(crate) use step::adapted;
use step::{Place, Step, bfloat16_rows};

use crate::EngineError;
use crate::adapter::Linear;
use crate::description::{DecoderDescription, TensorRole};
use crate::scratch::Scratch;
use crate::weights::Weights;

/// Tokens of a prompt below which it takes longer to unpack all weights to bfloat16 than to multiply in eight bits.
const LEAST_BFLOAT16_TOKENS: usize = 32;

/// A loaded decoder, shared between threads.
pub struct Decoder {
    description: DecoderDescription,
    pub(crate) embedding: Arc<Matrix>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) output: Arc<Matrix>,
    pub(crate) global_frequencies: Vec<f32>,
    pub(crate) local_frequencies: Option<Vec<f32>>,
    has_fast_bfloat16: bool,
    pool: Arc<Pool>,
}

impl Decoder {
    /// Takes the tensors that the description asks for. `progress` hears the share of layers that are loaded.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape.
    pub(crate) fn load(
        description: DecoderDescription,
        weights: &Weights<'_>,
        pool: &Arc<Pool>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, EngineError> {
        let table = [description.vocabulary, description.width];
        let embedding = Arc::new(weights.matrix(&description, TensorRole::Embedding, table)?);
        let load = |layer| {
            let loaded = Layer::load(&description, weights, layer);
            progress((layer + 1) as f64 / description.layers as f64);
            loaded
        };
        let layers: Vec<Layer> = (0..description.layers).map(load).collect::<Result<_, _>>()?;
        let final_norm = weights.norm(&description, TensorRole::FinalNorm, description.width)?;
        let output = if description.tied_output {
            Arc::clone(&embedding)
        } else {
            Arc::new(weights.matrix(&description, TensorRole::Output, table)?)
        };
        let mut global_frequencies = description.rope_inverse_frequencies(false);
        if let Some(divisors) = weights.rope_divisors(description.head_dim / 2)? {
            global_frequencies
                .iter_mut()
                .zip(divisors)
                .for_each(|(frequency, divisor)| *frequency /= divisor);
        }
        let local_frequencies = description.local.map(|_| description.rope_inverse_frequencies(true));
        let pool = Arc::clone(pool);
        let has_fast_bfloat16 =
            Isa::widest().bfloat16_is_fast() && layers.iter().any(Layer::has_bfloat16_products);
        Ok(Self {
            has_fast_bfloat16,
            embedding,
            layers,
            final_norm,
            output,
            global_frequencies,
            local_frequencies,
            description,
            pool,
        })
    }

    /// What it is made of.
    pub fn description(&self) -> &DecoderDescription {
        &self.description
    }

    /// Memory that its weights take, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let output = if self.description.tied_output { 0 } else { self.output.size_bytes() };
        let layers: u64 = self.layers.iter().map(Layer::size_bytes).sum();
        self.embedding.size_bytes() + output + layers + size_of_val(self.final_norm.as_slice()) as u64
    }

    /// Bytes of weights that a step reads: all but an embedding that is not the output matrix as well.
    pub fn bytes_read_a_step(&self) -> u64 {
        let embedding = if self.description.tied_output { 0 } else { self.embedding.size_bytes() };
        self.size_bytes() - embedding
    }

    /// All that a step reads.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(Layer::matrices).chain([&*self.output])
    }

    /// How the matrices of its layers are stored; most of them, where they differ.
    pub fn layer_format(&self) -> WeightFormat {
        self.layers.first().map_or(WeightFormat::F32, |layer| layer.gate.format())
    }

    /// A matrix of a layer, by what an adapter calls it.
    ///
    /// # Panics
    /// When there is no such layer: that is a bug of the caller.
    pub(crate) fn linear(&self, layer: usize, linear: Linear) -> &Matrix {
        let layer = &self.layers[layer];
        match linear {
            Linear::Query => &layer.query,
            Linear::Key => &layer.key,
            Linear::Value => &layer.value,
            Linear::AttentionOutput => &layer.attention_output,
            Linear::Gate => &layer.gate,
            Linear::Up => &layer.up,
            Linear::Down => &layer.down,
        }
    }

    /// Has long prompts multiplied in bfloat16, or not, whatever is faster on this machine: for tests.
    pub fn multiply_prompts_in_bfloat16(&mut self, wanted: bool) {
        self.has_fast_bfloat16 = wanted;
    }

    /// How many of a prompt's first tokens are to be multiplied in bfloat16: all or none. It must not depend on how many of them come
    /// in one step.
    pub(crate) fn bfloat16_tokens(&self, prompt_tokens: usize) -> usize {
        if self.has_fast_bfloat16 && prompt_tokens >= LEAST_BFLOAT16_TOKENS { prompt_tokens } else { 0 }
    }

    /// A store of keys and values for this decoder.
    ///
    /// # Errors
    /// When the system has not so much memory.
    pub fn store(&self, format: CacheFormat, blocks: usize) -> std::io::Result<KeyValueStore> {
        KeyValueStore::new(format, blocks, self.description.kv_heads, self.description.head_dim)
    }

    /// Runs one step: stores keys and values of every token, and returns logits, `[Σ logit_rows, vocabulary]`, chunk by
    /// chunk. The caller says to its pool of blocks which tokens stay.
    pub fn forward<'a>(
        &self,
        store: &mut KeyValueStore,
        chunks: &[Chunk<'_>],
        scratch: &'a mut Scratch,
    ) -> &'a mut [f32] {
        let places: Vec<Place> = chunks
            .iter()
            .enumerate()
            .flat_map(|(chunk, of)| {
                let first = of.blocks.len();
                (first..first + of.tokens.len()).map(move |position| Place { chunk, position })
            })
            .collect();
        self.embed(chunks, &mut scratch.hidden);
        let positions = places.iter().map(|place| place.position);
        let angles = self.angles(positions, &mut scratch.rotations);
        let bfloat16_rows = bfloat16_rows(chunks);
        let step = Step { chunks, places: &places, adapted: adapted(chunks), bfloat16_rows: &bfloat16_rows };
        let mut rotations = std::mem::take(&mut scratch.rotations);
        if let Some(first) = self.layers.first() {
            let eps = self.description.norm_eps as f32;
            normalize(&self.pool, &first.attention_norm, eps, &bfloat16_rows, scratch);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let local = layer.window.is_some() && self.local_frequencies.is_some();
            let angles = &rotations[if local { angles } else { 0 }..];
            layer.forward(self, index, &step, angles, store, scratch);
        }
        std::mem::swap(&mut rotations, &mut scratch.rotations);
        self.logits(chunks, scratch)
    }

    /// The embeddings of all tokens, `[rows, width]`.
    pub(crate) fn embed(&self, chunks: &[Chunk<'_>], hidden: &mut Vec<f32>) {
        let (width, factor) = (self.description.width, self.description.embedding_scale);
        let tokens = || chunks.iter().flat_map(|chunk| chunk.tokens);
        hidden.resize(tokens().count() * width, 0.0);
        for (row, token) in hidden.chunks_exact_mut(width).zip(tokens()) {
            self.embedding.row(*token as usize, row);
            if factor != 1.0 {
                scale(row, factor as f32);
            }
        }
    }

    /// Cosines and sines of every row, `[rows, 2, head_dim / 2]`, of the global layers and then of the local ones;
    /// returns where the latter begin.
    pub(crate) fn angles(
        &self,
        positions: impl Iterator<Item = usize> + Clone,
        rotations: &mut Vec<f32>,
    ) -> usize {
        rotations.clear();
        let mut write = |frequencies: &[f32]| {
            for position in positions.clone() {
                let angle = |frequency: &f32| position as f32 * frequency;
                rotations.extend(frequencies.iter().map(|frequency| angle(frequency).cos()));
                rotations.extend(frequencies.iter().map(|frequency| angle(frequency).sin()));
            }
            rotations.len()
        };
        let begin = write(&self.global_frequencies);
        if let Some(frequencies) = &self.local_frequencies {
            write(frequencies);
        }
        begin
    }

    fn logits<'a>(&self, chunks: &[Chunk<'_>], scratch: &'a mut Scratch) -> &'a mut [f32] {
        let (width, vocabulary) = (self.description.width, self.description.vocabulary);
        let mut wanted = Vec::new();
        let mut end = 0;
        for chunk in chunks {
            end += chunk.tokens.len();
            wanted.extend(end - chunk.logit_rows.min(chunk.tokens.len())..end);
        }
        scratch.normed.reshape(wanted.len(), width);
        for (mut row, from) in scratch.normed.each().into_iter().zip(&wanted) {
            let hidden = &scratch.hidden[from * width..][..width];
            rms_norm(hidden, &self.final_norm, self.description.norm_eps as f32, row.floats);
            row.round();
        }
        scratch.logits.resize(wanted.len() * vocabulary, 0.0);
        let product = Product { matrix: &self.output, column: 0 };
        matmul(&self.pool, &scratch.normed, &[product], &mut scratch.logits, vocabulary);
        &mut scratch.logits[..wanted.len() * vocabulary]
    }
}
