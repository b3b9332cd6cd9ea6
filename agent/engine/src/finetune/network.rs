//! The whole model over a batch of samples: its loss, and what the loss says of every number that is trained.

use std::ops::Range;

use llmdeck_kernels::dense::{Direction, Into, View, multiply_weights};
use llmdeck_kernels::elementwise::scale;
use llmdeck_kernels::gradients::{cross_entropy, divergence};

use super::heads::Rotation;
use super::kept::Kept;
use super::layer::{LayerPass, Tape, normalize, normalize_backward};
use super::linear::Pass;
use super::parameters::Parameters;
use super::sample::Sample;

/// Logits that exist at a time, in numbers.
pub(super) const MOST_LOGITS: usize = 1 << 24;

/// What a pass over samples lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Cross entropy of what is learned.
    pub learned: Mean,
    /// Divergence from the model itself of what is rehearsed.
    pub rehearsed: Mean,
}

/// A mean over tokens, in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    /// Each times its weight.
    pub sum: f64,
    /// The weights of all of them.
    pub weight: f64,
}

impl Mean {
    /// A token's; 0 where there is none.
    pub fn value(self) -> f64 {
        if self.weight == 0.0 { 0.0 } else { self.sum / self.weight }
    }
}

impl Loss {
    /// Both together: what is learned and what stays count alike.
    pub fn value(self) -> f64 {
        self.learned.value() + self.rehearsed.value()
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        for (mean, other) in [(&mut self.learned, other.learned), (&mut self.rehearsed, other.rehearsed)] {
            mean.sum += other.sum;
            mean.weight += other.weight;
        }
    }
}

/// What a pass computes into, kept from pass to pass.
#[derive(Default)]
pub(crate) struct Workspace {
    memory: Memory,
    tapes: Vec<Tape>,
    /// What came into each layer.
    inputs: Vec<Kept>,
    /// What each layer computed, where its tape is used again.
    kept: Vec<Kept>,
    expanded: Vec<f32>,
    /// Of each token that is learned, in order, in nats.
    pub(super) token_losses: Vec<f32>,
}

impl Workspace {
    pub(crate) fn new(memory: Memory) -> Self {
        Self { memory, ..Self::default() }
    }
}

/// Gradients that a pass adds to, of `scale` times the loss's sum.
pub(crate) struct Gradients<'a> {
    pub(crate) sums: &'a mut [f32],
    pub(crate) scale: f32,
}

/// How layers remember what the way back needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// They are computed twice rather than kept (Chen et al. 2016).
    pub(crate) checkpointing: bool,
    /// In bfloat16.
    pub(crate) bf16: bool,
}

/// Samples one behind the other.
struct Rows<'a> {
    samples: Vec<&'a Sample>,
    spans: Vec<Range<usize>>,
    global: Rotation,
    local: Option<Rotation>,
}

impl<'a> Rows<'a> {
    fn new(pass: &Pass<'_>, samples: Vec<&'a Sample>) -> Self {
        let decoder = &pass.model.decoder;
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(samples.len());
        for sample in &samples {
            let first = spans.last().map_or(0, |span| span.end);
            // The last token is learned, not read.
            spans.push(first..first + sample.tokens.len() - 1);
        }
        let global = Rotation::new(&decoder.global_frequencies, &spans);
        let local = decoder.local_frequencies.as_ref().map(|frequencies| Rotation::new(frequencies, &spans));
        Self { samples, spans, global, local }
    }

    fn tokens(&self) -> usize {
        self.spans.last().map_or(0, |span| span.end)
    }

    fn embedded(&self, pass: &Pass<'_>) -> Vec<f32> {
        let decoder = &pass.model.decoder;
        let description = decoder.description();
        let mut hidden = vec![0.0; self.tokens() * description.width];
        let read = self.samples.iter().flat_map(|sample| &sample.tokens[..sample.tokens.len() - 1]);
        for (row, token) in hidden.chunks_exact_mut(description.width).zip(read) {
            decoder.embedding.row(*token as usize, row);
        }
        if description.embedding_scale != 1.0 {
            scale(&mut hidden, description.embedding_scale as f32);
        }
        hidden
    }

    fn layer<'p>(&'p self, pass: &'p Pass<'p>, index: usize) -> LayerPass<'p> {
        let layer = &pass.model.decoder.layers[index];
        let rotation = self.local.as_ref().filter(|_| layer.window.is_some()).unwrap_or(&self.global);
        LayerPass { pass, index, layer, rotation, samples: &self.spans, tokens: self.tokens() }
    }
}

/// What the model itself makes of the samples that are rehearsed.
fn of_the_model(pass: &Pass<'_>, samples: &[&Sample], tape: &mut Tape) -> Vec<f32> {
    let rehearsed: Vec<&Sample> = samples.iter().copied().filter(|sample| sample.rehearsed).collect();
    if rehearsed.is_empty() {
        return Vec::new();
    }
    let nothing = Parameters::nothing();
    let pass = Pass { parameters: &nothing, dropout: None, gains: &[], ..*pass };
    let rows = Rows::new(&pass, rehearsed);
    let mut hidden = rows.embedded(&pass);
    for index in 0..pass.model.decoder.layers.len() {
        rows.layer(&pass, index).forward(&mut hidden, tape);
    }
    hidden
}

/// Runs samples forwards, and backwards where gradients are wanted.
pub(crate) fn run(
    pass: &Pass<'_>,
    samples: &[&Sample],
    workspace: &mut Workspace,
    mut gradients: Option<Gradients<'_>>,
) -> Loss {
    let layers = pass.model.decoder.layers.len();
    let Memory { checkpointing, bf16 } = workspace.memory;
    let keeps = gradients.is_some() && !checkpointing;
    let (keeps_tapes, keeps_copies) = (keeps && !bf16, keeps && bf16);
    workspace.tapes.resize_with(if keeps_tapes { layers } else { 1 }, Tape::default);
    workspace.inputs.resize_with(layers, || Kept::new(bf16));
    workspace.kept.resize_with(if keeps_copies { layers } else { 0 }, || Kept::new(bf16));
    let of_the_model = of_the_model(pass, samples, &mut workspace.tapes[0]);
    let rows = Rows::new(pass, samples.to_vec());
    let mut hidden = rows.embedded(pass);
    for index in 0..layers {
        if gradients.is_some() {
            workspace.inputs[index].keep(pass.pool, std::iter::once(hidden.as_slice()));
        }
        let tape = &mut workspace.tapes[if keeps_tapes { index } else { 0 }];
        rows.layer(pass, index).forward(&mut hidden, tape);
        if keeps_copies {
            tape.keep(pass.pool, &mut workspace.kept[index]);
        }
    }
    let mut d_hidden = gradients.as_ref().map(|gradients| (vec![0.0; hidden.len()], gradients.scale));
    let learned = learned(samples, &rows.spans);
    workspace.token_losses.clear();
    let loss = losses(pass, &learned, &hidden, &of_the_model, d_hidden.as_mut(), workspace);
    if let (Some(gradients), Some((mut d_hidden, _))) = (&mut gradients, d_hidden) {
        for index in (pass.parameters.lowest_layer()..layers).rev() {
            let tape = &mut workspace.tapes[if keeps_tapes { index } else { 0 }];
            let restore = |hidden: &mut Vec<f32>| {
                workspace.inputs[index].restore(pass.pool, std::iter::once(hidden.as_mut_slice()));
            };
            // The top layer's is still there.
            if keeps_copies && index + 1 < layers {
                tape.restore(pass.pool, &workspace.kept[index]);
            } else if !keeps_tapes && index + 1 < layers {
                restore(&mut hidden);
                rows.layer(pass, index).forward(&mut hidden, tape);
            }
            restore(&mut hidden);
            rows.layer(pass, index).backward(&hidden, tape, &mut d_hidden, gradients.sums);
        }
    }
    loss
}

/// The losses of all learned tokens; adds what they say of the last layer's output where that is wanted.
fn losses(
    pass: &Pass<'_>,
    learned: &[Learned],
    hidden: &[f32],
    of_the_model: &[f32],
    mut d_hidden: Option<&mut (Vec<f32>, f32)>,
    workspace: &mut Workspace,
) -> Loss {
    let Workspace { expanded, token_losses, .. } = workspace;
    let (decoder, pool) = (&pass.model.decoder, pass.pool);
    let description = decoder.description();
    let (width, eps, vocabulary) = (description.width, description.norm_eps as f32, description.vocabulary);
    let loss_scale = d_hidden.as_ref().map_or(0.0, |(_, scale)| *scale);
    let mut logits_of = |rows: &[f32], normed: &mut Vec<f32>, logits: &mut Vec<f32>| {
        let count = rows.len() / width;
        normalize(pool, rows, &decoder.final_norm, eps, normed);
        logits.resize(count * vocabulary, 0.0);
        let view = View::new(normed, count, width, width);
        let (matrix, into) = (&decoder.output, Into::Replace);
        multiply_weights(pool, matrix, Direction::Forward, view, logits, 0, vocabulary, into, expanded);
    };
    let mut loss = Loss::default();
    let at_once = (MOST_LOGITS / vocabulary).max(1);
    let (mut rows, mut normed, mut logits) = (Vec::new(), Vec::new(), Vec::new());
    let (mut model_rows, mut model_logits) = (Vec::new(), Vec::new());
    for learned in learned.chunks(at_once) {
        model_rows.clear();
        for row in learned.iter().filter_map(|token| token.model_row) {
            model_rows.extend_from_slice(&of_the_model[row * width..][..width]);
        }
        logits_of(&model_rows, &mut normed, &mut model_logits);
        rows.clear();
        learned.iter().for_each(|token| rows.extend_from_slice(&hidden[token.row * width..][..width]));
        logits_of(&rows, &mut normed, &mut logits);
        let mut targets = model_logits.chunks_exact_mut(vocabulary);
        let mut of_rows: Vec<_> = learned
            .iter()
            .zip(logits.chunks_exact_mut(vocabulary))
            .map(|(learned, logits)| {
                let target = learned.model_row.and_then(|_| targets.next());
                (learned, logits, target, 0.0f32)
            })
            .collect();
        pool.run_each(&mut of_rows, |(learned, logits, target, loss)| {
            let scale = loss_scale * learned.weight;
            *loss = match target {
                Some(target) => divergence(logits, target, scale),
                None => cross_entropy(logits, learned.target as usize, scale),
            };
        });
        for (learned, _, _, nats) in &of_rows {
            let of = if learned.model_row.is_some() { &mut loss.rehearsed } else { &mut loss.learned };
            token_losses.push(*nats);
            of.sum += f64::from(*nats * learned.weight);
            of.weight += f64::from(learned.weight);
        }
        let Some((d_hidden, _)) = d_hidden.as_deref_mut() else { continue };
        let count = learned.len();
        let view = View::new(&logits, count, vocabulary, vocabulary);
        let mut d_normed = vec![0.0; count * width];
        let (matrix, into) = (&decoder.output, Into::Replace);
        let mut room = Vec::new();
        multiply_weights(pool, matrix, Direction::Backward, view, &mut d_normed, 0, width, into, &mut room);
        let mut d_rows = vec![0.0; count * width];
        normalize_backward(pool, &rows, &decoder.final_norm, eps, &d_normed, &mut d_rows);
        for (learned, d_row) in learned.iter().zip(d_rows.chunks_exact(width)) {
            d_hidden[learned.row * width..][..width].copy_from_slice(d_row);
        }
    }
    loss
}

/// A token that is learned, and the row that says it.
struct Learned {
    row: usize,
    target: u32,
    weight: f32,
    /// The row of what the model itself would say, where that is what is learned.
    model_row: Option<usize>,
}

fn learned(samples: &[&Sample], spans: &[Range<usize>]) -> Vec<Learned> {
    let mut all = Vec::new();
    // Rows of rehearsed samples among themselves.
    let mut rehearsed = 0;
    for (sample, span) in samples.iter().zip(spans) {
        let targets = sample.tokens.iter().zip(&sample.weights).skip(1);
        for (row, (target, weight)) in span.clone().zip(targets).filter(|(_, (_, weight))| **weight != 0.0) {
            let model_row = sample.rehearsed.then(|| rehearsed + row - span.start);
            all.push(Learned { row, target: *target, weight: *weight, model_row });
        }
        if sample.rehearsed {
            rehearsed += span.len();
        }
    }
    all
}
