use std::path::Path;
use std::sync::Arc;

use llmdeck_proto::v1::rollout::Strategy;
use llmdeck_proto::v1::{ActionContext, DeployRequest};
use serde_json::{Value, json};

use super::super::handle::JobHandle;
use super::super::list::JobEnd;
use super::Finetunes;
use super::card::{card, curves};
use super::compare::{Comparison, Scores};
use super::prepare::Trained;
use super::room::Room;
use super::spec::{Ship, Spec};
use crate::registry::{ArtifactKind, NewArtifact};
use crate::security::identity::Operator;
use crate::time::unix_ms;

/// Names the format of the report.
const SCHEMA: &str = "llmdeck.finetune/1";

impl Finetunes {
    /// Writes the adapter with its card, registers it with what it was made from, and ships it where that was asked for.
    pub(super) async fn finish(
        self: &Arc<Self>,
        job: &JobHandle,
        spec: &Spec,
        trained: &Trained,
        before: &Scores,
        after: &Scores,
        folder: &Path,
    ) -> Result<JobEnd, String> {
        let comparison = Comparison::new(before, after);
        let made = folder.join("adapter");
        let mut report = report(job, spec, trained, &comparison);
        let needed_bytes = (trained.weights.parameters() * size_of::<f32>()) as u64;
        let room = Room { job, folder, needed_bytes };
        let digest = loop {
            match self.keep(job, spec, trained, &report, &made).await {
                Ok(digest) => break digest,
                Err(error) => room.wait(error).await?,
            }
        };
        report["adapter"] = json!({ "digest": digest, "tag": spec.tag });
        job.log(format!("kept as {}, {}", spec.tag, &digest[..12.min(digest.len())]));
        let mut detail = format!("{}{}", spec.tag, words(&comparison));
        match (spec.ship, comparison.objection()) {
            (Ship::None, _) => {}
            (_, Some(objection)) => {
                detail = format!("{detail}; not shipped: {objection}");
                job.log(format!("not shipped: {objection}"));
            }
            (ship, None) => match self.ship(spec, ship, &digest).await {
                Ok(rollout_id) => {
                    report["rollout_id"] = json!(rollout_id);
                    detail.push_str(if ship == Ship::Canary {
                        "; a canary has begun"
                    } else {
                        "; it comes to serve"
                    });
                }
                Err(why) => {
                    detail = format!("{detail}; not shipped: {why}");
                    job.log(format!("not shipped: {why}"));
                }
            },
        }
        let _ = std::fs::remove_dir_all(&made);
        Ok(JobEnd { detail, report_json: report.to_string() })
    }

    /// Writes the adapter and takes it into the registry; its digest.
    async fn keep(
        &self,
        job: &JobHandle,
        spec: &Spec,
        trained: &Trained,
        report: &Value,
        made: &Path,
    ) -> Result<String, String> {
        let failed = |what: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", what.display());
        // A run before may have got so far and no further.
        let _ = std::fs::remove_dir_all(made);
        std::fs::create_dir_all(made).map_err(|error| failed(made, &error))?;
        let description = self.description(spec).await?;
        trained.weights.write(made, &description, &spec.base.reference).map_err(|error| error.to_string())?;
        for (name, text) in [("README.md", card(spec, report)), ("curves.svg", curves(&trained.curve)?)] {
            let path = made.join(name);
            std::fs::write(&path, text).map_err(|error| failed(&path, &error))?;
        }
        self.register(job, spec, made).await
    }

    async fn description(
        &self,
        spec: &Spec,
    ) -> Result<llmdeck_engine::description::DecoderDescription, String> {
        let deployment = self.deployment(&spec.deployment).map_err(|error| error.to_string())?;
        let variant = self.variant(&deployment).await.map_err(|error| error.to_string())?;
        Ok(variant.model().decoder.description().clone())
    }

    async fn register(&self, job: &JobHandle, spec: &Spec, made: &Path) -> Result<String, String> {
        let parents = std::iter::once(&spec.base)
            .chain([&spec.dataset])
            .chain(&spec.rehearsal)
            .chain(&spec.suite)
            .map(|part| part.digest.clone());
        let registry = Arc::clone(&self.registry);
        // Only what the registry knows can be a parent; a model from a path is named in the card.
        let known: Vec<String> = parents.filter(|digest| registry.any(digest).is_ok()).collect();
        let new = NewArtifact {
            path: made.to_string_lossy().into_owned(),
            kind: Some(ArtifactKind::Adapter),
            tag: spec.tag.clone(),
            parents: known,
            added_by: spec.operator.clone(),
            source: Some(format!(
                "fine-tuning {} of {} on {}",
                job.id(),
                spec.base.reference,
                spec.dataset.reference
            )),
            governance: None,
        };
        let added = tokio::task::spawn_blocking(move || registry.add(&new, |_, _| true)).await;
        let added = added.map_err(|_| "met a bug of the agent; its log has the panic".to_owned())?;
        added
            .map(|(artifact, _)| artifact.digest)
            .map_err(|error| format!("the adapter could not be kept: {error}"))
    }

    async fn ship(self: &Arc<Self>, spec: &Spec, ship: Ship, digest: &str) -> Result<String, String> {
        let strategy = if ship == Ship::Canary { Strategy::Canary } else { Strategy::Replace };
        let reason = format!("{} after fine-tuning for {}", spec.tag, spec.operator);
        let request = DeployRequest {
            deployment: spec.deployment.clone(),
            context: Some(ActionContext { reason, ..ActionContext::default() }),
            adapter: if self.registry.any(&spec.tag).is_ok_and(|known| known.digest == digest) {
                spec.tag.clone()
            } else {
                digest.to_owned()
            },
            strategy: strategy.into(),
            ..DeployRequest::default()
        };
        let begun = self.controller.deploy(Operator::agent(), request).await;
        begun.map(|answer| answer.rollout_id).map_err(|refused| refused.to_string())
    }
}

fn report(job: &JobHandle, spec: &Spec, trained: &Trained, comparison: &Comparison) -> Value {
    let part = |part: &super::spec::Part| json!({ "reference": part.reference, "digest": part.digest });
    json!({
        "schema": SCHEMA,
        "job": job.id(),
        "ended_unix_ms": unix_ms(),
        "base": part(&spec.base),
        "dataset": part(&spec.dataset),
        "rehearsal": spec.rehearsal.iter().map(part).collect::<Vec<_>>(),
        "suite": spec.suite.as_ref().map(part),
        "examples": trained.prepared.examples,
        "rehearsed": trained.prepared.rehearsed,
        "settings": trained.prepared.settings,
        "training": trained.facts,
        "data": trained.prepared.report,
        "score_before": comparison.task.map(|task| task.before),
        "score_after": comparison.task.map(|task| task.after),
        "comparison": comparison,
        "agent_version": env!("CARGO_PKG_VERSION"),
    })
}

fn words(comparison: &Comparison) -> String {
    let task = comparison.task.map(|task| format!(": {:.2}, before {:.2}", task.after, task.before));
    let suite =
        comparison.suite.map(|suite| format!("; suite {:.2}, before {:.2}", suite.after, suite.before));
    task.unwrap_or_default() + &suite.unwrap_or_default()
}
