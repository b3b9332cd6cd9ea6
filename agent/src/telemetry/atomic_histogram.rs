//! A histogram that any number of threads record into at once, without a lock and without allocation.
//!
//! Buckets are those of HdrHistogram for the contract's range and precision, so that what is drained adds to an
//! ordinary histogram without loss.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use llmdeck_proto::buckets::{BUCKETS, index_of};
use llmdeck_proto::histogram::HIGHEST_US;

/// Counts by bucket.
pub struct AtomicHistogram {
    counts: Box<[AtomicU32]>,
    /// Buckets from `first` up to `end` have held counts. The range only grows: resetting it would race with recorders.
    first: AtomicUsize,
    end: AtomicUsize,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        Self {
            // Pages that hold no count are never touched: a revision has forty of these, most of them empty.
            counts: bytemuck::zeroed_slice_box(BUCKETS),
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

    /// Takes every count, with its bucket. One that is recorded meanwhile is taken now or by the next call.
    pub fn drain(&self) -> impl Iterator<Item = (usize, u64)> {
        let (first, end) = (self.first.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        (first..end).filter_map(|index| {
            // Most are empty; a load is cheaper than an exchange.
            let taken = self.counts[index].load(Ordering::Relaxed) > 0;
            taken.then(|| (index, u64::from(self.counts[index].swap(0, Ordering::Relaxed))))
        })
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::sparse::SparseHistogram;
    use proptest::prelude::*;

    use super::{AtomicHistogram, HIGHEST_US};

    proptest! {
        #[test]
        fn what_is_drained_is_what_was_recorded(values in prop::collection::vec(1..=HIGHEST_US, 0..300)) {
            let histogram = AtomicHistogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            prop_assert_eq!(SparseHistogram::from_buckets(histogram.drain()), values.into_iter().collect());
            prop_assert_eq!(histogram.drain().count(), 0);
        }
    }

    #[test]
    fn threads_lose_nothing_while_it_is_drained() {
        const EACH: u64 = 40_000;
        let histogram = AtomicHistogram::default();
        let mut taken = 0;
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
                taken += histogram.drain().map(|(_, count)| count).sum::<u64>();
            }
        });
        taken += histogram.drain().map(|(_, count)| count).sum::<u64>();
        assert_eq!(taken, 4 * EACH);
    }
}
