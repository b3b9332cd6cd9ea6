use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1::jobs_server;
use llmdeck_proto::v1::{
    BenchNodeRequest, BenchRequest, CancelJobRequest, CancelJobResponse, EvaluateRequest, EvaluateResponse,
    FinetuneRequest, FinetuneResponse, GetJobRequest, HoldJobRequest, HoldJobResponse, JobReport,
    ListJobsRequest, ListJobsResponse, StartedJob,
};
use tonic::{Request, Response, Status};

use super::{OwnApi, Rpc};
use crate::jobs::{BenchPlan, FinetuneAsked, FinetuneError, MeasuredModel, TooManyJobs, UnknownJob};
use crate::security::access::Subject;
use crate::security::identity::Operator;
use crate::serving::Deployment;

const MOST_RATE_PER_S: f64 = 1_000_000.0;
const MOST_CONCURRENCY: u32 = 10_000;
const MOST_TOKENS: u32 = 1 << 20;
const MOST_SECONDS: u32 = 3_600;

pub(super) struct Jobs(pub(super) Arc<Rpc>);

impl Jobs {
    fn deployment(&self, name: &str) -> Result<&Arc<Deployment>, Status> {
        let found = self.0.deployments.get(name);
        found.ok_or_else(|| Status::not_found(format!("there is no deployment {name:?} here")))
    }

    async fn record(&self, operator: &Operator, action: &str, subject: &str) -> Result<(), Status> {
        let recorded = self.0.controller.record(operator, action, subject, "", "accepted").await;
        recorded.map_err(|refused| Status::internal(refused.to_string()))
    }
}

#[tonic::async_trait]
impl jobs_server::Jobs for Jobs {
    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let operator = self
            .0
            .authorize(&request, "Jobs/Evaluate", Subject::Deployment(&request.get_ref().deployment))
            .await?;
        let EvaluateRequest { deployment: name, revision } = request.into_inner();
        let deployment = self.deployment(&name)?;
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
        self.record(&operator, "evaluate", &subject).await?;
        let until = Instant::now() + deployment.limits().deadline;
        let engine = self.0.controller.loader().awake(deployment, &live, until).await;
        let engine = engine.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let job_id = self.0.jobs.evaluate(subject, live, engine, suite).map_err(|error| too_many(&error))?;
        Ok(Response::new(EvaluateResponse { job_id }))
    }

    async fn bench(&self, request: Request<BenchRequest>) -> Result<Response<StartedJob>, Status> {
        let operator = self
            .0
            .authorize(&request, "Jobs/Bench", Subject::Deployment(&request.get_ref().deployment))
            .await?;
        let asked = request.into_inner();
        let deployment = self.deployment(&asked.deployment)?;
        let plan = plan(&asked, &self.0.own_api)?;
        let number = deployment.stable().map_or(0, |live| live.number());
        let subject = format!("{}@{number}", asked.deployment);
        self.record(&operator, "bench", &subject).await?;
        let job_id = self.0.jobs.bench(subject, plan, Arc::clone(&self.0.subscribers));
        Ok(Response::new(StartedJob { job_id: job_id.map_err(|error| too_many(&error))? }))
    }

    async fn bench_node(&self, request: Request<BenchNodeRequest>) -> Result<Response<StartedJob>, Status> {
        let operator = self.0.authorize(&request, "Jobs/BenchNode", Subject::Node).await?;
        let mut models = Vec::new();
        for deployment in self.0.deployments.iter() {
            let Some(live) = deployment.stable() else { continue };
            let Some(engine) = live.loaded() else { continue };
            models.push(MeasuredModel {
                revision: format!("{}@{}", deployment.name(), live.number()),
                model: live.spec().model.clone(),
                path: PathBuf::from(&live.spec().path),
                engine,
            });
        }
        self.record(&operator, "bench-node", "node").await?;
        let pool = Arc::clone(self.0.controller.loader().pool());
        let job_id = self.0.jobs.bench_node("node".into(), pool, models);
        Ok(Response::new(StartedJob { job_id: job_id.map_err(|error| too_many(&error))? }))
    }

    async fn finetune(
        &self,
        request: Request<FinetuneRequest>,
    ) -> Result<Response<FinetuneResponse>, Status> {
        let operator = self
            .0
            .authorize(&request, "Jobs/Finetune", Subject::Deployment(&request.get_ref().deployment))
            .await?;
        let asked = request.into_inner();
        let dry_run = asked.dry_run;
        let asked = FinetuneAsked {
            deployment: asked.deployment,
            dataset: asked.dataset,
            rehearsal: asked.rehearsal,
            rehearsal_ratio: asked.rehearsal_ratio,
            settings_json: asked.settings_json,
            suite: asked.suite,
            tag: asked.tag,
            priority: asked.priority,
            ship: asked.ship,
            outside: asked.outside,
            reason: asked.reason,
        };
        let answer = self.0.finetunes.begin(operator, asked, dry_run).await;
        let answer = answer.map_err(|error| not_begun(&error))?;
        Ok(Response::new(FinetuneResponse {
            job_id: answer.job_id,
            report_json: answer.report_json,
            plan: answer.plan,
            refusal: answer.refusal,
        }))
    }

    async fn hold_job(&self, request: Request<HoldJobRequest>) -> Result<Response<HoldJobResponse>, Status> {
        let operator = self.0.authorize(&request, "Jobs/HoldJob", Subject::Node).await?;
        let HoldJobRequest { id, hold } = request.into_inner();
        self.0.jobs.report(&id).map_err(|error| unknown(&error))?;
        self.record(&operator, if hold { "pause-job" } else { "resume-job" }, &id).await?;
        let held = self.0.jobs.hold(&id, hold).map_err(|error| unknown(&error))?;
        held.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(HoldJobResponse {}))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<JobReport>, Status> {
        self.0.authorize(&request, "Jobs/GetJob", Subject::Node).await?;
        let report = self.0.jobs.report(&request.into_inner().id);
        Ok(Response::new(report.map_err(|error| unknown(&error))?))
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let operator = self.0.authorize(&request, "Jobs/CancelJob", Subject::Node).await?;
        let id = request.into_inner().id;
        // Only jobs that exist are worth a record.
        self.0.jobs.report(&id).map_err(|error| unknown(&error))?;
        self.record(&operator, "cancel-job", &id).await?;
        self.0.jobs.cancel(&id).map_err(|error| unknown(&error))?;
        Ok(Response::new(CancelJobResponse {}))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        self.0.authorize(&request, "Jobs/ListJobs", Subject::Node).await?;
        Ok(Response::new(ListJobsResponse { jobs: self.0.jobs.all() }))
    }
}

fn not_begun(error: &FinetuneError) -> Status {
    let words = error.to_string();
    match error {
        FinetuneError::Invalid(_) | FinetuneError::Registry(_) => Status::invalid_argument(words),
        FinetuneError::Data(_) => Status::failed_precondition(words),
        FinetuneError::Memory(_) | FinetuneError::Full(_) | FinetuneError::Load(_) => {
            Status::resource_exhausted(words)
        }
        FinetuneError::Store(_) | FinetuneError::Refused(_) => Status::internal(words),
    }
}

fn too_many(error: &TooManyJobs) -> Status {
    Status::resource_exhausted(error.to_string())
}

fn unknown(error: &UnknownJob) -> Status {
    Status::not_found(error.to_string())
}

fn plan(asked: &BenchRequest, own_api: &OwnApi) -> Result<BenchPlan, Status> {
    let out_of_range = |field: &str, most: &dyn std::fmt::Display| {
        Status::invalid_argument(format!("{field} must be at most {most}"))
    };
    if !(0.0..=MOST_RATE_PER_S).contains(&asked.rate_per_s) {
        return Err(out_of_range("rate_per_s", &MOST_RATE_PER_S));
    }
    let within = |field: &str, value: u32, default: u32, most: u32| match value {
        0 => Ok(default),
        value if value <= most => Ok(value),
        _ => Err(out_of_range(field, &most)),
    };
    let concurrency = within("concurrency", asked.concurrency, 8, MOST_CONCURRENCY)?;
    Ok(BenchPlan {
        server: own_api.server.clone(),
        key: own_api.key.clone(),
        deployment: asked.deployment.clone(),
        shape: BenchPlan::shape(asked.rate_per_s, concurrency as usize),
        prompt_tokens: within("prompt_tokens", asked.prompt_tokens, 128, MOST_TOKENS)?.into(),
        output_tokens: within("output_tokens", asked.output_tokens, 64, MOST_TOKENS)?.into(),
        duration: Duration::from_secs(within("duration_s", asked.duration_s, 30, MOST_SECONDS)?.into()),
        seed: asked.seed,
    })
}
