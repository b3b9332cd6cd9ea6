//! A share of a GPU's time as an account: it grows by the share, and what was computed is taken from it.

use std::collections::BTreeMap;

/// What may be saved up, in seconds: over any time, no more than its share and this is used.
const MOST_SAVED_S: f64 = 2.0;
/// A reading that is wrong is forgotten behind so many seconds on its own.
const MOST_OWED_S: f64 = 30.0;

/// Time of each card, by its index.
pub(super) struct GpuTime {
    share: f64,
    balance_s: BTreeMap<u32, f64>,
}

impl GpuTime {
    /// `share` is above 0 and at most 1.
    pub(super) fn new(share: f64) -> Self {
        Self { share, balance_s: BTreeMap::new() }
    }

    pub(super) fn share(&self) -> f64 {
        self.share
    }

    /// Takes `used`, 0 to 1, of a card in `elapsed_s` seconds.
    pub(super) fn count(&mut self, card: u32, used: f64, elapsed_s: f64) {
        let balance_s = self.balance_s.entry(card).or_default();
        *balance_s = (*balance_s + (self.share - used) * elapsed_s).clamp(-MOST_OWED_S, MOST_SAVED_S);
    }

    /// A card of which more was used than there was.
    pub(super) fn overdrawn(&self) -> Option<u32> {
        self.balance_s.iter().find(|(_, balance_s)| **balance_s < 0.0).map(|(card, _)| *card)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{GpuTime, MOST_SAVED_S};

    proptest! {
        #[test]
        fn over_any_time_no_more_than_the_share_and_what_was_saved_is_used(
            share in 0.05..1.0f64,
            wanted in prop::collection::vec(0.0..=1.0f64, 1..200),
        ) {
            let mut time = GpuTime::new(share);
            let used: Vec<f64> = wanted
                .into_iter()
                .map(|wanted| {
                    let used = if time.overdrawn().is_some() { 0.0 } else { wanted };
                    time.count(0, used, 1.0);
                    used
                })
                .collect();
            for first in 0..used.len() {
                let mut sum_s = 0.0;
                for (seconds, used) in used[first..].iter().enumerate() {
                    sum_s += used;
                    let most_s = share * (seconds + 1) as f64 + MOST_SAVED_S + 1.0;
                    prop_assert!(sum_s <= most_s, "{sum_s} s of {most_s}");
                }
            }
        }
    }

    #[test]
    fn whoever_computes_all_the_time_runs_for_its_share_of_it() {
        let mut time = GpuTime::new(0.25);
        let runs = (0..1_000).filter(|_| {
            let runs = time.overdrawn().is_none();
            time.count(3, f64::from(u8::from(runs)), 0.5);
            runs
        });
        let runs = runs.count();
        assert!((240..=260).contains(&runs), "{runs} of 1000");
    }
}
