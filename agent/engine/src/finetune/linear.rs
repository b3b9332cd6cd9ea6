//! A frozen matrix with what is trained beside it, forwards and backwards.

use llmdeck_kernels::dense::{Direction, Into, View, multiply_shared, multiply_weights};
use llmdeck_kernels::{Matrix, Pool};

use super::dropout::Dropout;
use super::parameters::{Parameters, Slot};
use crate::adapter::{Linear, LoraSettings, row_norms};
use crate::model::Model;

/// What all matrices of a pass share.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a Model,
    pub(crate) pool: &'a Pool,
    pub(crate) parameters: &'a Parameters,
    pub(crate) settings: &'a LoraSettings,
    /// `None` where nothing is left out, as in evaluation.
    pub(crate) dropout: Option<Dropout>,
    /// Of each slot, with DoRA: what products are multiplied with.
    pub(crate) gains: &'a [Vec<f32>],
}

/// Columns of rows.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) first: usize,
    pub(crate) stride: usize,
}

/// With DoRA, what products are multiplied with: magnitudes by the norms that rows have now. The norms are taken as constants
/// (Liu et al. 2024, section 4.3).
pub(crate) fn gains(
    model: &Model,
    pool: &Pool,
    parameters: &Parameters,
    settings: &LoraSettings,
) -> Vec<Vec<f32>> {
    if !settings.use_dora {
        return Vec::new();
    }
    let mut expanded = Vec::new();
    let of = |slot: &Slot| {
        let matrix = model.decoder.linear(slot.layer, slot.linear);
        let norms = row_norms(pool, matrix, &parameters.thin(slot, settings), &mut expanded);
        let magnitudes = &parameters.values[slot.magnitude.clone()];
        magnitudes.iter().zip(norms).map(|(magnitude, norm)| magnitude / norm).collect()
    };
    parameters.slots.iter().map(of).collect()
}

impl Pass<'_> {
    fn matrix(&self, layer: usize, linear: Linear) -> &Matrix {
        self.model.decoder.linear(layer, linear)
    }

    fn trained(&self, layer: usize, linear: Linear) -> Option<(usize, &Slot)> {
        let is_here = |(_, slot): &(usize, &Slot)| slot.layer == layer && slot.linear == linear;
        self.parameters.slots.iter().enumerate().find(is_here)
    }

    /// `x` `[tokens, inputs]` to columns of `out`. `low` keeps what lies between both thin matrices, `[tokens, rank]`.
    pub(crate) fn forward(
        &self,
        (layer, linear): (usize, Linear),
        x: &[f32],
        out: &mut [f32],
        columns: Columns,
        low: &mut Vec<f32>,
        expanded: &mut Vec<f32>,
    ) {
        let (pool, matrix) = (self.pool, self.matrix(layer, linear));
        let Columns { first, stride } = columns;
        let (inputs, outputs) = (matrix.columns(), matrix.rows());
        let tokens = x.len() / inputs;
        let rows = View::new(x, tokens, inputs, inputs);
        multiply_weights(pool, matrix, Direction::Forward, rows, out, first, stride, Into::Replace, expanded);
        let Some((index, slot)) = self.trained(layer, linear) else { return };
        let (rank, scale) = (self.settings.rank, self.settings.scale(self.settings.rank));
        let values = &self.parameters.values;
        let a = View::new(&values[slot.a.clone()], inputs, rank, rank);
        let b = View::new(&values[slot.b.clone()], outputs, rank, rank);
        low.resize(tokens * rank, 0.0);
        let kept = self.dropout.map(|dropout| dropout.kept(pool, index, x, inputs));
        let rows = View::new(kept.as_deref().unwrap_or(x), tokens, inputs, inputs);
        multiply_shared(pool, low, 0, rank, Into::Replace, 1.0, rows, a);
        let low = View::new(low, tokens, rank, rank);
        multiply_shared(pool, out, first, stride, Into::Add, scale, low, b.transposed());
        if let Some(gains) = self.gains.get(index) {
            let mut rows: Vec<&mut [f32]> = out.chunks_exact_mut(stride).collect();
            pool.run_each(&mut rows, |row| {
                row[first..first + outputs].iter_mut().zip(gains).for_each(|(y, gain)| *y *= gain);
            });
        }
    }

    /// Backward of [`Pass::forward`]: `d_out` has the gradients of the columns, `out` what came out there; adds to `d_x` and to
    /// `gradients`, which lie as the parameters do.
    #[allow(clippy::too_many_arguments, reason = "what a backward pass is made of")]
    pub(crate) fn backward(
        &self,
        (layer, linear): (usize, Linear),
        x: &[f32],
        low: &[f32],
        (out, d_out): (&[f32], &[f32]),
        columns: Columns,
        d_x: &mut [f32],
        gradients: &mut [f32],
        expanded: &mut Vec<f32>,
    ) {
        let (pool, matrix) = (self.pool, self.matrix(layer, linear));
        let Columns { first, stride } = columns;
        let (inputs, outputs) = (matrix.columns(), matrix.rows());
        let tokens = x.len() / inputs;
        let trained = self.trained(layer, linear);
        let gains = trained.and_then(|(index, _)| self.gains.get(index));
        let gained: Vec<f32>;
        let d_product = match (gains, trained) {
            (Some(gains), Some((_, slot))) => {
                let magnitudes = &self.parameters.values[slot.magnitude.clone()];
                let sums = &mut gradients[slot.magnitude.clone()];
                let mut d_product = vec![0.0; tokens * outputs];
                for (token, row) in d_product.chunks_exact_mut(outputs).enumerate() {
                    let (y, dy) = (&out[token * stride + first..], &d_out[token * stride + first..]);
                    for output in 0..outputs {
                        row[output] = dy[output] * gains[output];
                        // y = magnitude * z / norm, and so z / norm = y / magnitude.
                        sums[output] += dy[output] * y[output] / magnitudes[output];
                    }
                }
                gained = d_product;
                View::new(&gained, tokens, outputs, outputs)
            }
            _ => View::new(&d_out[first..], tokens, outputs, stride),
        };
        multiply_weights(pool, matrix, Direction::Backward, d_product, d_x, 0, inputs, Into::Add, expanded);
        let Some((index, slot)) = trained else { return };
        let (rank, scale) = (self.settings.rank, self.settings.scale(self.settings.rank));
        let values = &self.parameters.values;
        let a = View::new(&values[slot.a.clone()], inputs, rank, rank);
        let b = View::new(&values[slot.b.clone()], outputs, rank, rank);
        let mut d_low = vec![0.0; tokens * rank];
        multiply_shared(pool, &mut d_low, 0, rank, Into::Replace, scale, d_product, b);
        let low = View::new(low, tokens, rank, rank);
        let d_b = &mut gradients[slot.b.clone()];
        multiply_shared(pool, d_b, 0, rank, Into::Add, scale, d_product.transposed(), low);
        let d_low = View::new(&d_low, tokens, rank, rank);
        let kept = self.dropout.map(|dropout| dropout.kept(pool, index, x, inputs));
        let rows = View::new(kept.as_deref().unwrap_or(x), tokens, inputs, inputs);
        let d_a = &mut gradients[slot.a.clone()];
        multiply_shared(pool, d_a, 0, rank, Into::Add, 1.0, rows.transposed(), d_low);
        match self.dropout {
            None => multiply_shared(pool, d_x, 0, inputs, Into::Add, 1.0, d_low, a.transposed()),
            Some(dropout) => {
                let mut d_kept = vec![0.0; tokens * inputs];
                multiply_shared(pool, &mut d_kept, 0, inputs, Into::Replace, 1.0, d_low, a.transposed());
                dropout.add_kept(pool, index, &d_kept, d_x, inputs);
            }
        }
    }
}
