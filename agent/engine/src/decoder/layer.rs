use llmdeck_kernels::attention::{BLOCK_TOKENS, Heads, KeyValueStore, Queries, Span, attend};
use llmdeck_kernels::elementwise::{
    add, gelu_gate, rms_norm_in_place, rotate_halves, rotate_neighbours, scale, silu_gate,
};
use llmdeck_kernels::{Gate, GateAndUp, Matrix, Product, matmul, matmul_gated};

use super::Decoder;
use super::rows::{for_each, join, join_and_normalize};
use super::step::{Place, Step};
use crate::EngineError;
use crate::adapter::Linear;
use crate::description::{Activation, DecoderDescription, LayerPart, RopeLayout, TensorRole};
use crate::scratch::Scratch;
use crate::weights::Weights;

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

impl Layer {
    pub(super) fn load(
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

    pub(super) fn matrices(&self) -> [&Matrix; 7] {
        [&self.query, &self.key, &self.value, &self.attention_output, &self.gate, &self.up, &self.down]
    }

    pub(super) fn has_bfloat16_products(&self) -> bool {
        self.matrices().iter().any(|matrix| matrix.format().has_bfloat16_products())
    }

    pub(super) fn size_bytes(&self) -> u64 {
        let pairs =
            self.head_norms.iter().chain(&self.post_norms).flat_map(|(first, second)| [first, second]);
        let vectors = pairs.chain(&self.qkv_bias).chain([&self.attention_norm, &self.feed_forward_norm]);
        let vectors: usize = vectors.map(|vector| size_of_val(vector.as_slice())).sum();
        self.matrices().map(Matrix::size_bytes).iter().sum::<u64>() + vectors as u64
    }

    /// Takes rows that are normed for it, and norms them for the next layer, if there is one.
    pub(super) fn forward(
        &self,
        decoder: &Decoder,
        index: usize,
        step: &Step<'_>,
        angles: &[f32],
        store: &mut KeyValueStore,
        scratch: &mut Scratch,
    ) {
        let (description, pool) = (&decoder.description, &*decoder.pool);
        let (width, eps) = (description.width, description.norm_eps as f32);
        self.project(decoder, index, step, angles, scratch);
        self.remember(decoder, index, step, store, &scratch.projected);
        self.attend(decoder, index, step, store, scratch);
        let post = self.post_norms.as_ref().map(|(post_attention, _)| post_attention.as_slice());
        join_and_normalize(pool, post, &self.feed_forward_norm, eps, step.bfloat16_rows, scratch);

        self.feed_forward(decoder, index, step, scratch);
        let post = self.post_norms.as_ref().map(|(_, post_feed_forward)| post_feed_forward.as_slice());
        match decoder.layers.get(index + 1) {
            Some(next) => {
                join_and_normalize(pool, post, &next.attention_norm, eps, step.bfloat16_rows, scratch);
            }
            None => join(pool, post, width, eps, scratch),
        }
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
        step: &Step<'_>,
        store: &mut KeyValueStore,
        projected: &[f32],
    ) {
        let description = &decoder.description;
        let block = |place: &Place| {
            let table = step.chunks[place.chunk].blocks.table(index);
            (table[place.position / BLOCK_TOKENS], place.position % BLOCK_TOKENS)
        };
        let places: Vec<(u32, usize)> = step.places.iter().map(block).collect();
        let (stride, queries) = (self.projected_width(description), description.heads * description.head_dim);
        store.write(&decoder.pool, &places, projected, stride, queries);
    }

    fn attend(
        &self,
        decoder: &Decoder,
        index: usize,
        step: &Step<'_>,
        store: &KeyValueStore,
        scratch: &mut Scratch,
    ) {
        let (description, pool) = (&decoder.description, &*decoder.pool);
        let (width, count) = (description.width, step.places.len());
        let mut row = 0;
        let spans = step.chunks.iter().map(|chunk| {
            let (position, count) = (chunk.blocks.len(), chunk.tokens.len());
            row += count;
            Span {
                blocks: chunk.blocks.table(index),
                position,
                count,
                row: row - count,
                bfloat16_tokens: chunk.bfloat16_tokens,
            }
        });
        let spans: Vec<Span<'_>> = spans.collect();
        let heads = Heads { query: description.heads, window: self.window };
        let queries = Queries { rows: &scratch.projected, stride: self.projected_width(description) };
        scratch.attended.reshape(count, description.heads * description.head_dim);
        scratch.attended.ask_for_bfloat16(step.bfloat16_rows);
        let keep_floats = !step.asks_only_for_bfloat16(&[&self.attention_output]);
        attend(pool, store, heads, queries, &spans, keep_floats, &mut scratch.attended);
        scratch.output.resize(count * width, 0.0);
        let product = Product { matrix: &self.attention_output, column: 0 };
        matmul(pool, &scratch.attended, &[product], &mut scratch.output, width);
        let place = (index, Linear::AttentionOutput);
        step.adapted.add(pool, place, &scratch.attended, &mut scratch.output, 0, width);
    }

    fn feed_forward(&self, decoder: &Decoder, index: usize, step: &Step<'_>, scratch: &mut Scratch) {
        let (description, pool) = (&decoder.description, &*decoder.pool);
        let (ffn, width, count) = (description.ffn_width, description.width, step.places.len());
        scratch.gated.reshape(count, ffn);
        scratch.gated.ask_for_bfloat16(step.bfloat16_rows);
        let activate: Gate = match description.activation {
            Activation::Silu => silu_gate,
            Activation::GeluTanh => gelu_gate,
        };
        let some_ask = step.bfloat16_rows.iter().any(|rows| !rows.is_empty());
        let matrices = [&self.gate, &self.up, &self.down];
        if step.adapted.spans.is_empty() && (!some_ask || step.asks_only_for_bfloat16(&matrices)) {
            let matrices = GateAndUp { gate: &self.gate, up: &self.up };
            matmul_gated(pool, &scratch.normed, matrices, activate, &mut scratch.gated);
        } else {
            self.gate_apart(decoder, index, step, activate, scratch);
        }
        scratch.output.resize(count * width, 0.0);
        let product = Product { matrix: &self.down, column: 0 };
        matmul(pool, &scratch.gated, &[product], &mut scratch.output, width);
        step.adapted.add(pool, (index, Linear::Down), &scratch.gated, &mut scratch.output, 0, width);
    }

    /// Gates the products in a pass of their own: behind what adapters add to them, or where a matrix cannot have rows in bfloat16.
    fn gate_apart(
        &self,
        decoder: &Decoder,
        index: usize,
        step: &Step<'_>,
        activate: Gate,
        scratch: &mut Scratch,
    ) {
        let (pool, ffn) = (&*decoder.pool, decoder.description.ffn_width);
        let products = [Product { matrix: &self.gate, column: 0 }, Product { matrix: &self.up, column: ffn }];
        scratch.gates.resize(step.places.len() * 2 * ffn, 0.0);
        matmul(pool, &scratch.normed, &products, &mut scratch.gates, 2 * ffn);
        for (linear, Product { column, .. }) in [Linear::Gate, Linear::Up].into_iter().zip(products) {
            let (normed, out) = (&scratch.normed, &mut scratch.gates);
            step.adapted.add(pool, (index, linear), normed, out, column, 2 * ffn);
        }
        let rows = scratch.gated.each().into_iter().zip(scratch.gates.chunks_exact(2 * ffn));
        let mut rows: Vec<_> = rows.collect();
        for_each(pool, &mut rows, |(row, both)| {
            let (gate, up) = both.split_at(ffn);
            activate(gate, up, row.floats);
            row.round();
        });
    }
}
