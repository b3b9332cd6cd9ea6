use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use llmdeck_datasets::{Governance, GovernanceChange, Recipe};
use llmdeck_engine::adapter::MergedFormat;
use llmdeck_proto::v1;
use llmdeck_proto::v1::registry_server;
use llmdeck_proto::v1::{
    AddArtifactProgress, AddArtifactRequest, CollectGarbageRequest, CollectGarbageResponse,
    DeriveDatasetRequest, DeriveDatasetResponse, GetDatasetRequest, GovernDatasetRequest,
    ListArtifactsRequest, ListArtifactsResponse, MergeAdapterRequest, RemoveArtifactRequest,
    RemoveArtifactResponse, TagArtifactRequest, VerifyArtifactsRequest, VerifyProgress,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::registry::{
    Artifact, ArtifactKind, DerivedDataset, GovernedDataset, NewArtifact, RegistryError, Removed, Verified,
};
use crate::security::access::Subject;
use crate::security::identity::Operator;

/// Messages of progress that wait to be sent; the worker waits when a reader is slow.
const MOST_WAITING: usize = 4;
/// Bytes between two messages of progress.
const PROGRESS_EVERY: u64 = 64 << 20;

pub(super) struct Registry(pub(super) Arc<Rpc>);

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl registry_server::Registry for Registry {
    async fn list_artifacts(
        &self,
        request: Request<ListArtifactsRequest>,
    ) -> Result<Response<ListArtifactsResponse>, Status> {
        self.0.authorize(&request, "Registry/ListArtifacts", Subject::Node).await?;
        let kind = request.into_inner().kind;
        let all = self.0.registry.artifacts().map_err(|error| status(&error))?;
        let artifacts =
            all.into_iter().filter(|artifact| kind.is_empty() || artifact.kind.as_str() == kind).map(wire);
        Ok(Response::new(ListArtifactsResponse { artifacts: artifacts.collect() }))
    }

    async fn derive_dataset(
        &self,
        request: Request<DeriveDatasetRequest>,
    ) -> Result<Response<DeriveDatasetResponse>, Status> {
        let operator = self.0.authorize(&request, "Registry/DeriveDataset", Subject::Node).await?;
        let DeriveDatasetRequest { reference, recipe_json, tag, reason } = request.into_inner();
        let recipe: Recipe = serde_json::from_str(&recipe_json)
            .map_err(|error| Status::invalid_argument(format!("recipe_json: {error}")))?;
        self.recorded(&operator, "derive-dataset", &reference, &reason).await?;
        let (registry, by) = (Arc::clone(&self.0.registry), operator.to_string());
        let finetunes = Arc::clone(&self.0.finetunes);
        let make = move || {
            let made = registry.derive(&reference, &recipe, &tag, &by)?;
            registry.check_dataset(&made.artifact.digest, finetunes.policy())?;
            Ok(made)
        };
        let made = tokio::task::spawn_blocking(make).await;
        let made = made.map_err(|_| Status::internal("met a bug of the agent; its log has the panic"))?;
        let DerivedDataset { artifact, done } = made.map_err(|error: RegistryError| status(&error))?;
        Ok(Response::new(DeriveDatasetResponse { artifact: Some(wire(artifact)), done }))
    }

    type AddArtifactStream = Streamed<AddArtifactProgress>;

    async fn add_artifact(
        &self,
        request: Request<AddArtifactRequest>,
    ) -> Result<Response<Self::AddArtifactStream>, Status> {
        let operator = self.0.authorize(&request, "Registry/AddArtifact", Subject::Node).await?;
        let AddArtifactRequest { path, kind, tag, parents, reason, governance } = request.into_inner();
        let kind = match kind.as_str() {
            "" => None,
            word => Some(ArtifactKind::parse(word).ok_or_else(|| unknown_kind(word))?),
        };
        self.recorded(&operator, "add-artifact", &path, &reason).await?;
        let governance = governance.map(change);
        let new = NewArtifact {
            path,
            kind,
            tag,
            parents,
            added_by: operator.to_string(),
            source: None,
            governance,
        };
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let (registry, finetunes) = (Arc::clone(&self.0.registry), Arc::clone(&self.0.finetunes));
        tokio::task::spawn_blocking(move || {
            let mut told = 0;
            let progress = |done_bytes: u64, total_bytes: u64| {
                if done_bytes - told < PROGRESS_EVERY {
                    return !sender.is_closed();
                }
                told = done_bytes;
                let message =
                    AddArtifactProgress { done_bytes, total_bytes, ..AddArtifactProgress::default() };
                sender.blocking_send(Ok(message)).is_ok()
            };
            let added = registry.add(&new, progress);
            if let Ok((artifact, _)) = &added
                && artifact.kind == ArtifactKind::Dataset
                && let Err(error) = registry.check_dataset(&artifact.digest, finetunes.policy())
            {
                tracing::warn!(%error, "a new dataset could not be checked");
            }
            let last = added.map(|(artifact, means)| AddArtifactProgress {
                done_bytes: artifact.size_bytes,
                total_bytes: artifact.size_bytes,
                artifact: Some(wire(artifact)),
                means: means.as_str().to_owned(),
            });
            // Nobody listens any more.
            let _ = sender.blocking_send(last.map_err(|error| status(&error)));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn merge_adapter(
        &self,
        request: Request<MergeAdapterRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let operator = self.0.authorize(&request, "Registry/MergeAdapter", Subject::Node).await?;
        let MergeAdapterRequest { model, adapter, format, tag, reason } = request.into_inner();
        let format = match format.as_str() {
            "" | "bf16" => MergedFormat::BF16,
            "f32" => MergedFormat::F32,
            other => {
                let reason = format!("format is {other:?}; it must be bf16 or f32");
                return Err(Status::invalid_argument(reason));
            }
        };
        self.recorded(&operator, "merge-adapter", &format!("{model} + {adapter}"), &reason).await?;
        let (registry, by) = (Arc::clone(&self.0.registry), operator.to_string());
        let pool = Arc::clone(self.0.controller.loader().pool());
        let merge = move || registry.merge(&model, &adapter, format, &tag, &by, &pool);
        let merged = tokio::task::spawn_blocking(merge).await;
        let merged = merged.map_err(|_| Status::internal("met a bug of the agent; its log has the panic"))?;
        Ok(Response::new(wire(merged.map_err(|error| status(&error))?)))
    }

    async fn govern_dataset(
        &self,
        request: Request<GovernDatasetRequest>,
    ) -> Result<Response<v1::Dataset>, Status> {
        let operator = self.0.authorize(&request, "Registry/GovernDataset", Subject::Node).await?;
        let GovernDatasetRequest { reference, governance, reason } = request.into_inner();
        self.recorded(&operator, "govern-dataset", &reference, &reason).await?;
        let change = governance.map(change).unwrap_or_default();
        let governed = self.0.registry.govern(&reference, &change).map_err(|error| status(&error))?;
        Ok(Response::new(dataset(governed)))
    }

    async fn get_dataset(
        &self,
        request: Request<GetDatasetRequest>,
    ) -> Result<Response<v1::Dataset>, Status> {
        self.0.authorize(&request, "Registry/GetDataset", Subject::Node).await?;
        let governed = self.0.registry.governed(&request.into_inner().reference);
        Ok(Response::new(dataset(governed.map_err(|error| status(&error))?)))
    }

    async fn tag_artifact(
        &self,
        request: Request<TagArtifactRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let operator = self.0.authorize(&request, "Registry/TagArtifact", Subject::Node).await?;
        let TagArtifactRequest { reference, tag, reason } = request.into_inner();
        self.recorded(&operator, "tag-artifact", &format!("{reference} as {tag}"), &reason).await?;
        let tagged = self.0.registry.tag(&reference, &tag).map_err(|error| status(&error))?;
        Ok(Response::new(wire(tagged)))
    }

    async fn remove_artifact(
        &self,
        request: Request<RemoveArtifactRequest>,
    ) -> Result<Response<RemoveArtifactResponse>, Status> {
        let operator = self.0.authorize(&request, "Registry/RemoveArtifact", Subject::Node).await?;
        let RemoveArtifactRequest { reference, reason, dry_run } = request.into_inner();
        let removed = if dry_run {
            self.0.registry.would_remove(&reference)
        } else {
            self.recorded(&operator, "remove-artifact", &reference, &reason).await?;
            self.0.registry.remove(&reference)
        };
        let Removed { artifact, needed_by } = removed.map_err(|error| status(&error))?;
        Ok(Response::new(RemoveArtifactResponse { artifact: Some(wire(artifact)), needed_by }))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        let operator = self.0.authorize(&request, "Registry/CollectGarbage", Subject::Node).await?;
        let CollectGarbageRequest { dry_run, reason } = request.into_inner();
        if !dry_run {
            self.recorded(&operator, "collect-garbage", "registry", &reason).await?;
        }
        let removed = self.0.registry.collect_garbage(dry_run).map_err(|error| status(&error))?;
        Ok(Response::new(CollectGarbageResponse { removed: removed.into_iter().map(wire).collect() }))
    }

    type VerifyArtifactsStream = Streamed<VerifyProgress>;

    async fn verify_artifacts(
        &self,
        request: Request<VerifyArtifactsRequest>,
    ) -> Result<Response<Self::VerifyArtifactsStream>, Status> {
        self.0.authorize(&request, "Registry/VerifyArtifacts", Subject::Node).await?;
        let VerifyArtifactsRequest { reference } = request.into_inner();
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let registry = Arc::clone(&self.0.registry);
        tokio::task::spawn_blocking(move || {
            let mut told = 0;
            let each = |done_bytes: u64, verified: Option<Verified>| {
                if verified.is_none() && done_bytes - told < PROGRESS_EVERY {
                    return !sender.is_closed();
                }
                told = done_bytes;
                let (artifact, flaw) = verified.map(|one| (wire(one.artifact), one.flaw)).unzip();
                let flaw = flaw.flatten().unwrap_or_default();
                sender.blocking_send(Ok(VerifyProgress { done_bytes, artifact, flaw })).is_ok()
            };
            let one = (!reference.is_empty()).then_some(reference.as_str());
            if let Err(error) = registry.verify(one, each) {
                // Nobody listens any more.
                let _ = sender.blocking_send(Err(status(&error)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Registry {
    async fn recorded(
        &self,
        operator: &Operator,
        action: &str,
        subject: &str,
        reason: &str,
    ) -> Result<(), Status> {
        let recorded = self.0.controller.record(operator, action, subject, reason, "accepted").await;
        recorded.map_err(|refused| Status::internal(refused.to_string()))
    }
}

fn wire(artifact: Artifact) -> v1::Artifact {
    v1::Artifact {
        digest: artifact.digest,
        kind: artifact.kind.as_str().to_owned(),
        tags: artifact.tags,
        size_bytes: artifact.size_bytes,
        path: artifact.path.to_string_lossy().into_owned(),
        parents: artifact.parents,
        source: artifact.source,
        added_by: artifact.added_by,
        added_unix_ms: artifact.added_unix_ms,
    }
}

fn change(asked: v1::Governance) -> GovernanceChange {
    let v1::Governance { source, license, consent_basis, owner, retain_until, not_for_training } = asked;
    GovernanceChange { source, license, consent_basis, owner, retain_until, not_for_training }
}

fn dataset(GovernedDataset { artifact, governance, report_json }: GovernedDataset) -> v1::Dataset {
    let Governance { source, license, consent_basis, owner, retain_until, not_for_training } = governance;
    let governance = v1::Governance {
        source: Some(source),
        license: Some(license),
        consent_basis: Some(consent_basis),
        owner: Some(owner),
        retain_until: Some(retain_until.map(|day| day.to_string()).unwrap_or_default()),
        not_for_training: Some(not_for_training),
    };
    v1::Dataset { artifact: Some(wire(artifact)), governance: Some(governance), report_json }
}

fn unknown_kind(word: &str) -> Status {
    Status::invalid_argument(format!(
        "kind {word:?} is not known; there are model, adapter, prompt, suite, dataset and backend"
    ))
}

fn status(error: &RegistryError) -> Status {
    let message = error.to_string();
    match error {
        RegistryError::Unknown { .. } => Status::not_found(message),
        RegistryError::Store(_) => Status::internal(message),
        RegistryError::Memory { .. } => Status::resource_exhausted(message),
        RegistryError::Read { .. }
        | RegistryError::Malformed { .. }
        | RegistryError::Tag(..)
        | RegistryError::Engine(_)
        | RegistryError::Backend(_) => Status::invalid_argument(message),
    }
}
