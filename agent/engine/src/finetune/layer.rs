//! One layer, forwards and backwards.

use std::ops::Range;

use llmdeck_kernels::Pool;
use llmdeck_kernels::elementwise::{add, gelu_gate, rms_norm, rms_norm_in_place, silu_gate};
use llmdeck_kernels::gradients::{gelu_gate_backward, rms_norm_backward, silu_gate_backward};

use super::attention::{HeadGradients, Heads, attend, attend_backward};
use super::heads::{HeadsOfRows, Rotation};
use super::kept::Kept;
use super::linear::{Columns, Pass};
use crate::adapter::Linear;
use crate::decoder::Layer;
use crate::description::{Activation, DecoderDescription};

/// What a layer computed on its way forwards, and its way back needs. Kept for one layer at a time, or for all.
#[derive(Default)]
pub(crate) struct Tape {
    normed: Vec<f32>,
    /// Queries, keys and values of each token, before norms and rotations.
    projected: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    attention_output: Vec<f32>,
    middle: Vec<f32>,
    normed_middle: Vec<f32>,
    /// Gate and up of each token.
    gates: Vec<f32>,
    gated: Vec<f32>,
    fed: Vec<f32>,
    /// Between the thin matrices, by [`Linear`].
    low: [Vec<f32>; Linear::ALL.len()],
    /// Not needed on the way back.
    seen: Vec<f32>,
    expanded: Vec<f32>,
}

impl Tape {
    /// What the way back reads, in an order that stays.
    fn read_backwards(&self) -> impl Iterator<Item = &[f32]> + Clone {
        let whole = [
            &self.normed,
            &self.projected,
            &self.q,
            &self.k,
            &self.v,
            &self.attended,
            &self.attention_output,
            &self.middle,
            &self.normed_middle,
            &self.gates,
            &self.gated,
            &self.fed,
        ];
        whole.into_iter().chain(&self.low).map(Vec::as_slice)
    }

    fn written_forwards(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let whole = [
            &mut self.normed,
            &mut self.projected,
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.attended,
            &mut self.attention_output,
            &mut self.middle,
            &mut self.normed_middle,
            &mut self.gates,
            &mut self.gated,
            &mut self.fed,
        ];
        whole.into_iter().chain(&mut self.low).map(Vec::as_mut_slice)
    }

    /// Copies what the way back reads.
    pub(crate) fn keep(&self, pool: &Pool, kept: &mut Kept) {
        kept.keep(pool, self.read_backwards());
    }

    /// Takes it from a copy; it was written last by a layer of the same pass.
    pub(crate) fn restore(&mut self, pool: &Pool, kept: &Kept) {
        kept.restore(pool, self.written_forwards());
    }
}

/// A layer in a pass.
pub(crate) struct LayerPass<'a> {
    pub(crate) pass: &'a Pass<'a>,
    pub(crate) index: usize,
    pub(crate) layer: &'a Layer,
    pub(crate) rotation: &'a Rotation,
    pub(crate) samples: &'a [Range<usize>],
    pub(crate) tokens: usize,
}

impl LayerPass<'_> {
    fn description(&self) -> &DecoderDescription {
        self.pass.model.decoder.description()
    }

    fn heads(&self) -> Heads<'_> {
        let description = self.description();
        Heads {
            query: description.heads,
            kv: description.kv_heads,
            dim: description.head_dim,
            window: self.layer.window,
            samples: self.samples,
            tokens: self.tokens,
        }
    }

    fn projections(&self) -> [(Linear, HeadsOfRows<'_>); 3] {
        let description = self.description();
        let (dim, q, kv) = (description.head_dim, description.heads, description.kv_heads);
        let stride = (q + 2 * kv) * dim;
        let norms = self.layer.head_norms.as_ref();
        let heads = |first: usize, heads| HeadsOfRows {
            description,
            first: first * dim,
            stride,
            heads,
            norm: None,
            rotation: None,
            scale: 1.0,
        };
        let queries = HeadsOfRows {
            norm: norms.map(|(query, _)| query.as_slice()),
            rotation: Some(self.rotation),
            scale: description.attention_scale as f32,
            ..heads(0, q)
        };
        let keys = HeadsOfRows {
            norm: norms.map(|(_, key)| key.as_slice()),
            rotation: Some(self.rotation),
            ..heads(q, kv)
        };
        [(Linear::Query, queries), (Linear::Key, keys), (Linear::Value, heads(q + kv, kv))]
    }

    /// `hidden` in, `hidden` out.
    pub(crate) fn forward(&self, hidden: &mut [f32], tape: &mut Tape) {
        let (pool, description) = (self.pass.pool, self.description());
        let (width, ffn, eps) = (description.width, description.ffn_width, description.norm_eps as f32);
        let tokens = self.tokens;
        normalize(pool, hidden, &self.layer.attention_norm, eps, &mut tape.normed);

        let projections = self.projections();
        let stride = projections[0].1.stride;
        tape.projected.resize(tokens * stride, 0.0);
        for ((linear, heads), out) in projections.iter().zip([&mut tape.q, &mut tape.k, &mut tape.v]) {
            let columns = Columns { first: heads.first, stride };
            let low = &mut tape.low[*linear as usize];
            let place = (self.index, *linear);
            self.pass.forward(place, &tape.normed, &mut tape.projected, columns, low, &mut tape.expanded);
            if let Some(bias) = &self.layer.qkv_bias {
                let own = heads.first..heads.first + heads.heads * description.head_dim;
                let mut rows: Vec<&mut [f32]> = tape.projected.chunks_exact_mut(stride).collect();
                pool.run_each(&mut rows, |row| add(&mut row[own.clone()], &bias[own.clone()]));
            }
            heads.forward(pool, &tape.projected, out);
        }
        let queries = description.heads * description.head_dim;
        tape.seen.resize(tokens * queries, 0.0);
        attend(pool, self.heads(), &tape.q, &tape.k, &tape.v, &mut tape.seen);
        tape.attended.resize(tokens * queries, 0.0);
        side_by_side(pool, &tape.seen, description.head_dim, queries, &mut tape.attended);

        tape.attention_output.resize(tokens * width, 0.0);
        self.whole(
            Linear::AttentionOutput,
            &tape.attended,
            &mut tape.attention_output,
            &mut tape.low,
            &mut tape.expanded,
        );
        let post = self.layer.post_norms.as_ref();
        tape.middle.resize(tokens * width, 0.0);
        let norm = post.map(|(attention, _)| attention.as_slice());
        join(pool, hidden, &tape.attention_output, norm, eps, width, &mut tape.middle);

        normalize(pool, &tape.middle, &self.layer.feed_forward_norm, eps, &mut tape.normed_middle);
        tape.gates.resize(tokens * 2 * ffn, 0.0);
        for (linear, first) in [(Linear::Gate, 0), (Linear::Up, ffn)] {
            let columns = Columns { first, stride: 2 * ffn };
            let low = &mut tape.low[linear as usize];
            let place = (self.index, linear);
            self.pass.forward(place, &tape.normed_middle, &mut tape.gates, columns, low, &mut tape.expanded);
        }
        tape.gated.resize(tokens * ffn, 0.0);
        let activate = match description.activation {
            Activation::Silu => silu_gate,
            Activation::GeluTanh => gelu_gate,
        };
        let mut rows: Vec<_> =
            tape.gated.chunks_exact_mut(ffn).zip(tape.gates.chunks_exact(2 * ffn)).collect();
        pool.run_each(&mut rows, |(gated, gates)| activate(&gates[..ffn], &gates[ffn..], gated));

        tape.fed.resize(tokens * width, 0.0);
        self.whole(Linear::Down, &tape.gated, &mut tape.fed, &mut tape.low, &mut tape.expanded);
        let norm = post.map(|(_, feed_forward)| feed_forward.as_slice());
        join(pool, &tape.middle, &tape.fed, norm, eps, width, hidden);
    }

    fn whole(
        &self,
        linear: Linear,
        x: &[f32],
        out: &mut [f32],
        low: &mut [Vec<f32>; Linear::ALL.len()],
        expanded: &mut Vec<f32>,
    ) {
        let columns = Columns { first: 0, stride: out.len() / self.tokens };
        self.pass.forward((self.index, linear), x, out, columns, &mut low[linear as usize], expanded);
    }

    /// Turns the gradients of the layer's output into those of its input; `hidden` is what came in. Adds those of what is
    /// trained to `gradients`.
    pub(crate) fn backward(
        &self,
        hidden: &[f32],
        tape: &mut Tape,
        d_hidden: &mut [f32],
        gradients: &mut [f32],
    ) {
        let (pool, description) = (self.pass.pool, self.description());
        let (width, ffn, eps) = (description.width, description.ffn_width, description.norm_eps as f32);
        let tokens = self.tokens;
        let post = self.layer.post_norms.as_ref();

        let norm = post.map(|(_, feed_forward)| feed_forward.as_slice());
        let d_fed = unjoin(pool, &tape.fed, norm, eps, width, d_hidden);
        let d_fed = d_fed.as_deref().unwrap_or(d_hidden);
        let mut d_gated = vec![0.0; tokens * ffn];
        self.whole_backward(
            Linear::Down,
            (&tape.gated, &tape.fed),
            d_fed,
            &mut d_gated,
            gradients,
            &tape.low,
            &mut tape.expanded,
        );
        let mut d_gates = vec![0.0; tokens * 2 * ffn];
        let activate = match description.activation {
            Activation::Silu => silu_gate_backward,
            Activation::GeluTanh => gelu_gate_backward,
        };
        let mut rows: Vec<_> = d_gates
            .chunks_exact_mut(2 * ffn)
            .zip(tape.gates.chunks_exact(2 * ffn).zip(d_gated.chunks_exact(ffn)))
            .collect();
        pool.run_each(&mut rows, |(d_gates, (gates, d_gated))| {
            let (d_gate, d_up) = d_gates.split_at_mut(ffn);
            activate(&gates[..ffn], &gates[ffn..], d_gated, d_gate, d_up);
        });
        let mut d_normed = vec![0.0; tokens * width];
        for (linear, first) in [(Linear::Gate, 0), (Linear::Up, ffn)] {
            self.pass.backward(
                (self.index, linear),
                &tape.normed_middle,
                &tape.low[linear as usize],
                (&tape.gates, &d_gates),
                Columns { first, stride: 2 * ffn },
                &mut d_normed,
                gradients,
                &mut tape.expanded,
            );
        }
        normalize_backward(pool, &tape.middle, &self.layer.feed_forward_norm, eps, &d_normed, d_hidden);

        let norm = post.map(|(attention, _)| attention.as_slice());
        let d_output = unjoin(pool, &tape.attention_output, norm, eps, width, d_hidden);
        let d_output = d_output.as_deref().unwrap_or(d_hidden);
        let mut d_attended = vec![0.0; tape.attended.len()];
        self.whole_backward(
            Linear::AttentionOutput,
            (&tape.attended, &tape.attention_output),
            d_output,
            &mut d_attended,
            gradients,
            &tape.low,
            &mut tape.expanded,
        );
        let (mut d_q, mut d_k, mut d_v) = (Vec::new(), Vec::new(), Vec::new());
        let of_heads = HeadGradients { q: &mut d_q, k: &mut d_k, v: &mut d_v };
        attend_backward(pool, self.heads(), (&tape.q, &tape.k, &tape.v), &d_attended, of_heads);
        let mut d_projected = vec![0.0; tape.projected.len()];
        if let Some(bias) = &self.layer.qkv_bias {
            // What the matrices gave, which DoRA's magnitudes are about, has no bias in it; norms look at both.
            debug_assert!(self.layer.head_norms.is_none(), "no family has both");
            let mut rows: Vec<&mut [f32]> = tape.projected.chunks_exact_mut(bias.len()).collect();
            pool.run_each(&mut rows, |row| row.iter_mut().zip(bias).for_each(|(y, bias)| *y -= bias));
        }
        d_normed.fill(0.0);
        for ((linear, heads), d_heads) in self.projections().iter().zip([&mut d_q, &mut d_k, &mut d_v]) {
            heads.backward(pool, &tape.projected, d_heads, &mut d_projected);
            self.pass.backward(
                (self.index, *linear),
                &tape.normed,
                &tape.low[*linear as usize],
                (&tape.projected, &d_projected),
                Columns { first: heads.first, stride: heads.stride },
                &mut d_normed,
                gradients,
                &mut tape.expanded,
            );
        }
        normalize_backward(pool, hidden, &self.layer.attention_norm, eps, &d_normed, d_hidden);
    }

    #[allow(clippy::too_many_arguments, reason = "what a backward pass is made of")]
    fn whole_backward(
        &self,
        linear: Linear,
        (x, out): (&[f32], &[f32]),
        d_out: &[f32],
        d_x: &mut [f32],
        gradients: &mut [f32],
        low: &[Vec<f32>; Linear::ALL.len()],
        expanded: &mut Vec<f32>,
    ) {
        let columns = Columns { first: 0, stride: out.len() / self.tokens };
        let low = &low[linear as usize];
        self.pass.backward((self.index, linear), x, low, (out, d_out), columns, d_x, gradients, expanded);
    }
}

/// From `[heads, tokens, dim]` to `[tokens, heads * dim]`.
fn side_by_side(pool: &Pool, heads: &[f32], dim: usize, width: usize, out: &mut [f32]) {
    let tokens = heads.len() / width;
    let mut rows: Vec<(usize, &mut [f32])> = out.chunks_exact_mut(width).enumerate().collect();
    pool.run_each(&mut rows, |(token, row)| {
        for (head, part) in row.chunks_exact_mut(dim).enumerate() {
            part.copy_from_slice(&heads[(head * tokens + *token) * dim..][..dim]);
        }
    });
}

pub(crate) fn normalize(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut Vec<f32>) {
    out.resize(x.len(), 0.0);
    let width = weight.len();
    let mut rows: Vec<_> = out.chunks_exact_mut(width).zip(x.chunks_exact(width)).collect();
    pool.run_each(&mut rows, |(out, x)| rms_norm(x, weight, eps, out));
}

pub(crate) fn normalize_backward(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    d_out: &[f32],
    d_x: &mut [f32],
) {
    let width = weight.len();
    let mut rows: Vec<_> =
        d_x.chunks_exact_mut(width).zip(x.chunks_exact(width).zip(d_out.chunks_exact(width))).collect();
    pool.run_each(&mut rows, |(d_x, (x, d_out))| rms_norm_backward(x, weight, eps, d_out, d_x));
}

/// `out = stream + part`, the part normed where the family does that.
fn join(
    pool: &Pool,
    stream: &[f32],
    part: &[f32],
    norm: Option<&[f32]>,
    eps: f32,
    width: usize,
    out: &mut [f32],
) {
    let mut rows: Vec<_> =
        out.chunks_exact_mut(width).zip(stream.chunks_exact(width).zip(part.chunks_exact(width))).collect();
    pool.run_each(&mut rows, |(out, (stream, part))| {
        out.copy_from_slice(part);
        if let Some(norm) = norm {
            rms_norm_in_place(out, norm, eps);
        }
        add(out, stream);
    });
}

/// The gradients of a part that was joined to the stream; `None` where they are the stream's.
fn unjoin(
    pool: &Pool,
    part: &[f32],
    norm: Option<&[f32]>,
    eps: f32,
    width: usize,
    d_stream: &[f32],
) -> Option<Vec<f32>> {
    let norm = norm?;
    let mut d_part = vec![0.0; part.len()];
    let mut rows: Vec<_> = d_part
        .chunks_exact_mut(width)
        .zip(part.chunks_exact(width).zip(d_stream.chunks_exact(width)))
        .collect();
    pool.run_each(&mut rows, |(d_part, (part, d_stream))| {
        rms_norm_backward(part, norm, eps, d_stream, d_part);
    });
    Some(d_part)
}
