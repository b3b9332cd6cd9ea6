//! Inference over a ragged batch: the tokens of all sequences are rows of one matrix for every projection; only
//! attention looks at sequences one by one, each over its own cache.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};
use candle_nn::rotary_emb::{rope, rope_i};

use crate::EngineError;
use crate::cache::SequenceCache;
use crate::description::{Activation, DecoderDescription, LayerPart, RopeLayout, TensorRole};
use crate::weights::{Embedding, Linear, Weights};

/// Tokens of one sequence to run in this step, behind what its cache has seen.
pub struct Chunk<'a> {
    /// At least one.
    pub tokens: &'a [u32],
    /// Has room for them.
    pub cache: &'a mut SequenceCache,
}

/// Which rows get logits; the output matrix is the dearest of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// The last token of each chunk.
    Last,
    /// Every token, for perplexity.
    All,
}

/// A loaded decoder, shared between threads.
pub struct Decoder {
    description: DecoderDescription,
    embedding: Embedding,
    layers: Vec<Layer>,
    final_norm: Tensor,
    output: Linear,
    global_frequencies: Tensor,
    local_frequencies: Option<Tensor>,
}

struct Layer {
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    head_norms: Option<(Tensor, Tensor)>,
    post_norms: Option<(Tensor, Tensor)>,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
    window: Option<usize>,
}

/// Cosines and sines of each row's position, `[rows, head_dim / 2]`.
struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Decoder {
    /// Takes the tensors that the description asks for. `progress` hears the share of layers that are loaded.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape.
    pub fn load(
        description: DecoderDescription,
        weights: &mut Weights,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, EngineError> {
        let embedding = weights.embedding(&description)?;
        let load = |layer| {
            let loaded = Layer::load(&description, weights, layer);
            progress((layer + 1) as f64 / description.layers as f64);
            loaded
        };
        let layers = (0..description.layers).map(load).collect::<Result<_, _>>()?;
        let final_norm = weights.norm(&description, TensorRole::FinalNorm, description.width)?;
        let output = if description.tied_output {
            embedding.as_output()?
        } else {
            let shape = [description.vocabulary, description.width];
            weights.linear(&description, TensorRole::Output, shape, None)?
        };
        let pairs = description.head_dim / 2;
        let mut global = description.rope_inverse_frequencies(false);
        if let Some(divisors) = weights.rope_divisors(pairs)? {
            global.iter_mut().zip(divisors).for_each(|(frequency, divisor)| *frequency /= divisor);
        }
        let row = |frequencies: Vec<f32>| Tensor::from_vec(frequencies, (1, pairs), &Device::Cpu);
        let local_frequencies =
            description.local.map(|_| row(description.rope_inverse_frequencies(true))).transpose()?;
        Ok(Self {
            embedding,
            layers,
            final_norm,
            output,
            global_frequencies: row(global)?,
            local_frequencies,
            description,
        })
    }

    /// What it is made of.
    pub fn description(&self) -> &DecoderDescription {
        &self.description
    }

    /// Runs one step and advances every cache. Returns logits in f32: `[chunks, vocabulary]` for
    /// [`LogitRows::Last`], `[tokens of all chunks, vocabulary]` for [`LogitRows::All`].
    ///
    /// # Errors
    /// When a token is beyond the vocabulary or a cache is too small.
    pub fn forward(&self, chunks: &mut [Chunk<'_>], rows: LogitRows) -> candle_core::Result<Tensor> {
        let tokens: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens.iter().copied()).collect();
        let positions: Vec<f32> = chunks
            .iter()
            .flat_map(|chunk| (chunk.cache.len()..).take(chunk.tokens.len()))
            .map(|position| position as f32)
            .collect();
        let count = tokens.len();
        let positions = Tensor::from_vec(positions, (count, 1), &Device::Cpu)?;
        let global = rotation(&positions, &self.global_frequencies)?;
        let local = self.local_frequencies.as_ref().map(|row| rotation(&positions, row)).transpose()?;

        let mut hidden = self.embedding.forward(&Tensor::from_vec(tokens, count, &Device::Cpu)?)?;
        if self.description.embedding_scale != 1.0 {
            hidden = (hidden * self.description.embedding_scale)?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let rotation = match (&local, layer.window) {
                (Some(local), Some(_)) => local,
                _ => &global,
            };
            hidden = layer.forward(&self.description, index, &hidden, rotation, chunks)?;
        }
        let hidden = match rows {
            LogitRows::All => hidden,
            LogitRows::Last => {
                let last: Vec<u32> = chunks
                    .iter()
                    .scan(0, |end, chunk| {
                        *end += chunk.tokens.len() as u32;
                        Some(*end - 1)
                    })
                    .collect();
                hidden.index_select(&Tensor::new(last, &Device::Cpu)?, 0)?
            }
        };
        for chunk in chunks.iter_mut() {
            chunk.cache.advance(chunk.tokens.len());
        }
        self.output.forward(&rms_norm(&hidden, &self.final_norm, self.description.norm_eps as f32)?)
    }
}

fn rotation(positions: &Tensor, frequencies: &Tensor) -> candle_core::Result<Rotation> {
    let angles = positions.matmul(frequencies)?;
    Ok(Rotation { cos: angles.cos()?, sin: angles.sin()? })
}

impl Layer {
    fn load(
        description: &DecoderDescription,
        weights: &mut Weights,
        layer: usize,
    ) -> Result<Self, EngineError> {
        let role = |part| TensorRole::Layer(layer, part);
        let (width, ffn) = (description.width, description.ffn_width);
        let (q, kv) = (description.heads * description.head_dim, description.kv_heads * description.head_dim);
        let bias = |part| description.qkv_bias.then_some(role(part));
        let mut pair = |wanted: bool, first, second, size| {
            let mut norm = |part| weights.norm(description, role(part), size);
            if wanted { Ok::<_, EngineError>(Some((norm(first)?, norm(second)?))) } else { Ok(None) }
        };
        let head_norms =
            pair(description.qk_norm, LayerPart::QueryNorm, LayerPart::KeyNorm, description.head_dim)?;
        let post_norms = pair(
            description.sandwich_norms,
            LayerPart::PostAttentionNorm,
            LayerPart::PostFeedForwardNorm,
            width,
        )?;
        let attention_norm = weights.norm(description, role(LayerPart::AttentionNorm), width)?;
        let feed_forward_norm = weights.norm(description, role(LayerPart::FeedForwardNorm), width)?;
        let mut linear = |part, shape, bias| weights.linear(description, role(part), shape, bias);
        Ok(Self {
            attention_norm,
            query: linear(LayerPart::Query, [q, width], bias(LayerPart::QueryBias))?,
            key: linear(LayerPart::Key, [kv, width], bias(LayerPart::KeyBias))?,
            value: linear(LayerPart::Value, [kv, width], bias(LayerPart::ValueBias))?,
            attention_output: linear(LayerPart::AttentionOutput, [width, q], None)?,
            head_norms,
            post_norms,
            feed_forward_norm,
            gate: linear(LayerPart::Gate, [ffn, width], None)?,
            up: linear(LayerPart::Up, [ffn, width], None)?,
            down: linear(LayerPart::Down, [width, ffn], None)?,
            window: description.window(layer),
        })
    }

    fn forward(
        &self,
        description: &DecoderDescription,
        index: usize,
        hidden: &Tensor,
        rotation: &Rotation,
        chunks: &mut [Chunk<'_>],
    ) -> candle_core::Result<Tensor> {
        let eps = description.norm_eps as f32;
        let normed = rms_norm(hidden, &self.attention_norm, eps)?;
        let mut attended = self.attend(description, index, &normed, rotation, chunks)?;
        if let Some((post_attention, _)) = &self.post_norms {
            attended = rms_norm(&attended, post_attention, eps)?;
        }
        let hidden = (hidden + attended)?;
        let normed = rms_norm(&hidden, &self.feed_forward_norm, eps)?;
        let gate = self.gate.forward(&normed)?;
        let gate = match description.activation {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let mut fed = self.down.forward(&(gate * self.up.forward(&normed)?)?)?;
        if let Some((_, post_feed_forward)) = &self.post_norms {
            fed = rms_norm(&fed, post_feed_forward, eps)?;
        }
        hidden + fed
    }

    /// `[rows, width]` to `[rows, width]`.
    fn attend(
        &self,
        description: &DecoderDescription,
        index: usize,
        normed: &Tensor,
        rotation: &Rotation,
        chunks: &mut [Chunk<'_>],
    ) -> candle_core::Result<Tensor> {
        let rows = normed.dim(0)?;
        let (heads, kv_heads, head_dim) = (description.heads, description.kv_heads, description.head_dim);
        // [heads, rows, head_dim]
        let split = |tensor: Tensor, heads: usize| {
            tensor.reshape((rows, heads, head_dim))?.transpose(0, 1)?.contiguous()
        };
        let mut query = split(self.query.forward(normed)?, heads)?;
        let mut key = split(self.key.forward(normed)?, kv_heads)?;
        let value = split(self.value.forward(normed)?, kv_heads)?;
        if let Some((query_norm, key_norm)) = &self.head_norms {
            query = rms_norm(&query, query_norm, description.norm_eps as f32)?;
            key = rms_norm(&key, key_norm, description.norm_eps as f32)?;
        }
        let query = (rotate(description.rope, &query, rotation)? * description.attention_scale)?;
        let key = rotate(description.rope, &key, rotation)?;

        let mut attended = Vec::with_capacity(chunks.len());
        let mut offset = 0;
        for chunk in chunks.iter_mut() {
            let count = chunk.tokens.len();
            let of_chunk = |tensor: &Tensor| tensor.narrow(1, offset, count)?.contiguous();
            let past = chunk.cache.len();
            let start = self.window.map_or(0, |window| (past + 1).saturating_sub(window));
            let (keys, values) = chunk.cache.append(index, &of_chunk(&key)?, &of_chunk(&value)?, start)?;
            let shape = AttentionShape { count, past: past - start, window: self.window };
            attended.push(attend_one(&of_chunk(&query)?, &keys, &values, shape)?);
            offset += count;
        }
        self.attention_output.forward(&Tensor::cat(&attended, 0)?)
    }
}

fn rotate(layout: RopeLayout, heads: &Tensor, rotation: &Rotation) -> candle_core::Result<Tensor> {
    let batched = heads.unsqueeze(0)?;
    let rotated = match layout {
        RopeLayout::Halves => rope(&batched, &rotation.cos, &rotation.sin)?,
        RopeLayout::Interleaved => rope_i(&batched, &rotation.cos, &rotation.sin)?,
    };
    rotated.squeeze(0)
}

#[derive(Clone, Copy)]
struct AttentionShape {
    /// New tokens.
    count: usize,
    /// Tokens before them in the keys given.
    past: usize,
    window: Option<usize>,
}

/// Query `[heads, count, head_dim]`, keys and values `[kv_heads, past + count, head_dim]`; returns
/// `[count, heads * head_dim]`. Query heads that share a key head are rows of one product.
fn attend_one(
    query: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    shape: AttentionShape,
) -> candle_core::Result<Tensor> {
    let (heads, count, head_dim) = query.dims3()?;
    let (kv_heads, seen, _) = keys.dims3()?;
    let group = heads / kv_heads;
    let grouped = query.reshape((kv_heads, group * count, head_dim))?;
    let mut scores = grouped.matmul(&keys.transpose(1, 2)?)?;
    if count > 1 {
        let mask = causal_mask(shape)?;
        scores = scores.reshape((kv_heads, group, count, seen))?.broadcast_add(&mask)?.reshape((
            kv_heads,
            group * count,
            seen,
        ))?;
    }
    softmax_last_dim(&scores)?
        .matmul(&values.contiguous()?)?
        .reshape((heads, count, head_dim))?
        .transpose(0, 1)?
        .contiguous()?
        .reshape((count, heads * head_dim))
}

/// `[count, past + count]`: zero where a token may look, minus infinity where it may not.
fn causal_mask(shape: AttentionShape) -> candle_core::Result<Tensor> {
    let AttentionShape { count, past, window } = shape;
    let seen = past + count;
    let mask: Vec<f32> = (0..count)
        .flat_map(|row| {
            let position = past + row;
            (0..seen).map(move |column| {
                let visible = column <= position && window.is_none_or(|window| position - column < window);
                if visible { 0.0 } else { f32::NEG_INFINITY }
            })
        })
        .collect();
    Tensor::from_vec(mask, (count, seen), &Device::Cpu)
}

/// Logarithms of the probabilities of a row of logits, `[vocabulary]` in f32.
///
/// # Errors
/// When the tensor has no last dimension.
pub fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    candle_nn::ops::log_softmax(&logits.to_dtype(DType::F32)?, D::Minus1)
}
