//! To a new revision: checked, claimed and recorded before it begins.

use std::sync::Arc;
use std::time::Instant;

use llmdeck_proto::v1::{ChangeResponse, DeployRequest};

use super::controller::{Controller, LONGEST_TEXT, blocking, checked};
use super::machine::Move;
use super::plan::{PlanFacts, change_plan};
use super::refusal::Refused;
use super::run::Run;
use crate::security::identity::Operator;

impl Controller {
    /// Moves a deployment to a new revision. Answers as soon as the rollout has begun.
    ///
    /// # Errors
    /// Why it was refused; nothing has changed then.
    pub async fn deploy(
        self: &Arc<Self>,
        operator: Operator,
        mut request: DeployRequest,
    ) -> Result<ChangeResponse, Refused> {
        let context = checked(request.context.take().unwrap_or_default())?;
        if let Some(answer) = self.answered(&context)? {
            return Ok(answer);
        }
        let (deployment, settings) = self.find(&request.deployment)?;
        let registry = Arc::clone(&self.registry);
        let reference = request.model.clone();
        if reference.is_empty() || reference.len() > LONGEST_TEXT {
            return Err(Refused::Invalid {
                field: "model",
                problem: "must name a tag, a digest or a path".into(),
            });
        }
        let model = blocking(move || registry.model(&reference)).await??;
        let strategy = settings
            .rollout
            .plan(request.strategy(), &request.steps, request.auto_promote)
            .map_err(|problem| Refused::Invalid { field: "rollout", problem })?;
        self.check_expected(&deployment, &context)?;
        let number = self.store.next_revision_number(deployment.name())?;
        let room = self.room_for(&deployment, &model.reference, &model.path).await?;
        let stable = deployment.stable();
        let plan = change_plan(&PlanFacts {
            deployment: deployment.name(),
            from: stable.as_deref().map(|live| (live.number(), live.spec().model.as_str())),
            to: (number, &model.reference),
            digests: (stable.as_deref().map_or("", |live| &live.spec().digest), &model.digest),
            kind: Move::Deploy,
            in_flight: stable.as_ref().map_or(0, |live| live.in_flight()),
            room: Some(&room),
            golden_prompts: settings.suite.as_ref().map(|suite| suite.prompts.len()),
            golden_floor: settings.golden_floor,
            force: request.force,
            cut: false,
            strategy: &strategy,
        });
        if context.dry_run {
            return Ok(ChangeResponse { plan: Some(plan), rollout_id: String::new() });
        }
        let claim = self.claim(&deployment, &operator, "deploy", &context, number).await?;
        let reservation = match &room.needed {
            Some(needed) => {
                let (name, now) = (deployment.name(), Instant::now());
                Some(self.loader.reserve(name, number, &model.reference, needed, now).await?)
            }
            None => None,
        };
        let target = self.new_revision(&deployment, &model)?;
        let run =
            self.begin(deployment, settings, operator, &context, Move::Deploy, target, None, strategy)?;
        let run = Run { force: request.force, reservation, ..run };
        let answer = self.answer(&context, plan, &run.rollout)?;
        tokio::spawn(run.run_until_swapped(claim));
        Ok(answer)
    }
}
