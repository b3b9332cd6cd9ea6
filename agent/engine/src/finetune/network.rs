//! The whole model over a batch of samples: its loss, and what the loss says of every number that is trained.

use std::ops::Range;

use llmdeck_kernels::dense::{Direction, Into, View, multiply_weights};
use llmdeck_kernels::elementwise::scale;
use llmdeck_kernels::gradients::cross_entropy;

use super::heads::Rotation;
use super::layer::{LayerPass, Tape, normalize, normalize_backward};
use super::linear::Pass;
use super::sample::Sample;

/// Logits that exist at a time, in numbers.
pub(super) const MOST_LOGITS: usize = 1 << 24;

/// Cross entropy over the tokens that are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// In nats, each times its weight.
    pub sum: f64,
    /// The weights of all of them.
    pub weight: f64,
}

impl Loss {
    /// A token's, in nats; NaN where none is learned.
    pub fn mean(self) -> f64 {
        self.sum / self.weight
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
    }
}

/// What a pass computes into, kept from pass to pass.
#[derive(Default)]
pub(crate) struct Workspace {
    tapes: Vec<Tape>,
    /// What came into each layer.
    inputs: Vec<Vec<f32>>,
    expanded: Vec<f32>,
}

/// Gradients that a pass adds to, of `scale` times the loss's sum.
pub(crate) struct Gradients<'a> {
    pub(crate) sums: &'a mut [f32],
    pub(crate) scale: f32,
    /// Whether layers are computed twice rather than kept (Chen et al. 2016).
    pub(crate) checkpointing: bool,
}

/// Runs samples forwards, and backwards where gradients are wanted.
pub(crate) fn run(
    pass: &Pass<'_>,
    samples: &[&Sample],
    workspace: &mut Workspace,
    mut gradients: Option<Gradients<'_>>,
) -> Loss {
    let (decoder, pool) = (&pass.model.decoder, pass.pool);
    let description = decoder.description();
    let (width, eps) = (description.width, description.norm_eps as f32);
    let mut spans: Vec<Range<usize>> = Vec::with_capacity(samples.len());
    let mut hidden = Vec::new();
    for sample in samples {
        // The last token is learned, not read.
        let inputs = sample.tokens.len() - 1;
        let first = spans.last().map_or(0, |span| span.end);
        spans.push(first..first + inputs);
        for token in &sample.tokens[..inputs] {
            let at = hidden.len();
            hidden.resize(at + width, 0.0);
            decoder.embedding.row(*token as usize, &mut hidden[at..]);
        }
    }
    if description.embedding_scale != 1.0 {
        scale(&mut hidden, description.embedding_scale as f32);
    }
    let tokens = hidden.len() / width;
    let global = Rotation::new(&decoder.global_frequencies, &spans);
    let local = decoder.local_frequencies.as_ref().map(|frequencies| Rotation::new(frequencies, &spans));
    let layer = |index: usize| {
        let layer = &decoder.layers[index];
        let rotation = local.as_ref().filter(|_| layer.window.is_some()).unwrap_or(&global);
        LayerPass { pass, index, layer, rotation, samples: &spans, tokens }
    };
    let keeps_tapes = gradients.as_ref().is_some_and(|gradients| !gradients.checkpointing);
    let tapes = if keeps_tapes { description.layers } else { 1 };
    workspace.tapes.resize_with(tapes, Tape::default);
    workspace.inputs.resize_with(description.layers, Vec::new);
    for index in 0..description.layers {
        if gradients.is_some() {
            workspace.inputs[index].clone_from(&hidden);
        }
        let tape = &mut workspace.tapes[if keeps_tapes { index } else { 0 }];
        layer(index).forward(&mut hidden, tape);
    }

    let learned = learned(samples, &spans);
    let loss_scale = gradients.as_ref().map(|gradients| gradients.scale);
    let mut d_hidden = gradients.as_ref().map(|_| vec![0.0; hidden.len()]);
    let mut loss = Loss::default();
    let at_once = (MOST_LOGITS / description.vocabulary).max(1);
    let (mut rows, mut normed, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    for learned in learned.chunks(at_once) {
        rows.clear();
        learned.iter().for_each(|token| rows.extend_from_slice(&hidden[token.row * width..][..width]));
        normalize(pool, &rows, &decoder.final_norm, eps, &mut normed);
        let (count, vocabulary) = (learned.len(), description.vocabulary);
        logits.resize(count * vocabulary, 0.0);
        let view = View::new(&normed, count, width, width);
        let expanded = &mut workspace.expanded;
        let out = (&mut logits, 0, vocabulary, Into::Replace);
        multiply_weights(
            pool,
            &decoder.output,
            Direction::Forward,
            view,
            out.0,
            out.1,
            out.2,
            out.3,
            expanded,
        );
        let mut of_rows: Vec<(&Learned, &mut [f32], f32)> = learned
            .iter()
            .zip(logits.chunks_exact_mut(vocabulary))
            .map(|(learned, logits)| (learned, logits, 0.0))
            .collect();
        pool.run_each(&mut of_rows, |(learned, logits, loss)| {
            let scale = loss_scale.unwrap_or(0.0) * learned.weight;
            *loss = cross_entropy(logits, learned.target as usize, scale);
        });
        for (learned, _, nats) in &of_rows {
            loss += Loss { sum: f64::from(*nats * learned.weight), weight: f64::from(learned.weight) };
        }
        let Some(d_hidden) = &mut d_hidden else { continue };
        let view = View::new(&logits, count, vocabulary, vocabulary);
        let mut d_normed = vec![0.0; count * width];
        let out = (&mut d_normed, 0, width, Into::Replace);
        multiply_weights(
            pool,
            &decoder.output,
            Direction::Backward,
            view,
            out.0,
            out.1,
            out.2,
            out.3,
            expanded,
        );
        let mut d_rows = vec![0.0; count * width];
        normalize_backward(pool, &rows, &decoder.final_norm, eps, &d_normed, &mut d_rows);
        for (learned, d_row) in learned.iter().zip(d_rows.chunks_exact(width)) {
            d_hidden[learned.row * width..][..width].copy_from_slice(d_row);
        }
    }
    if let (Some(gradients), Some(mut d_hidden)) = (&mut gradients, d_hidden) {
        for index in (pass.parameters.lowest_layer()..description.layers).rev() {
            let tape = &mut workspace.tapes[if keeps_tapes { index } else { 0 }];
            // The top layer's is still there.
            if !keeps_tapes && index + 1 < description.layers {
                hidden.clone_from(&workspace.inputs[index]);
                layer(index).forward(&mut hidden, tape);
            }
            layer(index).backward(&workspace.inputs[index], tape, &mut d_hidden, gradients.sums);
        }
    }
    loss
}

/// A token that is learned, and the row that says it.
struct Learned {
    row: usize,
    target: u32,
    weight: f32,
}

fn learned(samples: &[&Sample], spans: &[Range<usize>]) -> Vec<Learned> {
    let of_sample = |(sample, span): (&&Sample, &Range<usize>)| -> Vec<Learned> {
        (span.clone())
            .zip(sample.tokens.iter().zip(&sample.weights).skip(1))
            .filter(|(_, (_, weight))| **weight != 0.0)
            .map(|(row, (target, weight))| Learned { row, target: *target, weight: *weight })
            .collect()
    };
    samples.iter().zip(spans).flat_map(of_sample).collect()
}
