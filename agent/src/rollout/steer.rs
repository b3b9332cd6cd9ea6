//! What operators ask of a rollout under way.

use std::sync::Arc;

use llmdeck_proto::v1::rollout::State;
use llmdeck_proto::v1::{AbortRolloutRequest, ActionContext, ChangePlan, ChangeResponse, RolloutRequest};

use super::controller::{Controller, checked};
use super::machine::Happening;
use super::refusal::Refused;
use crate::security::identity::Operator;
use crate::serving::Deployment;

/// What may be asked of a canary or a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Hold it at its step.
    Pause,
    /// Let it go on.
    Resume,
    /// Send everything to the candidate now.
    Promote,
}

impl Steering {
    /// As the audit has it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Promote => "promoted",
        }
    }

    fn effects(self, candidate: &str, stable: &str) -> Vec<String> {
        match self {
            Self::Pause => vec![
                format!("{candidate} keeps its part of the requests until it is resumed"),
                "it is still compared, and taken back when it is worse".into(),
            ],
            Self::Resume => vec![format!("{candidate} goes on with its steps")],
            Self::Promote => vec![
                format!("new requests go to {candidate} at once, whatever the comparison says"),
                format!("what runs on {stable} finishes there"),
            ],
        }
    }

    fn undo(self, deployment: &str) -> String {
        match self {
            Self::Pause => format!("llmdeck rollout resume {deployment}"),
            Self::Resume => format!("llmdeck rollout pause {deployment}"),
            Self::Promote => format!("roll back: llmdeck rollback {deployment}"),
        }
    }
}

impl Controller {
    /// Asks something of a canary or a shadow.
    ///
    /// # Errors
    /// When none is under way, or who asks believed another revision to be stable.
    pub async fn steer(
        self: &Arc<Self>,
        operator: Operator,
        steering: Steering,
        request: RolloutRequest,
    ) -> Result<ChangeResponse, Refused> {
        let context = checked(request.context.unwrap_or_default())?;
        let (deployment, _) = self.find(&request.deployment)?;
        self.check_expected(&deployment, &context)?;
        let name = deployment.name();
        let nothing = || Refused::NothingToSteer { deployment: name.to_owned(), action: steering.done() };
        let rollout = self.active.under_way(name).filter(|rollout| rollout.state() == State::Canary);
        let rollout = rollout.ok_or_else(nothing)?;
        let (from, to) = (rollout.from_revision, rollout.to_revision);
        let plan = ChangePlan {
            deployment: name.to_owned(),
            from_revision: from,
            from_model: model_of(&deployment, from),
            to_revision: to,
            to_model: model_of(&deployment, to),
            standby_ready: true,
            in_flight: deployment.stable().map_or(0, |live| live.in_flight()),
            effects: steering.effects(&format!("{name}@{to}"), &format!("{name}@{from}")),
            undo: steering.undo(name),
            extra_memory_bytes: 0,
            ..ChangePlan::default()
        };
        if context.dry_run {
            return Ok(ChangeResponse { plan: Some(plan), rollout_id: String::new() });
        }
        let subject = format!("{name}@{to}");
        self.record(&operator, steering.action(), &subject, &context.reason, "accepted").await?;
        let operator = operator.to_string();
        let asked = match steering {
            Steering::Pause => Happening::Paused { operator },
            Steering::Resume => Happening::Resumed { operator },
            Steering::Promote => Happening::Promoted { operator },
        };
        self.active.steer(name, asked).ok_or_else(nothing)?;
        Ok(ChangeResponse { plan: Some(plan), rollout_id: rollout.id })
    }

    /// Ends a rollout that has not swapped yet.
    ///
    /// # Errors
    /// When there is none.
    pub async fn abort(
        self: &Arc<Self>,
        operator: Operator,
        request: AbortRolloutRequest,
    ) -> Result<ChangeResponse, Refused> {
        let context = checked(request.context.unwrap_or_default())?;
        let (deployment, _) = self.find(&request.deployment)?;
        self.end_rollout(operator, &deployment, &context, "abort").await
    }

    /// Ends the rollout under way for whoever aborts it, or rolls back while it runs.
    pub(super) async fn end_rollout(
        &self,
        operator: Operator,
        deployment: &Arc<Deployment>,
        context: &ActionContext,
        action: &str,
    ) -> Result<ChangeResponse, Refused> {
        let name = deployment.name();
        let nothing = || Refused::NothingToAbort { deployment: name.to_owned() };
        let rollout = self.active.under_way(name).filter(|rollout| !has_swapped(rollout.state()));
        let rollout = rollout.ok_or_else(nothing)?;
        let (from, to) = (rollout.from_revision, rollout.to_revision);
        let on_candidate = deployment.candidate().map_or(0, |live| live.in_flight());
        let mut effects = vec![format!("{name}@{to} is dropped; {name}@{from} serves all new requests")];
        if on_candidate > 0 {
            effects.push(format!("{on_candidate} running on {name}@{to} finish there"));
        }
        let plan = ChangePlan {
            deployment: name.to_owned(),
            from_revision: from,
            from_model: model_of(deployment, to),
            to_revision: from,
            to_model: model_of(deployment, from),
            standby_ready: true,
            in_flight: on_candidate,
            effects,
            undo: format!("deploy {name}@{to}'s model again"),
            extra_memory_bytes: 0,
            ..ChangePlan::default()
        };
        if context.dry_run {
            return Ok(ChangeResponse { plan: Some(plan), rollout_id: String::new() });
        }
        self.record(&operator, action, name, &context.reason, "accepted").await?;
        // From here on no new request goes to the candidate, whenever the rollout itself hears of it.
        deployment.end_split();
        self.active.steer(name, Happening::Aborted { operator: operator.to_string() }).ok_or_else(nothing)?;
        Ok(ChangeResponse { plan: Some(plan), rollout_id: rollout.id })
    }
}

/// Whether a rollout has come so far that only a rollback takes it back.
pub(super) fn has_swapped(state: State) -> bool {
    matches!(state, State::Swapping | State::Draining | State::Done)
}

fn model_of(deployment: &Deployment, number: u32) -> String {
    deployment.loaded(number).map(|live| live.spec().title()).unwrap_or_default()
}
