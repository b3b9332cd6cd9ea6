//! Rows of logits, `[vocabulary]`: what they say as a whole, their largest, and the weights that tokens are drawn by. A row of a
//! large vocabulary is a mebibyte, and is read a few times for each token: all of it is made of vectors.

use crate::exp::exp;
use crate::isa::compiled_for_each_isa;

const LANES: usize = 16;
/// Weights are summed in runs of so many, so that small ones are not lost in the sum.
pub const RUN: usize = 64 * LANES;
/// Numbers that are looked through together for one that matters.
const GLANCE: usize = 4 * LANES;

/// What a row says as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitSummary {
    /// The largest logit; minus infinity where there is none.
    pub peak: f32,
    /// `ln Σ exp(x)`
    pub log_normalizer: f32,
    /// Of the distribution, in nats.
    pub entropy: f32,
}

compiled_for_each_isa! {
    /// Sums a row up. A logit that is not a number makes the normalizer one, too.
    pub fn summarize_logits(logits: &[f32]) -> LogitSummary => summarize_logits_plain
}

#[inline(always)]
fn summarize_logits_plain(logits: &[f32]) -> LogitSummary {
    let peak = peak_plain(logits);
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    for run in logits.chunks(RUN) {
        let (mut sums, mut products) = ([0.0f32; LANES], [0.0f32; LANES]);
        for_each_lane(run, |lane, logit| {
            let distance = logit - peak;
            let weight = exp(distance);
            sums[lane] += weight;
            // Minus infinity has no weight, and none times infinity is not a number.
            products[lane] += weight * if distance < -87.3 { 0.0 } else { distance };
        });
        sum += f64::from(sums.iter().sum::<f32>());
        weighted += f64::from(products.iter().sum::<f32>());
    }
    LogitSummary { peak, log_normalizer: peak + sum.ln() as f32, entropy: (sum.ln() - weighted / sum) as f32 }
}

/// Calls `take` with a lane and a number, whole rows of lanes at a time; behind the last come infinities below zero, which weigh nothing.
#[inline(always)]
fn for_each_lane(numbers: &[f32], mut take: impl FnMut(usize, f32)) {
    let (rows, rest) = numbers.as_chunks::<LANES>();
    let mut last = [f32::NEG_INFINITY; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let last = if rest.is_empty() { &[][..] } else { std::slice::from_ref(&last) };
    for rows in [rows, last] {
        for row in rows {
            for (lane, number) in row.iter().enumerate() {
                take(lane, *number);
            }
        }
    }
}

compiled_for_each_isa! {
    /// The largest; minus infinity where there is none.
    pub fn peak(logits: &[f32]) -> f32 => peak_plain
}

#[inline(always)]
fn peak_plain(logits: &[f32]) -> f32 {
    let mut peaks = [f32::NEG_INFINITY; LANES];
    let (rows, rest) = logits.as_chunks::<LANES>();
    for row in rows {
        for (peak, logit) in peaks.iter_mut().zip(row) {
            *peak = if *logit > *peak { *logit } else { *peak };
        }
    }
    peaks.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

compiled_for_each_isa! {
    /// Where a logit is first.
    pub fn place_of(logits: &[f32], wanted: f32) -> Option<usize> => place_of_plain
}

#[inline(always)]
fn place_of_plain(logits: &[f32], wanted: f32) -> Option<usize> {
    let is_there = |glance: &[f32]| glance.iter().map(|logit| u32::from(*logit == wanted)).sum::<u32>() > 0;
    let first = logits.chunks(GLANCE).position(is_there)? * GLANCE;
    logits[first..].iter().position(|logit| *logit == wanted).map(|place| first + place)
}

compiled_for_each_isa! {
    /// The `count` largest with their places, largest first and of equal ones the first; fewer where others are minus infinity or not
    /// numbers.
    pub fn largest(logits: &[f32], count: usize) -> Vec<(u32, f32)> => largest_plain
}

#[inline(always)]
fn largest_plain(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let keep = |kept: &mut Vec<(u32, f32)>| {
        if count < kept.len() {
            kept.select_nth_unstable_by(count, order);
            kept.truncate(count);
        }
    };
    // Room for many more than are kept makes choosing among them rare.
    let most = count.saturating_mul(2).saturating_add(GLANCE);
    let mut kept = Vec::with_capacity(most.saturating_add(GLANCE).min(logits.len()));
    let mut floor = f32::NEG_INFINITY;
    for (index, glance) in logits.chunks(GLANCE).enumerate() {
        if glance.iter().map(|logit| u32::from(*logit > floor)).sum::<u32>() == 0 {
            continue;
        }
        let places = (index * GLANCE) as u32..;
        kept.extend(places.zip(glance).filter(|(_, logit)| **logit > floor).map(|(at, logit)| (at, *logit)));
        if kept.len() >= most {
            keep(&mut kept);
            floor = kept.iter().fold(f32::INFINITY, |least, (_, logit)| least.min(*logit));
        }
    }
    keep(&mut kept);
    kept.sort_unstable_by(order);
    kept
}

/// How logits become weights.
#[derive(Clone, Copy, Debug)]
pub struct Weighing {
    /// The largest logit, which weighs 1.
    pub peak: f32,
    /// Above zero.
    pub temperature: f32,
    /// What weighs less weighs nothing.
    pub least: f32,
}

impl Weighing {
    /// `exp((logit - peak) / temperature)`
    #[inline(always)]
    pub fn weight(&self, logit: f32) -> f32 {
        let weight = exp((logit - self.peak) / self.temperature);
        // A comparison with what is not a number is false.
        if weight >= self.least { weight } else { 0.0 }
    }
}

compiled_for_each_isa! {
    /// Sets `sums` to the sums of weights of each run of [`RUN`] logits.
    pub fn weigh(logits: &[f32], weighing: Weighing, sums: &mut Vec<f32>) => weigh_plain
}

#[inline(always)]
fn weigh_plain(logits: &[f32], weighing: Weighing, sums: &mut Vec<f32>) {
    sums.clear();
    for run in logits.chunks(RUN) {
        let mut lanes = [0.0f32; LANES];
        for_each_lane(run, |lane, logit| lanes[lane] += weighing.weight(logit));
        sums.push(lanes.iter().sum());
    }
}

compiled_for_each_isa! {
    /// Sets `weights` to the weight of each logit.
    pub fn weigh_each(logits: &[f32], weighing: Weighing, weights: &mut Vec<f32>) => weigh_each_plain
}

#[inline(always)]
fn weigh_each_plain(logits: &[f32], weighing: Weighing, weights: &mut Vec<f32>) {
    weights.resize(logits.len(), 0.0);
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = weighing.weight(*logit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exactness::{assert_close, numbers};

    #[test]
    fn a_summary_is_of_the_whole_row() {
        for count in [1, 15, 16, 1_000, 1_024, 5_003] {
            let mut logits = numbers(count);
            if count > 20 {
                logits[7] = f32::NEG_INFINITY;
            }
            let summary = summarize_logits(&logits);
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let entropy: f64 = logits
                .iter()
                .map(|logit| f64::from(*logit).exp() / sum)
                .filter(|share| *share > 0.0)
                .map(|share| -share * share.ln())
                .sum();
            assert_close(summary.log_normalizer, sum.ln());
            assert_close(summary.entropy, entropy);
            assert_eq!(summary.peak, logits.iter().copied().fold(f32::MIN, f32::max));
            assert_eq!(peak(&logits), summary.peak);
        }
        assert!(summarize_logits(&[1.0, f32::NAN]).log_normalizer.is_nan());
    }

    #[test]
    fn the_largest_are_those_that_sorting_all_of_them_finds() {
        for count in [1, 63, 64, 1_000, 5_003] {
            let mut logits = numbers(count);
            logits[count / 2] = f32::NEG_INFINITY;
            let mut sorted: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
            sorted.retain(|(_, logit)| *logit > f32::NEG_INFINITY);
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
            for wanted in [0, 1, 5, 64, 700, usize::MAX] {
                assert_eq!(
                    largest(&logits, wanted),
                    sorted[..wanted.min(sorted.len())],
                    "{wanted} of {count}"
                );
            }
            let (place, most) = sorted.first().copied().unwrap_or((0, f32::NEG_INFINITY));
            assert_eq!(place_of(&logits, most), Some(place as usize));
            assert_eq!(place_of(&logits, 99.0), None);
        }
    }

    #[test]
    fn weights_are_summed_by_the_run() {
        let logits = numbers(2 * RUN + 17);
        let weighing = Weighing { peak: 5.0, temperature: 0.7, least: 0.01 };
        let mut sums = vec![99.0; 7];
        weigh(&logits, weighing, &mut sums);
        assert_eq!(sums.len(), 3);
        for (sum, run) in sums.iter().zip(logits.chunks(RUN)) {
            let exact = run.iter().map(|logit| ((f64::from(*logit) - 5.0) / 0.7).exp());
            assert_close(*sum, exact.filter(|weight| *weight >= 0.01).sum());
        }
        let mut each = vec![99.0];
        weigh_each(&logits, weighing, &mut each);
        assert!(each.iter().copied().eq(logits.iter().map(|logit| weighing.weight(*logit))));
        assert_eq!((weighing.weight(5.0), weighing.weight(f32::NEG_INFINITY)), (1.0, 0.0));
    }
}
