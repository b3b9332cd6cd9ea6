use std::sync::Arc;
use std::time::Duration;

use llmdeck_proto::v1::alert::Severity;

use crate::serving::Deployment;
use crate::telemetry::events::Events;

/// Unloads what a deployment serves whenever nobody has asked it for `after`, until the task is dropped. Its next request
/// loads it again.
pub async fn unload_when_idle(deployment: Arc<Deployment>, after: Duration, events: Arc<Events>) {
    loop {
        let idle_for = deployment
            .stable()
            .filter(|live| live.loaded().is_some() && deployment.candidate().is_none())
            .and_then(|live| live.idle_for());
        match idle_for {
            Some(idle_for) if idle_for >= after => {
                if let Some(live) = deployment.stable()
                    && deployment.unload_if_idle(live.number())
                {
                    let subject = format!("{}@{}", deployment.name(), live.number());
                    let text = format!(
                        "unloaded after {} s without a request; the next one loads it",
                        after.as_secs()
                    );
                    events.push(Severity::Information, &subject, text, "");
                }
            }
            Some(idle_for) => tokio::time::sleep(after - idle_for).await,
            None => tokio::time::sleep(after).await,
        }
    }
}
