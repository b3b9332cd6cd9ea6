use llmdeck_kernels::Pool;

/// Leaves numbers out by chance. What is left out follows from the seed, the matrix and the place alone, so that a pass that is
/// run again, on any number of threads, leaves out the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub(crate) share: f32,
    /// Of the pass.
    pub(crate) seed: u64,
}

impl Dropout {
    /// What numbers are multiplied with: nothing, or what makes up for those that are left out.
    fn factor(self, matrix: usize, place: usize) -> f32 {
        let mixed = mix(self.seed ^ mix((matrix as u64) << 40 ^ place as u64));
        let uniform = (mixed >> 40) as f32 / (1 << 24) as f32;
        if uniform < self.share { 0.0 } else { 1.0 / (1.0 - self.share) }
    }

    /// What is kept of rows of `columns` numbers.
    pub(crate) fn kept(self, pool: &Pool, matrix: usize, x: &[f32], columns: usize) -> Vec<f32> {
        let mut kept = vec![0.0; x.len()];
        self.add_kept(pool, matrix, x, &mut kept, columns);
        kept
    }

    /// Adds what is kept of `x` to `sum`.
    pub(crate) fn add_kept(self, pool: &Pool, matrix: usize, x: &[f32], sum: &mut [f32], columns: usize) {
        let mut rows: Vec<_> =
            sum.chunks_exact_mut(columns).zip(x.chunks_exact(columns)).enumerate().collect();
        pool.run_each(&mut rows, |(row, (sum, x))| {
            for (column, (sum, x)) in sum.iter_mut().zip(*x).enumerate() {
                *sum += x * self.factor(matrix, *row * columns + column);
            }
        });
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use llmdeck_kernels::Pool;

    use super::Dropout;

    #[test]
    fn it_leaves_out_its_share_and_keeps_the_mean() {
        let dropout = Dropout { share: 0.25, seed: 3 };
        let kept = dropout.kept(&Pool::new(1).unwrap(), 2, &vec![1.0; 64 * 1_000], 64);
        let zeros = kept.iter().filter(|number| **number == 0.0).count() as f32 / kept.len() as f32;
        let mean = kept.iter().sum::<f32>() / kept.len() as f32;
        assert!((zeros - 0.25).abs() < 0.01 && (mean - 1.0).abs() < 0.02, "{zeros} {mean}");
        assert_eq!(kept, dropout.kept(&Pool::new(3).unwrap(), 2, &vec![1.0; 64 * 1_000], 64));
        assert_ne!(
            kept,
            Dropout { seed: 4, ..dropout }.kept(&Pool::new(1).unwrap(), 2, &vec![1.0; 64_000], 64)
        );
    }
}
