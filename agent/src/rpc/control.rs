use std::sync::Arc;

use llmdeck_proto::v1::control_server;
use llmdeck_proto::v1::{
    AbortRolloutRequest, ChangeResponse, DeployRequest, GetRolloutRequest, GetRolloutResponse,
    RollbackRequest, RolloutRequest,
};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::placement::LoadError;
use crate::registry::RegistryError;
use crate::rollout::{Refused, Steering};
use crate::security::identity::Operator;

pub(super) struct Control(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn deploy(&self, request: Request<DeployRequest>) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, "deploy", |request| &request.deployment).await?;
        answered(self.0.controller.deploy(operator, request.into_inner()).await)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, "rollback", |request| &request.deployment).await?;
        answered(self.0.controller.rollback(operator, request.into_inner()).await)
    }

    async fn abort_rollout(
        &self,
        request: Request<AbortRolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, "abort", |request| &request.deployment).await?;
        answered(self.0.controller.abort(operator, request.into_inner()).await)
    }

    async fn pause_rollout(
        &self,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.steer(Steering::Pause, request).await
    }

    async fn resume_rollout(
        &self,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.steer(Steering::Resume, request).await
    }

    async fn promote_rollout(
        &self,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        self.steer(Steering::Promote, request).await
    }

    async fn get_rollout(
        &self,
        request: Request<GetRolloutRequest>,
    ) -> Result<Response<GetRolloutResponse>, Status> {
        Operator::of_request(&request)?;
        let GetRolloutRequest { deployment, rollout_id } = request.into_inner();
        let rollout =
            self.0.controller.rollout(&deployment, &rollout_id).map_err(|refused| status(&refused))?;
        Ok(Response::new(GetRolloutResponse { rollout }))
    }
}

impl Control {
    async fn steer(
        &self,
        steering: Steering,
        request: Request<RolloutRequest>,
    ) -> Result<Response<ChangeResponse>, Status> {
        let operator = self.authorized(&request, steering.action(), |request| &request.deployment).await?;
        answered(self.0.controller.steer(operator, steering, request.into_inner()).await)
    }

    /// A refusal for want of a role is in the audit too.
    async fn authorized<T>(
        &self,
        request: &Request<T>,
        action: &str,
        subject: fn(&T) -> &String,
    ) -> Result<Operator, Status> {
        let operator = Operator::of_request(request)?;
        if let Err(denied) = operator.may_operate() {
            let outcome = format!("refused: {}", denied.message());
            let recorded =
                self.0.controller.record(&operator, action, subject(request.get_ref()), "", &outcome).await;
            recorded.map_err(|refused| status(&refused))?;
            return Err(denied);
        }
        Ok(operator)
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
        | Refused::NothingToAbort { .. }
        | Refused::NothingToSteer { .. } => Status::failed_precondition(message),
        Refused::Moved { .. } => Status::aborted(message),
        Refused::Load(LoadError::Memory { .. }) => Status::resource_exhausted(message),
        Refused::Load(_) => Status::failed_precondition(message),
        Refused::Audit(_) | Refused::Store(_) => Status::internal(message),
    }
}
