//! Quantiles of two distributions compared, as a ratio, straight from their histograms.

use crate::distribution::Distribution;
use crate::finding::Effect;
use crate::mixture::{Tally, ln_evidence_above, ln_evidence_below};

/// Ratios are looked for up to this, and down to one by it.
const WIDEST: f64 = 1_000.0;
/// Halvings of the logarithm of what a ratio may be: to one in a hundred thousand.
const HALVINGS: usize = 20;

/// Whether the candidate's quantile at `share` surely exceeds the stable one's times `ratio`, wrongly at most with chance
/// `alpha` over all looks together.
///
/// Whatever the stable quantile `x` is, at least `share` of the stable values are at most `x`, and no more than `share`
/// are below it. If the candidate's quantile is no more than `ratio x`, at least `share` of its values are at most that.
/// Evidence against the two together is an e-process at the true `x`, so what passes at every `x` is evidence; no price
/// is paid for the many values that `x` may have (Howard and Ramdas 2022).
pub fn quantile_exceeds(
    stable: &Distribution,
    candidate: &Distribution,
    share: f64,
    ratio: f64,
    alpha: f64,
) -> bool {
    let needed = -alpha.ln();
    let (stable_count, candidate_count) = (stable.count(), candidate.count());
    if stable_count == 0 || candidate_count == 0 {
        return false;
    }
    // Within a bucket of the stable one, the highest value is the hardest to pass. Behind the last bucket stands for
    // whatever is larger than all that was seen.
    let candidate_over = |bucket: usize| {
        let hits = candidate.at_most(ratio * stable.highest(bucket));
        ln_evidence_below(share, &Tally::of_hits(hits, candidate_count))
    };
    let stable_under =
        |bucket: usize| ln_evidence_above(share, &Tally::of_hits(stable.before(bucket), stable_count));
    let likeliest = stable.bucket_of_quantile(share);
    candidate_over(likeliest) + stable_under(likeliest) >= needed
        && least_sum_at_least(needed, stable.buckets(), candidate_over, stable_under)
}

/// Whether the candidate's quantile is surely below the stable one's times `ratio`.
fn falls_short(stable: &Distribution, candidate: &Distribution, share: f64, ratio: f64, alpha: f64) -> bool {
    let needed = -alpha.ln();
    let (stable_count, candidate_count) = (stable.count(), candidate.count());
    if stable_count == 0 || candidate_count == 0 {
        return false;
    }
    // From the largest value down, so that the evidence of the first falls and that of the second grows; in front of the
    // first bucket stands for whatever is smaller than all that was seen.
    let buckets = stable.buckets();
    let at = |step: usize| (step < buckets).then(|| buckets - 1 - step);
    let candidate_under = |step: usize| {
        let hits = at(step).map_or(0, |bucket| candidate.below(ratio * stable.lowest(bucket)));
        ln_evidence_above(share, &Tally::of_hits(hits, candidate_count))
    };
    let stable_over = |step: usize| {
        let hits = at(step).map_or(0, |bucket| stable.before(bucket + 1));
        ln_evidence_below(share, &Tally::of_hits(hits, stable_count))
    };
    least_sum_at_least(needed, buckets, candidate_under, stable_over)
}

/// Whether `falling(i) + growing(i)` is at least `needed` for every `i` up to and with `last`. Exact, with few calls: of a
/// range, the least that the sum can be is the end of the first and the beginning of the second.
fn least_sum_at_least(
    needed: f64,
    last: usize,
    falling: impl Fn(usize) -> f64,
    growing: impl Fn(usize) -> f64,
) -> bool {
    struct End {
        at: usize,
        falling: f64,
        growing: f64,
    }
    let end = |at| End { at, falling: falling(at), growing: growing(at) };
    let mut ranges = vec![(end(0), end(last))];
    while let Some((from, to)) = ranges.pop() {
        if from.falling + from.growing < needed || to.falling + to.growing < needed {
            return false;
        }
        if to.falling + from.growing >= needed || to.at - from.at <= 1 {
            continue;
        }
        let middle = end(usize::midpoint(from.at, to.at));
        ranges.push((from, End { ..middle }));
        ranges.push((middle, to));
    }
    true
}

/// The candidate's quantile at `share` by the stable one's, between bounds each of which is wrong at most with chance
/// `alpha` over all looks together.
pub fn compare_quantiles(stable: &Distribution, candidate: &Distribution, share: f64, alpha: f64) -> Effect {
    let quantiles = stable.quantile(share).zip(candidate.quantile(share));
    let estimate = quantiles.map(|(stable, candidate)| candidate / stable.max(f64::MIN_POSITIVE));
    let Some(between) = estimate else { return Effect { estimate, low: 0.0, high: f64::INFINITY } };
    let between = between.clamp(1.0 / WIDEST, WIDEST);
    let exceeds = |ratio| quantile_exceeds(stable, candidate, share, ratio, alpha);
    let falls_short = |ratio| falls_short(stable, candidate, share, ratio, alpha);
    let low = if exceeds(1.0 / WIDEST) { last(1.0 / WIDEST, between, exceeds) } else { 0.0 };
    let high = if falls_short(WIDEST) { last(WIDEST, between, falls_short) } else { f64::INFINITY };
    Effect { estimate, low, high }
}

/// The number nearest `unsure` that still holds, on the way there from `sure`, which does.
fn last(sure: f64, unsure: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut sure, mut unsure) = (sure.ln(), unsure.ln());
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(sure, unsure);
        if holds(middle.exp()) {
            sure = middle;
        } else {
            unsure = middle;
        }
    }
    sure.exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::{
        Distribution, Tally, compare_quantiles, ln_evidence_above, ln_evidence_below, quantile_exceeds,
    };

    fn of_values(mut values: Vec<u64>) -> Distribution {
        values.sort_unstable();
        Distribution::new(values.into_iter().map(|value| (value as f64, value as f64, 1)).fold(
            Vec::<(f64, f64, u64)>::new(),
            |mut buckets, (low, high, count)| {
                match buckets.last_mut() {
                    Some(last) if last.0 == low => last.2 += count,
                    _ => buckets.push((low, high, count)),
                }
                buckets
            },
        ))
    }

    proptest! {
        /// Halving finds what looking at every value finds.
        #[test]
        fn the_least_over_all_values_is_found(
            stable in prop::collection::vec(1u64..60, 1..120), candidate in prop::collection::vec(1u64..90, 1..120),
            share in 0.1..0.95f64, ratio in 0.3..2.0f64,
        ) {
            let (stable, candidate) = (of_values(stable), of_values(candidate));
            let evident = quantile_exceeds(&stable, &candidate, share, ratio, 0.1);
            let by_hand = (0..=stable.buckets()).all(|bucket| {
                let hits = candidate.at_most(ratio * stable.highest(bucket));
                ln_evidence_below(share, &Tally::of_hits(hits, candidate.count()))
                    + ln_evidence_above(share, &Tally::of_hits(stable.before(bucket), stable.count()))
                    >= -(0.1f64.ln())
            });
            prop_assert_eq!(evident, by_hand);
        }
    }

    #[test]
    fn the_interval_narrows_around_the_true_ratio() {
        let mut random = StdRng::seed_from_u64(7);
        let mut draw = |count: usize, scale: f64| {
            of_values((0..count).map(|_| (-random.random::<f64>().ln() * scale) as u64 + 1_000).collect())
        };
        let mut width = f64::INFINITY;
        for count in [300, 3_000, 30_000] {
            let effect = compare_quantiles(&draw(count, 1e5), &draw(count, 1.2e5), 0.95, 0.025);
            assert!(effect.low < 1.2 && effect.high > 1.19, "{effect:?}");
            assert!(effect.high - effect.low < width, "{effect:?}");
            width = effect.high - effect.low;
        }
        assert!(width < 0.16, "{width}");
        let nothing = compare_quantiles(&draw(5, 1e5), &draw(5, 9e5), 0.99, 0.05);
        assert!(nothing.low == 0.0 && nothing.high.is_infinite(), "{nothing:?}");
    }
}
