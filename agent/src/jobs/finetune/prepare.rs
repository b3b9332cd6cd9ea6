use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use llmdeck_datasets::{Body, CheckKind, Dataset, Example, Known, Report, Role, Rule, check};
use llmdeck_engine::adapter::Adapter;
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::finetune::{
    Sample, TrainingData, TrainingSettings, Turn, base_losses, conversation, plain_text,
};
use llmdeck_engine::model::Model;
use llmdeck_engine::{Pool, give_way_to_others};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::spec::Spec;
use super::{FinetuneError, Finetunes};
use crate::placement::Variant;
use crate::quality::Suite;
use crate::quality::suite::{Check, GoldenPrompt};
use crate::registry::today;

/// Held-out examples that are asked as a user would.
const MOST_TASK_PROMPTS: usize = 100;
const MOST_TASK_TOKENS: usize = 256;

/// Time in which the model looks at examples.
const MOST_LOOKED: Duration = Duration::from_secs(5);

/// How far checks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// What can be said without computing.
    Text,
    /// What the model makes of it, too.
    Losses,
}

/// Data that is ready to be trained on.
pub(super) struct Prepared {
    pub(super) data: TrainingData,
    /// With everything said.
    pub(super) settings: TrainingSettings,
    /// Held-out examples as questions with one right answer; nothing where they have none.
    pub(super) task: Suite,
    pub(super) report: Report,
    /// Of the dataset, without what is held out.
    pub(super) examples: usize,
    /// In each epoch.
    pub(super) rehearsed: usize,
    /// In each epoch, about.
    pub(super) tokens: usize,
}

impl Finetunes {
    /// Reads and checks the data, and puts it into the model's tokens.
    pub(super) async fn prepare(
        &self,
        spec: &Spec,
        variant: &Variant,
        depth: Depth,
    ) -> Result<Prepared, FinetuneError> {
        let (registry, threads) = (Arc::clone(&self.registry), self.threads());
        let (spec, model, policy) = (spec.clone(), Arc::clone(variant.model()), self.config.policy.clone());
        let work = move || {
            let suites = registry.suites()?;
            let read = |path: &str| {
                Dataset::read(Path::new(path)).map_err(|error| FinetuneError::Invalid(error.to_string()))
            };
            let dataset = read(&spec.dataset.path)?;
            let all: Vec<Result<Sample, String>> =
                dataset.examples.iter().map(|example| sample(&model, example)).collect();
            let counts: Vec<usize> =
                all.iter().map(|sample| sample.as_ref().map_or(0, |sample| sample.tokens.len())).collect();
            let max_tokens = spec.settings.max_tokens.min(model.decoder.description().context);
            let losses = if policy.rule(CheckKind::LossOutliers) == Rule::Off || depth == Depth::Text {
                None
            } else {
                Some(losses(&model, &all, threads, max_tokens)?)
            };
            let beside = Known {
                suites: &suites,
                governance: &registry.governance_of(&spec.dataset.digest)?,
                today: today(),
                token_counts: Some((&counts, max_tokens)),
                losses: losses.as_deref(),
            };
            let mut report = check(&dataset, &policy, &beside);
            let unwritable: Vec<(usize, String)> = dataset
                .examples
                .iter()
                .zip(&all)
                .filter_map(|(example, sample)| Some((example.line, sample.as_ref().err()?.clone())))
                .collect();
            if !unwritable.is_empty() {
                let detail = "the model's chat template refuses them";
                report.push(CheckKind::Roles, Rule::Block, detail, &unwritable);
            }
            if dataset.examples.is_empty() {
                report.push(CheckKind::Empty, Rule::Block, "", &[(0, "there is no example".into())]);
            }
            registry.record_report(&spec.dataset.digest, &report)?;
            let mut rehearsal = Vec::new();
            for part in &spec.rehearsal {
                let objections = registry.governance_of(&part.digest)?.objections(&policy, today());
                if !objections.is_empty() {
                    let rule = policy.rule(CheckKind::Governance);
                    let detail = format!("{}, for rehearsal: {}", part.reference, objections.join("; "));
                    report.push(CheckKind::Governance, rule, detail.clone(), &[(0, detail)]);
                }
                let dataset = read(&part.path)?;
                let fits = |sample: &Sample| (2..=max_tokens).contains(&sample.tokens.len());
                let samples = dataset.examples.iter().filter_map(|example| sample(&model, example).ok());
                rehearsal.extend(samples.filter(fits));
            }
            Ok(split(&spec, &model, &dataset, all, rehearsal, report))
        };
        let made = tokio::task::spawn_blocking(work).await;
        made.map_err(|_| FinetuneError::Load(crate::placement::LoadError::Panicked))?
    }

    pub(super) fn suite_of(&self, spec: &Spec) -> Result<Option<Suite>, String> {
        let Some(part) = &spec.suite else { return Ok(None) };
        let path = PathBuf::from(&part.path);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Suite::parse(&path, &text).map(Some).map_err(|error| error.to_string())
    }
}

/// What the model makes of examples that fit, as it is.
fn losses(
    model: &Model,
    samples: &[Result<Sample, String>],
    threads: usize,
    max_tokens: usize,
) -> Result<Vec<Option<f64>>, FinetuneError> {
    let fitting: Vec<Option<&Sample>> = samples
        .iter()
        .map(|sample| sample.as_ref().ok().filter(|sample| sample.tokens.len() <= max_tokens))
        .collect();
    let compute = || {
        // At the priority of everything else, it is as right.
        let _ = give_way_to_others();
        let pool = Pool::new(threads).map_err(|error| FinetuneError::Invalid(error.to_string()))?;
        Ok(base_losses(model, &pool, &fitting, MOST_LOOKED))
    };
    // A thread of its own: one that gave way goes on doing so.
    let computed = std::thread::scope(|scope| scope.spawn(compute).join());
    computed.map_err(|_| FinetuneError::Load(crate::placement::LoadError::Panicked))?
}

fn split(
    spec: &Spec,
    model: &Model,
    dataset: &Dataset,
    all: Vec<Result<Sample, String>>,
    mut rehearsal: Vec<Sample>,
    report: Report,
) -> Prepared {
    let mut rng = StdRng::seed_from_u64(spec.settings.seed);
    let mut own: Vec<(usize, Sample)> =
        all.into_iter().enumerate().filter_map(|(index, sample)| Some((index, sample.ok()?))).collect();
    own.shuffle(&mut rng);
    rehearsal.shuffle(&mut rng);
    let own_count = own.len();
    let share = |count: usize| (count as f64 * spec.settings.held_out) as usize;
    let (kept_own, kept_rehearsal) = (own.split_off(own_count - share(own_count)), {
        // No more of it than of the data: what is learned counts as much as what stays.
        let at = rehearsal.len() - share(rehearsal.len()).min(share(own_count));
        rehearsal.split_off(at)
    });
    let prompts = kept_own
        .iter()
        .filter_map(|(index, _)| question(model, dataset.examples.get(*index)?))
        .take(MOST_TASK_PROMPTS)
        .collect();
    let examples = own.len();
    let rehearsed = rehearsal.len().min((examples as f64 * spec.rehearsal_ratio) as usize);
    let samples: Vec<Sample> = own.into_iter().map(|(_, sample)| sample).collect();
    let kept_rehearsal = kept_rehearsal.into_iter().map(Sample::as_rehearsal);
    let held_out = kept_own.into_iter().map(|(_, sample)| sample).chain(kept_rehearsal).collect();
    let tokens = |samples: &[Sample]| samples.iter().map(|sample| sample.tokens.len()).sum::<usize>();
    let rehearsed_tokens = tokens(&rehearsal) * rehearsed / rehearsal.len().max(1);
    let tokens = tokens(&samples) + rehearsed_tokens;
    let data = TrainingData { samples, rehearsal, rehearsed_an_epoch: rehearsed, held_out };
    let settings = spec.settings.resolved(model.decoder.description().width, examples);
    Prepared { data, settings, task: Suite { prompts }, report, examples, rehearsed, tokens }
}

fn sample(model: &Model, example: &Example) -> Result<Sample, String> {
    match &example.body {
        Body::Text(text) => plain_text(model, text, 1.0),
        Body::Conversation(turns) => {
            let turn = |turn: &llmdeck_datasets::Turn| Turn {
                message: Message { role: turn.role.to_string(), content: turn.content.clone() },
                weight: turn.weight,
            };
            conversation(model, &turns.iter().map(turn).collect::<Vec<_>>())
        }
    }
}

/// One question and one answer, where the example is no more than that.
fn question(model: &Model, example: &Example) -> Option<GoldenPrompt> {
    let Body::Conversation(turns) = &example.body else { return None };
    let [asked, answered] = turns.as_slice() else { return None };
    if (asked.role, answered.role) != (Role::User, Role::Assistant) {
        return None;
    }
    let tokens = model.tokenizer.encode(&answered.content).ok()?.len();
    (tokens <= MOST_TASK_TOKENS).then(|| GoldenPrompt {
        prompt: asked.content.clone(),
        checks: vec![Check::Equals(answered.content.clone())],
        skill: None,
        max_tokens: u32::try_from(tokens + tokens / 2 + 4).unwrap_or(u32::MAX),
    })
}

/// Everything that comes out of a training.
pub(super) struct Trained {
    pub(super) prepared: Prepared,
    pub(super) adapter: Arc<Adapter>,
    pub(super) weights: llmdeck_engine::adapter::AdapterWeights,
    pub(super) curve: Vec<llmdeck_proto::v1::TrainingPoint>,
    pub(super) facts: BTreeMap<&'static str, serde_json::Value>,
}
