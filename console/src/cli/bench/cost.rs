//! What a deployment's work costs while it is measured, from the frames of its agent.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use llmdeck_load::bench::{Progress, RunCost};
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Frame, WatchRequest};
use tokio::sync::{Notify, watch};
use tonic::codec::CompressionEncoding;

use crate::cli::CliError;
use crate::link::{LinkError, Target, dial};

/// How long the frame that has the end is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Adds up what frames say, from its start on.
#[derive(Clone)]
pub(super) struct CostMeter {
    shared: Arc<Shared>,
}

struct Shared {
    deployment: String,
    total: Mutex<RunCost>,
    added: Notify,
}

impl CostMeter {
    /// Watches until it and its clones are dropped, or the agent goes.
    pub(super) async fn start(agent: &Target, deployment: &str) -> Result<Self, CliError> {
        let mut client = TelemetryClient::new(dial(agent))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
        let frames = client.watch(WatchRequest { interval_ms: 0 }).await.map_err(LinkError::from)?;
        let mut frames = frames.into_inner();
        let shared = Arc::new(Shared {
            deployment: deployment.to_owned(),
            total: Mutex::default(),
            added: Notify::new(),
        });
        let meter = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                let Some(shared) = meter.upgrade() else { return };
                shared.add(&frame);
                shared.added.notify_waiters();
            }
        });
        Ok(Self { shared })
    }

    fn total(&self) -> RunCost {
        self.shared.total.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What had come together when the measured part of a run began.
    pub(super) async fn before(self, mut progress: watch::Receiver<Progress>) -> RunCost {
        // A run that ends before its measured part has cost nothing.
        let _ = progress.wait_for(|progress| !progress.elapsed.is_zero()).await;
        self.total()
    }

    /// What has come together since then, with the frame that comes next.
    pub(super) async fn since(&self, before: &RunCost) -> RunCost {
        let _ = tokio::time::timeout(PATIENCE, self.shared.added.notified()).await;
        self.total().since(before)
    }
}

impl Shared {
    fn add(&self, frame: &Frame) {
        let Some(deployment) = frame.deployments.iter().find(|one| one.name == self.deployment) else {
            return;
        };
        let counters = deployment.revisions.iter().filter_map(|revision| revision.counters.as_ref());
        let tokens = counters.map(|counters| counters.tokens_out).sum();
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        total.add(tokens, deployment.energy_mj, deployment.cost_micros, &deployment.currency);
    }
}
