//! What an adapter adds to a product: two thin matrices, one row of the batch at a time, so that sequences with different
//! adapters share a step.

use crate::gradients::dot;
use crate::isa::compiled_for_each_isa;

/// `down` `[rank, inputs]` and `up` `[rank, outputs]`: an adapter adds `upᵀ (down x)` to a product (Hu et al. 2021).
#[derive(Clone, Debug, Default)]
pub struct LowRank {
    rank: usize,
    down: Vec<f32>,
    up: Vec<f32>,
    /// Of each output; what the sum is multiplied with at the end (DoRA, Liu et al. 2024).
    gain: Option<Vec<f32>>,
}

impl LowRank {
    /// Of its two matrices, row by row, and the gains where it has any.
    ///
    /// # Panics
    /// When they are not of the same rank: that is a bug of the caller.
    pub fn new(rank: usize, down: Vec<f32>, up: Vec<f32>, gain: Option<Vec<f32>>) -> Self {
        assert!(
            rank > 0 && down.len().is_multiple_of(rank) && up.len().is_multiple_of(rank),
            "a rank does not divide its matrices"
        );
        let outputs = up.len() / rank;
        assert!(gain.as_ref().is_none_or(|gain| gain.len() == outputs), "gains are missing");
        Self { rank, down, up, gain }
    }

    /// Numbers between its two matrices.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// `[rank, inputs]`
    pub fn down(&self) -> &[f32] {
        &self.down
    }

    /// `[rank, outputs]`
    pub fn up(&self) -> &[f32] {
        &self.up
    }

    /// `[outputs]`, where there are any.
    pub fn gain(&self) -> Option<&[f32]> {
        self.gain.as_deref()
    }

    /// Inputs that it reads.
    pub fn inputs(&self) -> usize {
        self.down.len() / self.rank.max(1)
    }

    /// Outputs that it adds to.
    pub fn outputs(&self) -> usize {
        self.up.len() / self.rank.max(1)
    }

    /// Memory that it takes, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let gains = self.gain.as_ref().map_or(0, Vec::len);
        ((self.down.len() + self.up.len() + gains) * size_of::<f32>()) as u64
    }

    /// All that it is made of.
    pub fn numbers(&self) -> impl Iterator<Item = f32> {
        self.down.iter().chain(&self.up).chain(self.gain.iter().flatten()).copied()
    }

    /// Adds its part to the product of one row.
    ///
    /// # Panics
    /// When the row or the product is not of its width: that is a bug of the caller.
    pub fn add(&self, x: &[f32], product: &mut [f32]) {
        assert!(
            x.len() == self.inputs() && product.len() == self.outputs(),
            "an adapter is of another width"
        );
        for (down, up) in self.down.chunks_exact(x.len()).zip(self.up.chunks_exact(product.len())) {
            add_scaled(product, dot(down, x), up);
        }
        if let Some(gain) = &self.gain {
            multiply(product, gain);
        }
    }
}

compiled_for_each_isa! {
    fn add_scaled(sum: &mut [f32], factor: f32, x: &[f32]) => add_scaled_plain
}

#[inline(always)]
fn add_scaled_plain(sum: &mut [f32], factor: f32, x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

compiled_for_each_isa! {
    fn multiply(x: &mut [f32], factors: &[f32]) => multiply_plain
}

#[inline(always)]
fn multiply_plain(x: &mut [f32], factors: &[f32]) {
    x.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
}

#[cfg(test)]
mod tests {
    use super::LowRank;

    #[test]
    fn it_adds_the_product_of_both_and_applies_the_gain() {
        let down: Vec<f32> = (0..2 * 3).map(|index| index as f32).collect();
        let up: Vec<f32> = (0..2 * 4).map(|index| index as f32 - 3.0).collect();
        let x = [1.0, -1.0, 2.0];
        let low = LowRank::new(2, down, up, Some(vec![1.0, 2.0, 0.5, -1.0]));
        assert_eq!((low.inputs(), low.outputs(), low.size_bytes()), (3, 4, 72));
        let mut product = [10.0, 20.0, 30.0, 40.0];
        low.add(&x, &mut product);
        // down x = [0 - 1 + 4, 3 - 4 + 10] = [3, 9]
        let sums: Vec<f32> = (0..4).map(|n| 3.0 * (n as f32 - 3.0) + 9.0 * (n as f32 + 1.0)).collect();
        let expected: Vec<f32> = [10.0, 20.0, 30.0, 40.0]
            .iter()
            .zip(&sums)
            .zip([1.0, 2.0, 0.5, -1.0])
            .map(|((product, sum), gain)| (product + sum) * gain)
            .collect();
        assert_eq!(product.to_vec(), expected);
    }
}
