//! Intervals by the bootstrap (Efron 1979) over stretches of time rather than requests: requests that wait in one queue
//! are not independent of each other, stretches that are much longer than a request nearly are (Künsch 1989).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::block::{Block, Latency};

/// Resamples; enough for the ends of a 95 % interval to be steady in the second digit.
const RESAMPLES: usize = 1_000;
/// Share of resamples that lies outside of the interval, both ends together.
const OUTSIDE: f64 = 0.05;

/// How often each block is drawn, resample by resample; the same seed gives the same draws.
pub(super) fn draws(blocks: usize, seed: u64) -> Vec<Vec<u64>> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..RESAMPLES)
        .map(|_| {
            let mut times = vec![0; blocks];
            (0..blocks).for_each(|_| times[rng.random_range(0..blocks)] += 1);
            times
        })
        .collect()
}

/// Counts of one latency by value and block.
pub(super) struct Table {
    values: Vec<u64>,
    /// `[values, blocks]`
    counts: Vec<u64>,
    blocks: usize,
}

impl Table {
    pub(super) fn new(blocks: &[Block], latency: Latency) -> Self {
        let of = |block: &Block| block.latencies_us.get(&latency).cloned().unwrap_or_default();
        let all: Vec<_> = blocks.iter().map(of).collect();
        let mut values: Vec<u64> = all.iter().flat_map(|counts| counts.keys().copied()).collect();
        values.sort_unstable();
        values.dedup();
        let counts = values
            .iter()
            .flat_map(|value| all.iter().map(|counts| counts.get(value).copied().unwrap_or(0)))
            .collect();
        Self { values, counts, blocks: blocks.len() }
    }

    /// The quantiles when each block is there so many times; `None` where nothing is. `quantiles` ascend.
    pub(super) fn quantiles(&self, times: &[u64], quantiles: &[f64]) -> Vec<Option<u64>> {
        let weights: Vec<u64> = self
            .counts
            .chunks_exact(self.blocks.max(1))
            .map(|counts| counts.iter().zip(times).map(|(count, times)| count * times).sum())
            .collect();
        let total: u64 = weights.iter().sum();
        let mut seen = 0;
        let mut at = weights.iter().zip(&self.values).map(|(weight, value)| {
            seen += weight;
            (seen, *value)
        });
        let mut current = (0, 0);
        quantiles
            .iter()
            .map(|quantile| {
                let rank = ((quantile * total as f64).ceil() as u64).max(1);
                while current.0 < rank {
                    current = at.next()?;
                }
                Some(current.1)
            })
            .collect()
    }
}

/// The ends between which the middle of the resamples lies.
pub(super) fn interval(mut resampled: Vec<f64>) -> Option<[f64; 2]> {
    resampled.retain(|number| number.is_finite());
    if resampled.is_empty() {
        return None;
    }
    resampled.sort_by(f64::total_cmp);
    let at = |share: f64| resampled[((resampled.len() - 1) as f64 * share).round() as usize];
    Some([at(OUTSIDE / 2.0), at(1.0 - OUTSIDE / 2.0)])
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::{Table, draws, interval};
    use crate::bench::block::{Block, Latency};

    fn blocks(seed: u64, count: usize) -> Vec<Block> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut block = || {
            let mut block = Block::default();
            (0..50).for_each(|_| block.record(Latency::Ttft, rng.random_range(1..1_000)));
            block
        };
        (0..count).map(|_| block()).collect()
    }

    #[test]
    fn quantiles_are_those_of_the_histogram() {
        let blocks = blocks(1, 8);
        let table = Table::new(&blocks, Latency::Ttft);
        let mut all = Block::default();
        blocks.iter().for_each(|block| all.merge(block));
        let histogram = all.histogram(Latency::Ttft);
        let quantiles = [0.1, 0.5, 0.95, 0.99, 1.0];
        for (quantile, ours) in quantiles.iter().zip(table.quantiles(&[1; 8], &quantiles)) {
            assert_eq!(ours, Some(histogram.value_at_quantile(*quantile)));
        }
        assert_eq!(Table::new(&[], Latency::Itl).quantiles(&[], &[0.5]), [None]);
    }

    /// Of many runs whose true median is known, the interval holds it in about 95 of 100.
    #[test]
    fn the_interval_covers_the_truth() {
        let covered = (0..200)
            .filter(|seed| {
                let blocks = blocks(*seed, 30);
                let table = Table::new(&blocks, Latency::Ttft);
                let medians = draws(30, 7)
                    .iter()
                    .filter_map(|times| table.quantiles(times, &[0.5])[0].map(|value| value as f64))
                    .collect();
                interval(medians).is_some_and(|[low, high]| (low..=high).contains(&500.0))
            })
            .count();
        assert!((176..=200).contains(&covered), "{covered} of 200");
    }
}
