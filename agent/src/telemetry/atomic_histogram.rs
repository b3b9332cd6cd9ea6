//! A histogram that any number of threads record into at once, without a lock and without allocation.
//!
//! Buckets are those of HdrHistogram for the contract's range and precision, so that what is drained adds to an
//! ordinary histogram without loss.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use hdrhistogram::Histogram;
use llmdeck_proto::histogram::{HIGHEST_US, SIGNIFICANT_DIGITS, empty};

/// Values below this have a bucket each: twice ten to the digits, rounded up to a power of two (HdrHistogram's
/// `sub_bucket_count`).
const SUB_BUCKETS: u64 = (2 * 10u64.pow(SIGNIFICANT_DIGITS as u32)).next_power_of_two();
const HALF: u64 = SUB_BUCKETS / 2;
const HALF_BITS: u32 = HALF.trailing_zeros();

/// Counts by bucket.
pub struct AtomicHistogram {
    counts: Box<[AtomicU32]>,
    /// Buckets from `first` up to `end` have held counts. The range only grows: resetting it would race with recorders.
    first: AtomicUsize,
    end: AtomicUsize,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        let buckets = index_of(HIGHEST_US) + 1;
        Self {
            counts: std::iter::repeat_with(AtomicU32::default).take(buckets).collect(),
            first: AtomicUsize::new(usize::MAX),
            end: AtomicUsize::new(0),
        }
    }
}

impl AtomicHistogram {
    /// Counts a value; what is out of range counts at the nearest end.
    pub fn record(&self, value: u64) {
        let index = index_of(value.clamp(1, HIGHEST_US));
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        if index < self.first.load(Ordering::Relaxed) {
            self.first.fetch_min(index, Ordering::Relaxed);
        }
        if index >= self.end.load(Ordering::Relaxed) {
            self.end.fetch_max(index + 1, Ordering::Relaxed);
        }
    }

    /// Moves every count into `sum`. A count that is recorded meanwhile is moved now or by the next call.
    pub fn drain_into(&self, sum: &mut Histogram<u64>) {
        let (first, end) = (self.first.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        for index in first..end {
            if self.counts[index].load(Ordering::Relaxed) == 0 {
                continue;
            }
            let count = self.counts[index].swap(0, Ordering::Relaxed);
            sum.saturating_record_n(value_of(index), u64::from(count));
        }
    }

    /// Takes every count.
    pub fn drain(&self) -> Histogram<u64> {
        let mut sum = empty();
        self.drain_into(&mut sum);
        sum
    }
}

/// HdrHistogram's index of a value's bucket.
fn index_of(value: u64) -> usize {
    let shift = (u64::BITS - (value | (SUB_BUCKETS - 1)).leading_zeros()) - (HALF_BITS + 1);
    ((u64::from(shift) << HALF_BITS) + (value >> shift)) as usize
}

/// The lowest value of a bucket.
fn value_of(index: usize) -> u64 {
    let index = index as u64;
    let shift = (index >> HALF_BITS).saturating_sub(1);
    if shift == 0 { index } else { ((index & (HALF - 1)) + HALF) << shift }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{AtomicHistogram, HIGHEST_US, empty};

    proptest! {
        #[test]
        fn counts_as_hdrhistogram_does(values in prop::collection::vec(
            prop_oneof![1u64..5_000, 1u64..HIGHEST_US, Just(HIGHEST_US), Just(2047), Just(2048), Just(4095), Just(4096)],
            0..300,
        )) {
            let ours = AtomicHistogram::default();
            let mut theirs = empty();
            for value in &values {
                ours.record(*value);
                theirs.record(*value).unwrap();
            }
            let drained = ours.drain();
            prop_assert_eq!(drained.len(), theirs.len());
            for quantile in [0.0, 0.25, 0.5, 0.9, 0.99, 1.0] {
                prop_assert_eq!(drained.value_at_quantile(quantile), theirs.value_at_quantile(quantile));
            }
            prop_assert!(ours.drain().is_empty());
        }
    }

    #[test]
    fn threads_lose_nothing_while_it_is_drained() {
        const EACH: u64 = 40_000;
        let histogram = AtomicHistogram::default();
        let mut sum = empty();
        std::thread::scope(|scope| {
            let recorders: Vec<_> = (0..4u64)
                .map(|thread| {
                    let histogram = &histogram;
                    scope.spawn(move || {
                        (0..EACH).for_each(|step| histogram.record(1 + step * (thread + 1) % 70_000));
                    })
                })
                .collect();
            while recorders.iter().any(|recorder| !recorder.is_finished()) {
                histogram.drain_into(&mut sum);
            }
        });
        histogram.drain_into(&mut sum);
        assert_eq!(sum.len(), 4 * EACH);
    }
}
