//! What is told of each revision: histograms and counters for a while after it has gone, so that its last requests are read too;
//! what it holds, only while it is there.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::{Counters, Frame, Revision};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// OpenTelemetry's buckets for `gen_ai.server.request.duration`, widened at both ends.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Twice as long as Prometheus takes a value for current.
const KEPT_WHEN_GONE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RevisionLabels {
    model: String,
    revision: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    #[prometheus(flatten)]
    of: RevisionLabels,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    #[prometheus(flatten)]
    of: RevisionLabels,
    gen_ai_token_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PromptLabels {
    #[prometheus(flatten)]
    of: RevisionLabels,
    source: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GuessLabels {
    #[prometheus(flatten)]
    of: RevisionLabels,
    right: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MemoryLabels {
    #[prometheus(flatten)]
    of: RevisionLabels,
    part: &'static str,
    device: &'static str,
}

type Seconds = Family<RevisionLabels, Histogram, fn() -> Histogram>;

pub(super) struct RevisionMetrics {
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
    in_flight: Family<RevisionLabels, Gauge<i64, AtomicI64>>,
    golden: Family<RevisionLabels, Gauge<f64, AtomicU64>>,
    /// When each was in a frame last.
    seen: Mutex<HashMap<RevisionLabels, Instant>>,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for RevisionMetrics {
    fn default() -> Self {
        let new = || Seconds::new_with_constructor(seconds as fn() -> Histogram);
        Self {
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
            in_flight: Family::default(),
            golden: Family::default(),
            seen: Mutex::default(),
        }
    }
}

impl RevisionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
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
            "Memory that a revision holds, by what for and where",
            Unit::Bytes,
            self.memory.clone(),
        );
        registry.register("llmdeck_requests_in_flight", "Requests under way", self.in_flight.clone());
        registry.register("llmdeck_golden_score", "Latest golden score, 0 to 1", self.golden.clone());
    }

    /// Adds what a frame says, and lets go of revisions that are in none any more.
    pub(super) fn absorb(&self, frame: &Frame, now: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for deployment in &frame.deployments {
            for revision in &deployment.revisions {
                let labels = RevisionLabels { model: deployment.name.clone(), revision: revision.number };
                self.count(&labels, revision);
                self.state(&labels, revision);
                seen.insert(labels, now);
            }
        }
        seen.retain(|labels, seen| {
            if *seen == now {
                return true;
            }
            self.forget_state(labels);
            let kept = now.duration_since(*seen) < KEPT_WHEN_GONE;
            if !kept {
                self.forget_counts(labels);
            }
            kept
        });
    }

    fn count(&self, labels: &RevisionLabels, revision: &Revision) {
        for (family, encoded) in [
            (&self.queue, &revision.queue_us),
            (&self.ttft, &revision.ttft_us),
            (&self.itl, &revision.itl_us),
            (&self.tpot, &revision.tpot_us),
            (&self.e2e, &revision.e2e_us),
        ] {
            let Ok(recorded) = SparseHistogram::decode(encoded.as_ref()) else { continue };
            let family = family.get_or_create(labels);
            for (value_us, count) in recorded.iter() {
                let seconds = value_us as f64 / 1e6;
                (0..count).for_each(|_| family.observe(seconds));
            }
        }
        let counters = revision.counters.unwrap_or_default();
        for (labels, count) in outcomes(labels, &counters) {
            self.requests.get_or_create(&labels).inc_by(count);
        }
        for (labels, count) in tokens(labels, &counters) {
            self.tokens.get_or_create(&labels).inc_by(count);
        }
        for (labels, count) in prompt_tokens(labels, &counters) {
            self.prompt_tokens.get_or_create(&labels).inc_by(count);
        }
        for (labels, count) in guessed_tokens(labels, &counters) {
            self.guessed_tokens.get_or_create(&labels).inc_by(count);
        }
        self.preemptions.get_or_create(labels).inc_by(counters.preemptions);
        self.constrained_tokens.get_or_create(labels).inc_by(counters.tokens_constrained);
        self.constraint_seconds.get_or_create(labels).inc_by(counters.constraint_us as f64 / 1e6);
    }

    fn forget_counts(&self, labels: &RevisionLabels) {
        for family in [&self.queue, &self.ttft, &self.itl, &self.tpot, &self.e2e] {
            family.remove(labels);
        }
        let none = Counters::default();
        forget(&self.requests, outcomes(labels, &none));
        forget(&self.tokens, tokens(labels, &none));
        forget(&self.prompt_tokens, prompt_tokens(labels, &none));
        forget(&self.guessed_tokens, guessed_tokens(labels, &none));
        self.preemptions.remove(labels);
        self.constrained_tokens.remove(labels);
        self.constraint_seconds.remove(labels);
    }

    fn state(&self, labels: &RevisionLabels, revision: &Revision) {
        for (labels, bytes) in memory(labels, revision) {
            if labels.device == HOST || revision.on_gpu.is_some() || self.memory.get(&labels).is_some() {
                self.memory.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        self.in_flight.get_or_create(labels).set(i64::from(revision.in_flight));
        if let Some(score) = revision.quality.and_then(|quality| quality.golden_score) {
            self.golden.get_or_create(labels).set(score);
        }
    }

    fn forget_state(&self, labels: &RevisionLabels) {
        forget(&self.memory, memory(labels, &Revision::default()));
        self.in_flight.remove(labels);
        self.golden.remove(labels);
    }
}

fn forget<L: Clone + Hash + Eq, M>(family: &Family<L, M>, series: impl IntoIterator<Item = (L, u64)>) {
    for (labels, _) in series {
        family.remove(&labels);
    }
}

fn outcomes(of: &RevisionLabels, counters: &Counters) -> [(OutcomeLabels, u64); 5] {
    [
        ("ok", counters.requests_ok),
        ("client_error", counters.requests_client_error),
        ("server_error", counters.requests_server_error),
        ("cancelled", counters.requests_cancelled),
        ("deadline", counters.requests_deadline),
    ]
    .map(|(outcome, count)| (OutcomeLabels { of: of.clone(), outcome }, count))
}

fn tokens(of: &RevisionLabels, counters: &Counters) -> [(TokenLabels, u64); 2] {
    [("input", counters.tokens_in), ("output", counters.tokens_out)]
        .map(|(gen_ai_token_type, count)| (TokenLabels { of: of.clone(), gen_ai_token_type }, count))
}

fn prompt_tokens(of: &RevisionLabels, counters: &Counters) -> [(PromptLabels, u64); 2] {
    let computed = counters.prompt_tokens_begun - counters.prompt_tokens_remembered;
    [("computed", computed), ("remembered", counters.prompt_tokens_remembered)]
        .map(|(source, count)| (PromptLabels { of: of.clone(), source }, count))
}

fn guessed_tokens(of: &RevisionLabels, counters: &Counters) -> [(GuessLabels, u64); 2] {
    let wrong = counters.tokens_guessed - counters.tokens_guessed_right;
    [("true", counters.tokens_guessed_right), ("false", wrong)]
        .map(|(right, count)| (GuessLabels { of: of.clone(), right }, count))
}

const HOST: &str = "host";
const GPU: &str = "gpu";

fn memory(of: &RevisionLabels, revision: &Revision) -> [(MemoryLabels, u64); 5] {
    let on_gpu = revision.on_gpu.as_ref();
    [
        ("weights", HOST, revision.resident_weights_bytes),
        ("cache", HOST, revision.host_cache_bytes()),
        ("scratch", HOST, revision.scratch_bytes),
        ("weights", GPU, on_gpu.map_or(0, |gpu| gpu.weights_bytes)),
        ("cache", GPU, on_gpu.map_or(0, |_| revision.kv_total_bytes)),
    ]
    .map(|(part, device, bytes)| (MemoryLabels { of: of.clone(), part, device }, bytes))
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::{Deployment, ModelOnGpu};
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn frame(revisions: Vec<Revision>) -> Frame {
        let deployment = Deployment { name: "chat".into(), revisions, ..Deployment::default() };
        Frame { deployments: vec![deployment], ..Frame::default() }
    }

    fn text(metrics: &RevisionMetrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn revision(number: u32) -> Revision {
        let counters = Counters { requests_ok: 3, ..Counters::default() };
        Revision { number, resident_weights_bytes: 500, counters: Some(counters), ..Revision::default() }
    }

    #[test]
    fn a_revision_that_has_gone_holds_nothing_at_once_and_is_forgotten_later() {
        let (metrics, began) = (RevisionMetrics::default(), Instant::now());
        let held =
            r#"llmdeck_model_memory_held_bytes{model="chat",revision="1",part="weights",device="host"} 500"#;
        let counted = r#"llmdeck_requests_total{model="chat",revision="1",outcome="ok"} 3"#;
        metrics.absorb(&frame(vec![revision(1), revision(2)]), began);
        let before = text(&metrics);
        assert!(before.contains(held) && before.contains(counted), "{before}");

        let second = Duration::from_secs(1);
        metrics.absorb(&frame(vec![revision(2)]), began + second);
        let gone = text(&metrics);
        assert!(!gone.contains(held) && gone.contains(counted), "{gone}");

        metrics.absorb(&frame(vec![revision(2)]), began + KEPT_WHEN_GONE);
        let forgotten = text(&metrics);
        assert!(!forgotten.contains(r#"revision="1""#), "{forgotten}");
        assert!(forgotten.contains(r#"llmdeck_requests_total{model="chat",revision="2",outcome="ok"} 9"#));
    }

    #[test]
    fn a_model_on_a_gpu_has_its_cache_there_until_it_is_unloaded() {
        let (metrics, now) = (RevisionMetrics::default(), Instant::now());
        let on_gpu = Some(ModelOnGpu { device: "cuda:0".into(), weights_bytes: 400 });
        metrics.absorb(&frame(vec![Revision { on_gpu, kv_total_bytes: 70, ..revision(1) }]), now);
        let loaded = text(&metrics);
        for series in [
            r#"part="weights",device="host"} 500"#,
            r#"part="cache",device="host"} 0"#,
            r#"part="weights",device="gpu"} 400"#,
            r#"part="cache",device="gpu"} 70"#,
        ] {
            assert!(loaded.contains(series), "{series}: {loaded}");
        }
        metrics.absorb(&frame(vec![revision(1)]), now);
        let unloaded = text(&metrics);
        assert!(unloaded.contains(r#"part="cache",device="gpu"} 0"#), "{unloaded}");
    }
}
