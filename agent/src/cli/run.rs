use color_eyre::eyre::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::{Agent, AgentOptions};

/// Serves until SIGTERM or SIGINT. A second one ends the wait for what still runs.
pub(super) async fn run(options: AgentOptions) -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let agent = Agent::start(options).await?;
    let grpc = agent.grpc().map(|address| address.to_string());
    tracing::info!(http = %agent.http(), socket = %agent.socket().display(), grpc, "listening");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let running: u32 = agent.deployments().iter().map(|deployment| deployment.in_flight()).sum();
    tracing::info!(running, "stopping; new requests are refused, what runs may finish");
    tokio::select! {
        drained = agent.stop() => {
            tracing::info!(finished = drained.finished, cut_off = drained.cut_off, "stopped");
        }
        _ = terminate.recv() => tracing::warn!("stopped at once; what ran was cut off"),
        _ = interrupt.recv() => tracing::warn!("stopped at once; what ran was cut off"),
    }
    Ok(())
}
