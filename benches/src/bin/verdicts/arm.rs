//! One revision's requests, as the verdict sees them.

use llmdeck_verdict::{Distribution, Tally};

/// Buckets a factor of ten.
const FINENESS: f64 = 100.0;
const LEAST_MS: f64 = 1.0;
const BUCKETS: usize = 500;

/// Counts of one revision.
pub(crate) struct Arm {
    pub(crate) failed: Tally,
    pub(crate) quality: Tally,
    pub(crate) ttft: Latency,
    pub(crate) itl: Latency,
}

/// Counted latencies on a scale of equal ratios.
pub(crate) struct Latency([u32; BUCKETS]);

impl Default for Arm {
    fn default() -> Self {
        let latency = || Latency([0; BUCKETS]);
        Self { failed: Tally::default(), quality: Tally::default(), ttft: latency(), itl: latency() }
    }
}

impl Latency {
    pub(crate) fn record(&mut self, ms: f64) {
        let bucket = ((ms / LEAST_MS).max(1.0).log10() * FINENESS) as usize;
        self.0[bucket.min(BUCKETS - 1)] += 1;
    }

    pub(crate) fn distribution(&self) -> Distribution {
        let edge = |bucket: usize| LEAST_MS * 10f64.powf(bucket as f64 / FINENESS);
        let counted = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        Distribution::new(counted.map(|(bucket, count)| {
            // Just below the next bucket's lowest.
            (edge(bucket), edge(bucket + 1) * (1.0 - 1e-9), u64::from(*count))
        }))
    }
}
