//! What operators ask for: checked, claimed and recorded before it begins; refused with the reason otherwise.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use llmdeck_audit::{AuditLog, NewRecord};
use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::{ActionContext, ChangePlan, ChangeResponse, Rollout};
use rand::Rng;
use tokio_util::task::TaskTracker;

use super::active::{Active, Claim, without_findings};
use super::machine::{Move, Step};
use super::refusal::Refused;
use super::run::Run;
use super::strategy::{RolloutConfig, StrategyPlan};
use crate::placement::Loader;
use crate::quality::Suite;
use crate::registry::Registry;

use crate::security::identity::Operator;
use crate::serving::{Deployment, Deployments, LiveRevision};
use crate::store::{NewRevision, PartRow, RevisionRow, Store};
use crate::telemetry::events::Events;
use crate::time::unix_ms;

pub(super) const LONGEST_TEXT: usize = 1_000;

/// How rollouts of one deployment go.
#[derive(Clone)]
pub struct RolloutSettings {
    /// What scores a candidate.
    pub suite: Option<Arc<Suite>>,
    /// Its file, where there is one.
    pub suite_part: Option<PartRow>,
    /// Least golden score that is not refused.
    pub golden_floor: Option<f64>,
    /// How long the old revision's requests are waited for before the rollout counts as done; they go on after it.
    pub drain: Duration,
    /// How a candidate comes to serve where a deploy does not say.
    pub rollout: RolloutConfig,
}

/// Changes what serves.
pub struct Controller {
    pub(super) deployments: Arc<Deployments>,
    pub(super) settings: HashMap<String, RolloutSettings>,
    pub(super) store: Arc<Store>,
    pub(super) registry: Arc<Registry>,
    pub(super) loader: Arc<Loader>,
    pub(super) audit: Arc<AuditLog>,
    pub(super) events: Arc<Events>,
    pub(super) active: Arc<Active>,
    /// Stops that wait for the last answers.
    pub(super) stops: TaskTracker,
}

impl Controller {
    /// Over these deployments, each of which has settings.
    pub fn new(
        deployments: Arc<Deployments>,
        settings: HashMap<String, RolloutSettings>,
        store: Arc<Store>,
        registry: Arc<Registry>,
        loader: Arc<Loader>,
        audit: Arc<AuditLog>,
        events: Arc<Events>,
    ) -> Self {
        let (active, stops) = (Arc::default(), TaskTracker::new());
        Self { deployments, settings, store, registry, loader, audit, events, active, stops }
    }

    /// Brings revisions into memory.
    pub fn loader(&self) -> &Arc<Loader> {
        &self.loader
    }

    /// Rollouts as frames show them.
    pub fn rollouts(&self) -> Vec<Rollout> {
        self.active.shown()
    }

    /// A rollout by its id, or the latest of a deployment where the id is empty.
    ///
    /// # Errors
    /// When there is no such deployment, or the store cannot be read.
    pub fn rollout(&self, deployment: &str, id: &str) -> Result<Option<Rollout>, Refused> {
        self.find(deployment)?;
        // What runs is known better here than on disk.
        let under_way = self.active.under_way(deployment).filter(|rollout| id.is_empty() || rollout.id == id);
        match under_way {
            Some(rollout) => Ok(Some(rollout)),
            None => Ok(self.store.rollout(deployment, id)?),
        }
    }

    /// Rollouts of a deployment, newest first, without what was found.
    ///
    /// # Errors
    /// When there is no such deployment, or the store cannot be read.
    pub fn past_rollouts(&self, deployment: &str, limit: u32) -> Result<Vec<Rollout>, Refused> {
        self.find(deployment)?;
        Ok(self.store.rollouts(deployment, limit)?.iter().map(without_findings).collect())
    }

    /// The settings of a deployment.
    pub fn settings(&self, deployment: &str) -> Option<&RolloutSettings> {
        self.settings.get(deployment)
    }

    pub(super) fn find(&self, name: &str) -> Result<(Arc<Deployment>, RolloutSettings), Refused> {
        let found = self.deployments.get(name).zip(self.settings.get(name));
        found.map(|(deployment, settings)| (Arc::clone(deployment), settings.clone())).ok_or_else(|| {
            Refused::UnknownDeployment { name: name.to_owned(), known: self.deployments.names().join(", ") }
        })
    }

    pub(super) fn answered(&self, context: &ActionContext) -> Result<Option<ChangeResponse>, Refused> {
        if context.idempotency_key.is_empty() || context.dry_run {
            return Ok(None);
        }
        Ok(self.store.answer_for(&context.idempotency_key)?)
    }

    pub(super) fn answer(
        &self,
        context: &ActionContext,
        plan: ChangePlan,
        rollout: &Rollout,
    ) -> Result<ChangeResponse, Refused> {
        let answer = ChangeResponse { plan: Some(plan), rollout_id: rollout.id.clone() };
        if !context.idempotency_key.is_empty() {
            self.store.keep_answer(&context.idempotency_key, &answer, unix_ms())?;
        }
        Ok(answer)
    }

    pub(super) fn check_expected(
        &self,
        deployment: &Deployment,
        context: &ActionContext,
    ) -> Result<(), Refused> {
        let now = deployment.stable().map_or(0, |live| live.number());
        if context.expected_revision == 0 || context.expected_revision == now {
            return Ok(());
        }
        let latest = self.store.rollout(deployment.name(), "")?;
        let what = latest.map_or_else(
            || "nobody has moved it".to_owned(),
            |rollout| {
                let seconds = (unix_ms() - rollout.started_unix_ms).max(0) / 1_000;
                format!("{} moved it to {} {seconds} s ago", rollout.operator, rollout.to_revision)
            },
        );
        Err(Refused::Moved {
            deployment: deployment.name().to_owned(),
            now,
            believed: context.expected_revision,
            what,
        })
    }

    /// Takes the right to change, then writes down who uses it. Without the record there is no action.
    pub(super) async fn claim(
        &self,
        deployment: &Deployment,
        operator: &Operator,
        action: &str,
        context: &ActionContext,
        to: u32,
    ) -> Result<Claim, Refused> {
        let subject = format!("{}@{to}", deployment.name());
        match self.active.claim(deployment.name(), &operator.to_string(), &context.reason, to) {
            Ok(claim) => {
                self.record(operator, action, &subject, &context.reason, "accepted").await?;
                Ok(claim)
            }
            Err(refused) => {
                self.record(operator, action, &subject, &context.reason, &format!("refused: {refused}"))
                    .await?;
                Err(refused)
            }
        }
    }

    /// Writes to the audit file and waits until it is on disk.
    ///
    /// # Errors
    /// When it could not be made durable; then the action must not happen.
    pub async fn record(
        &self,
        operator: &Operator,
        action: &str,
        subject: &str,
        reason: &str,
        outcome: &str,
    ) -> Result<(), Refused> {
        let audit = Arc::clone(&self.audit);
        let record = NewRecord {
            operator: operator.to_string(),
            uid: operator.uid(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            reason: reason.to_owned(),
            outcome: outcome.to_owned(),
        };
        let written = blocking(move || audit.append(&record));
        Ok(written.await??)
    }

    pub(super) fn new_revision(
        &self,
        deployment: &Deployment,
        new: NewRevision,
    ) -> Result<RevisionRow, Refused> {
        let created_unix_ms = unix_ms();
        let number = self.store.add_revision(deployment.name(), &new, created_unix_ms)?;
        Ok(new.numbered(number, created_unix_ms))
    }

    #[allow(clippy::too_many_arguments, reason = "what a rollout is made of; every one is used once")]
    pub(super) fn begin(
        self: &Arc<Self>,
        deployment: Arc<Deployment>,
        settings: RolloutSettings,
        operator: Operator,
        context: &ActionContext,
        kind: Move,
        target: RevisionRow,
        candidate: Option<Arc<LiveRevision>>,
        strategy: StrategyPlan,
    ) -> Result<Run, Refused> {
        let first = Step::first(candidate.is_some());
        let old = deployment.stable();
        let rollout = Rollout {
            deployment: deployment.name().to_owned(),
            id: format!("{:016x}", rand::rng().random::<u64>()),
            from_revision: old.as_ref().map_or(0, |live| live.number()),
            to_revision: target.number,
            state: first.state.into(),
            detail: first.detail,
            progress: None,
            operator: operator.to_string(),
            reason: context.reason.clone(),
            started_unix_ms: unix_ms(),
            ended_unix_ms: None,
            failed_requests: 0,
            strategy: strategy.wire_strategy().into(),
            steps: strategy.wire_steps(),
            step: 0,
            step_began_unix_ms: 0,
            paused: false,
            auto_promote: strategy.auto_promote,
            assessment: None,
            history: Vec::new(),
        };
        self.store.put_rollout(&rollout)?;
        self.active.show(&rollout);
        let why = if context.reason.is_empty() { String::new() } else { format!(": {}", context.reason) };
        let verb = if kind == Move::Deploy { "deploys" } else { "rolls back to" };
        let text = format!("{operator} {verb} {}{why}", target.title());
        let subject = format!("{}@{}", deployment.name(), target.number);
        self.events.push(Severity::Information, &subject, text, &operator.to_string());
        Ok(Run {
            controller: Arc::clone(self),
            failed_before: deployment.failed(),
            running_at_swap: 0,
            deployment,
            settings,
            operator,
            kind,
            force: false,
            cut: false,
            target,
            candidate,
            memory: None,
            old,
            strategy,
            comparison: None,
            rollout,
        })
    }
}

pub(super) fn checked(context: ActionContext) -> Result<ActionContext, Refused> {
    let too_long =
        |field| Refused::Invalid { field, problem: format!("is longer than {LONGEST_TEXT} bytes") };
    if context.reason.len() > LONGEST_TEXT {
        return Err(too_long("reason"));
    }
    if context.idempotency_key.len() > LONGEST_TEXT {
        return Err(too_long("idempotency_key"));
    }
    Ok(context)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refused::Invalid {
        field: "request",
        problem: if error.is_cancelled() {
            "came while the agent was ending; ask again when it is back".into()
        } else {
            "met a bug of the agent; its log has the panic".into()
        },
    })
}
