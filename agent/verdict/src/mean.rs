//! Two bounded means compared: proportions of failures, scores between 0 and 1.

use crate::finding::Effect;
use crate::mixture::{PRIOR_BEND, Tally, ln_evidence_above, ln_evidence_below};

/// Halvings of what a difference may be: to two in a million.
const HALVINGS: usize = 20;
/// How near the search comes to the stable mean that explains the counts best.
const PRECISION: f64 = 1e-5;

/// Whether the candidate's mean surely exceeds the stable one by more than `margin`, wrongly at most with chance `alpha`
/// over all looks together.
///
/// Whatever the stable mean `p` is, the candidate's is then above `p + margin`; the product of the evidence for that and
/// of the evidence that the stable mean is below `p` is an e-process at the true `p`, so what passes at every `p` is
/// evidence.
pub fn mean_exceeds(stable: &Tally, candidate: &Tally, margin: f64, alpha: f64) -> bool {
    let (Some(stable_mean), Some(candidate_mean)) = (stable.mean(), candidate.mean()) else { return false };
    let needed = -alpha.ln();
    if candidate_mean - margin <= stable_mean {
        return false;
    }
    let (least, most) = ((-margin).max(0.0), (1.0 - margin).min(1.0));
    // Between these the evidence has one valley each: the prior is of another form beyond them.
    let mut bounds =
        [PRIOR_BEND, 1.0 - PRIOR_BEND, PRIOR_BEND - margin, 1.0 - PRIOR_BEND - margin, least, most]
            .map(|bound| bound.clamp(least, most));
    bounds.sort_by(f64::total_cmp);
    let excess = |p: f64| ln_evidence_above(p + margin, candidate) + ln_evidence_below(p, stable) - needed;
    bounds.windows(2).all(|span| stays_positive(span[0], span[1], excess))
}

/// Whether a function that falls and then rises is positive, or 0, from `low` to `high`. What it finds negative ends it.
fn stays_positive(mut low: f64, mut high: f64, function: impl Fn(f64) -> f64) -> bool {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    if function(low) < 0.0 || function(high) < 0.0 {
        return false;
    }
    let (mut left, mut right) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut at_left, mut at_right) = (function(left), function(right));
    while high - low > PRECISION {
        if at_left < 0.0 || at_right < 0.0 {
            return false;
        }
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - GOLDEN * (high - low);
            at_left = function(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + GOLDEN * (high - low);
            at_right = function(right);
        }
    }
    at_left >= 0.0 && at_right >= 0.0
}

/// The candidate's mean less the stable one's, between bounds each of which is wrong at most with chance `alpha` over all
/// looks together.
pub fn compare_means(stable: &Tally, candidate: &Tally, alpha: f64) -> Effect {
    let estimate = stable.mean().zip(candidate.mean()).map(|(stable, candidate)| candidate - stable);
    let Some(between) = estimate else { return Effect { estimate, low: -1.0, high: 1.0 } };
    let (stable_misses, candidate_misses) = (stable.mirrored(), candidate.mirrored());
    Effect {
        estimate,
        low: greatest(-1.0, between, |margin| mean_exceeds(stable, candidate, margin, alpha)),
        high: -greatest(-1.0, -between, |margin| {
            mean_exceeds(&stable_misses, &candidate_misses, margin, alpha)
        }),
    }
}

/// The greatest number between `low` and `high` that holds, where every smaller one does too; `low` where none does.
fn greatest(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Tally, compare_means, mean_exceeds};

    proptest! {
        #[test]
        fn the_estimate_lies_within_and_the_mirror_image_is_the_same(
            stable in (1u64..5_000, 0.0..1.0f64), candidate in (1u64..5_000, 0.0..1.0f64),
        ) {
            let tally = |(count, share): (u64, f64)| Tally::of_hits((count as f64 * share) as u64, count);
            let (stable, candidate) = (tally(stable), tally(candidate));
            let effect = compare_means(&stable, &candidate, 0.01);
            let estimate = effect.estimate.unwrap();
            prop_assert!(effect.low <= estimate && estimate <= effect.high, "{effect:?}");
            let mirror = compare_means(&stable.mirrored(), &candidate.mirrored(), 0.01);
            prop_assert!((mirror.low + effect.high).abs() < 1e-4 && (mirror.high + effect.low).abs() < 1e-4);
        }

        /// What the search finds is as hard to pass as every stable mean on a fine grid.
        #[test]
        fn what_is_evident_is_evident_at_every_stable_mean(
            stable in (50u64..2_000, 0.0..0.3f64), candidate in (50u64..2_000, 0.0..0.5f64), margin in -0.1..0.1f64,
        ) {
            let tally = |(count, share): (u64, f64)| Tally::of_hits((count as f64 * share) as u64, count);
            let (stable, candidate) = (tally(stable), tally(candidate));
            if mean_exceeds(&stable, &candidate, margin, 0.05) {
                for step in 0..=1_000 {
                    let p = f64::from(step) / 1_000.0;
                    if (0.0..=1.0).contains(&(p + margin)) {
                        let evidence = super::ln_evidence_above(p + margin, &candidate)
                            + super::ln_evidence_below(p, &stable);
                        prop_assert!(evidence > -(0.05f64.ln()) - 0.02, "{p}: {evidence}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_never_failed_on_either_side_differs_by_ever_less() {
        let mut high = 1.0;
        for count in [100, 1_000, 10_000] {
            let effect = compare_means(&Tally::of_hits(0, count), &Tally::of_hits(0, count), 0.01);
            assert!(effect.high < high && (effect.low + effect.high).abs() < 1e-5, "{count}: {effect:?}");
            high = effect.high;
        }
        assert!(high < 0.002, "{high}");
    }

    #[test]
    fn a_few_requests_decide_nothing_and_many_decide() {
        let few = compare_means(&Tally::of_hits(0, 20), &Tally::of_hits(1, 20), 0.05);
        assert!(few.low < 0.0 && few.high > 0.2, "{few:?}");
        let many = compare_means(&Tally::of_hits(100, 10_000), &Tally::of_hits(300, 10_000), 0.05);
        assert!(many.low > 0.01 && many.high < 0.03, "{many:?}");
    }
}
