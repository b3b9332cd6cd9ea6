use std::sync::Arc;
use std::time::Duration;

use llmdeck_proto::v1::alert::Severity;
use tokio::time::MissedTickBehavior;

use super::{Suite, run_suite};
use crate::serving::Deployment;
use crate::telemetry::events::Events;

/// Scores whatever serves, now and then, until the task is dropped. A run that fails is an event, and the score stays
/// as it was.
pub async fn score_on_schedule(
    deployment: Arc<Deployment>,
    suite: Arc<Suite>,
    every: Duration,
    events: Arc<Events>,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(revision) = deployment.stable() else { continue };
        // What was unloaded is not loaded again to be scored: nobody asks it.
        let Some(backend) = revision.backend() else { continue };
        match run_suite(&backend, &suite, |_| {}).await {
            Ok(run) => revision.set_golden(run),
            Err(error) => {
                let subject = format!("{}@{}", deployment.name(), revision.number());
                events.push(
                    Severity::Warning,
                    &subject,
                    format!("the golden suite did not finish: {error}"),
                    "",
                );
            }
        }
    }
}
