use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use llmdeck_proto::v1::{Alert, Deployment, Frame, Job, Rollout};
use nix::unistd::Pid;

use super::energy::{Prices, attribute_energy};
use super::events::Events;
use crate::time::unix_ms;
use llmdeck_sensors::HostSampler;
use llmdeck_sensors::gpu::{GpuEnergy, GpuSampler};

/// States at the end of an interval, from whoever holds them.
#[derive(Default)]
pub struct FrameStates {
    /// With what was recorded since the last frame.
    pub deployments: Vec<Deployment>,
    /// Processes that the agent runs for each deployment's revisions, as groups.
    pub process_groups: Vec<Vec<(u32, Pid)>>,
    /// Under way or ended lately.
    pub rollouts: Vec<Rollout>,
    /// Under way or ended lately.
    pub jobs: Vec<Job>,
    /// What models may take together.
    pub model_memory_bytes: u64,
}

/// Makes the frame of each interval.
pub struct FrameMaker {
    node: String,
    instance: String,
    http_address: String,
    prices: Option<Prices>,
    host: HostSampler,
    gpu: Arc<GpuSampler>,
    gpu_energy: GpuEnergy,
    last: Instant,
    sequence: u64,
}

impl FrameMaker {
    /// For a node of that name; `instance` is anew with each start of the agent.
    pub fn new(
        node: String,
        instance: String,
        http_address: String,
        prices: Option<Prices>,
        data_dir: &Path,
        gpu: Arc<GpuSampler>,
    ) -> Self {
        Self {
            node,
            instance,
            http_address,
            prices,
            host: HostSampler::new(data_dir),
            gpu,
            gpu_energy: GpuEnergy::default(),
            last: Instant::now(),
            sequence: 0,
        }
    }

    /// Samples the node and closes the interval. Alerts are told of the frame by `alerts`.
    pub fn make(
        &mut self,
        states: FrameStates,
        events: &Events,
        alerts: impl FnOnce(&Frame) -> Vec<Alert>,
    ) -> Frame {
        let now = Instant::now();
        let interval_ms = u32::try_from(now.duration_since(self.last).as_millis()).unwrap_or(u32::MAX);
        self.last = now;
        self.sequence += 1;
        let mut readings = self.gpu.latest();
        self.gpu_energy.fill(&mut readings.gpus, interval_ms);
        let mut frame = Frame {
            node: self.node.clone(),
            time_unix_ms: unix_ms(),
            sequence: self.sequence,
            interval_ms,
            merged_frames: 1,
            agent_instance: self.instance.clone(),
            http_address: self.http_address.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: Some(self.host.sample()),
            gpu_driver: Some(readings.driver),
            gpus: readings.gpus,
            deployments: states.deployments,
            rollouts: states.rollouts,
            jobs: states.jobs,
            model_memory_bytes: states.model_memory_bytes,
            ..Frame::default()
        };
        attribute_energy(&mut frame, &states.process_groups, self.prices.as_ref());
        frame.alerts = alerts(&frame);
        (frame.events, frame.dropped_events) = events.drain();
        frame
    }
}
