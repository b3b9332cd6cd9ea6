//! Fine-tuning: from checked data to an adapter in the registry, beside what the node serves.

mod card;
mod compare;
mod config;
mod curve;
mod exam;
mod finish;
mod outside;
mod pace;
mod plan;
mod prepare;
mod room;
mod spec;
mod train;
mod users;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use llmdeck_datasets::Policy;
use llmdeck_proto::v1::JobReport;
use llmdeck_proto::v1::alert::Severity;
use prost::Message;

use super::handle::JobHandle;
use super::list::{JobEnd, NewJob, TooManyJobs};
use crate::backend::Backend;
use crate::jobs::Jobs;
use crate::placement::{LoadError, Variant};
use crate::registry::{Registry, RegistryError};
use crate::rollout::{Controller, Refused};
use crate::security::identity::Operator;
use crate::serving::{Deployment, Deployments};
use crate::store::{FinetuneRow, Store, StoreError};
use crate::telemetry::NodeMeter;
use crate::telemetry::events::Events;
use crate::time::unix_ms;

pub use config::FinetuneConfig;
use exam::Exam;
use prepare::Depth;
pub use spec::FinetuneAsked;
use spec::Spec;

const KIND: &str = "finetune";

/// Why a fine-tuning was not begun.
#[derive(Debug, thiserror::Error)]
pub enum FinetuneError {
    /// Something that was asked for is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The checks of the data stand in the way.
    #[error("the data may not be trained on: {0}")]
    Data(String),
    /// It does not fit.
    #[error("{0}")]
    Memory(String),
    /// What it names is not there.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The model cannot be had.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Too many wait.
    #[error(transparent)]
    Full(#[from] TooManyJobs),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// What is said of a fine-tuning before it begins.
#[derive(Clone, Debug, Default)]
pub struct FinetuneAnswer {
    /// Empty for a dry run.
    pub job_id: String,
    /// What the checks found.
    pub report_json: String,
    /// What happens, one line a thing.
    pub plan: Vec<String>,
    /// Why nothing may be trained; only in a dry run.
    pub refusal: String,
}

/// Begins fine-tunings, and takes up again what a stop cut off.
pub struct Finetunes {
    jobs: Arc<Jobs>,
    controller: Arc<Controller>,
    deployments: Arc<Deployments>,
    registry: Arc<Registry>,
    store: Arc<Store>,
    events: Arc<Events>,
    meter: NodeMeter,
    config: FinetuneConfig,
    folder: PathBuf,
}

impl Finetunes {
    /// Keeps its jobs' files in a folder.
    #[allow(clippy::too_many_arguments, reason = "what an agent is made of")]
    pub fn new(
        jobs: Arc<Jobs>,
        controller: Arc<Controller>,
        deployments: Arc<Deployments>,
        registry: Arc<Registry>,
        store: Arc<Store>,
        events: Arc<Events>,
        meter: NodeMeter,
        config: FinetuneConfig,
        folder: PathBuf,
    ) -> Self {
        Self { jobs, controller, deployments, registry, store, events, meter, config, folder }
    }

    /// Checks the data, and begins unless only that was asked for.
    ///
    /// # Errors
    /// Why it was not begun; refusals because of the data are in the audit.
    pub async fn begin(
        self: &Arc<Self>,
        operator: Operator,
        asked: FinetuneAsked,
        dry_run: bool,
    ) -> Result<FinetuneAnswer, FinetuneError> {
        let deployment = self.deployment(&asked.deployment)?;
        let spec = self.spec(&operator, &asked, &deployment).await?;
        let variant = self.variant(&deployment).await?;
        // The job looks again.
        let depth = if dry_run { Depth::Losses } else { Depth::Text };
        let prepared = self.prepare(&spec, &variant, depth).await?;
        let report_json = serde_json::to_string(&prepared.report)
            .map_err(|error| FinetuneError::Invalid(error.to_string()))?;
        let refusal = prepared.report.refusal();
        let needed = plan::memory(&variant, &spec.settings, &prepared);
        let plan = plan::lines(&spec, &variant, &prepared, needed, &self.config);
        if dry_run {
            let refusal = refusal.unwrap_or_default();
            return Ok(FinetuneAnswer { job_id: String::new(), report_json, plan, refusal });
        }
        let subject = spec.subject();
        if let Some(refusal) = refusal {
            let outcome = format!("refused: {refusal}");
            self.controller.record(&operator, KIND, &subject, &spec.reason, &outcome).await?;
            return Err(FinetuneError::Data(refusal));
        }
        match spec.trainer {
            None => plan::check_memory(needed, self.config.memory_mib)?,
            Some(_) => self.check_gpus().await.map_err(FinetuneError::Memory)?,
        }
        self.controller.record(&operator, KIND, &subject, &spec.reason, "accepted").await?;
        let new = NewJob { can_be_held: true, ..NewJob::now(KIND, subject.clone()) };
        let id = new.id.clone();
        let row = FinetuneRow::new(&id, &subject, spec.to_json()?, new.created_unix_ms);
        self.store.put_finetune(&row)?;
        let text = format!("{operator} fine-tunes on {}", spec.dataset.reference);
        self.events.push(Severity::Information, &subject, text, &operator.to_string());
        self.start(new, spec, row)?;
        Ok(FinetuneAnswer { job_id: id, report_json, plan, refusal: String::new() })
    }

    /// Puts what has ended into the list, and goes on with what has not.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn take_up(self: &Arc<Self>) -> Result<(), StoreError> {
        for row in self.store.finetunes()? {
            let new = NewJob {
                id: row.id.clone(),
                kind: KIND,
                subject: row.subject.clone(),
                created_unix_ms: row.created_unix_ms,
                can_be_held: true,
            };
            let ended = JobEnd { detail: row.detail.clone(), report_json: row.report_json.clone() };
            if row.ended_unix_ms != 0 {
                let history = JobReport::decode(row.history.as_slice()).unwrap_or_default();
                self.jobs.remember(new, &row.state, ended, history, row.ended_unix_ms);
                continue;
            }
            let begun = Spec::of_json(&row.spec_json).map_err(|error| error.to_string()).and_then(|spec| {
                self.events.push(Severity::Information, &row.subject, "goes on where the agent stopped", "");
                self.start(new, spec, row.clone()).map_err(|error| error.to_string())
            });
            if let Err(error) = begun {
                self.store.put_finetune(&row.ended("failed", &error, "", Vec::new(), unix_ms()))?;
            }
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, new: NewJob, spec: Spec, row: FinetuneRow) -> Result<(), TooManyJobs> {
        let (this, priority) = (Arc::clone(self), spec.priority);
        self.jobs.start_training(new, priority, async move |job| this.run(job, spec, row).await)
    }

    async fn run(self: Arc<Self>, job: JobHandle, spec: Spec, row: FinetuneRow) -> Result<JobEnd, String> {
        let ended = self.try_run(&job, &spec).await;
        // An agent that stops leaves its jobs as they are, to go on with.
        if self.jobs.is_stopping() {
            return ended;
        }
        let (state, detail, report) = match &ended {
            Ok(end) => ("done", end.detail.as_str(), end.report_json.as_str()),
            Err(why) if job.cancel.is_cancelled() => ("cancelled", why.as_str(), ""),
            Err(why) => ("failed", why.as_str(), ""),
        };
        let severity = if state == "failed" { Severity::Bad } else { Severity::Information };
        self.events.push(severity, &row.subject, format!("fine-tuning {state}: {detail}"), &spec.operator);
        let agent = Operator::agent();
        let outcome = format!("{state}: {detail}");
        let recorded = self.controller.record(&agent, "outcome", &row.subject, &spec.reason, &outcome).await;
        if let Err(error) = recorded {
            tracing::error!(%error, "the outcome of a fine-tuning could not be recorded");
        }
        let history = self.jobs.history(job.id()).encode_to_vec();
        match self.store.put_finetune(&row.ended(state, detail, report, history, unix_ms())) {
            // What it would go on from is of no use any more.
            Ok(()) => {
                let _ = std::fs::remove_dir_all(self.folder_of(job.id()));
            }
            Err(error) => {
                tracing::error!(%error, "the outcome of a fine-tuning could not be kept; the next start goes on from its last state");
            }
        }
        ended
    }

    async fn try_run(self: &Arc<Self>, job: &JobHandle, spec: &Spec) -> Result<JobEnd, String> {
        let words = |error: &dyn std::fmt::Display| error.to_string();
        let deployment = self.deployment(&spec.deployment).map_err(|error| words(&error))?;
        let folder = self.folder_of(job.id());
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        job.progress(0.0, "reads the data");
        let variant = self.variant_when_up(&deployment, job).await?;
        self.unchanged(spec, &deployment)?;
        let prepared = self.prepare(spec, &variant, Depth::Losses).await.map_err(|error| words(&error))?;
        if let Some(refusal) = prepared.report.refusal() {
            return Err(format!("the data may not be trained on: {refusal}"));
        }
        let suite = self.suite_of(spec)?;
        let base = Backend::Engine(variant.without_changes());
        let began = Instant::now();
        let before = compare::score(job, "before", &base, &prepared.task, suite.as_ref()).await?;
        let trained = match &spec.trainer {
            None => {
                let exam = Exam::new(&variant, prepared.task.clone(), suite.clone(), began.elapsed());
                self.train(job, &variant, prepared, &deployment, exam, &folder).await?
            }
            Some(command) => {
                self.train_outside(job, spec, &variant, prepared, &deployment, command, &folder).await?
            }
        };
        let adapted = Backend::Engine(variant.with_adapter(Arc::clone(&trained.adapter)));
        let after = compare::score(job, "after", &adapted, &trained.prepared.task, suite.as_ref()).await?;
        self.finish(job, spec, &trained, &before, &after, &folder).await
    }

    fn deployment(&self, name: &str) -> Result<Arc<Deployment>, FinetuneError> {
        self.deployments.get(name).cloned().ok_or_else(|| {
            let known = self.deployments.names().join(", ");
            FinetuneError::Invalid(format!("there is no deployment {name:?} here; there is {known}"))
        })
    }

    /// What a deployment serves, loaded.
    async fn variant(&self, deployment: &Arc<Deployment>) -> Result<Variant, FinetuneError> {
        let live = deployment.stable().ok_or_else(|| {
            FinetuneError::Invalid(format!(
                "{} serves nothing: {}",
                deployment.name(),
                deployment.why_unavailable()
            ))
        })?;
        let until = std::time::Instant::now() + deployment.limits().deadline;
        match self.controller.loader().awake(deployment, &live, until).await? {
            Backend::Engine(variant) => Ok(variant),
            Backend::Upstream(_) => Err(FinetuneError::Invalid(format!(
                "{} runs on another server, whose weights this node does not have; docs/finetuning.md says how to train with an \
                 external trainer",
                deployment.name()
            ))),
        }
    }

    /// After a start of the agent, models come up beside its jobs.
    async fn variant_when_up(
        &self,
        deployment: &Arc<Deployment>,
        job: &JobHandle,
    ) -> Result<Variant, String> {
        const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
        let until = std::time::Instant::now() + PATIENCE;
        while deployment.stable().is_none() && std::time::Instant::now() < until {
            let waited = job.cancel.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await;
            if waited.is_none() {
                return Err("was cancelled before it began to train".into());
            }
        }
        self.variant(deployment).await.map_err(|error| error.to_string())
    }

    /// Holds model and data to what they were when the job was asked for.
    fn unchanged(&self, spec: &Spec, deployment: &Deployment) -> Result<(), String> {
        let serves = deployment.stable().map(|live| live.spec().digest.clone()).unwrap_or_default();
        if serves != spec.base.digest {
            return Err(format!(
                "{} serves another model than when the job was asked for ({}); ask again for a new one",
                deployment.name(),
                spec.base.reference
            ));
        }
        for part in std::iter::once(&spec.dataset).chain(&spec.rehearsal) {
            let found = self.registry.digest_of(Path::new(&part.path)).map_err(|error| error.to_string())?;
            if found != part.digest {
                return Err(format!(
                    "{} has changed since the job was asked for: its sha256 is {found}, not {}; ask again for a new job",
                    part.path, part.digest
                ));
            }
        }
        Ok(())
    }

    /// That train.
    fn threads(&self) -> usize {
        self.config.threads.map_or(self.controller.loader().pool().threads(), NonZero::get)
    }

    /// What may be learned from.
    pub fn policy(&self) -> &Policy {
        &self.config.policy
    }

    fn folder_of(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }
}
