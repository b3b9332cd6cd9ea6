use std::sync::{Arc, OnceLock};

use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::{CoarseLatency, Deployment, Revision};

use super::latency::Latency;
use super::percentiles::Percentiles;
use super::series::{Series, Timed};

/// Intervals that the percentiles of a point are taken over.
pub const SMOOTHED: usize = 5;

/// Parts that a bucket is drawn in: at least as many as a screen has lines.
const BUCKET_PARTS: usize = 128;

/// What one interval counted on a deployment.
#[derive(Clone, Debug)]
pub struct DeploymentPoint {
    /// End of the interval.
    pub time_unix_ms: i64,
    /// Its length.
    pub interval_ms: u32,
    /// What was stable at its end.
    pub stable_revision: u32,
    /// Golden score of the stable revision.
    pub golden_score: Option<f64>,
    /// By revision.
    pub revisions: Vec<RevisionPoint>,
    /// Requests waiting at its end.
    pub queue_depth: u32,
    /// Energy put down to it, in millijoules.
    pub energy_mj: Option<u64>,
    /// Its cost, in millionths of the currency.
    pub cost_micros: Option<u64>,
    /// What its TTFT is taken over.
    smoothed_over: Vec<Latency>,
    ttft: OnceLock<Option<Percentiles>>,
}

/// What one interval counted on a revision.
#[derive(Clone, Debug, Default)]
pub struct RevisionPoint {
    /// Its number.
    pub number: u32,
    /// Bounds of the buckets that another server counted in.
    pub coarse: Option<Arc<CoarseLatency>>,
    /// Arrival to first token.
    pub ttft: Latency,
    /// Between two tokens.
    pub itl: Latency,
    /// Arrival to last byte.
    pub e2e: Latency,
    /// Arrival to the first step.
    pub queue: Latency,
    /// Requests that ended well.
    pub ok: u64,
    /// Requests that we failed or that took too long.
    pub failed: u64,
    /// Tokens of prompts.
    pub tokens_in: u64,
    /// Generated tokens.
    pub tokens_out: u64,
    /// Tokens of prompts that began, and how many of them were remembered from earlier prompts.
    pub prompt_tokens: u64,
    /// See `prompt_tokens`.
    pub remembered_tokens: u64,
    /// Times that a sequence gave its cache back because it was full.
    pub preemptions: u64,
    /// Tokens guessed ahead, and how many of them were right.
    pub guessed: u64,
    /// See `guessed`.
    pub guessed_right: u64,
    /// Tokens chosen under a constraint, and the microseconds that it took.
    pub constrained: u64,
    /// See `constrained`.
    pub constraint_us: u64,
    /// Answers judged, and the sum of their tokens' logprobs over how many tokens.
    pub judged: u64,
    /// See `judged`.
    pub logprob_sum: f64,
    /// See `judged`.
    pub scored_tokens: u64,
    /// Answers that were empty, cut off, repetitive or refusals.
    pub flawed: u64,
    /// Energy put down to it, in millijoules.
    pub energy_mj: Option<u64>,
}

impl DeploymentPoint {
    /// Of a frame's deployment, behind the points in `past`.
    pub fn of(deployment: &Deployment, time_unix_ms: i64, interval_ms: u32, past: &Series<Self>) -> Self {
        let revisions: Vec<RevisionPoint> = deployment.revisions.iter().map(RevisionPoint::of).collect();
        let before = past.last(SMOOTHED - 1).flat_map(|point| &point.revisions);
        let smoothed_over = before.chain(&revisions).map(|revision| revision.ttft.clone()).collect();
        let stable = deployment.revisions.iter().find(|known| known.number == deployment.stable_revision);
        Self {
            time_unix_ms,
            interval_ms,
            stable_revision: deployment.stable_revision,
            golden_score: stable.and_then(|known| known.quality).and_then(|quality| quality.golden_score),
            revisions,
            queue_depth: deployment.queue_depth,
            energy_mj: deployment.energy_mj,
            cost_micros: deployment.cost_micros,
            smoothed_over,
            ttft: OnceLock::new(),
        }
    }

    /// TTFT over all revisions and the last [`SMOOTHED`] intervals, this one the newest: few requests make percentiles
    /// jump.
    pub fn ttft(&self) -> Option<Percentiles> {
        *self.ttft.get_or_init(|| {
            let histogram = SparseHistogram::merged(self.smoothed_over.iter().map(Latency::histogram));
            Percentiles::of(&histogram, bounds(&self.revisions, |coarse| &coarse.ttft_us))
        })
    }
}

fn bounds(revisions: &[RevisionPoint], of: fn(&CoarseLatency) -> &Vec<u64>) -> &[u64] {
    let coarse = revisions.iter().find_map(|revision| revision.coarse.as_deref());
    coarse.map_or(&[], |coarse| of(coarse))
}

impl RevisionPoint {
    /// Of arrival to first token.
    pub fn ttft_percentiles(&self) -> Option<Percentiles> {
        Percentiles::of(self.ttft.histogram(), bounds(std::slice::from_ref(self), |coarse| &coarse.ttft_us))
    }

    /// Of the time between two tokens.
    pub fn itl_percentiles(&self) -> Option<Percentiles> {
        Percentiles::of(self.itl.histogram(), bounds(std::slice::from_ref(self), |coarse| &coarse.itl_us))
    }

    /// Of arrival to last byte.
    pub fn e2e_percentiles(&self) -> Option<Percentiles> {
        Percentiles::of(self.e2e.histogram(), bounds(std::slice::from_ref(self), |coarse| &coarse.e2e_us))
    }

    /// Of arrival to the first step.
    pub fn queue_percentiles(&self) -> Option<Percentiles> {
        Percentiles::of(self.queue.histogram(), bounds(std::slice::from_ref(self), |coarse| &coarse.queue_us))
    }

    /// Times to the first token, each with how many there were. Where another server counted in buckets, every part of a
    /// bucket has as many as the whole: where in it they lie is not known.
    pub fn ttft_spread(&self) -> Vec<(f64, u64)> {
        let bounds_us = bounds(std::slice::from_ref(self), |coarse| &coarse.ttft_us);
        if bounds_us.is_empty() {
            return self.ttft.histogram().iter().map(|(value, count)| (value as f64, count)).collect();
        }
        let mut counts = vec![0; bounds_us.len()];
        for (value, count) in self.ttft.histogram().iter() {
            // What is above all bounds is drawn in the last bucket.
            let at = bounds_us.partition_point(|bound| bound + bound / 1_000 < value);
            counts[at.min(bounds_us.len() - 1)] += count;
        }
        let lows = std::iter::once(0).chain(bounds_us.iter().copied());
        let parts = lows.zip(bounds_us).zip(counts).filter(|(_, count)| *count > 0);
        let parts = parts.flat_map(|((low, high), count)| {
            let width = (high - low) as f64 / BUCKET_PARTS as f64;
            (0..BUCKET_PARTS).map(move |part| (low as f64 + width * (part as f64 + 0.5), count))
        });
        parts.collect()
    }

    fn of(revision: &Revision) -> Self {
        let counters = revision.counters.unwrap_or_default();
        let quality = revision.quality.unwrap_or_default();
        Self {
            number: revision.number,
            coarse: revision.coarse.clone().map(Arc::new),
            ttft: Latency::of(revision.ttft_us.as_ref()),
            itl: Latency::of(revision.itl_us.as_ref()),
            e2e: Latency::of(revision.e2e_us.as_ref()),
            queue: Latency::of(revision.queue_us.as_ref()),
            ok: counters.requests_ok,
            failed: counters.requests_server_error + counters.requests_deadline,
            tokens_in: counters.tokens_in,
            tokens_out: counters.tokens_out,
            prompt_tokens: counters.prompt_tokens_begun,
            remembered_tokens: counters.prompt_tokens_remembered,
            preemptions: counters.preemptions,
            guessed: counters.tokens_guessed,
            guessed_right: counters.tokens_guessed_right,
            constrained: counters.tokens_constrained,
            constraint_us: counters.constraint_us,
            judged: quality.responses,
            logprob_sum: quality.token_logprob_sum,
            scored_tokens: quality.scored_tokens,
            flawed: quality.empty_responses
                + quality.truncated_responses
                + quality.repetitive_responses
                + quality.refused_responses,
            energy_mj: revision.energy_mj,
        }
    }
}

impl Timed for DeploymentPoint {
    fn time_unix_ms(&self) -> i64 {
        self.time_unix_ms
    }
}
