use super::deployment_point::{DeploymentPoint, RevisionPoint};
use super::latency::Latency;
use super::series::Series;

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
