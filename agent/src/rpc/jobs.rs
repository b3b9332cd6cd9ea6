use std::sync::Arc;
use std::time::Instant;

use llmdeck_proto::v1::jobs_server;
use llmdeck_proto::v1::{EvaluateRequest, EvaluateResponse, ListJobsRequest, ListJobsResponse};
use tonic::{Request, Response, Status};

use super::Rpc;
use crate::security::identity::Operator;

pub(super) struct Jobs(pub(super) Arc<Rpc>);

#[tonic::async_trait]
impl jobs_server::Jobs for Jobs {
    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let operator = Operator::of_request(&request)?;
        operator.may_operate()?;
        let EvaluateRequest { deployment: name, revision } = request.into_inner();
        let deployment = self
            .0
            .deployments
            .get(&name)
            .ok_or_else(|| Status::not_found(format!("there is no deployment {name:?} here")))?;
        let live = if revision == 0 { deployment.stable() } else { deployment.loaded(revision) };
        let live =
            live.ok_or_else(|| Status::failed_precondition(format!("{name}@{revision} is not loaded")))?;
        let suite = self.0.controller.settings(&name).and_then(|settings| settings.suite.clone());
        let suite = suite.ok_or_else(|| {
            Status::failed_precondition(format!(
                "{name} has no golden suite; set `suite` in its configuration"
            ))
        })?;
        let subject = format!("{name}@{}", live.number());
        let recorded = self.0.controller.record(&operator, "evaluate", &subject, "", "accepted").await;
        recorded.map_err(|refused| Status::internal(refused.to_string()))?;
        let until = Instant::now() + deployment.limits().deadline;
        let engine = self.0.controller.loader().awake(deployment, &live, until).await;
        let engine = engine.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let job_id = self.0.jobs.evaluate(subject, live, engine, suite);
        let job_id = job_id.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        Ok(Response::new(EvaluateResponse { job_id }))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        Operator::of_request(&request)?;
        Ok(Response::new(ListJobsResponse { jobs: self.0.jobs.all() }))
    }
}
