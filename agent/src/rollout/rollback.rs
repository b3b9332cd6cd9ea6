//! Back to a revision that has served before; from a canary, back to what serves.

use std::sync::Arc;

use llmdeck_proto::v1::{ChangeResponse, RollbackRequest};

use super::controller::{Controller, checked};
use super::machine::Move;
use super::memory::Room;
use super::plan::{PlanFacts, change_plan, engine_changes};
use super::refusal::Refused;
use super::run::Run;
use super::strategy::StrategyPlan;
use crate::security::identity::Operator;
use crate::serving::{Deployment, LiveRevision};
use crate::store::RevisionRow;

impl Controller {
    /// Moves a deployment back. A revision that is loaded serves when this returns.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub async fn rollback(
        self: &Arc<Self>,
        operator: Operator,
        request: RollbackRequest,
    ) -> Result<ChangeResponse, Refused> {
        let context = checked(request.context.unwrap_or_default())?;
        if let Some(answer) = self.answered(&context)? {
            return Ok(answer);
        }
        let (deployment, settings) = self.find(&request.deployment)?;
        self.check_expected(&deployment, &context)?;
        // While a candidate is tried, the way back is to what serves.
        let stable = deployment.stable().map_or(0, |live| live.number());
        if deployment.candidate().is_some() && (request.to_revision == 0 || request.to_revision == stable) {
            return self.end_rollout(operator, &deployment, &context, "rollback").await;
        }
        let target = self.rollback_target(&deployment, request.to_revision)?;
        let known = deployment.loaded(target.number);
        let sleeps = known.as_ref().and_then(|live| live.upstream()).is_some_and(|server| server.is_asleep());
        let candidate = known.filter(|live| live.backend().is_some() && !sleeps);
        let stable = deployment.stable();
        let room = match &candidate {
            Some(_) => None,
            None if sleeps => Some(Room::of_sleeper()),
            None => Some(self.room_for(&deployment, &target).await?),
        };
        let (from, title) =
            (stable.as_deref().map(|live| (live.number(), live.spec().title())), target.title());
        let plan = change_plan(&PlanFacts {
            deployment: deployment.name(),
            from: from.as_ref().map(|(number, title)| (*number, title.as_str())),
            to: (target.number, &title),
            changes: target.changes(),
            engine: engine_changes(stable.as_deref().map(LiveRevision::spec), &target),
            same_parts: false,
            digests: (stable.as_deref().map_or("", |live| &live.spec().digest), &target.digest),
            kind: Move::Rollback,
            in_flight: stable.as_ref().map_or(0, |live| live.in_flight()),
            room: room.as_ref(),
            golden_prompts: None,
            golden_floor: None,
            force: false,
            cut: request.cut_running,
            strategy: &StrategyPlan::replace(),
        });
        if context.dry_run {
            return Ok(ChangeResponse { plan: Some(plan), rollout_id: String::new() });
        }
        let claim = self.claim(&deployment, &operator, "rollback", &context, target.number).await?;
        let memory = match room {
            Some(room) => {
                if !sleeps {
                    deployment.retire(target.number);
                }
                Some(self.take_room(&deployment, &target, room).await?)
            }
            None => None,
        };
        let ready = candidate.is_some();
        let at_once = StrategyPlan::replace();
        let run =
            self.begin(deployment, settings, operator, &context, Move::Rollback, target, candidate, at_once)?;
        let run = Run { memory, cut: request.cut_running, ..run };
        let answer = self.answer(&context, plan, &run.rollout)?;
        let task = tokio::spawn(run.run_until_swapped(claim));
        if ready {
            // The swap itself takes a durable write; the answer says that it has happened.
            let _ = task.await;
        }
        Ok(answer)
    }

    fn rollback_target(&self, deployment: &Deployment, asked: u32) -> Result<RevisionRow, Refused> {
        let name = deployment.name();
        let number = match asked {
            0 => self
                .store
                .deployment(name)?
                .and_then(|row| if row.stopped { Some(row.stable_revision) } else { row.previous_revision }),
            number => Some(number),
        };
        let number = number.ok_or_else(|| Refused::NothingEarlier { deployment: name.to_owned() })?;
        if deployment.stable().is_some_and(|live| live.number() == number) {
            return Err(Refused::AlreadyServing { revision: format!("{name}@{number}") });
        }
        self.store
            .revision(name, number)?
            .ok_or_else(|| Refused::UnknownRevision { deployment: name.to_owned(), number })
    }
}
