//! Evidence about the mean of numbers between 0 and 1.
//!
//! For numbers in [0, 1] with a mean of at least `p`, and any `q < p`, the product of
//! `(q/p)^x ((1-q)/(1-p))^(1-x)` over the numbers `x` is a supermartingale: the factor is convex in `x`, so its mean is
//! greatest when `x` is 0 or 1 only, where it is at most 1. A mixture over `q` is one too. With a beta prior, cut off at
//! `p`, it has a closed form in incomplete beta functions: the one-sided beta-binomial mixture of Robbins (1970) and
//! Howard et al. (2021).

use statrs::function::gamma::ln_gamma;

/// How much the prior keeps to the null value, counted in observations: large finds small effects in many observations
/// sooner, small finds large effects in few. Measured with `cargo run --release -p llmdeck-benches --bin verdicts`.
const PRIOR_WEIGHT: f64 = 100.0;
/// The prior is never lighter on either side than Jeffreys'.
const LEAST_PRIOR: f64 = 0.5;
/// How near to 0 or 1 a null value has to be for that to bind.
pub(crate) const PRIOR_BEND: f64 = LEAST_PRIOR / PRIOR_WEIGHT;
/// Null values are kept so far from 0 and 1.
const EDGE: f64 = 1e-9;

/// Numbers between 0 and 1, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many.
    pub count: f64,
    /// Their sum.
    pub sum: f64,
}

impl Tally {
    /// `hits` of `count`.
    pub fn of_hits(hits: u64, count: u64) -> Self {
        Self { count: count as f64, sum: hits.min(count) as f64 }
    }

    /// One more number, held to [0, 1].
    pub fn add(&mut self, number: f64) {
        self.count += 1.0;
        self.sum += number.clamp(0.0, 1.0);
    }

    /// `None` of nothing.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }

    /// Of one minus each number.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        Self { count: self.count, sum: self.count - self.sum }
    }
}

/// Natural logarithm of the evidence that the mean is below `null`, against its being `null` or more.
pub fn ln_evidence_below(null: f64, tally: &Tally) -> f64 {
    let null = null.clamp(EDGE, 1.0 - EDGE);
    let (a, b) = prior(null);
    let nothing = Tally::default();
    ln_mass_below(null, a, b, tally) - ln_mass_below(null, a, b, &nothing)
}

/// Natural logarithm of the evidence that the mean is above `null`, against its being `null` or less.
pub fn ln_evidence_above(null: f64, tally: &Tally) -> f64 {
    ln_evidence_below(1.0 - null, &tally.mirrored())
}

/// Weighs values near the null most, and never less widely than Jeffreys' prior.
fn prior(null: f64) -> (f64, f64) {
    ((PRIOR_WEIGHT * null).max(LEAST_PRIOR), (PRIOR_WEIGHT * (1.0 - null)).max(LEAST_PRIOR))
}

/// Logarithm of the integral over `q` from 0 to `null` of `q^(a-1) (1-q)^(b-1)` times the likelihood of the tally under
/// `q`, relative to that under `null`. The likelihoods are large and nearly cancel, and so never appear alone.
fn ln_mass_below(null: f64, a: f64, b: f64, tally: &Tally) -> f64 {
    let (ln_p, ln_q) = (null.ln(), (-null).ln_1p());
    let (hits, misses) = (tally.sum, tally.count - tally.sum);
    let (after_a, after_b) = (a + hits, b + misses);
    let edge = a * ln_p + b * ln_q;
    if null < (after_a + 1.0) / (after_a + after_b + 2.0) {
        return edge - after_a.ln() + continued_fraction(after_a, after_b, null).ln();
    }
    let whole =
        ln_gamma(after_a) + ln_gamma(after_b) - ln_gamma(after_a + after_b) - hits * ln_p - misses * ln_q;
    let above = edge - after_b.ln() + continued_fraction(after_b, after_a, 1.0 - null).ln();
    whole + (-(above - whole).exp()).ln_1p()
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by Lentz's method: `I_x(a, b)` is it times
/// `x^a (1-x)^b / (a B(a, b))`, and it converges fast for `x` below `(a+1)/(a+b+2)`.
fn continued_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    const PRECISE: f64 = 1e-12;
    const MOST_TERMS: usize = 100_000;
    let held = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / held(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for term in 1..MOST_TERMS {
        let m = term as f64;
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / held(1.0 + even * d);
        c = held(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / held(1.0 + odd * d);
        c = held(1.0 + odd / c);
        let change = d * c;
        fraction *= change;
        if (change - 1.0).abs() < PRECISE {
            break;
        }
    }
    fraction
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use statrs::function::beta::{beta_reg, ln_beta};

    use super::{Tally, ln_evidence_above, ln_evidence_below, prior};

    /// The formula as the papers have it; `None` where it under- or overflows, as it does for large counts.
    fn textbook_below(null: f64, tally: &Tally) -> Option<f64> {
        let (a, b) = prior(null);
        let (hits, misses) = (tally.sum, tally.count - tally.sum);
        let (before, after) = (beta_reg(a, b, null), beta_reg(a + hits, b + misses, null));
        (before.is_normal() && after.is_normal()).then(|| {
            ln_beta(a + hits, b + misses) + after.ln()
                - ln_beta(a, b)
                - before.ln()
                - hits * null.ln()
                - misses * (1.0 - null).ln()
        })
    }

    proptest! {
        #[test]
        fn the_stable_form_is_the_textbook_one(null in 0.01..0.99f64, count in 1u64..300, share in 0.0..1.0f64) {
            let tally = Tally::of_hits((count as f64 * share) as u64, count);
            let ours = ln_evidence_below(null, &tally);
            if let Some(book) = textbook_below(null, &tally) {
                prop_assert!((ours - book).abs() < 1e-6 * (1.0 + book.abs()), "{ours} {book}");
            }
        }

        /// More that exceeds the null value is less evidence that the mean is below it.
        #[test]
        fn evidence_falls_with_the_sum(null in 0.001..0.999f64, count in 1u64..100_000, share in 0.0..1.0f64) {
            let hits = ((count - 1) as f64 * share) as u64;
            let (less, more) = (Tally::of_hits(hits, count), Tally::of_hits(hits + 1, count));
            prop_assert!(ln_evidence_below(null, &less) >= ln_evidence_below(null, &more) - 1e-9);
            prop_assert!(ln_evidence_above(null, &less) <= ln_evidence_above(null, &more) + 1e-9);
        }
    }

    #[test]
    fn one_more_number_never_gains_on_average_under_the_null() {
        for null in [0.01, 0.3, 0.95] {
            for (hits, count) in [(0, 0), (3, 10), (90, 100), (1, 400)] {
                let now = ln_evidence_below(null, &Tally::of_hits(hits, count));
                let gain =
                    |hit: u64| (ln_evidence_below(null, &Tally::of_hits(hits + hit, count + 1)) - now).exp();
                let mean = null * gain(1) + (1.0 - null) * gain(0);
                assert!((mean - 1.0).abs() <= 1e-8, "{null} {hits}/{count}: {mean}");
            }
        }
    }

    #[test]
    fn no_evidence_comes_of_nothing_and_much_of_much() {
        assert_eq!(ln_evidence_below(0.5, &Tally::default()), 0.0);
        assert!(ln_evidence_below(0.5, &Tally::of_hits(100_000, 1_000_000)) > 1e5);
        let against = ln_evidence_below(0.1, &Tally::of_hits(900_000, 1_000_000));
        assert!(against < 0.0 && against > -30.0, "{against}");
    }
}
