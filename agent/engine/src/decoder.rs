//! Inference over a ragged batch: the tokens of all sequences are rows of one matrix for every product; only attention
//! looks at sequences one by one, each over its own blocks. What a row gives does not depend on the rows beside it.

use std::ops::Range;
use std::sync::Arc;

use llmdeck_kernels::attention::{BLOCK_TOKENS, CacheFormat, Heads, KeyValueStore, Queries, Span, attend};
use llmdeck_kernels::elementwise::{
    add, gelu_gate, rms_norm, rms_norm_in_place, rotate_halves, rotate_neighbours, scale, silu_gate,
};
use llmdeck_kernels::{GateAndUp, Isa, Matrix, Pool, Product, Rows, WeightFormat, matmul, matmul_gated};

use crate::EngineError;
use crate::adapter::{Adapted, Adapter, Linear};
use crate::blocks::SequenceBlocks;
use crate::description::{Activation, DecoderDescription, LayerPart, RopeLayout, TensorRole};
use crate::scratch::Scratch;
use crate::weights::Weights;

/// Rows below which one thread is quicker than several at what happens between products.
const LEAST_SHARED_ROWS: usize = 8;
/// Tokens of a prompt below which it takes longer to unpack all weights to bfloat16 than to multiply in eight bits.
const LEAST_BFLOAT16_TOKENS: usize = 32;

/// Tokens of one sequence to run in this step, behind those whose keys and values are stored.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// At least one.
    pub tokens: &'a [u32],
    /// Has room for them.
    pub blocks: &'a SequenceBlocks,
    /// How many of the last tokens get logits; the output matrix is the dearest of all.
    pub logit_rows: usize,
    /// What its products are changed by.
    pub adapter: Option<&'a Adapter>,
    /// How many of the first are multiplied in bfloat16, see [`Decoder::bfloat16_tokens`].
    pub bfloat16_tokens: usize,
}

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

/// A layer's weights.
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: Matrix,
    pub(crate) key: Matrix,
    pub(crate) value: Matrix,
    pub(crate) attention_output: Matrix,
    pub(crate) qkv_bias: Option<Vec<f32>>,
    pub(crate) head_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) post_norms: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: Matrix,
    pub(crate) up: Matrix,
    pub(crate) down: Matrix,
    pub(crate) window: Option<usize>,
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

/// What the layers of one step share.
struct Step<'a> {
    chunks: &'a [Chunk<'a>],
    places: &'a [Place],
    adapted: Adapted<'a>,
    /// Rows that are multiplied in bfloat16.
    bfloat16_rows: &'a [Range<usize>],
}

impl Step<'_> {
    /// Whether nothing but products of bfloat16 of these matrices is wanted of the rows that ask for it.
    fn asks_only_for_bfloat16(&self, matrices: &[&Matrix]) -> bool {
        self.adapted.spans.is_empty() && matrices.iter().all(|matrix| matrix.format().has_bfloat16_products())
    }
}

fn bfloat16_rows(chunks: &[Chunk<'_>]) -> Vec<Range<usize>> {
    let mut begin = 0;
    let rows = chunks.iter().map(|chunk| {
        let rows = begin..begin + chunk.bfloat16_tokens.min(chunk.tokens.len());
        begin += chunk.tokens.len();
        rows
    });
    rows.collect()
}

/// The rows of a step that run with adapters.
pub(crate) fn adapted<'a>(chunks: &[Chunk<'a>]) -> Adapted<'a> {
    let mut end = 0;
    let spans = chunks.iter().filter_map(|chunk| {
        let begin = end;
        end += chunk.tokens.len();
        chunk.adapter.map(|adapter| (begin..end, adapter))
    });
    Adapted { spans: spans.collect() }
}

/// Where a row belongs.
#[derive(Clone, Copy)]
struct Place {
    chunk: usize,
    position: usize,
}

impl Layer {
    fn load(
        description: &DecoderDescription,
        weights: &Weights<'_>,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let role = |part| TensorRole::Layer(layer, part);
        let (width, ffn) = (description.width, description.ffn_width);
        let (q, kv) = (description.heads * description.head_dim, description.kv_heads * description.head_dim);
        let norm = |part, size| weights.norm(description, role(part), size);
        let pair = |wanted: bool, first, second, size| {
            if wanted {
                Ok::<_, EngineError>(Some((norm(first, size)?, norm(second, size)?)))
            } else {
                Ok(None)
            }
        };
        let head_dim = description.head_dim;
        let qkv_bias = description
            .qkv_bias
            .then(|| {
                let parts = [(LayerPart::QueryBias, q), (LayerPart::KeyBias, kv), (LayerPart::ValueBias, kv)];
                let all = parts.map(|(part, size)| weights.vector(description, role(part), size));
                all.into_iter().collect::<Result<Vec<_>, _>>().map(|all| all.concat())
            })
            .transpose()?;
        let matrix = |part, shape| weights.matrix(description, role(part), shape);
        Ok(Self {
            attention_norm: norm(LayerPart::AttentionNorm, width)?,
            query: matrix(LayerPart::Query, [q, width])?,
            key: matrix(LayerPart::Key, [kv, width])?,
            value: matrix(LayerPart::Value, [kv, width])?,
            attention_output: matrix(LayerPart::AttentionOutput, [width, q])?,
            qkv_bias,
            head_norms: pair(description.qk_norm, LayerPart::QueryNorm, LayerPart::KeyNorm, head_dim)?,
            post_norms: pair(
                description.sandwich_norms,
                LayerPart::PostAttentionNorm,
                LayerPart::PostFeedForwardNorm,
                width,
            )?,
            feed_forward_norm: norm(LayerPart::FeedForwardNorm, width)?,
            gate: matrix(LayerPart::Gate, [ffn, width])?,
            up: matrix(LayerPart::Up, [ffn, width])?,
            down: matrix(LayerPart::Down, [width, ffn])?,
            window: description.window(layer),
        })
    }

    fn matrices(&self) -> [&Matrix; 7] {
        [&self.query, &self.key, &self.value, &self.attention_output, &self.gate, &self.up, &self.down]
    }

    fn has_bfloat16_products(&self) -> bool {
        self.matrices().iter().any(|matrix| matrix.format().has_bfloat16_products())
    }

    fn size_bytes(&self) -> u64 {
        let pairs =
            self.head_norms.iter().chain(&self.post_norms).flat_map(|(first, second)| [first, second]);
        let vectors = pairs.chain(&self.qkv_bias).chain([&self.attention_norm, &self.feed_forward_norm]);
        let vectors: usize = vectors.map(|vector| size_of_val(vector.as_slice())).sum();
        self.matrices().map(Matrix::size_bytes).iter().sum::<u64>() + vectors as u64
    }

    fn forward(
        &self,
        decoder: &Decoder,
        index: usize,
        step: &Step<'_>,
        angles: &[f32],
        store: &mut KeyValueStore,
        scratch: &mut Scratch,
    ) {
        let (description, pool) = (&decoder.description, &*decoder.pool);
        let Step { chunks, places, adapted, bfloat16_rows } = step;
        let (width, count, eps) = (description.width, places.len(), description.norm_eps as f32);
        normalize(pool, &scratch.hidden, &self.attention_norm, eps, bfloat16_rows, &mut scratch.normed);
        self.project(decoder, index, step, angles, scratch);
        self.remember(decoder, index, places, chunks, store, &scratch.projected);

        let (q, stride) = (description.heads * description.head_dim, self.projected_width(description));
        let mut row = 0;
        let spans: Vec<Span<'_>> = chunks
            .iter()
            .map(|chunk| {
                let (position, count) = (chunk.blocks.len(), chunk.tokens.len());
                row += count;
                Span {
                    blocks: chunk.blocks.table(index),
                    position,
                    count,
                    row: row - count,
                    bfloat16_tokens: chunk.bfloat16_tokens,
                }
            })
            .collect();
        let heads = Heads { query: description.heads, window: self.window };
        let queries = Queries { rows: &scratch.projected, stride };
        scratch.attended.reshape(count, q);
        scratch.attended.ask_for_bfloat16(bfloat16_rows);
        let keep_floats = !step.asks_only_for_bfloat16(&[&self.attention_output]);
        attend(pool, store, heads, queries, &spans, keep_floats, &mut scratch.attended);
        scratch.output.resize(count * width, 0.0);
        let product = Product { matrix: &self.attention_output, column: 0 };
        matmul(pool, &scratch.attended, &[product], &mut scratch.output, width);
        let place = (index, Linear::AttentionOutput);
        adapted.add(pool, place, &scratch.attended, &mut scratch.output, 0, width);
        let post = self.post_norms.as_ref().map(|(post_attention, _)| post_attention.as_slice());
        join(pool, &mut scratch.hidden, &mut scratch.output, post, width, eps);

        normalize(pool, &scratch.hidden, &self.feed_forward_norm, eps, bfloat16_rows, &mut scratch.normed);
        self.feed_forward(decoder, index, step, scratch);
        let post = self.post_norms.as_ref().map(|(_, post_feed_forward)| post_feed_forward.as_slice());
        join(pool, &mut scratch.hidden, &mut scratch.output, post, width, eps);
    }

    fn projected_width(&self, description: &DecoderDescription) -> usize {
        (description.heads + 2 * description.kv_heads) * description.head_dim
    }

    /// Query, key and value heads of each row side by side, normed and rotated, the queries scaled.
    fn project(
        &self,
        decoder: &Decoder,
        index: usize,
        step: &Step<'_>,
        angles: &[f32],
        scratch: &mut Scratch,
    ) {
        let description = &decoder.description;
        let (dim, heads, kv_heads) = (description.head_dim, description.heads, description.kv_heads);
        let width = self.projected_width(description);
        scratch.projected.resize(step.places.len() * width, 0.0);
        let products = [
            Product { matrix: &self.query, column: 0 },
            Product { matrix: &self.key, column: heads * dim },
            Product { matrix: &self.value, column: (heads + kv_heads) * dim },
        ];
        matmul(&decoder.pool, &scratch.normed, &products, &mut scratch.projected, width);
        for (linear, Product { column, .. }) in
            [Linear::Query, Linear::Key, Linear::Value].into_iter().zip(products)
        {
            let (normed, out) = (&scratch.normed, &mut scratch.projected);
            step.adapted.add(&decoder.pool, (index, linear), normed, out, column, width);
        }
        let rotate = match description.rope {
            RopeLayout::Halves => rotate_halves,
            RopeLayout::Interleaved => rotate_neighbours,
        };
        let mut rows: Vec<_> =
            scratch.projected.chunks_exact_mut(width).zip(angles.chunks_exact(dim)).collect();
        for_each(&decoder.pool, &mut rows, |(row, angles)| {
            if let Some(bias) = &self.qkv_bias {
                add(row, bias);
            }
            let (cos, sin) = angles.split_at(dim / 2);
            for (index, head) in row.chunks_exact_mut(dim).take(heads + kv_heads).enumerate() {
                let is_query = index < heads;
                if let Some((query_norm, key_norm)) = &self.head_norms {
                    rms_norm_in_place(
                        head,
                        if is_query { query_norm } else { key_norm },
                        description.norm_eps as f32,
                    );
                }
                rotate(head, cos, sin);
                if is_query {
                    scale(head, description.attention_scale as f32);
                }
            }
        });
    }

    fn remember(
        &self,
        decoder: &Decoder,
        index: usize,
        places: &[Place],
        chunks: &[Chunk<'_>],
        store: &mut KeyValueStore,
        projected: &[f32],
    ) {
        let (description, pool) = (&decoder.description, &*decoder.pool);
        let places: Vec<(u32, usize)> = places
            .iter()
            .map(|place| {
                let block = chunks[place.chunk].blocks.table(index)[place.position / BLOCK_TOKENS];
                (block, place.position % BLOCK_TOKENS)
            })
            .collect();
        let (stride, queries) = (self.projected_width(description), description.heads * description.head_dim);
        store.write(pool, &places, projected, stride, queries);
    }

    fn feed_forward(&self, decoder: &Decoder, index: usize, step: &Step<'_>, scratch: &mut Scratch) {
        let (description, pool) = (&decoder.description, &*decoder.pool);
        let (ffn, width, count) = (description.ffn_width, description.width, step.places.len());
        scratch.gated.reshape(count, ffn);
        scratch.gated.ask_for_bfloat16(step.bfloat16_rows);
        let activate = match description.activation {
            Activation::Silu => silu_gate,
            Activation::GeluTanh => gelu_gate,
        };
        let asking: usize = step.bfloat16_rows.iter().map(ExactSizeIterator::len).sum();
        let at_once = asking > 0 && step.asks_only_for_bfloat16(&[&self.gate, &self.up, &self.down]);
        if !at_once || asking < count {
            scratch.gates.resize(count * 2 * ffn, 0.0);
        }
        if at_once {
            let matrices = GateAndUp { gate: &self.gate, up: &self.up };
            let (gates, gated) = (&mut scratch.gates, &mut scratch.gated);
            matmul_gated(pool, &scratch.normed, matrices, activate, gates, gated);
        } else {
            let products =
                [Product { matrix: &self.gate, column: 0 }, Product { matrix: &self.up, column: ffn }];
            matmul(pool, &scratch.normed, &products, &mut scratch.gates, 2 * ffn);
            for (linear, Product { column, .. }) in [Linear::Gate, Linear::Up].into_iter().zip(products) {
                let (normed, out) = (&scratch.normed, &mut scratch.gates);
                step.adapted.add(pool, (index, linear), normed, out, column, 2 * ffn);
            }
        }
        let rows = scratch.gated.each().into_iter().zip(scratch.gates.chunks_exact(2 * ffn));
        let mut rows: Vec<_> = rows.filter(|(row, _)| !(at_once && row.asks_for_bfloat16())).collect();
        for_each(pool, &mut rows, |(row, both)| {
            let (gate, up) = both.split_at(ffn);
            activate(gate, up, row.floats);
            row.round();
        });
        scratch.output.resize(count * width, 0.0);
        let product = Product { matrix: &self.down, column: 0 };
        matmul(pool, &scratch.gated, &[product], &mut scratch.output, width);
        step.adapted.add(pool, (index, Linear::Down), &scratch.gated, &mut scratch.output, 0, width);
    }
}

/// On the pool where there are enough rows to pay for it.
fn for_each<T: Send>(pool: &Pool, rows: &mut [T], work: impl Fn(&mut T) + Sync) {
    if rows.len() < LEAST_SHARED_ROWS { rows.iter_mut().for_each(work) } else { pool.run_each(rows, work) }
}

fn normalize(
    pool: &Pool,
    hidden: &[f32],
    weight: &[f32],
    eps: f32,
    bfloat16_rows: &[Range<usize>],
    out: &mut Rows,
) {
    let width = weight.len();
    out.reshape(hidden.len() / width, width);
    out.ask_for_bfloat16(bfloat16_rows);
    let mut rows: Vec<_> = out.each().into_iter().zip(hidden.chunks_exact(width)).collect();
    for_each(pool, &mut rows, |(row, hidden)| {
        rms_norm(hidden, weight, eps, row.floats);
        row.round();
    });
}

/// Adds a block's output, normed where the family does that, to the residual stream.
fn join(pool: &Pool, hidden: &mut [f32], output: &mut [f32], norm: Option<&[f32]>, width: usize, eps: f32) {
    let mut rows: Vec<_> = hidden.chunks_exact_mut(width).zip(output.chunks_exact_mut(width)).collect();
    for_each(pool, &mut rows, |(hidden, output)| {
        if let Some(norm) = norm {
            rms_norm_in_place(output, norm, eps);
        }
        add(hidden, output);
    });
}
