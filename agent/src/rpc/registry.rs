use std::sync::Arc;

use llmdeck_proto::v1::registry_server;
use llmdeck_proto::v1::{Artifact, ListArtifactsRequest, ListArtifactsResponse};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::security::access::Subject;

pub(super) struct Registry(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl registry_server::Registry for Registry {
    async fn list_artifacts(
        &self,
        request: Request<ListArtifactsRequest>,
    ) -> Result<Response<ListArtifactsResponse>, Status> {
        self.0.authorize(&request, "Registry/ListArtifacts", Subject::Node).await?;
        let kind = request.into_inner().kind;
        let artifacts = self
            .0
            .registry
            .artifacts()
            .iter()
            .filter(|artifact| kind.is_empty() || artifact.kind.as_str() == kind)
            .map(|artifact| Artifact {
                digest: artifact.digest.clone(),
                kind: artifact.kind.as_str().to_owned(),
                tags: vec![artifact.tag.clone()],
                size_bytes: artifact.size_bytes,
                path: artifact.path.to_string_lossy().into_owned(),
            })
            .collect();
        Ok(Response::new(ListArtifactsResponse { artifacts }))
    }
}
