//! What the controller does when the agent starts: settles what a crash cut off, and serves what was promised.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::rollout::State;

use super::controller::Controller;
use super::refusal::{Refused, StepError};
use crate::backend::BackendSpec;
use crate::placement::{EngineSettings, LoadError, Memory};
use crate::quality::ask;
use crate::security::identity::Operator;
use crate::serving::{Deployment, STOPPED};
use crate::store::{Configured, NewRevision, RevisionRow};
use crate::time::unix_ms;

/// How long a deployment waits at the start for others, loaded first, to become idle and give way.
const PATIENCE_FOR_MEMORY: Duration = Duration::from_secs(10);

impl Controller {
    /// Settles rollouts that had not ended: one whose revision was promised is done, any other has failed.
    ///
    /// # Errors
    /// When the store or the audit file refuses.
    pub async fn settle_interrupted(&self) -> Result<(), Refused> {
        for mut rollout in self.store.active_rollouts()? {
            let promised = self.store.deployment(&rollout.deployment)?.map(|row| row.stable_revision);
            let done = promised == Some(rollout.to_revision)
                && matches!(rollout.state(), State::Swapping | State::Draining);
            let was_compared = rollout.state() == State::Canary;
            rollout.set_state(if done { State::Done } else { State::Failed });
            let how = match rollout.state() {
                State::Done => "the swap had been made",
                _ if was_compared => "all requests go to the stable revision again",
                _ => "nothing had changed",
            };
            rollout.detail = format!("the agent stopped in the middle of it; {how}");
            rollout.ended_unix_ms = Some(unix_ms());
            let subject = format!("{}@{}", rollout.deployment, rollout.to_revision);
            let agent = Operator::agent();
            let word = if done { "done" } else { "failed" };
            self.record(&agent, "outcome", &subject, &rollout.reason, &format!("{word}: {}", rollout.detail))
                .await?;
            self.store.put_rollout(&rollout)?;
            self.events.push(Severity::Warning, &subject, rollout.detail, "");
        }
        Ok(())
    }

    /// Loads what a deployment promised, or what the configuration names where that is new. When it cannot be loaded
    /// the deployment says so, which is an alert, and serves nothing.
    pub async fn bring_up(&self, deployment: &Arc<Deployment>, configured: &str) {
        let subject = deployment.name().to_owned();
        if self.store.deployment(&subject).is_ok_and(|row| row.is_some_and(|row| row.stopped)) {
            deployment.set_unavailable(STOPPED);
            return;
        }
        match self.try_bring_up(deployment, configured).await {
            Ok(text) => self.events.push(Severity::Information, &subject, text, ""),
            Err(reason) => deployment.set_unavailable(&reason),
        }
    }

    async fn try_bring_up(&self, deployment: &Arc<Deployment>, configured: &str) -> Result<String, String> {
        let spec = self.promised(deployment, configured).await.map_err(|error| error.to_string())?;
        let up = async {
            let name = deployment.name();
            let needed = self.loader.footprint(name, &spec).await?;
            let until = Instant::now() + PATIENCE_FOR_MEMORY;
            let memory = match &needed {
                Some(needed) => Memory::Reserved(
                    self.loader.reserve(name, spec.number, &spec.model, needed, until).await?,
                ),
                None => Memory::Elsewhere,
            };
            let live = self.loader.load(name, spec.clone(), memory, |_| {}).await?;
            if let Some(backend) = live.backend() {
                ask(&backend, "Are you ready?", 4).await?;
            }
            Ok::<_, StepError>(live)
        };
        let live = up.await.map_err(|error| match error {
            StepError::Load(LoadError::Memory { .. }) => error.to_string(),
            error => format!("{}: {error}", spec.model),
        })?;
        deployment.swap_to(&live);
        Ok(format!("revision {} of {} serves", spec.number, spec.title()))
    }

    async fn promised(&self, deployment: &Arc<Deployment>, configured: &str) -> Result<RevisionRow, Refused> {
        let name = deployment.name();
        let own = self.loader.engine_settings(name);
        let resolved = |known: &str| {
            own.changed("", known).map_err(|problem| Refused::Invalid { field: "engine settings", problem })
        };
        let now = Configured { model: configured.to_owned(), engine_json: resolved("")?.settings_json };
        let followed = self.store.configured(name)?.filter(|followed| followed.model == now.model);
        let before = self.store.deployment(name)?;
        let promised = match (&followed, &before) {
            (Some(_), Some(row)) => self.store.revision(name, row.stable_revision)?,
            _ => None,
        };
        let new = match promised {
            Some(spec) => {
                let others = followed.is_some_and(|followed| {
                    !followed.engine_json.is_empty()
                        && !EngineSettings::are_same(&followed.engine_json, &now.engine_json)
                });
                let Some(engine) = spec.engine.as_ref().filter(|_| others) else {
                    self.store.set_configured(name, &now)?;
                    return Ok(spec);
                };
                // What was asked for beside the configuration stays.
                let engine = resolved(&engine.changes_json)?;
                NewRevision { engine: Some(engine), ..spec.parts() }
            }
            None => {
                let (registry, model) = (Arc::clone(&self.registry), configured.to_owned());
                let new = super::controller::blocking(move || registry.revision(&model, "", "")).await??;
                let elsewhere = BackendSpec::is_one(Path::new(&new.model.path));
                let engine = if elsewhere { None } else { Some(resolved("")?) };
                NewRevision { engine, ..new }
            }
        };
        if before.is_some() {
            let subject = format!("{name}@{}", self.store.next_revision_number(name)?);
            let outcome = format!("accepted: {} serves from this start on", new.title());
            let reason = "the configuration says otherwise than at the last start";
            self.record(&Operator::agent(), "configure", &subject, reason, &outcome).await?;
        }
        let spec = self.new_revision(deployment, new)?;
        self.store.promise(name, spec.number)?;
        self.store.set_configured(name, &now)?;
        Ok(spec)
    }
}
