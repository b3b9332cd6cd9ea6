//! Between the rows that matrices compute and the heads that attention reads: norms, rotations and scales, both ways.

use std::ops::Range;

use llmdeck_kernels::Pool;
use llmdeck_kernels::elementwise::{rms_norm_in_place, rotate_halves, rotate_neighbours, scale};
use llmdeck_kernels::gradients::rms_norm_backward;

use crate::description::{DecoderDescription, RopeLayout};

/// Angles of every token, `[tokens, head_dim]`: cosines, then sines.
pub(crate) struct Rotation {
    forward: Vec<f32>,
    backward: Vec<f32>,
}

impl Rotation {
    /// Positions are counted from the beginning of each sample.
    pub(crate) fn new(frequencies: &[f32], samples: &[Range<usize>]) -> Self {
        let (mut forward, mut backward) = (Vec::new(), Vec::new());
        for position in samples.iter().flat_map(|sample| 0..sample.len()) {
            let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
            let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
            for (table, sign) in [(&mut forward, 1.0), (&mut backward, -1.0)] {
                table.extend(&cosines);
                table.extend(sines.iter().map(|sine| sign * sine));
            }
        }
        Self { forward, backward }
    }
}

/// Some heads of each row.
pub(crate) struct HeadsOfRows<'a> {
    pub(crate) description: &'a DecoderDescription,
    /// Column of the first head, and numbers from one row to the next.
    pub(crate) first: usize,
    pub(crate) stride: usize,
    pub(crate) heads: usize,
    /// Of each head; `None` where it is not normed.
    pub(crate) norm: Option<&'a [f32]>,
    /// `None` where it is not turned, as values are not.
    pub(crate) rotation: Option<&'a Rotation>,
    pub(crate) scale: f32,
}

impl HeadsOfRows<'_> {
    fn rotate(&self, head: &mut [f32], angles: &[f32]) {
        let (cos, sin) = angles.split_at(head.len() / 2);
        match self.description.rope {
            RopeLayout::Halves => rotate_halves(head, cos, sin),
            RopeLayout::Interleaved => rotate_neighbours(head, cos, sin),
        }
    }

    /// Writes `[heads, tokens, head_dim]`.
    pub(crate) fn forward(&self, pool: &Pool, rows: &[f32], out: &mut Vec<f32>) {
        let (dim, tokens) = (self.description.head_dim, rows.len() / self.stride);
        out.resize(self.heads * tokens * dim, 0.0);
        let mut heads: Vec<(usize, &mut [f32])> = out.chunks_exact_mut(tokens * dim).enumerate().collect();
        pool.run_each(&mut heads, |(index, head)| {
            for (token, out) in head.chunks_exact_mut(dim).enumerate() {
                let from = token * self.stride + self.first + *index * dim;
                out.copy_from_slice(&rows[from..from + dim]);
                if let Some(norm) = self.norm {
                    rms_norm_in_place(out, norm, self.description.norm_eps as f32);
                }
                if let Some(rotation) = self.rotation {
                    self.rotate(out, &rotation.forward[token * dim..][..dim]);
                }
                if self.scale != 1.0 {
                    scale(out, self.scale);
                }
            }
        });
    }

    /// Writes the gradients of the rows, of which only these heads' columns change. `gradients` has those of the heads, and is
    /// used up.
    pub(crate) fn backward(&self, pool: &Pool, rows: &[f32], gradients: &mut [f32], d_rows: &mut [f32]) {
        let (dim, tokens) = (self.description.head_dim, rows.len() / self.stride);
        let mut heads: Vec<&mut [f32]> = gradients.chunks_exact_mut(tokens * dim).collect();
        pool.run_each(&mut heads, |head| {
            for (token, gradient) in head.chunks_exact_mut(dim).enumerate() {
                if self.scale != 1.0 {
                    scale(gradient, self.scale);
                }
                if let Some(rotation) = self.rotation {
                    self.rotate(gradient, &rotation.backward[token * dim..][..dim]);
                }
            }
        });
        let gradients = &*gradients;
        let mut rows: Vec<_> =
            d_rows.chunks_exact_mut(self.stride).zip(rows.chunks_exact(self.stride)).enumerate().collect();
        pool.run_each(&mut rows, |(token, (d_row, row))| {
            for index in 0..self.heads {
                let gradient = &gradients[(index * tokens + *token) * dim..][..dim];
                let own = self.first + index * dim..self.first + (index + 1) * dim;
                let d_head = &mut d_row[own.clone()];
                match self.norm {
                    None => d_head.copy_from_slice(gradient),
                    Some(norm) => {
                        d_head.fill(0.0);
                        let eps = self.description.norm_eps as f32;
                        rms_norm_backward(&row[own], norm, eps, gradient, d_head);
                    }
                }
            }
        });
    }
}
