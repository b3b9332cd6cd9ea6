use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::block::{Block, Latency};
use super::bootstrap::{Table, draws, interval};
use super::cost::RunCost;
use super::failures::Failures;
use super::run::Measured;

/// Names the form of an [`Outcome`] in JSON; `docs/bench.md` describes it.
pub const SCHEMA: &str = "llmdeck.bench/1";
/// Blocks that intervals are made of; more are joined.
const MOST_BLOCKS: usize = 60;
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.95, 0.99, 0.999];
/// The same measurements give the same intervals.
const SEED: u64 = 1;
/// Above this, and above this share of the median time to the first token, the generator may be what limits the
/// figures.
const LATE_US: f64 = 1_000.0;
const LATE_SHARE: f64 = 0.02;

/// What a benchmark found, to be shown, kept and compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`SCHEMA`]
    pub schema: String,
    /// What was asked of the server, in words and numbers.
    pub plan: serde_json::Value,
    /// When it began, milliseconds since 1970, UTC.
    pub started_unix_ms: i64,
    /// Runs that were pooled.
    pub runs: usize,
    /// Measured seconds, all runs together.
    pub seconds: f64,
    /// Requests that were due, and how they ended.
    pub due: u64,
    /// Whole answers.
    pub ok: u64,
    /// Requests without one.
    pub failed: u64,
    /// Cut off when the run was stopped.
    pub unfinished: u64,
    /// Failures by kind.
    pub errors: BTreeMap<String, u64>,
    /// What the first failure of each kind said.
    #[serde(default)]
    pub error_examples: BTreeMap<String, String>,
    /// Requests a second that were due.
    pub asked_per_s: f64,
    /// Whole answers a second.
    pub achieved_per_s: Quantity,
    /// Answers a second that met every objective.
    pub goodput_per_s: Quantity,
    /// Prompt tokens a second.
    pub input_tokens_per_s: Quantity,
    /// Answer tokens a second.
    pub output_tokens_per_s: Quantity,
    /// By name.
    pub latencies: BTreeMap<Latency, LatencyOutcome>,
    /// What the generator did.
    pub generator: Generator,
    /// Energy and money by the node's account; absent for servers without an agent.
    #[serde(default)]
    pub cost: Option<RunCost>,
    /// Everything, in stretches of time: whole histograms.
    pub blocks: Vec<Block>,
}

/// A number and the 95 % interval that the run gives for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantity {
    /// As measured.
    pub value: f64,
    /// Absent where there is too little to say.
    pub interval: Option<[f64; 2]>,
}

/// One latency, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyOutcome {
    /// Values.
    pub count: u64,
    /// Their mean.
    pub mean_us: f64,
    /// The largest.
    pub max_us: u64,
    /// Median to 99.9 %.
    pub quantiles: Vec<Quantile>,
}

/// A quantile and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantile {
    /// 0.5 is the median.
    pub quantile: f64,
    /// In microseconds.
    pub value_us: u64,
    /// In microseconds.
    pub interval_us: Option<[f64; 2]>,
}

/// The load generator's own truth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// From due to sent, 99 of 100 requests.
    pub lateness_p99_us: u64,
    /// The latest.
    pub lateness_max_us: u64,
    /// Cores that it used; absent where the server is in the same process.
    pub cpu_cores: Option<f64>,
    /// Whether it, and not the server, may be what the figures show.
    pub may_limit: bool,
}

impl Outcome {
    /// Of runs of one plan; `open_loop` says whether lateness is the generator's fault.
    pub fn new(plan: serde_json::Value, started_unix_ms: i64, runs: Vec<Measured>, open_loop: bool) -> Self {
        let seconds: f64 = runs.iter().map(|run| run.seconds).sum();
        let count = runs.len();
        let unfinished = runs.iter().map(|run| run.unfinished).sum();
        let known: Option<Vec<f64>> = runs.iter().map(|run| run.cpu_cores).collect();
        let cpu_cores = known.map(|cores| cores.iter().sum::<f64>() / count.max(1) as f64);
        let mut failures = Failures::default();
        let mut blocks = Vec::new();
        for run in runs {
            failures.merge(&run.failures);
            blocks.extend(run.blocks);
        }
        let blocks = joined(blocks);
        let mut all = Block::default();
        blocks.iter().for_each(|block| all.merge(block));
        let draws = draws(blocks.len(), SEED);
        let latencies = Latency::ALL
            .into_iter()
            .filter(|latency| all.latencies_us.contains_key(latency))
            .map(|latency| (latency, latency_outcome(&blocks, &all, latency, &draws)))
            .collect();
        let rate = |pick: &dyn Fn(&Block) -> u64| quantity(&blocks, pick, seconds, &draws);
        let lateness = all.histogram(Latency::Lateness);
        let lateness_p99_us = lateness.value_at_quantile(0.99);
        let late_us = LATE_US.max(LATE_SHARE * all.histogram(Latency::Ttft).value_at_quantile(0.5) as f64);
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
        let generator = Generator {
            lateness_p99_us,
            lateness_max_us: lateness.max(),
            cpu_cores,
            may_limit: open_loop && lateness_p99_us as f64 > late_us
                || cpu_cores.is_some_and(|cores| cores > 0.9 * threads),
        };
        Self {
            schema: SCHEMA.into(),
            plan,
            started_unix_ms,
            runs: count,
            seconds,
            due: all.due,
            ok: all.ok,
            failed: all.failed,
            unfinished,
            errors: failures.counts,
            error_examples: failures.examples,
            asked_per_s: all.due as f64 / seconds.max(1e-9),
            achieved_per_s: rate(&|block| block.ok),
            goodput_per_s: rate(&|block| block.good),
            input_tokens_per_s: rate(&|block| block.prompt_tokens),
            output_tokens_per_s: rate(&|block| block.completion_tokens),
            latencies,
            generator,
            cost: None,
            blocks,
        }
    }

    /// Why nothing was answered, where nothing was though something was asked.
    pub fn all_failed(&self) -> Option<String> {
        let most = self.errors.iter().max_by_key(|(_, times)| **times).filter(|_| self.ok == 0)?;
        let why = self.error_examples.get(most.0).unwrap_or(most.0);
        Some(format!("none of {} requests was answered: {why}", self.due))
    }

    /// One quantile of a latency, in microseconds.
    pub fn quantile(&self, latency: Latency, quantile: f64) -> Option<Quantile> {
        let of = self.latencies.get(&latency)?;
        of.quantiles.iter().find(|one| one.quantile == quantile).copied()
    }
}

/// Neighbours joined until there are not too many; empty ones at the end are left out.
fn joined(mut blocks: Vec<Block>) -> Vec<Block> {
    while blocks.last().is_some_and(|block| block.due == 0) {
        blocks.pop();
    }
    let together = blocks.len().div_ceil(MOST_BLOCKS).max(1);
    blocks
        .chunks(together)
        .map(|chunk| {
            let mut joined = Block::default();
            chunk.iter().for_each(|block| joined.merge(block));
            joined
        })
        .collect()
}

fn quantity(blocks: &[Block], pick: &dyn Fn(&Block) -> u64, seconds: f64, draws: &[Vec<u64>]) -> Quantity {
    let counts: Vec<u64> = blocks.iter().map(pick).collect();
    let seconds = seconds.max(1e-9);
    let total = |times: &[u64]| counts.iter().zip(times).map(|(count, times)| count * times).sum::<u64>();
    let resampled = draws.iter().map(|times| total(times) as f64 / seconds).collect();
    let interval = if blocks.len() > 1 { interval(resampled) } else { None };
    Quantity { value: counts.iter().sum::<u64>() as f64 / seconds, interval }
}

fn latency_outcome(blocks: &[Block], all: &Block, latency: Latency, draws: &[Vec<u64>]) -> LatencyOutcome {
    let table = Table::new(blocks, latency);
    let histogram = all.histogram(latency);
    let resampled: Vec<Vec<Option<u64>>> =
        draws.iter().map(|times| table.quantiles(times, &QUANTILES)).collect();
    let quantiles = QUANTILES
        .into_iter()
        .enumerate()
        .map(|(index, quantile)| {
            let of = resampled.iter().filter_map(|values| values[index]).map(|value| value as f64).collect();
            let interval_us = if blocks.len() > 1 { interval(of) } else { None };
            Quantile { quantile, value_us: histogram.value_at_quantile(quantile), interval_us }
        })
        .collect();
    LatencyOutcome { count: histogram.len(), mean_us: histogram.mean(), max_us: histogram.max(), quantiles }
}

#[cfg(test)]
mod tests {
    use super::{MOST_BLOCKS, Outcome};
    use crate::bench::block::{Block, Latency};
    use crate::bench::run::Measured;

    #[test]
    fn runs_are_pooled_and_nothing_is_lost() {
        let block = |value: u64| {
            let mut block = Block { due: 3, ok: 2, failed: 1, completion_tokens: 10, ..Block::default() };
            block.record(Latency::Ttft, value);
            block.record(Latency::Lateness, 20);
            block
        };
        let run = Measured { blocks: (1..=100).map(block).collect(), seconds: 50.0, ..Measured::default() };
        let outcome = Outcome::new(serde_json::Value::Null, 0, vec![run.clone(), run], true);
        assert_eq!((outcome.due, outcome.ok, outcome.failed, outcome.seconds), (600, 400, 200, 100.0));
        assert_eq!(outcome.achieved_per_s.value, 4.0);
        assert!(outcome.blocks.len() <= MOST_BLOCKS);
        let median = outcome.quantile(Latency::Ttft, 0.5).unwrap();
        let [low, high] = median.interval_us.unwrap();
        assert!(median.value_us == 50 && low < 50.0 && high > 50.0, "{median:?}");
        assert!(!outcome.generator.may_limit);
        let text = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
    }
}
