use llmdeck_proto::v1::rollout::Strategy;
use llmdeck_proto::v1::{ChangePlan, JobReport, JobSummary, Rollout, RolloutStep};

use super::jobs::JobKey;
use super::setting;
use crate::link::LinkError;
use crate::model::DeploymentKey;

/// How a new revision is to come to serve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolloutChoice {
    /// Unspecified is the deployment's own.
    pub strategy: Strategy,
    /// None are the deployment's own.
    pub steps: Vec<RolloutStep>,
    /// `None` is the deployment's own.
    pub auto_promote: Option<bool>,
}

/// What a new revision is made of: tags, digests or paths on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevisionParts {
    /// Empty is the model that serves.
    pub model: String,
    /// Empty is none.
    pub adapter: String,
    /// Empty is none.
    pub prompt: String,
    /// Settings of its engine, a JSON object by their names; empty is none.
    pub engine_settings_json: String,
}

impl RevisionParts {
    /// As titles have it: `assistant + support-tone + context_tokens=4096`; nothing in front of the first plus is the model that
    /// serves.
    pub fn typed(text: &str) -> Self {
        let (settings, parts): (Vec<&str>, Vec<&str>) =
            text.split('+').map(str::trim).partition(|part| part.contains('='));
        let engine_settings_json =
            setting::object(settings.into_iter().filter_map(|text| setting::parse(text).ok()));
        let mut parts = parts.into_iter().map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { model: next(), adapter: next(), prompt: next(), engine_settings_json }
    }

    /// A model as it is.
    pub fn model(model: impl Into<String>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }
}

/// A change that an agent is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To a new revision.
    Deploy {
        /// Which deployment.
        deployment: String,
        /// What it is made of.
        parts: RevisionParts,
        /// Past the golden floor.
        force: bool,
        /// At once or in steps.
        how: RolloutChoice,
    },
    /// Back to an earlier one.
    Rollback {
        /// Which deployment.
        deployment: String,
        /// 0 means the previous one.
        to_revision: u32,
        /// Running requests do not finish where they are.
        cut: bool,
    },
    /// Out of service.
    Stop {
        /// Which deployment.
        deployment: String,
    },
    /// End a rollout that has not swapped.
    Abort {
        /// Which deployment.
        deployment: String,
    },
    /// Hold a canary at its step.
    Pause {
        /// Which deployment.
        deployment: String,
    },
    /// Let it go on.
    Resume {
        /// Which deployment.
        deployment: String,
    },
    /// Send everything to the candidate.
    Promote {
        /// Which deployment.
        deployment: String,
    },
    /// Score what serves now.
    Evaluate {
        /// Which deployment.
        deployment: String,
    },
    /// Measure a deployment under load, as the agent does where nothing else is said.
    Bench {
        /// Which deployment.
        deployment: String,
    },
    /// Teach its model what is in a dataset.
    Finetune {
        /// Which deployment.
        deployment: String,
        /// A tag, a digest or a path on the node.
        dataset: String,
    },
    /// Measure the node, and its models against it.
    BenchNode,
    /// End a job.
    CancelJob {
        /// Its id.
        id: String,
    },
}

/// What the shell around the app does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Intent {
    /// Leave.
    Quit,
    /// Stop for the shell's job control.
    Suspend,
    /// Ask an agent what a change would do, or to make it.
    Act {
        /// Index of the node.
        node: usize,
        /// Which change.
        action: Action,
        /// Why.
        reason: String,
        /// What the operator believed to be stable; 0 is not checked.
        expected_revision: u32,
        /// Only ask.
        dry_run: bool,
        /// The same for every attempt at the same change.
        idempotency_key: String,
        /// Comes back with the answer.
        serial: u64,
    },
    /// Ask an agent for its jobs.
    ListJobs {
        /// Index of the node.
        node: usize,
    },
    /// Ask an agent for one job in full.
    GetJob {
        /// Which.
        key: JobKey,
    },
    /// Ask an agent for the latest rollout of a deployment, in full.
    GetRollout {
        /// Which.
        key: DeploymentKey,
    },
    /// Ask an agent for the models that it knows by tag.
    ListArtifacts {
        /// Which kind.
        kind: &'static str,
        /// Index of the node.
        node: usize,
        /// Comes back with the answer.
        serial: u64,
    },
}

/// What came of an intent.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What a change would do.
    Planned {
        /// Of the intent.
        serial: u64,
        /// The plan, or why not.
        plan: Result<ChangePlan, LinkError>,
    },
    /// A change was taken, with the id of its rollout or job.
    Accepted {
        /// Of the intent.
        serial: u64,
        /// The id, or why not.
        id: Result<String, LinkError>,
    },
    /// Jobs of a node.
    Jobs {
        /// Index of the node.
        node: usize,
        /// Newest first, or why not.
        jobs: Result<Vec<JobSummary>, LinkError>,
    },
    /// One job in full.
    Job {
        /// Which.
        key: JobKey,
        /// What is known of it, or why it is not.
        report: Result<Box<JobReport>, LinkError>,
    },
    /// A rollout in full.
    Rollout {
        /// Of which deployment.
        key: DeploymentKey,
        /// The latest; `None` when there never was one; or why it is not known.
        rollout: Result<Option<Box<Rollout>>, LinkError>,
    },
    /// Tags of models.
    Tags {
        /// Of the intent.
        serial: u64,
        /// In the registry's order.
        tags: Result<Vec<String>, LinkError>,
    },
}
