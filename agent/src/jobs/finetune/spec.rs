use std::sync::Arc;

use llmdeck_engine::finetune::TrainingSettings;
use serde::{Deserialize, Serialize};

use super::{FinetuneError, Finetunes};
use crate::security::identity::Operator;
use crate::serving::Deployment;
use crate::store::PartRow;

const LONGEST_TEXT: usize = 1_000;
const MOST_SETTINGS_BYTES: usize = 64 << 10;
const DEFAULT_REHEARSAL_RATIO: f64 = 1.5;
const MOST_REHEARSAL_RATIO: f64 = 100.0;

/// A fine-tuning as an operator asks for it.
#[derive(Clone, Debug, Default)]
pub struct FinetuneAsked {
    /// Whose model.
    pub deployment: String,
    /// A tag, a digest or a path.
    pub dataset: String,
    /// What the model can do already; empty is the datasets it was made from, `none` is none.
    pub rehearsal: String,
    /// Examples of it for each of the dataset's; 0 is the default.
    pub rehearsal_ratio: f64,
    /// As JSON; empty is the defaults.
    pub settings_json: String,
    /// Empty is the deployment's own.
    pub suite: String,
    /// The adapter's name; empty is made up.
    pub tag: String,
    /// Higher goes first.
    pub priority: i32,
    /// `none`, `canary` or `replace`.
    pub ship: String,
    /// Have the configured command train.
    pub outside: bool,
    /// Why.
    pub reason: String,
}

/// What is done with an adapter that is no worse than its base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ship {
    #[default]
    None,
    Canary,
    Replace,
}

/// A fine-tuning with every name resolved; kept until it has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) deployment: String,
    pub(super) base: Part,
    pub(super) dataset: Part,
    pub(super) rehearsal: Vec<Part>,
    pub(super) rehearsal_ratio: f64,
    pub(super) settings: TrainingSettings,
    pub(super) suite: Option<Part>,
    pub(super) tag: String,
    pub(super) priority: i32,
    pub(super) ship: Ship,
    /// The command that trains, where it is not the agent.
    #[serde(default)]
    pub(super) trainer: Option<Vec<String>>,
    pub(super) operator: String,
    pub(super) reason: String,
}

/// A file by what it was when the job was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) reference: String,
    pub(super) digest: String,
    pub(super) path: String,
}

impl From<PartRow> for Part {
    fn from(PartRow { reference, digest, path }: PartRow) -> Self {
        Self { reference, digest, path }
    }
}

impl Spec {
    pub(super) fn to_json(&self) -> Result<String, FinetuneError> {
        serde_json::to_string(self).map_err(|error| FinetuneError::Invalid(error.to_string()))
    }

    pub(super) fn of_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What it is about, in the list of jobs.
    pub(super) fn subject(&self) -> String {
        format!("{} on {}", self.deployment, self.dataset.reference)
    }
}

impl Finetunes {
    /// Resolves every name.
    pub(super) async fn spec(
        &self,
        operator: &Operator,
        asked: &FinetuneAsked,
        deployment: &Arc<Deployment>,
    ) -> Result<Spec, FinetuneError> {
        let invalid = |reason: String| FinetuneError::Invalid(reason);
        for (field, text) in [
            ("dataset", &asked.dataset),
            ("rehearsal", &asked.rehearsal),
            ("suite", &asked.suite),
            ("tag", &asked.tag),
            ("reason", &asked.reason),
        ] {
            if text.len() > LONGEST_TEXT {
                return Err(invalid(format!("{field} is longer than {LONGEST_TEXT} bytes")));
            }
        }
        if asked.settings_json.len() > MOST_SETTINGS_BYTES {
            return Err(invalid(format!("settings_json is longer than {MOST_SETTINGS_BYTES} bytes")));
        }
        let settings: TrainingSettings = match asked.settings_json.as_str() {
            "" => TrainingSettings::default(),
            text => serde_json::from_str(text).map_err(|error| invalid(format!("settings: {error}")))?,
        };
        settings.validate().map_err(|reason| invalid(format!("settings: {reason}")))?;
        let ship = match asked.ship.as_str() {
            "" | "none" => Ship::None,
            "canary" => Ship::Canary,
            "replace" => Ship::Replace,
            other => return Err(invalid(format!("ship is {other:?}; it must be none, canary or replace"))),
        };
        if asked.outside && self.config.trainer.is_empty() {
            let reason =
                "no external trainer is configured; set trainer under [finetune], see docs/finetuning.md";
            return Err(invalid(reason.into()));
        }
        let trainer = asked.outside.then(|| self.config.trainer.clone());
        let rehearsal_ratio = match asked.rehearsal_ratio {
            0.0 => DEFAULT_REHEARSAL_RATIO,
            ratio if (0.0..=MOST_REHEARSAL_RATIO).contains(&ratio) => ratio,
            ratio => {
                let reason = format!(
                    "rehearsal_ratio is {ratio}; it must be above 0 and at most {MOST_REHEARSAL_RATIO}"
                );
                return Err(invalid(reason));
            }
        };
        let live = deployment.stable();
        let base = live.as_ref().map(|live| live.spec().model_part()).unwrap_or_default();
        let suite =
            self.controller.settings(deployment.name()).and_then(|settings| settings.suite_part.clone());
        let (registry, asked) = (Arc::clone(&self.registry), asked.clone());
        let operator = operator.to_string();
        let resolve = move || {
            let dataset = registry.dataset(&asked.dataset)?;
            let rehearsal = match asked.rehearsal.as_str() {
                "none" => Vec::new(),
                "" => registry.datasets_of(&base.digest)?,
                reference => vec![registry.dataset(reference)?],
            };
            let suite = match asked.suite.as_str() {
                "" => suite,
                reference => Some(registry.suite_part(reference)?),
            };
            let tag = if asked.tag.is_empty() {
                format!("{}-{}", asked.deployment, short(&dataset.reference))
            } else {
                asked.tag
            };
            Ok(Spec {
                deployment: asked.deployment,
                base: base.into(),
                rehearsal: rehearsal
                    .into_iter()
                    .map(Part::from)
                    .filter(|part| part.digest != dataset.digest)
                    .collect(),
                dataset: dataset.into(),
                rehearsal_ratio,
                settings,
                suite: suite.map(Part::from),
                tag,
                priority: asked.priority,
                ship,
                trainer,
                operator,
                reason: asked.reason,
            })
        };
        tokio::task::spawn_blocking(resolve).await.map_err(|_| LoadPanic)?
    }
}

struct LoadPanic;

impl From<LoadPanic> for FinetuneError {
    fn from(_: LoadPanic) -> Self {
        Self::Load(crate::placement::LoadError::Panicked)
    }
}

/// A reference as a part of a name: the last part of a path, the beginning of a digest, without what names may not have.
fn short(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let name = name.split('.').next().unwrap_or(name);
    let name: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(32)
        .collect();
    name
}
