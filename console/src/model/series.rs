use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::{CoarseLatency, Deployment, Gpu, Host, Revision};

use super::latency::Latency;
use super::percentiles::Percentiles;

/// Points kept of each series: ten minutes at one a second.
const MOST_POINTS: usize = 600;

/// Intervals that the percentiles of a point are taken over.
pub const SMOOTHED: usize = 5;

/// Parts that a bucket is drawn in: at least as many as a screen has lines.
const BUCKET_PARTS: usize = 128;

/// Points in order of time, the newest last.
#[derive(Clone, Debug)]
pub struct Series<T> {
    points: VecDeque<T>,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self { points: VecDeque::new() }
    }
}

/// Something measured at a moment.
pub trait Timed {
    /// Unix time in milliseconds.
    fn time_unix_ms(&self) -> i64;
}

impl<T: Timed> Series<T> {
    /// Takes points of the past that came late; those that are known already are left out.
    pub fn fill_in(&mut self, past: Self) {
        self.points.extend(past.points);
        // Stable, so that of two of the same moment the one that was known stays.
        self.points.make_contiguous().sort_by_key(Timed::time_unix_ms);
        let mut last = None;
        self.points.retain(|point| last.replace(point.time_unix_ms()) != Some(point.time_unix_ms()));
        self.points.drain(..self.points.len().saturating_sub(MOST_POINTS));
    }
}

impl<T> Series<T> {
    /// Adds the newest; the oldest makes room.
    pub fn push(&mut self, point: T) {
        if self.points.len() == MOST_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// At most `count` points, oldest first.
    pub fn last(&self, count: usize) -> impl ExactSizeIterator<Item = &T> + DoubleEndedIterator {
        self.points.range(self.points.len().saturating_sub(count)..)
    }

    /// The newest.
    pub fn newest(&self) -> Option<&T> {
        self.points.back()
    }
}

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

/// Several intervals together.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// How long they are.
    pub seconds: f64,
    /// Everything that they counted.
    pub total: RevisionPoint,
    /// Energy in millijoules, where it was measured.
    pub energy_mj: Option<u64>,
    /// Cost in millionths of the currency, where prices are set.
    pub cost_micros: Option<u64>,
}

impl Series<DeploymentPoint> {
    /// The last `count` intervals, of one revision or of all.
    pub fn window(&self, count: usize, revision: Option<u32>) -> Window {
        let points = || self.last(count);
        let parts: Vec<&RevisionPoint> = points()
            .flat_map(|point| &point.revisions)
            .filter(|part| revision.is_none_or(|number| part.number == number))
            .collect();
        let sum = |of: fn(&RevisionPoint) -> u64| parts.iter().map(|part| of(part)).sum();
        let energy_mj = match revision {
            None => points().filter_map(|point| point.energy_mj).reduce(|sum, energy| sum + energy),
            Some(_) => parts.iter().filter_map(|part| part.energy_mj).reduce(|sum, energy| sum + energy),
        };
        Window {
            seconds: points().map(|point| f64::from(point.interval_ms) / 1_000.0).sum(),
            total: RevisionPoint {
                number: revision.unwrap_or(0),
                coarse: parts.iter().rev().find_map(|part| part.coarse.clone()),
                ttft: Latency::sum(parts.iter().map(|part| &part.ttft)),
                itl: Latency::sum(parts.iter().map(|part| &part.itl)),
                e2e: Latency::sum(parts.iter().map(|part| &part.e2e)),
                queue: Latency::sum(parts.iter().map(|part| &part.queue)),
                ok: sum(|part| part.ok),
                failed: sum(|part| part.failed),
                tokens_in: sum(|part| part.tokens_in),
                tokens_out: sum(|part| part.tokens_out),
                prompt_tokens: sum(|part| part.prompt_tokens),
                remembered_tokens: sum(|part| part.remembered_tokens),
                preemptions: sum(|part| part.preemptions),
                guessed: sum(|part| part.guessed),
                guessed_right: sum(|part| part.guessed_right),
                constrained: sum(|part| part.constrained),
                constraint_us: sum(|part| part.constraint_us),
                judged: sum(|part| part.judged),
                logprob_sum: parts.iter().map(|part| part.logprob_sum).sum(),
                scored_tokens: sum(|part| part.scored_tokens),
                flawed: sum(|part| part.flawed),
                energy_mj,
            },
            energy_mj,
            cost_micros: points().filter_map(|point| point.cost_micros).reduce(|sum, cost| sum + cost),
        }
    }
}

impl Window {
    /// Ended requests a second. `None` without an interval.
    pub fn requests_per_s(&self) -> Option<f64> {
        self.per_s(self.total.ok + self.total.failed)
    }

    /// Tokens of prompts a second.
    pub fn tokens_in_per_s(&self) -> Option<f64> {
        self.per_s(self.total.tokens_in)
    }

    /// Generated tokens a second.
    pub fn tokens_per_s(&self) -> Option<f64> {
        self.per_s(self.total.tokens_out)
    }

    /// Share of requests that failed. `None` when none ended.
    pub fn error_share(&self) -> Option<f64> {
        let ended = self.total.ok + self.total.failed;
        (ended > 0).then(|| self.total.failed as f64 / ended as f64)
    }

    /// Mean logprob of the answers' tokens.
    pub fn mean_logprob(&self) -> Option<f64> {
        (self.total.scored_tokens > 0).then(|| self.total.logprob_sum / self.total.scored_tokens as f64)
    }

    /// Share of prompt tokens that were remembered from earlier prompts.
    pub fn remembered_share(&self) -> Option<f64> {
        let total = &self.total;
        (total.prompt_tokens > 0).then(|| total.remembered_tokens as f64 / total.prompt_tokens as f64)
    }

    /// Share of guessed tokens that were right.
    pub fn guessed_right_share(&self) -> Option<f64> {
        (self.total.guessed > 0).then(|| self.total.guessed_right as f64 / self.total.guessed as f64)
    }

    /// What holding an answer to its format takes for each of its tokens, in microseconds.
    pub fn constraint_us_per_token(&self) -> Option<f64> {
        (self.total.constrained > 0).then(|| self.total.constraint_us as f64 / self.total.constrained as f64)
    }

    /// Share of answers that were empty, cut off, repetitive or refusals.
    pub fn flawed_share(&self) -> Option<f64> {
        (self.total.judged > 0).then(|| self.total.flawed as f64 / self.total.judged as f64)
    }

    /// Energy a generated token, in joules.
    pub fn joules_per_token(&self) -> Option<f64> {
        let energy_mj = self.energy_mj?;
        (self.total.tokens_out > 0).then(|| energy_mj as f64 / 1_000.0 / self.total.tokens_out as f64)
    }

    /// Cost a million generated tokens, in the currency.
    pub fn cost_per_million_tokens(&self) -> Option<f64> {
        let cost_micros = self.cost_micros?;
        (self.total.tokens_out > 0).then(|| cost_micros as f64 / self.total.tokens_out as f64)
    }

    fn per_s(&self, count: u64) -> Option<f64> {
        (self.seconds > 0.0).then(|| count as f64 / self.seconds)
    }
}

/// Host readings at a moment.
#[derive(Clone, Copy, Debug)]
pub struct HostPoint {
    /// When.
    pub time_unix_ms: i64,
    /// Busy share of all cores, 0 to 1.
    pub cpu: Option<f64>,
    /// Used share of memory, 0 to 1.
    pub memory: f64,
    /// Bytes a second.
    pub received_per_s: f64,
    /// Bytes a second.
    pub sent_per_s: f64,
}

impl HostPoint {
    /// Of a frame's host.
    pub fn of(host: &Host, time_unix_ms: i64, interval_ms: u32) -> Self {
        let seconds = f64::from(interval_ms.max(1)) / 1_000.0;
        Self {
            time_unix_ms,
            cpu: host.cpu_utilization,
            memory: host.memory_used_bytes as f64 / host.memory_total_bytes.max(1) as f64,
            received_per_s: host.network_received_bytes as f64 / seconds,
            sent_per_s: host.network_sent_bytes as f64 / seconds,
        }
    }
}

/// GPU readings at a moment; what the card does not tell is absent.
#[derive(Clone, Copy, Debug)]
pub struct GpuPoint {
    /// When.
    pub time_unix_ms: i64,
    /// Busy share, 0 to 1.
    pub utilization: Option<f64>,
    /// Used share of memory, 0 to 1.
    pub memory: Option<f64>,
    /// Power draw.
    pub power_mw: Option<u32>,
    /// Temperature.
    pub temperature_c: Option<u32>,
}

impl GpuPoint {
    /// Of a frame's GPU.
    pub fn of(gpu: &Gpu, time_unix_ms: i64) -> Self {
        let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
        Self {
            time_unix_ms,
            utilization: gpu.utilization,
            memory: memory.map(|(used, total)| used as f64 / total.max(1) as f64),
            power_mw: gpu.power_mw,
            temperature_c: gpu.temperature_c,
        }
    }
}

impl Timed for DeploymentPoint {
    fn time_unix_ms(&self) -> i64 {
        self.time_unix_ms
    }
}

impl Timed for HostPoint {
    fn time_unix_ms(&self) -> i64 {
        self.time_unix_ms
    }
}

impl Timed for GpuPoint {
    fn time_unix_ms(&self) -> i64 {
        self.time_unix_ms
    }
}
