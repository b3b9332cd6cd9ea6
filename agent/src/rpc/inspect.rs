use std::sync::Arc;

use llmdeck_proto::v1::inspect_server;
use llmdeck_proto::v1::{ListRequestsRequest, ListRequestsResponse};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::security::access::Subject;

const DEFAULT_REQUESTS: u32 = 50;

pub(super) struct Inspect(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl inspect_server::Inspect for Inspect {
    async fn list_requests(
        &self,
        request: Request<ListRequestsRequest>,
    ) -> Result<Response<ListRequestsResponse>, Status> {
        self.0
            .authorize(&request, "Inspect/ListRequests", Subject::Deployment(&request.get_ref().deployment))
            .await?;
        let ListRequestsRequest { deployment: name, limit } = request.into_inner();
        let deployment = self
            .0
            .deployments
            .get(&name)
            .ok_or_else(|| Status::not_found(format!("there is no deployment {name:?} here")))?;
        let limit = if limit == 0 { DEFAULT_REQUESTS } else { limit };
        Ok(Response::new(ListRequestsResponse { requests: deployment.recent_requests(limit as usize) }))
    }
}
