//! `GET /metrics`: what the frames counted since the agent started, in the OpenMetrics text format. Names follow
//! OpenTelemetry's GenAI conventions where they have one.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderName, header};
use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::{Deployment, Frame, Gpu, Revision};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Api;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// OpenTelemetry's buckets for `gen_ai.server.request.duration`, widened at both ends.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RevisionLabels {
    model: String,
    revision: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    revision: u32,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PromptLabels {
    model: String,
    revision: u32,
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GuessLabels {
    model: String,
    revision: u32,
    right: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MemoryLabels {
    model: String,
    revision: u32,
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    model: String,
    revision: u32,
    gen_ai_token_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GpuLabels {
    gpu: u32,
    uuid: String,
}

type Seconds = Family<RevisionLabels, Histogram, fn() -> Histogram>;
type Share = Gauge<f64, AtomicU64>;

/// Adds up frames.
pub struct Metrics {
    registry: Mutex<Registry>,
    queue: Seconds,
    ttft: Seconds,
    itl: Seconds,
    tpot: Seconds,
    e2e: Seconds,
    requests: Family<OutcomeLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    prompt_tokens: Family<PromptLabels, Counter>,
    guessed_tokens: Family<GuessLabels, Counter>,
    preemptions: Family<RevisionLabels, Counter>,
    constrained_tokens: Family<RevisionLabels, Counter>,
    constraint_seconds: Family<RevisionLabels, Counter<f64, AtomicU64>>,
    memory: Family<MemoryLabels, Gauge<i64, AtomicI64>>,
    model_memory: Gauge<i64, AtomicI64>,
    in_flight: Family<RevisionLabels, Gauge<i64, AtomicI64>>,
    golden: Family<RevisionLabels, Share>,
    queue_depth: Family<ModelLabels, Gauge>,
    stable: Family<ModelLabels, Gauge>,
    gpu_utilization: Family<GpuLabels, Share>,
    gpu_memory_used: Family<GpuLabels, Gauge>,
    gpu_power: Family<GpuLabels, Share>,
    gpu_temperature: Family<GpuLabels, Gauge>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Metrics {
    fn default() -> Self {
        let new = || Seconds::new_with_constructor(seconds as fn() -> Histogram);
        let metrics = Self {
            registry: Mutex::default(),
            queue: new(),
            ttft: new(),
            itl: new(),
            tpot: new(),
            e2e: new(),
            requests: Family::default(),
            tokens: Family::default(),
            prompt_tokens: Family::default(),
            guessed_tokens: Family::default(),
            preemptions: Family::default(),
            constrained_tokens: Family::default(),
            constraint_seconds: Family::default(),
            memory: Family::default(),
            model_memory: Gauge::default(),
            in_flight: Family::default(),
            golden: Family::default(),
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
        for (name, help, family) in [
            ("gen_ai_server_request_duration", "Arrival to last byte", &self.e2e),
            ("gen_ai_server_time_to_first_token", "Arrival to first token", &self.ttft),
            ("gen_ai_server_time_per_output_token", "Mean time per token behind the first", &self.tpot),
            ("llmdeck_inter_token_latency", "Between two tokens", &self.itl),
            ("llmdeck_queue_time", "Arrival to the engine's start", &self.queue),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        registry.register("llmdeck_requests", "Requests by how they ended", self.requests.clone());
        registry.register("gen_ai_client_token_usage", "Tokens by type", self.tokens.clone());
        registry.register(
            "llmdeck_prompt_tokens",
            "Tokens of prompts that began: computed, or remembered from earlier prompts",
            self.prompt_tokens.clone(),
        );
        registry.register(
            "llmdeck_guessed_tokens",
            "Tokens guessed ahead, by whether they were right",
            self.guessed_tokens.clone(),
        );
        registry.register(
            "llmdeck_preemptions",
            "Sequences that gave their cache back because it was full",
            self.preemptions.clone(),
        );
        registry.register(
            "llmdeck_constrained_tokens",
            "Tokens chosen under a JSON schema, regular expression or choice",
            self.constrained_tokens.clone(),
        );
        registry.register_with_unit(
            "llmdeck_constraint_time",
            "Time that holding answers to their formats took, over all threads",
            Unit::Seconds,
            self.constraint_seconds.clone(),
        );
        registry.register_with_unit(
            "llmdeck_model_memory_held",
            "Memory that a revision holds, by what for",
            Unit::Bytes,
            self.memory.clone(),
        );
        registry.register_with_unit(
            "llmdeck_model_memory_budget",
            "Memory that models may take together",
            Unit::Bytes,
            self.model_memory.clone(),
        );
        registry.register("llmdeck_requests_in_flight", "Requests under way", self.in_flight.clone());
        registry.register("llmdeck_golden_score", "Latest golden score, 0 to 1", self.golden.clone());
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
        self.model_memory.set(i64::try_from(frame.model_memory_bytes).unwrap_or(i64::MAX));
    }

    fn absorb_deployment(&self, deployment: &Deployment) {
        let labels = ModelLabels { model: deployment.name.clone() };
        self.queue_depth.get_or_create(&labels).set(i64::from(deployment.queue_depth));
        self.stable.get_or_create(&labels).set(i64::from(deployment.stable_revision));
        deployment.revisions.iter().for_each(|revision| self.absorb_revision(&deployment.name, revision));
    }

    fn absorb_revision(&self, model: &str, revision: &Revision) {
        let labels = RevisionLabels { model: model.to_owned(), revision: revision.number };
        for (family, encoded) in [
            (&self.queue, &revision.queue_us),
            (&self.ttft, &revision.ttft_us),
            (&self.itl, &revision.itl_us),
            (&self.tpot, &revision.tpot_us),
            (&self.e2e, &revision.e2e_us),
        ] {
            let Ok(recorded) = SparseHistogram::decode(encoded.as_ref()) else { continue };
            let family = family.get_or_create(&labels);
            for (value_us, count) in recorded.iter() {
                let seconds = value_us as f64 / 1e6;
                (0..count).for_each(|_| family.observe(seconds));
            }
        }
        let counters = revision.counters.unwrap_or_default();
        for (outcome, count) in [
            ("ok", counters.requests_ok),
            ("client_error", counters.requests_client_error),
            ("server_error", counters.requests_server_error),
            ("cancelled", counters.requests_cancelled),
            ("deadline", counters.requests_deadline),
        ] {
            let labels = OutcomeLabels { model: model.to_owned(), revision: revision.number, outcome };
            self.requests.get_or_create(&labels).inc_by(count);
        }
        for (gen_ai_token_type, count) in [("input", counters.tokens_in), ("output", counters.tokens_out)] {
            let labels =
                TokenLabels { model: model.to_owned(), revision: revision.number, gen_ai_token_type };
            self.tokens.get_or_create(&labels).inc_by(count);
        }
        let computed = counters.prompt_tokens_begun - counters.prompt_tokens_remembered;
        for (source, count) in [("computed", computed), ("remembered", counters.prompt_tokens_remembered)] {
            let labels = PromptLabels { model: model.to_owned(), revision: revision.number, source };
            self.prompt_tokens.get_or_create(&labels).inc_by(count);
        }
        let wrong = counters.tokens_guessed - counters.tokens_guessed_right;
        for (right, count) in [("true", counters.tokens_guessed_right), ("false", wrong)] {
            let labels = GuessLabels { model: model.to_owned(), revision: revision.number, right };
            self.guessed_tokens.get_or_create(&labels).inc_by(count);
        }
        self.preemptions.get_or_create(&labels).inc_by(counters.preemptions);
        self.constrained_tokens.get_or_create(&labels).inc_by(counters.tokens_constrained);
        self.constraint_seconds.get_or_create(&labels).inc_by(counters.constraint_us as f64 / 1e6);
        for (part, bytes) in [
            ("weights", revision.resident_weights_bytes),
            ("cache", revision.kv_total_bytes),
            ("scratch", revision.scratch_bytes),
        ] {
            let labels = MemoryLabels { model: model.to_owned(), revision: revision.number, part };
            self.memory.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        self.in_flight.get_or_create(&labels).set(i64::from(revision.in_flight));
        if let Some(score) = revision.quality.and_then(|quality| quality.golden_score) {
            self.golden.get_or_create(&labels).set(score);
        }
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
