//! `GET /metrics`: what the frames counted since the agent started, in the OpenMetrics text format. Names follow
//! OpenTelemetry's GenAI conventions where they have one.

mod revisions;

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::State;
use axum::http::{HeaderName, header};
use llmdeck_proto::v1::{Deployment, Frame, Gpu};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use revisions::RevisionMetrics;

use super::Api;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GpuLabels {
    gpu: u32,
    uuid: String,
}

type Share = Gauge<f64, AtomicU64>;

/// Adds up frames.
pub struct Metrics {
    registry: Mutex<Registry>,
    revisions: RevisionMetrics,
    model_memory: Gauge<i64, AtomicI64>,
    queue_depth: Family<ModelLabels, Gauge>,
    stable: Family<ModelLabels, Gauge>,
    gpu_utilization: Family<GpuLabels, Share>,
    gpu_memory_used: Family<GpuLabels, Gauge>,
    gpu_power: Family<GpuLabels, Share>,
    gpu_temperature: Family<GpuLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::default(),
            revisions: RevisionMetrics::default(),
            model_memory: Gauge::default(),
            queue_depth: Family::default(),
            stable: Family::default(),
            gpu_utilization: Family::default(),
            gpu_memory_used: Family::default(),
            gpu_power: Family::default(),
            gpu_temperature: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        self.revisions.register(&mut registry);
        registry.register_with_unit(
            "llmdeck_model_memory_budget",
            "Memory that models may take together",
            Unit::Bytes,
            self.model_memory.clone(),
        );
        registry.register("llmdeck_queue_depth", "Requests that wait", self.queue_depth.clone());
        registry.register("llmdeck_stable_revision", "What new requests go to", self.stable.clone());
        registry.register("llmdeck_gpu_utilization", "Busy share, 0 to 1", self.gpu_utilization.clone());
        registry.register_with_unit(
            "llmdeck_gpu_memory_used",
            "Memory in use",
            Unit::Bytes,
            self.gpu_memory_used.clone(),
        );
        registry.register("llmdeck_gpu_power_watts", "Power draw", self.gpu_power.clone());
        registry.register_with_unit(
            "llmdeck_gpu_temperature",
            "Temperature of the chip",
            Unit::Celsius,
            self.gpu_temperature.clone(),
        );
    }

    /// Adds a frame that has not been merged with any other.
    pub fn absorb(&self, frame: &Frame) {
        frame.deployments.iter().for_each(|deployment| self.absorb_deployment(deployment));
        frame.gpus.iter().for_each(|gpu| self.absorb_gpu(gpu));
        self.revisions.absorb(frame, Instant::now());
        self.model_memory.set(i64::try_from(frame.model_memory_bytes).unwrap_or(i64::MAX));
    }

    fn absorb_deployment(&self, deployment: &Deployment) {
        let labels = ModelLabels { model: deployment.name.clone() };
        self.queue_depth.get_or_create(&labels).set(i64::from(deployment.queue_depth));
        self.stable.get_or_create(&labels).set(i64::from(deployment.stable_revision));
    }

    fn absorb_gpu(&self, gpu: &Gpu) {
        let labels = GpuLabels { gpu: gpu.index, uuid: gpu.uuid.clone() };
        if let Some(utilization) = gpu.utilization {
            self.gpu_utilization.get_or_create(&labels).set(utilization);
        }
        if let Some(bytes) = gpu.memory_used_bytes {
            self.gpu_memory_used.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(power_mw) = gpu.power_mw {
            self.gpu_power.get_or_create(&labels).set(f64::from(power_mw) / 1_000.0);
        }
        if let Some(temperature) = gpu.temperature_c {
            self.gpu_temperature.get_or_create(&labels).set(i64::from(temperature));
        }
    }

    fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

pub(super) async fn exposition(State(api): State<Arc<Api>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], api.metrics.text())
}
