use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// What is measured of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// From when a request was due to its first token.
    Ttft,
    /// From when it was sent to its first token: what a tool shows that waits for its own sending.
    TtftFromSend,
    /// Between two parts of an answer.
    Itl,
    /// From the first token to the last, by the tokens after the first.
    Tpot,
    /// From when a request was due to the end of its answer.
    E2e,
    /// From when a request was due to when it was sent.
    Lateness,
}

impl Latency {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 6] =
        [Self::Ttft, Self::TtftFromSend, Self::Itl, Self::Tpot, Self::E2e, Self::Lateness];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "TTFT",
            Self::TtftFromSend => "TTFT from send",
            Self::Itl => "ITL",
            Self::Tpot => "TPOT",
            Self::E2e => "E2E",
            Self::Lateness => "lateness",
        }
    }
}

/// Counts by value, in microseconds, rounded as an HdrHistogram of three digits rounds.
pub type Counts = BTreeMap<u64, u64>;

/// What was measured in a stretch of time, by when requests were due.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Requests that were due.
    pub due: u64,
    /// Whole answers.
    pub ok: u64,
    /// Requests without one.
    pub failed: u64,
    /// Answers that met every objective.
    pub good: u64,
    /// Tokens of prompts, as the server counted them.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Values and how often each was seen, in microseconds.
    pub latencies_us: BTreeMap<Latency, Counts>,
}

impl Block {
    pub(super) fn record(&mut self, latency: Latency, value_us: u64) {
        *self.latencies_us.entry(latency).or_default().entry(rounded(value_us)).or_default() += 1;
    }

    /// Takes another block's counts.
    pub fn merge(&mut self, other: &Self) {
        self.due += other.due;
        self.ok += other.ok;
        self.failed += other.failed;
        self.good += other.good;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        for (latency, counts) in &other.latencies_us {
            let own = self.latencies_us.entry(*latency).or_default();
            for (value, count) in counts {
                *own.entry(*value).or_default() += count;
            }
        }
    }

    /// One latency as a histogram, 1 µs to 1 h, 3 digits.
    pub fn histogram(&self, latency: Latency) -> Histogram<u64> {
        let bounds = Histogram::new_with_bounds(1, 3_600_000_000, 3);
        let mut histogram = bounds.unwrap_or_else(|_| unreachable!("the bounds are valid"));
        for (value, count) in self.latencies_us.get(&latency).into_iter().flatten() {
            histogram.saturating_record_n(*value, *count);
        }
        histogram
    }
}

/// The lowest value of the bucket that an HdrHistogram of three digits has for it: 2,048 steps, then twice as wide.
fn rounded(value_us: u64) -> u64 {
    let value = value_us.clamp(1, 3_600_000_000);
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(11);
    value >> shift << shift
}

#[cfg(test)]
mod tests {
    use super::{Block, Latency};

    #[test]
    fn values_are_rounded_as_the_histogram_rounds() {
        let mut block = Block::default();
        let histogram = block.histogram(Latency::E2e);
        for value in (0..40).map(|power| 3u64.pow(power.min(20)) + power as u64) {
            block.record(Latency::E2e, value);
            let clamped = value.clamp(1, 3_600_000_000);
            let kept = block.latencies_us[&Latency::E2e]
                .keys()
                .any(|kept| *kept == histogram.lowest_equivalent(clamped));
            assert!(kept, "{value}");
        }
        assert_eq!(block.histogram(Latency::E2e).len(), 40);
    }

    #[test]
    fn merging_adds_up() {
        let mut one = Block { ok: 2, ..Block::default() };
        one.record(Latency::Itl, 100);
        let mut two = Block { ok: 3, good: 1, ..Block::default() };
        two.record(Latency::Itl, 100);
        two.record(Latency::Ttft, 7);
        one.merge(&two);
        assert_eq!((one.ok, one.good, one.latencies_us[&Latency::Itl][&100]), (5, 1, 2));
        assert_eq!(one.latencies_us[&Latency::Ttft][&7], 1);
    }
}
