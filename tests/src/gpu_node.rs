use std::path::PathBuf;

use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Frame, WatchRequest};
use serde_json::Value;
use tempfile::TempDir;

use crate::{AgentProcess, binaries, wait_for};

/// An agent whose GPUs are what a scenario says.
pub struct GpuNode {
    /// It.
    pub agent: AgentProcess,
    scenario: PathBuf,
    _folder: TempDir,
}

impl GpuNode {
    /// Starts it with a configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(config: &str, scenario: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scenario.json");
        std::fs::write(&path, scenario.to_string()).unwrap();
        let environment =
            [("LLMDECK_NVML_LIBRARY", binaries().nvml.as_path()), ("FAKE_NVML_SCENARIO", path.as_path())];
        let agent = AgentProcess::start_with(config, &environment);
        Self { agent, scenario: path, _folder: folder }
    }

    /// Changes it, whole or not at all: the library reads it at any moment.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn change(&self, scenario: &Value) {
        let beside = self.scenario.with_extension("new");
        std::fs::write(&beside, scenario.to_string()).unwrap();
        std::fs::rename(beside, &self.scenario).unwrap();
    }

    /// The first frame that is as wanted.
    ///
    /// # Panics
    /// When none is within `PATIENCE`.
    pub async fn frame(&self, what: &str, mut wanted: impl FnMut(&Frame) -> bool) -> Frame {
        let mut client = TelemetryClient::new(self.agent.channel());
        let mut frames = client.watch(WatchRequest { interval_ms: 0 }).await.unwrap().into_inner();
        let found = async {
            wait_for(what, async || Some(frames.message().await.unwrap().unwrap()).filter(&mut wanted)).await
        };
        found.await
    }
}
