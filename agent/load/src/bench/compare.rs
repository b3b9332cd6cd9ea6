use serde::Serialize;

use super::block::{Block, Latency};
use super::bootstrap::{Table, draws, interval};
use super::outcome::Outcome;

/// Quantities that are compared: latencies at these quantiles, and two rates.
const COMPARED: [(Latency, f64); 8] = [
    (Latency::Ttft, 0.5),
    (Latency::Ttft, 0.99),
    (Latency::Itl, 0.5),
    (Latency::Itl, 0.99),
    (Latency::Tpot, 0.5),
    (Latency::Tpot, 0.99),
    (Latency::E2e, 0.5),
    (Latency::E2e, 0.99),
];

/// A count of a block.
type Pick = fn(&Block) -> u64;

/// Two outcomes side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Quantity by quantity.
    pub rows: Vec<Row>,
    /// What may change for the worse before it counts, as a share.
    pub margin: f64,
}

/// One quantity in both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Such as `TTFT p99`.
    pub name: String,
    /// Microseconds, or a rate a second.
    pub before: f64,
    /// The same, now.
    pub after: f64,
    /// Change for the worse as a share: 0.1 is a tenth slower, or a tenth less.
    pub worse_by: f64,
    /// 95 % interval of that.
    pub interval: Option<[f64; 2]>,
    /// Whether it is worse beyond the margin, with the whole interval.
    pub regressed: bool,
}

impl Comparison {
    /// Whether anything is worse beyond the margin.
    pub fn regressed(&self) -> bool {
        self.rows.iter().any(|row| row.regressed)
    }
}

/// Compares quantity by quantity. A change counts when its whole interval lies beyond the margin, so that noise alone
/// seldom does.
pub fn compare(before: &Outcome, after: &Outcome, margin: f64) -> Comparison {
    let sides = Sides {
        before,
        after,
        draws: draws(before.blocks.len(), 2).into_iter().zip(draws(after.blocks.len(), 3)).collect(),
    };
    let mut rows = Vec::new();
    for (latency, quantile) in COMPARED {
        let of = |outcome: &Outcome| {
            let table = Table::new(&outcome.blocks, latency);
            move |times: &[u64]| table.quantiles(times, &[quantile])[0].map(|value| value as f64)
        };
        let worse = |before: f64, after: f64| after / before.max(1.0) - 1.0;
        let name = format!("{} p{}", latency.name(), quantile * 100.0);
        rows.extend(sides.row(name, &of(before), &of(after), worse, margin));
    }
    let rates: [(&str, Pick); 2] =
        [("answers/s", |block| block.ok), ("output tokens/s", |block| block.completion_tokens)];
    for (name, pick) in rates {
        let of = |outcome: &Outcome| {
            let counts: Vec<u64> = outcome.blocks.iter().map(pick).collect();
            let seconds = outcome.seconds.max(1e-9);
            move |times: &[u64]| {
                let total: u64 = counts.iter().zip(times).map(|(count, times)| count * times).sum();
                Some(total as f64 / seconds)
            }
        };
        let worse = |before: f64, after: f64| before / after.max(1e-9) - 1.0;
        rows.extend(sides.row(name.into(), &of(before), &of(after), worse, margin));
    }
    Comparison { rows, margin }
}

/// Both outcomes, and how often each block is drawn in each resample of both.
struct Sides<'a> {
    before: &'a Outcome,
    after: &'a Outcome,
    draws: Vec<(Vec<u64>, Vec<u64>)>,
}

impl Sides<'_> {
    /// `None` where one side has no value. `old` and `new` give the quantity when each block is there so many times.
    fn row(
        &self,
        name: String,
        old: &dyn Fn(&[u64]) -> Option<f64>,
        new: &dyn Fn(&[u64]) -> Option<f64>,
        worse: fn(f64, f64) -> f64,
        margin: f64,
    ) -> Option<Row> {
        let (blocks_before, blocks_after) = (self.before.blocks.len(), self.after.blocks.len());
        let (before, after) = (old(&vec![1; blocks_before])?, new(&vec![1; blocks_after])?);
        let resampled = self
            .draws
            .iter()
            .filter_map(|(old_times, new_times)| Some(worse(old(old_times)?, new(new_times)?)));
        let interval =
            if blocks_before > 1 && blocks_after > 1 { interval(resampled.collect()) } else { None };
        let regressed = interval.is_some_and(|[low, _]| low > margin);
        Some(Row { name, before, after, worse_by: worse(before, after), interval, regressed })
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::compare;
    use crate::bench::block::{Block, Latency};
    use crate::bench::outcome::Outcome;
    use crate::bench::run::Measured;

    fn outcome(seed: u64, slower: f64) -> Outcome {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut block = || {
            let mut block = Block { due: 50, ok: 50, completion_tokens: 500, ..Block::default() };
            for latency in [Latency::Ttft, Latency::Itl, Latency::Tpot, Latency::E2e] {
                (0..50).for_each(|_| {
                    block.record(latency, (f64::from(rng.random_range(10..20) * 100) * slower) as u64);
                });
            }
            block
        };
        let run =
            Measured { blocks: (0..20).map(|_| block()).collect(), seconds: 20.0, ..Measured::default() };
        Outcome::new(serde_json::Value::Null, 0, vec![run], true)
    }

    #[test]
    fn what_is_slower_beyond_the_margin_is_found_and_noise_is_not() {
        let base = outcome(1, 1.0);
        let slower = compare(&base, &outcome(2, 1.3), 0.1);
        assert!(slower.regressed());
        let named: Vec<&str> =
            slower.rows.iter().filter(|row| row.regressed).map(|row| row.name.as_str()).collect();
        assert!(named.contains(&"TTFT p99") && !named.contains(&"answers/s"), "{named:?}");
        let false_alarms =
            (10..20).filter(|seed| compare(&base, &outcome(*seed, 1.0), 0.02).regressed()).count();
        assert_eq!(false_alarms, 0);
        assert!(!compare(&base, &outcome(3, 0.7), 0.0).regressed(), "faster is no regression");
    }
}
