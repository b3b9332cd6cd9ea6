//! Who holds memory for models, as a running agent says; or what the configured models would take.

use std::path::Path;
use std::time::Duration;

use color_eyre::eyre::{Result, eyre};
use llmdeck_engine::footprint::Footprint;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Frame, Revision, WatchRequest};
use tonic::transport::Endpoint;

use super::doctor::Finding;
use crate::agent::AgentOptions;
use crate::config::DeploymentConfig;

const PATIENCE: Duration = Duration::from_secs(5);

/// One finding for each holder, or for each configured model.
pub(super) fn findings(options: &AgentOptions) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let frame = runtime.ok().and_then(|runtime| runtime.block_on(frame_of(&options.socket)).ok());
    match frame {
        Some(frame) => holders(&frame),
        None => estimates(options),
    }
}

async fn frame_of(socket: &Path) -> Result<Frame> {
    let ask = async {
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await?;
        let mut client = TelemetryClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut frames = client.watch(WatchRequest::default()).await?.into_inner();
        frames.message().await?.ok_or_else(|| eyre!("the agent sent no frame"))
    };
    tokio::time::timeout(PATIENCE, ask).await?
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn holders(frame: &Frame) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut total = 0;
    for deployment in &frame.deployments {
        for revision in &deployment.revisions {
            total += revision.host_memory_bytes();
            let name = format!("{}@{}", deployment.name, revision.number);
            let text = match revision.state() {
                State::Unloaded => format!("{name} is unloaded; its next request loads it"),
                _ => format!("{name} holds {}", parts(revision)),
            };
            findings.push(Finding::Well(text));
        }
        if !deployment.unavailable.is_empty() {
            findings.push(Finding::Wrong(format!(
                "{} cannot serve: {}",
                deployment.name, deployment.unavailable
            )));
        }
    }
    let budget = frame.model_memory_bytes;
    findings.push(Finding::Well(format!("{} MiB of {} MiB for models are held", mib(total), mib(budget))));
    findings
}

fn parts(revision: &Revision) -> String {
    let (held, weights) = (mib(revision.host_memory_bytes()), mib(revision.resident_weights_bytes));
    let (cache, used) = (mib(revision.kv_total_bytes), mib(revision.kv_used_bytes));
    let cache = format!("cache {cache} ({used} in use)");
    let scratch = mib(revision.scratch_bytes);
    match &revision.on_gpu {
        None => format!("{held} MiB: weights {weights}, {cache}, scratch {scratch}"),
        Some(gpu) => format!(
            "{held} MiB: weights {weights}, scratch {scratch}; on {} {} MiB: weights {}, {cache}",
            gpu.device,
            mib(revision.gpu_memory_bytes()),
            mib(gpu.weights_bytes),
        ),
    }
}

fn estimates(options: &AgentOptions) -> Vec<Finding> {
    let budget = options.config.model_memory_bytes();
    let mut total = 0;
    let estimate = |deployment: &DeploymentConfig| {
        let path = Path::new(&deployment.model);
        path.exists().then(|| Footprint::of(path, &deployment.load_settings().engine))
    };
    let mut findings = Vec::new();
    for deployment in &options.config.deployments {
        let name = &deployment.name;
        findings.push(match estimate(deployment) {
            None => Finding::Note(format!(
                "{name} serves {:?}, which the agent finds when it starts",
                deployment.model
            )),
            Some(Err(error)) => Finding::Wrong(format!("{name}: {error}")),
            Some(Ok(needed)) => {
                total += needed.total_bytes();
                Finding::Well(format!("{name} would take {needed}"))
            }
        });
    }
    let text = format!("{} MiB of {} MiB for models would be held", mib(total), mib(budget));
    findings.push(if total <= budget {
        Finding::Well(text)
    } else if options.config.deployments.iter().any(|deployment| deployment.idle_unload_s.is_some()) {
        Finding::Note(format!("{text}: they take turns, as far as they may be unloaded"))
    } else {
        Finding::Wrong(format!("{text}; lower cache_bytes or max_concurrent, or set idle_unload_s"))
    });
    findings
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::ModelOnGpu;

    use super::*;

    #[test]
    fn what_a_model_holds_is_said_where_it_is() {
        let mut revision = Revision {
            resident_weights_bytes: 500 << 20,
            kv_total_bytes: 64 << 20,
            kv_used_bytes: 3 << 20,
            scratch_bytes: 9 << 20,
            ..Revision::default()
        };
        assert_eq!(parts(&revision), "573 MiB: weights 500, cache 64 (3 in use), scratch 9");
        revision.on_gpu = Some(ModelOnGpu { device: "cuda:0".into(), weights_bytes: 400 << 20 });
        let on_gpu = "509 MiB: weights 500, scratch 9; on cuda:0 464 MiB: weights 400, cache 64 (3 in use)";
        assert_eq!(parts(&revision), on_gpu);
    }
}
