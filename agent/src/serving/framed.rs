//! What a frame says of a revision.

use llmdeck_engine::model::Model;
use llmdeck_proto::v1;
use llmdeck_proto::v1::revision::State;

use super::revision::LiveRevision;
use crate::store::EngineRow;

/// What a revision has done since the last call, and how it stands. Of a model that revisions share, one of them speaks.
pub(super) fn drain_revision(
    live: &LiveRevision,
    state: State,
    traffic_share: f64,
    tells_of_model: bool,
) -> v1::Revision {
    let spec = live.spec();
    let loaded = live.loaded().filter(|_| tells_of_model);
    let readings = loaded.as_ref().map(|loaded| loaded.drain_readings()).unwrap_or_default();
    let footprint = loaded.as_ref().map(|loaded| loaded.footprint());
    let adapter = spec.adapter.clone().unwrap_or_default();
    let prompt = spec.prompt.clone().unwrap_or_default();
    let unloaded = live.backend().is_none() && state == State::Serving;
    let interval = live.recorder().drain();
    let (server, told) = live.upstream().and_then(|upstream| upstream.own_metrics()).unzip();
    let told = told.unwrap_or_default();
    let cpu_time = match live.upstream() {
        Some(upstream) => upstream.take_cpu_time(),
        None => live.take_cpu_time(),
    };
    let counters = v1::Counters {
        prompt_tokens_begun: readings.prompt_tokens + told.prompt_tokens_begun,
        prompt_tokens_remembered: readings.remembered_tokens + told.prompt_tokens_remembered,
        preemptions: readings.put_off + told.preemptions,
        tokens_guessed: readings.guessed_tokens + told.tokens_guessed,
        tokens_guessed_right: readings.kept_tokens + told.tokens_guessed_right,
        tokens_constrained: readings.constrained_tokens,
        constraint_us: readings.constraint_us,
        cpu_us: u64::try_from(cpu_time.as_micros()).unwrap_or(u64::MAX),
        ..interval.counters
    };
    let mut quality = interval.quality;
    if let Some(run) = live.golden() {
        quality.golden_score = Some(run.score.score);
        quality.golden_low = Some(run.score.low);
        quality.golden_high = Some(run.score.high);
        quality.golden_exact_match = Some(run.score.exact_match);
        quality.golden_prompts = run.score.prompts;
        quality.golden_unix_ms = Some(run.ended_unix_ms);
    }
    v1::Revision {
        number: spec.number,
        state: if unloaded { State::Unloaded } else { state }.into(),
        traffic_share,
        model: spec.model.clone(),
        model_digest: spec.digest.clone(),
        adapter: adapter.reference,
        adapter_digest: adapter.digest,
        adapter_bytes: live.adapter().map_or(0, |adapter| adapter.size_bytes()),
        prompt: prompt.reference,
        prompt_digest: prompt.digest,
        engine: spec.engine.as_ref().map(EngineRow::words).unwrap_or_default(),
        engine_digest: spec.engine.as_ref().map(|engine| engine.digest.clone()).unwrap_or_default(),
        shares_model: !tells_of_model,
        parameters: live.parameters(),
        weights_bytes: live.weights_bytes(),
        queue_us: Some(interval.queue_us),
        ttft_us: Some(interval.ttft_us),
        itl_us: Some(interval.itl_us),
        tpot_us: Some(interval.tpot_us),
        e2e_us: Some(interval.e2e_us),
        counters: Some(counters),
        in_flight: live.in_flight(),
        batch_size: u32::try_from(readings.batch_size).unwrap_or(u32::MAX),
        kv_used_bytes: readings.cache_used_bytes,
        kv_total_bytes: readings.cache_total_bytes,
        kv_remembered_bytes: readings.cache_remembered_bytes,
        resident_weights_bytes: footprint.map_or(0, |footprint| footprint.weights_bytes),
        scratch_bytes: footprint.map_or(0, |footprint| footprint.scratch_bytes),
        quality: Some(quality),
        server,
        coarse: None,
        energy_mj: None,
        created_unix_ms: spec.created_unix_ms,
        on_gpu: loaded.as_ref().and_then(|loaded| on_gpu(loaded.model())),
    }
}

fn on_gpu(model: &Model) -> Option<v1::ModelOnGpu> {
    let weights = model.gpu.as_ref()?;
    Some(v1::ModelOnGpu { device: model.device.to_string(), weights_bytes: weights.size_bytes() })
}
