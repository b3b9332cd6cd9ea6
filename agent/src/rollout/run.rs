//! A rollout under way: each step is stored before its effect runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1::Rollout;
use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::revision::State as RevisionState;
use llmdeck_proto::v1::rollout::State;

use super::active::Claim;
use super::compare::Comparison;
use super::controller::{Controller, RolloutSettings};
use super::machine::{Course, Effect, Happening, Move, Step, step};
use super::refusal::StepError;
use super::strategy::StrategyPlan;
use crate::placement::Memory;
use crate::quality::{ask, run_suite};
use crate::security::identity::Operator;
use crate::serving::{Deployment, LiveRevision};
use crate::store::RevisionRow;
use crate::time::unix_ms;

/// How long a standby is waited for in one go until its last answer is through.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A rollout under way, with what its steps need.
pub(super) struct Run {
    pub(super) controller: Arc<Controller>,
    pub(super) deployment: Arc<Deployment>,
    pub(super) settings: RolloutSettings,
    pub(super) operator: Operator,
    pub(super) kind: Move,
    pub(super) force: bool,
    /// Running requests do not finish on the old revision.
    pub(super) cut: bool,
    pub(super) target: RevisionRow,
    pub(super) candidate: Option<Arc<LiveRevision>>,
    /// Where the model of a candidate comes from that is not up yet.
    pub(super) memory: Option<Memory>,
    pub(super) old: Option<Arc<LiveRevision>>,
    pub(super) failed_before: u64,
    pub(super) running_at_swap: u32,
    pub(super) strategy: StrategyPlan,
    pub(super) comparison: Option<Comparison>,
    pub(super) rollout: Rollout,
}

impl Run {
    /// Steps until new requests go to the candidate or the rollout has ended; then lets others change the deployment,
    /// and drains in the background.
    pub(super) async fn run_until_swapped(mut self, mut claim: Claim) {
        let mut now =
            Step { state: self.rollout.state(), detail: self.rollout.detail.clone(), ..Step::first(false) };
        while let Some(effect) =
            now.effect().filter(|effect| !matches!(effect, Effect::Drain | Effect::Discard))
        {
            let happening = tokio::select! {
                biased;
                asked = claim.asked(), if effect != Effect::Swap => asked,
                outcome = self.run(effect, &now) => outcome.unwrap_or_else(|error| Happening::Failed(error.to_string())),
            };
            now = self.advance(&now, &happening);
        }
        if now.effect() == Some(Effect::Drain) {
            drop(claim);
            tokio::spawn(self.drain(now));
        } else {
            self.deployment.end_split();
            drop(claim);
            self.deployment.retire(self.target.number);
            self.settled().await;
        }
    }

    fn advance(&mut self, now: &Step, happening: &Happening) -> Step {
        let course = Course {
            kind: self.kind,
            stages: self.strategy.steps.len(),
            auto_promote: self.strategy.auto_promote,
        };
        let next = step(now, course, happening);
        // No new request on a candidate from the moment that it is known to be worse.
        if next.effect() == Some(Effect::Discard) {
            self.deployment.end_split();
        }
        self.rollout.set_state(next.state);
        self.rollout.detail.clone_from(&next.detail);
        self.rollout.progress = None;
        self.rollout.paused = next.paused;
        if next.state == State::Canary && (now.state != State::Canary || next.stage != now.stage) {
            self.rollout.step = u32::try_from(next.stage).unwrap_or(u32::MAX);
            self.rollout.step_began_unix_ms = unix_ms();
        }
        self.rollout.failed_requests = self.deployment.failed() - self.failed_before;
        if next.is_over() {
            self.rollout.ended_unix_ms = Some(unix_ms());
        }
        // Once it has swapped, the promise is what counts on a restart; a step that cannot be stored is only shown.
        if let Err(error) = self.controller.store.put_rollout(&self.rollout) {
            tracing::error!(%error, "the step of a rollout could not be stored");
        }
        self.controller.active.show(&self.rollout);
        next
    }

    async fn run(&mut self, effect: Effect, now: &Step) -> Result<Happening, StepError> {
        match effect {
            Effect::Load => self.load().await,
            Effect::Warm => self.warm().await,
            Effect::Score => self.score().await,
            Effect::Compare => self.compare(now).await,
            Effect::Swap => self.swap().await,
            Effect::Drain | Effect::Discard => Ok(Happening::Loaded),
        }
    }

    async fn load(&mut self) -> Result<Happening, StepError> {
        // A standby that sleeps has nothing to load.
        if let Some(live) = self.deployment.loaded(self.target.number)
            && let Some(upstream) = live.upstream().filter(|upstream| upstream.is_asleep())
        {
            upstream.keep_awake().await.map_err(StepError::Wake)?;
            self.deployment.set_state(&live, RevisionState::Warming);
            self.candidate = Some(live);
            return Ok(Happening::Loaded);
        }
        let (active, mut shown) = (Arc::clone(&self.controller.active), self.rollout.clone());
        let progress = move |share| {
            shown.progress = Some(share);
            active.show(&shown);
        };
        let name = self.deployment.name();
        let memory = self.memory.take().unwrap_or(Memory::Elsewhere);
        let live = self.controller.loader.load(name, self.target.clone(), memory, progress).await?;
        self.deployment.set_state(&live, RevisionState::Warming);
        self.candidate = Some(live);
        Ok(Happening::Loaded)
    }

    async fn warm(&self) -> Result<Happening, StepError> {
        if let Some(backend) = self.candidate.as_ref().and_then(|live| live.backend()) {
            ask(&backend, "Are you ready?", 4).await?;
        }
        Ok(Happening::Warmed)
    }

    async fn score(&mut self) -> Result<Happening, StepError> {
        let floor = self.settings.golden_floor;
        let backend = self.candidate.as_ref().and_then(|live| live.backend());
        let (Some(live), Some(backend), Some(suite)) = (&self.candidate, backend, &self.settings.suite)
        else {
            return Ok(Happening::Scored { score: None, floor, force: self.force });
        };
        self.deployment.set_state(live, RevisionState::Evaluating);
        let (active, mut shown) = (Arc::clone(&self.controller.active), self.rollout.clone());
        let total = suite.prompts.len();
        let run = run_suite(&backend, suite, |done| {
            shown.progress = Some(done as f64 / total as f64);
            shown.detail = format!("golden suite: {done} of {total} prompts");
            active.show(&shown);
        });
        // The closure borrows `shown` mutably and is called in order.
        let run = run.await?;
        live.set_golden(run);
        Ok(Happening::Scored { score: Some(run.score.score), floor, force: self.force })
    }

    /// The promise first, then the route: after a crash in between, the restart serves what was promised.
    async fn swap(&mut self) -> Result<Happening, StepError> {
        let Some(live) = self.candidate.clone() else { return Err(StepError::Panicked) };
        // A standby that was just being sent to sleep is woken, and is not sent again once it serves.
        let awake = match live.upstream() {
            Some(upstream) => Some(upstream.keep_awake().await.map_err(StepError::Wake)?),
            None => None,
        };
        let (store, name, number) =
            (Arc::clone(&self.controller.store), self.deployment.name().to_owned(), self.target.number);
        tokio::task::spawn_blocking(move || store.promise(&name, number))
            .await
            .map_err(|_| StepError::Panicked)??;
        self.deployment.swap_to(&live);
        drop(awake);
        self.running_at_swap = self.old.as_ref().map_or(0, |old| old.in_flight());
        if let Some(old) = self.old.as_ref().filter(|_| self.cut) {
            old.cut_running();
        }
        let text = format!("serves all new requests; {} finish on the old", self.running_at_swap);
        let subject = format!("{}@{number}", self.deployment.name());
        self.controller.events.push(Severity::Information, &subject, text, &self.operator.to_string());
        Ok(Happening::Swapped)
    }

    async fn drain(mut self, now: Step) {
        let mut still_running = 0;
        if let Some(old) = self.old.clone() {
            old.idle_until(Instant::now() + self.settings.drain).await;
            still_running = old.in_flight();
            if self.deployment.state_of(old.number()) == Some(RevisionState::Draining) {
                self.deployment.set_state(&old, RevisionState::Standby);
            }
            if old.backend().is_none() {
                self.deployment.retire(old.number());
            }
            self.keep_one_standby(old.number());
            tokio::spawn(sleep_when_idle(Arc::clone(&self.deployment), old));
        }
        let finished = self.running_at_swap.saturating_sub(still_running);
        self.advance(&now, &Happening::Drained { finished, still_running });
        self.settled().await;
    }

    /// The one that a rollback would go to stays; older standbys give their memory back.
    fn keep_one_standby(&self, keep: u32) {
        for live in self.deployment.all_loaded() {
            let standby = self.deployment.state_of(live.number()) == Some(RevisionState::Standby);
            if standby && live.number() != keep {
                self.deployment.retire(live.number());
                let subject = format!("{}@{}", self.deployment.name(), live.number());
                let why = "unloaded; a newer revision stands by";
                self.controller.events.push(Severity::Information, &subject, why, "");
            }
        }
    }

    async fn settled(&self) {
        let rollout = &self.rollout;
        let subject = format!("{}@{}", rollout.deployment, rollout.to_revision);
        let failed = rollout.failed_requests;
        let (severity, text) = match rollout.state() {
            State::Done => (Severity::Information, format!("done; {failed} failed")),
            State::Aborted => {
                (Severity::Information, format!("aborted: {}; {failed} failed", rollout.detail))
            }
            State::RolledBack => {
                (Severity::Warning, format!("rolled back: {}; {failed} failed", rollout.detail))
            }
            _ => (Severity::Bad, format!("failed: {}; {failed} failed", rollout.detail)),
        };
        self.controller.events.push(severity, &subject, text.clone(), &self.operator.to_string());
        let recorded =
            self.controller.record(&self.operator, "outcome", &subject, &rollout.reason, &text).await;
        if let Err(error) = recorded {
            tracing::error!(%error, "the outcome of a rollout could not be recorded");
        }
    }
}

/// A server that stands by sleeps once its last answer is through, and not before: none is cut off.
async fn sleep_when_idle(deployment: Arc<Deployment>, old: Arc<LiveRevision>) {
    while !old.idle_until(Instant::now() + LOOK_AGAIN).await {}
    let Some(upstream) = old.upstream() else { return };
    let unused = || deployment.state_of(old.number()) == Some(RevisionState::Standby);
    if let Err(error) = upstream.stand_by(unused).await {
        tracing::warn!(revision = old.number(), %error, "a standby could not be sent to sleep; it stays ready");
    }
}
