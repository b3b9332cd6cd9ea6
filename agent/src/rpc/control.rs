use std::sync::Arc;

use llmdeck_proto::v1::control_server;
use llmdeck_proto::v1::{
    AbortRolloutRequest, ChangeResponse, DeployRequest, GetRolloutRequest, GetRolloutResponse,
    ListRolloutsRequest, ListRolloutsResponse, RollbackRequest, RolloutRequest, StopRequest,
};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::placement::LoadError;
use crate::registry::RegistryError;
use crate::rollout::{Refused, Steering};
use crate::security::access::Subject;
use crate::security::identity::Operator;

const DEFAULT_ROLLOUTS: u32 = 20;
const MOST_ROLLOUTS: u32 = 500;

pub(super) struct Control(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn deploy(&self, request: Request<DeployRequest>) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, "Control/Deploy", |request| &request.deployment).await?;
        answered(self.0.controller.deploy(operator, request.into_inner()).await)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, "Control/Rollback", |request| &request.deployment).await?;
        answered(self.0.controller.rollback(operator, request.into_inner()).await)
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, "Control/Stop", |request| &request.deployment).await?;
        answered(self.0.controller.stop(operator, request.into_inner()).await)
    }

    async fn abort_rollout(
        &self,
        request: Request<AbortRolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        let operator =
            self.authorized(&request, "Control/AbortRollout", |request| &request.deployment).await?;
        answered(self.0.controller.abort(operator, request.into_inner()).await)
    }

    async fn pause_rollout(
        &self,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.steer(Steering::Pause, "Control/PauseRollout", request).await
    }

    async fn resume_rollout(
        &self,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.steer(Steering::Resume, "Control/ResumeRollout", request).await
    }

    async fn promote_rollout(
        &self,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.steer(Steering::Promote, "Control/PromoteRollout", request).await
    }

    async fn get_rollout(
        &self,
        request: Request<GetRolloutRequest>,
    ) -> Result<Response<GetRolloutResponse>, Status> {
        self.authorized(&request, "Control/GetRollout", |request| &request.deployment).await?;
        let GetRolloutRequest { deployment, rollout_id } = request.into_inner();
        let rollout =
            self.0.controller.rollout(&deployment, &rollout_id).map_err(|refused| status(&refused))?;
        Ok(Response::new(GetRolloutResponse { rollout }))
    }

    async fn list_rollouts(
        &self,
        request: Request<ListRolloutsRequest>,
    ) -> Result<Response<ListRolloutsResponse>, Status> {
        self.authorized(&request, "Control/ListRollouts", |request| &request.deployment).await?;
        let ListRolloutsRequest { deployment, limit } = request.into_inner();
        let limit = if limit == 0 { DEFAULT_ROLLOUTS } else { limit.min(MOST_ROLLOUTS) };
        let rollouts = self.0.controller.past_rollouts(&deployment, limit);
        let rollouts = rollouts.map_err(|refused| status(&refused))?;
        Ok(Response::new(ListRolloutsResponse { rollouts }))
    }
}

impl Control {
    async fn steer(
        &self,
        steering: Steering,
        call: &str,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, call, |request| &request.deployment).await?;
        answered(self.0.controller.steer(operator, steering, request.into_inner()).await)
    }

    async fn authorized<T>(
        &self,
        request: &Request<T>,
        call: &str,
        deployment: fn(&T) -> &String,
    ) -> Result<Operator, Status> {
        let name = deployment(request.get_ref());
        self.0.authorize(request, call, Subject::Deployment(name)).await
    }
}

fn answered(answer: Result<ChangeResponse, Refused>) -> Result<Response<ChangeResponse>, Status> {
    answer.map(Response::new).map_err(|refused| status(&refused))
}

fn status(refused: &Refused) -> Status {
    let message = refused.to_string();
    match refused {
        Refused::UnknownDeployment { .. }
        | Refused::UnknownRevision { .. }
        | Refused::Registry(RegistryError::Unknown { .. }) => Status::not_found(message),
        Refused::Invalid { .. } | Refused::Registry(_) => Status::invalid_argument(message),
        Refused::NothingEarlier { .. }
        | Refused::AlreadyServing { .. }
        | Refused::Busy { .. }
        | Refused::NothingToStop { .. }
        | Refused::NothingToAbort { .. }
        | Refused::NothingToSteer { .. } => Status::failed_precondition(message),
        Refused::Moved { .. } => Status::aborted(message),
        Refused::Load(LoadError::Memory { .. } | LoadError::AdapterMemory { .. }) => {
            Status::resource_exhausted(message)
        }
        Refused::Load(_) => Status::failed_precondition(message),
        Refused::Audit(_) | Refused::Store(_) => Status::internal(message),
    }
}
