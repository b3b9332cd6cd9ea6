//! What a deployment's work cost while something ran, from the node's own frames.

use std::time::Duration;

use llmdeck_load::bench::RunCost;
use llmdeck_proto::v1::{Deployment, Frame};

use crate::telemetry::{Subscribers, Subscription};

/// How long the frame that has the end is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads frames from its beginning on.
pub(super) struct CostMeter {
    frames: Subscription,
    deployment: String,
    begun: bool,
}

impl CostMeter {
    pub(super) fn new(frames: &Subscribers, deployment: &str) -> Self {
        Self { frames: frames.subscribe(), deployment: deployment.to_owned(), begun: false }
    }

    /// Forgets what came before; only the first call does.
    pub(super) fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            drop(self.frames.take());
        }
    }

    /// What it came to; `None` where the node measures neither energy nor money.
    pub(super) async fn take(mut self) -> Option<RunCost> {
        let mut cost = RunCost::default();
        // Frames merge while nobody reads: the first has all until now, the second the rest.
        for _ in 0..2 {
            if let Ok(frame) = tokio::time::timeout(PATIENCE, self.frames.next()).await {
                self.add(&frame, &mut cost);
            }
        }
        cost.is_known().then_some(cost)
    }

    fn add(&self, frame: &Frame, cost: &mut RunCost) {
        let Some(deployment) = frame.deployments.iter().find(|one| one.name == self.deployment) else {
            return;
        };
        let Deployment { energy_mj, cost_micros, currency, revisions, .. } = deployment;
        let tokens =
            revisions.iter().filter_map(|revision| revision.counters.as_ref()).map(|all| all.tokens_out);
        cost.add(tokens.sum(), *energy_mj, *cost_micros, currency);
    }
}
