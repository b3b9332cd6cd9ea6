//! What happened between two scrapes. A counter that went back began anew with its server.

use llmdeck_proto::buckets::index_of;
use llmdeck_proto::histogram::HIGHEST_US;
use llmdeck_proto::sparse::SparseHistogram;

use crate::reading::{Buckets, ModelReading};

/// Points that stand for the values of one bucket, evenly apart: as Prometheus does, values are taken to be spread evenly.
const POINTS: u64 = 16;

/// What a model did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interval {
    /// Requests that ended well, where the server counts them.
    pub ok: u64,
    /// Of those, what their length limit cut off.
    pub cut_off: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that their clients gave up.
    pub cancelled: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Generated tokens.
    pub tokens_out: u64,
    /// Tokens that prefixes were looked up for, and those that were found.
    pub prefix_asked: u64,
    /// See `prefix_asked`.
    pub prefix_found: u64,
    /// Tokens guessed ahead, and those of them that were right.
    pub guessed: u64,
    /// See `guessed`.
    pub guessed_right: u64,
    /// Requests that were put off for want of cache.
    pub preemptions: u64,
    /// Arrival to the first step.
    pub queue: Counted,
    /// Arrival to the first token.
    pub ttft: Counted,
    /// Between two tokens.
    pub itl: Counted,
    /// Arrival to the last token.
    pub e2e: Counted,
}

/// Values of an interval in the server's buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Upper bounds in microseconds.
    pub bounds_us: Vec<u64>,
    /// How many fell in each bucket, and last how many above all bounds.
    pub counts: Vec<u64>,
}

impl Counted {
    /// As a histogram, every bucket's values spread evenly over it. What is above all bounds stands just above the last.
    pub fn spread(&self) -> SparseHistogram {
        let lows = std::iter::once(0).chain(self.bounds_us.iter().copied());
        let highs = self.bounds_us.iter().copied().map(Some).chain([None]);
        let points = lows.zip(highs).zip(&self.counts).flat_map(|((low, high), count)| {
            let (width, points) = match high {
                Some(high) => ((high - low) as f64, POINTS.min(*count)),
                None => (2.0, count.min(&1).to_owned()),
            };
            (0..points).map(move |point| {
                let value = low as f64 + width * (point as f64 + 0.5) / points as f64;
                let part = count * (point + 1) / points - count * point / points;
                (index_of((value.round() as u64).clamp(1, HIGHEST_US)), part)
            })
        });
        SparseHistogram::from_buckets(points)
    }
}

impl Interval {
    /// From one reading of a model to the next.
    pub fn between(before: &ModelReading, now: &ModelReading) -> Self {
        let count = |of: fn(&ModelReading) -> Option<f64>| grown(of(before), of(now));
        let spread =
            |of: fn(&ModelReading) -> &Option<Buckets>| counted(of(before).as_ref(), of(now).as_ref());
        Self {
            // Where no counter says how many ended well, the distribution of whole requests does.
            ok: match now.ok {
                Some(_) => count(|reading| reading.ok),
                None => count(|reading| reading.e2e.as_ref().map(|e2e| e2e.total)),
            },
            cut_off: count(|reading| reading.cut_off),
            failed: count(|reading| reading.failed),
            guessed: count(|reading| reading.guessed),
            guessed_right: count(|reading| reading.guessed_right),
            cancelled: count(|reading| reading.cancelled),
            tokens_in: count(|reading| reading.tokens_in),
            tokens_out: count(|reading| reading.tokens_out),
            prefix_asked: count(|reading| reading.prefix_asked),
            prefix_found: count(|reading| reading.prefix_found),
            preemptions: count(|reading| reading.preemptions),
            queue: spread(|reading| &reading.queue),
            ttft: spread(|reading| &reading.ttft),
            itl: spread(|reading| &reading.itl),
            e2e: spread(|reading| &reading.e2e),
        }
    }
}

/// Whether the server was started anew between two readings: what only grows has shrunk.
pub(crate) fn began_anew(before: &ModelReading, now: &ModelReading) -> bool {
    let counters: [fn(&ModelReading) -> Option<f64>; 3] =
        [|reading| reading.tokens_out, |reading| reading.tokens_in, |reading| reading.ok];
    counters.iter().any(|of| of(before).zip(of(now)).is_some_and(|(before, now)| now < before))
}

fn grown(before: Option<f64>, now: Option<f64>) -> u64 {
    match (before, now) {
        (Some(before), Some(now)) if now >= before => (now - before).round() as u64,
        (Some(_), Some(now)) => now.round() as u64,
        // A counter appears with its first event.
        (None, Some(now)) => now.round() as u64,
        (_, None) => 0,
    }
}

fn counted(before: Option<&Buckets>, now: Option<&Buckets>) -> Counted {
    let Some(now) = now else { return Counted::default() };
    let none = Buckets::default();
    let same = |before: &&Buckets| before.bounds_us == now.bounds_us && before.total <= now.total;
    let before = before.filter(same).unwrap_or(&none);
    let up_to = |buckets: &Buckets, at: usize| {
        let all = buckets.up_to.get(at).copied();
        all.unwrap_or(if at >= buckets.bounds_us.len() { buckets.total } else { 0.0 })
    };
    let grown = |at: usize| (up_to(now, at) - up_to(before, at)).max(0.0);
    let mut below = 0.0;
    let counts = (0..=now.bounds_us.len()).map(|at| {
        let here = (grown(at) - below).max(0.0);
        below = grown(at).max(below);
        here.round() as u64
    });
    Counted { counts: counts.collect(), bounds_us: now.bounds_us.clone() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Buckets, Counted, Interval, ModelReading};

    fn buckets(up_to: &[f64], total: f64) -> Option<Buckets> {
        let bounds_us = (1..=up_to.len() as u64).map(|bound| bound * 1_000).collect();
        Some(Buckets { bounds_us, up_to: up_to.to_vec(), total })
    }

    #[test]
    fn an_interval_is_what_grew_and_a_restart_begins_anew() {
        let before = ModelReading {
            tokens_out: Some(100.0),
            ttft: buckets(&[1.0, 3.0], 4.0),
            ..ModelReading::default()
        };
        let now = ModelReading {
            tokens_out: Some(130.0),
            ok: Some(2.0),
            ttft: buckets(&[1.0, 5.0], 7.0),
            ..ModelReading::default()
        };
        let interval = Interval::between(&before, &now);
        assert_eq!((interval.tokens_out, interval.ok), (30, 2));
        assert_eq!(interval.ttft.counts, [0, 2, 1]);
        let restarted = ModelReading {
            tokens_out: Some(5.0),
            ttft: buckets(&[1.0, 1.0], 1.0),
            ..ModelReading::default()
        };
        let interval = Interval::between(&now, &restarted);
        assert_eq!((interval.tokens_out, interval.ttft.counts), (5, vec![1, 0, 0]));
    }

    proptest! {
        /// No value is lost, and each quantile lies in the bucket that the counts put it in.
        #[test]
        fn spreading_keeps_counts_and_quantiles_within_their_bucket(counts in prop::collection::vec(0u64..500, 5)) {
            let bounds_us = vec![1_000, 5_000, 20_000, 100_000];
            let counted = Counted { bounds_us: bounds_us.clone(), counts: counts.clone() };
            let spread = counted.spread();
            let total: u64 = counts.iter().sum();
            prop_assert_eq!(spread.count(), total);
            for share in [0.5, 0.95, 0.99] {
                let Some(value) = spread.quantile(share) else { continue };
                let rank = (share * total as f64).ceil() as u64;
                let mut below = 0;
                let bucket = counts.iter().position(|count| { below += count; below >= rank }).unwrap();
                let low = if bucket == 0 { 0 } else { bounds_us[bucket - 1] };
                let high = bounds_us.get(bucket).copied().unwrap_or(u64::MAX);
                // The histogram's own buckets are a thousandth wide.
                prop_assert!(value as f64 >= low as f64 * 0.999 && value as f64 <= high as f64 * 1.001);
            }
        }
    }
}
