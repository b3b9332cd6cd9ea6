//! To a new revision: checked, claimed and recorded before it begins.

use std::path::Path;
use std::sync::Arc;

use llmdeck_proto::v1::{ChangeResponse, DeployRequest};

use super::controller::{Controller, LONGEST_TEXT, blocking, checked};
use super::machine::Move;
use super::plan::{PlanFacts, change_plan, engine_changes};
use super::refusal::Refused;
use super::run::Run;
use crate::backend::BackendSpec;
use crate::placement::EngineSettings;
use crate::security::identity::Operator;
use crate::serving::{Deployment, LiveRevision};
use crate::store::{EngineRow, NewRevision, RevisionRow};
use crate::time::unix_ms;

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
        let references = [&request.model, &request.adapter, &request.prompt].map(String::clone);
        for (field, reference) in ["model", "adapter", "prompt"].into_iter().zip(&references) {
            if reference.len() > LONGEST_TEXT {
                return Err(Refused::Invalid {
                    field,
                    problem: "must name a tag, a digest or a path".into(),
                });
            }
        }
        let [mut model, adapter, prompt] = references;
        let stable = deployment.stable();
        let only_engine = adapter.is_empty() && prompt.is_empty();
        let changes_what_serves =
            model.is_empty() && !(only_engine && request.engine_settings_json.is_empty());
        let serving = stable.as_ref().map(|live| live.spec()).filter(|_| changes_what_serves);
        let mut new = match serving {
            Some(serving) if only_engine => serving.parts(),
            _ => {
                if let Some(serving) = serving {
                    model.clone_from(&serving.path);
                }
                if model.is_empty() {
                    return Err(Refused::Invalid {
                        field: "model",
                        problem: "must name a tag, a digest or a path; without it, name an adapter, a prompt or engine settings for \
                                  what serves"
                            .into(),
                    });
                }
                blocking(move || registry.revision(&model, &adapter, &prompt)).await??
            }
        };
        if let Some(serving) = serving {
            new.model.reference.clone_from(&serving.model);
        }
        new.engine = self.engine_of(&deployment, &new, serving, &request.engine_settings_json)?;
        let strategy = settings
            .rollout
            .plan(request.strategy(), &request.steps, request.auto_promote)
            .map_err(|problem| Refused::Invalid { field: "rollout", problem })?;
        self.check_expected(&deployment, &context)?;
        let number = self.store.next_revision_number(deployment.name())?;
        let (title, target) = (new.title(), new.clone().numbered(number, unix_ms()));
        let room = self.room_for(&deployment, &target).await?;
        let from = stable.as_deref().map(|live| (live.number(), live.spec().title()));
        let plan = change_plan(&PlanFacts {
            deployment: deployment.name(),
            from: from.as_ref().map(|(number, title)| (*number, title.as_str())),
            to: (number, &title),
            changes: target.changes(),
            engine: engine_changes(stable.as_deref().map(LiveRevision::spec), &target),
            same_parts: stable.as_deref().is_some_and(|live| live.spec().has_parts_of(&target)),
            digests: (stable.as_deref().map_or("", |live| &live.spec().digest), &target.digest),
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
        let memory = Some(self.take_room(&deployment, &target, room).await?);
        let target = self.new_revision(&deployment, new)?;
        let run =
            self.begin(deployment, settings, operator, &context, Move::Deploy, target, None, strategy)?;
        let run = Run { force: request.force, memory, ..run };
        let answer = self.answer(&context, plan, &run.rollout)?;
        tokio::spawn(run.run_until_swapped(claim));
        Ok(answer)
    }

    /// What its engine is started with: what serves keeps its own where that is what is changed.
    fn engine_of(
        &self,
        deployment: &Deployment,
        new: &NewRevision,
        serving: Option<&RevisionRow>,
        asked: &str,
    ) -> Result<Option<EngineRow>, Refused> {
        let refused = |problem| Refused::Invalid { field: "engine settings", problem };
        if BackendSpec::is_one(Path::new(&new.model.path)) {
            return if asked.is_empty() {
                Ok(None)
            } else {
                let problem =
                    "are for models on this node's own engine; another server has its own in its description";
                Err(refused(problem.into()))
            };
        }
        let serving = serving.and_then(|serving| serving.engine.as_ref());
        let kept = serving.and_then(EngineSettings::kept);
        let own = kept.unwrap_or_else(|| self.loader.engine_settings(deployment.name()));
        let known = serving.map_or("", |engine| engine.changes_json.as_str());
        own.changed(known, asked).map(Some).map_err(refused)
    }
}
