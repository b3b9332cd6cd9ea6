use llmdeck_engine::device::Device;
use llmdeck_engine::footprint::Footprint;
use llmdeck_proto::v1::ChangePlan;

use super::machine::Move;
use super::memory::{ModelSource, Room};
use super::strategy::{StepConfig, StrategyName, StrategyPlan};
use crate::placement::EngineSettings;
use crate::store::RevisionRow;

/// What a plan is made of.
pub(super) struct PlanFacts<'a> {
    pub(super) deployment: &'a str,
    pub(super) from: Option<(u32, &'a str)>,
    pub(super) to: (u32, &'a str),
    /// What sets the target apart from others of its model, as asked for.
    pub(super) changes: (&'a str, &'a str),
    /// What its engine is started with otherwise than that of what serves, one line a setting.
    pub(super) engine: Vec<String>,
    /// What serves is made of the same already.
    pub(super) same_parts: bool,
    /// sha256 of what serves and of what is to.
    pub(super) digests: (&'a str, &'a str),
    pub(super) kind: Move,
    pub(super) in_flight: u32,
    /// What has to be loaded; `None` where it is loaded already.
    pub(super) room: Option<&'a Room>,
    pub(super) golden_prompts: Option<usize>,
    pub(super) golden_floor: Option<f64>,
    pub(super) force: bool,
    /// Running requests do not finish where they are.
    pub(super) cut: bool,
    pub(super) strategy: &'a StrategyPlan,
}

/// What will change, in the words that the operator is asked to confirm.
pub(super) fn change_plan(facts: &PlanFacts<'_>) -> ChangePlan {
    let name = facts.deployment;
    let (to, model) = facts.to;
    let (from, from_model) = facts.from.unwrap_or((0, ""));
    let beside = if from > 0 { format!(" beside {name}@{from}") } else { String::new() };
    let mut effects = Vec::new();
    if let Some(room) = facts.room {
        effects.extend(room.effects());
        match &room.model {
            // Two lines: the first must be whole on the narrowest screen.
            ModelSource::Loads(needed) => {
                effects.push(format!("loads {model}{beside}: {}", size(needed.total_bytes())));
                effects.extend(parts(needed));
            }
            ModelSource::Shared { with, .. } => {
                effects
                    .push(format!("shares the model that {name}@{with} has loaded; nothing else is loaded"));
            }
            ModelSource::Sleeper => {
                effects.push(format!("wakes the server of {name}@{to}, which stands by asleep"));
            }
            ModelSource::Server => {
                effects.push(format!("makes the server of {model} ready{beside}"));
            }
        }
        let (adapter, prompt) = facts.changes;
        if !adapter.is_empty() {
            effects.push(format!("with the adapter {adapter}"));
        }
        if !prompt.is_empty() {
            effects.push(format!("with the prompt {prompt} in front of every conversation"));
        }
        effects.extend(facts.engine.iter().cloned());
        if facts.kind == Move::Deploy {
            effects.push(scoring(facts));
        }
        effects.extend(comparison(facts.strategy, &format!("{name}@{to}")));
    } else {
        effects.push(format!("new requests go to {name}@{to} at once; it is loaded"));
    }
    if from > 0 && facts.strategy.strategy == StrategyName::Replace {
        let running = facts.in_flight;
        let they = if running == 1 { "request" } else { "requests" };
        if facts.cut {
            effects.push(format!("{running} {they} running on {name}@{from} do not finish there:"));
            effects.push("they begin again where nothing was sent, and end with an error elsewhere".into());
        } else {
            effects.push(format!("{running} {they} running on {name}@{from} finish there"));
        }
    }
    let undo = if from > 0 {
        format!("roll back: {name}@{from} is kept ready while memory allows")
    } else {
        format!("llmdeck stop {name}")
    };
    ChangePlan {
        deployment: name.to_owned(),
        from_revision: from,
        from_model: from_model.to_owned(),
        to_revision: to,
        to_model: model.to_owned(),
        standby_ready: facts.room.is_none(),
        in_flight: facts.in_flight,
        effects,
        undo,
        from_digest: facts.digests.0.to_owned(),
        to_digest: facts.digests.1.to_owned(),
        same_parts: facts.same_parts,
        extra_memory_bytes: facts.room.map_or(0, Room::extra_bytes),
    }
}

/// What makes up a model's memory: the host's, and the GPU's where it is to compute there.
fn parts(needed: &Footprint) -> Vec<String> {
    let (weights, cache, scratch) =
        (size(needed.weights_bytes), size(needed.cache_bytes), size(needed.scratch_bytes));
    match needed.device() {
        Device::Cpu => vec![format!("that is weights {weights}, cache {cache}, scratch {scratch}")],
        gpu @ Device::Cuda(_) => vec![
            format!("that is weights {weights}, scratch {scratch};"),
            format!("and on {gpu} its weights again, and a cache of {cache}"),
        ],
    }
}

/// What is set otherwise than in what serves.
pub(super) fn engine_changes(serving: Option<&RevisionRow>, target: &RevisionRow) -> Vec<String> {
    let kept = |row: &RevisionRow| row.engine.as_ref().and_then(EngineSettings::kept);
    match (serving.and_then(kept), kept(target)) {
        (Some(before), Some(after)) => after.differences(&before),
        _ => Vec::new(),
    }
}

/// How new requests come to the candidate, one line a thing.
fn comparison(strategy: &StrategyPlan, candidate: &str) -> Vec<String> {
    let steps: Vec<String> = strategy.steps.iter().map(step).collect();
    let steps = steps.join(", ");
    let first = match strategy.strategy {
        StrategyName::Replace => return vec![format!("then new requests go to {candidate}")],
        StrategyName::Canary => format!("then it gets requests: {steps}"),
        StrategyName::Shadow => format!("then it gets copies of requests: {steps}"),
    };
    let last = if strategy.auto_promote {
        "taken back by itself when worse; takes over when no worse"
    } else {
        "taken back by itself when worse; takes over when promoted"
    };
    vec![first, last.into()]
}

fn step(step: &StepConfig) -> String {
    let share = format!("{} %", (step.share * 1_000.0).round() / 10.0);
    match (step.hold_s, step.requests) {
        (0, 0) => share,
        (0, requests) => format!("{share} for {requests} requests"),
        (hold_s, _) if hold_s % 60 == 0 => format!("{share} {} min", hold_s / 60),
        (hold_s, _) => format!("{share} {hold_s} s"),
    }
}

fn scoring(facts: &PlanFacts<'_>) -> String {
    match (facts.golden_prompts, facts.golden_floor) {
        (None, _) => "warms it up; no golden suite is set".into(),
        (Some(prompts), Some(floor)) if !facts.force => {
            format!("asks it {prompts} golden prompts; below {floor:.2} it is refused")
        }
        (Some(prompts), _) => format!("asks it {prompts} golden prompts; the score is shown and it goes on"),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]
mod tests {
    use llmdeck_builtin::assets::MODELS;
    use llmdeck_engine::engine::EngineOptions;

    use super::*;

    #[test]
    fn the_parts_of_a_model_are_said_where_they_are() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), MODELS[0].bytes).unwrap();
        let parts = |device| {
            let options = EngineOptions { device, ..EngineOptions::default() };
            let needed = Footprint::of(file.path(), &options).unwrap();
            (needed.clone(), parts(&needed))
        };
        let (needed, on_host) = parts(Device::Cpu);
        let (weights, scratch) = (size(needed.weights_bytes), size(needed.scratch_bytes));
        let cache = size(needed.cache_bytes);
        assert_eq!(on_host, [format!("that is weights {weights}, cache {cache}, scratch {scratch}")]);
        let (needed, on_gpu) = parts(Device::Cuda(1));
        let cache = size(needed.cache_bytes);
        assert_eq!(on_gpu[0], format!("that is weights {weights}, scratch {scratch};"));
        assert_eq!(on_gpu[1], format!("and on cuda:1 its weights again, and a cache of {cache}"));
        assert_eq!(needed.total_bytes(), needed.weights_bytes + needed.scratch_bytes);
    }
}
