//! Users come first: training waits while their latency suffers.

use std::sync::Arc;
use std::time::Duration;

use super::FinetuneConfig;
use crate::serving::Deployment;

/// How often latency is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for latency to fall: training goes on slowly rather than never.
pub(super) const MOST_HELD: Duration = Duration::from_secs(5);
/// Shorter waits are not worth a word.
pub(super) const LEAST_TOLD: Duration = Duration::from_millis(500);
/// Requests that ended within this time count.
const WINDOW: Duration = Duration::from_secs(10);
const LEAST_REQUESTS: usize = 20;

/// Those of a deployment.
pub(super) struct Users {
    deployment: Arc<Deployment>,
    /// Of TTFT at the 95th percentile.
    limit_us: Option<u64>,
}

impl Users {
    pub(super) fn of(deployment: &Arc<Deployment>, config: &FinetuneConfig) -> Self {
        let limit_us = config.max_ttft_p95_ms.map(|ms| (ms * 1_000.0) as u64);
        let limit_us = limit_us.or(deployment.objective_ttft_us());
        Self { deployment: Arc::clone(deployment), limit_us }
    }

    /// Whether they wait longer than they may, in words.
    pub(super) fn suffering(&self) -> Option<String> {
        let limit_us = self.limit_us?;
        let p95_us = self.deployment.ttft_p95_us(WINDOW, LEAST_REQUESTS)?;
        (p95_us > limit_us)
            .then(|| format!("TTFT p95 is {} ms, allowed {}", p95_us / 1_000, limit_us / 1_000))
    }
}
