//! What the console and the command line ask agents for.

use std::time::Duration;

use crate::link::Channel;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::control_client::ControlClient;
use llmdeck_proto::v1::jobs_client::JobsClient;
use llmdeck_proto::v1::registry_client::RegistryClient;
use llmdeck_proto::v1::{
    AbortRolloutRequest, ActionContext, Artifact, BenchNodeRequest, BenchRequest, CancelJobRequest,
    ChangePlan, ChangeResponse, DeployRequest, EvaluateRequest, FinetuneRequest, GetJobRequest,
    GetRolloutRequest, JobReport, JobSummary, ListArtifactsRequest, ListJobsRequest, ListRolloutsRequest,
    RollbackRequest, Rollout, RolloutRequest, StopRequest,
};
use tonic::Request;

use crate::app::{Action, Answer, Intent, RevisionParts, RolloutChoice};
use crate::link::LinkError;

/// An agent that does not answer an action for so long is as good as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does what an intent asks of an agent; `None` for those that ask nothing of one.
pub async fn answer(channel: Channel, intent: Intent) -> Option<Answer> {
    match intent {
        Intent::Quit | Intent::Suspend => None,
        Intent::ListArtifacts { kind, serial, .. } => {
            let known = artifacts(channel, kind).await;
            let tags = known.map(|known| known.into_iter().flat_map(|artifact| artifact.tags).collect());
            Some(Answer::Tags { serial, tags })
        }
        Intent::ListJobs { node } => Some(Answer::Jobs { node, jobs: jobs(channel).await }),
        Intent::GetRollout { key } => {
            let rollout = rollout(channel, &key.name, "").await.map(|rollout| rollout.map(Box::new));
            Some(Answer::Rollout { key, rollout })
        }
        Intent::GetJob { key } => {
            let report = job(channel, &key.id).await.map(Box::new);
            Some(Answer::Job { key, report })
        }
        Intent::Act { action, reason, expected_revision, dry_run, idempotency_key, serial, .. } => {
            let context = ActionContext { idempotency_key, expected_revision, reason, dry_run };
            let changed = act(channel, action, context).await;
            Some(if dry_run {
                Answer::Planned { serial, plan: changed.map(|change| change.plan.unwrap_or_default()) }
            } else {
                Answer::Accepted { serial, id: changed.map(|change| change.rollout_id) }
            })
        }
    }
}

/// Asks for a change, or for what it would do.
///
/// # Errors
/// Why the agent did not.
pub async fn act(
    channel: Channel,
    action: Action,
    context: ActionContext,
) -> Result<ChangeResponse, LinkError> {
    let context = Some(context);
    let mut control = ControlClient::new(channel.clone());
    let answer = match action {
        Action::Deploy { deployment, parts, force, how } => {
            let RolloutChoice { strategy, steps, auto_promote } = how;
            let strategy = strategy.into();
            let RevisionParts { model, adapter, prompt, engine_settings_json } = parts;
            let request = DeployRequest {
                deployment,
                context,
                model,
                adapter,
                prompt,
                engine_settings_json,
                force,
                strategy,
                steps,
                auto_promote,
            };
            control.deploy(patient(request)).await?
        }
        Action::Rollback { deployment, to_revision, cut } => {
            control
                .rollback(patient(RollbackRequest { deployment, context, to_revision, cut_running: cut }))
                .await?
        }
        Action::Stop { deployment } => control.stop(patient(StopRequest { deployment, context })).await?,
        Action::Abort { deployment } => {
            control.abort_rollout(patient(AbortRolloutRequest { deployment, context })).await?
        }
        Action::Pause { deployment } => {
            control.pause_rollout(patient(RolloutRequest { deployment, context })).await?
        }
        Action::Resume { deployment } => {
            control.resume_rollout(patient(RolloutRequest { deployment, context })).await?
        }
        Action::Promote { deployment } => {
            control.promote_rollout(patient(RolloutRequest { deployment, context })).await?
        }
        Action::Evaluate { deployment } => return Ok(begun(evaluate(channel, deployment).await?)),
        Action::Bench { deployment } => {
            let request = BenchRequest { deployment, ..BenchRequest::default() };
            let started = JobsClient::new(channel).bench(patient(request)).await?;
            return Ok(begun(started.into_inner().job_id));
        }
        Action::Finetune { deployment, dataset } => {
            return finetune(channel, deployment, dataset, context).await;
        }
        Action::BenchNode => {
            let started = JobsClient::new(channel).bench_node(patient(BenchNodeRequest {})).await?;
            return Ok(begun(started.into_inner().job_id));
        }
        Action::CancelJob { id } => {
            JobsClient::new(channel).cancel_job(patient(CancelJobRequest { id: id.clone() })).await?;
            return Ok(begun(id));
        }
    };
    Ok(answer.into_inner())
}

/// Begins a fine-tuning that ends in a canary, or says what it would be.
async fn finetune(
    channel: Channel,
    deployment: String,
    dataset: String,
    context: Option<ActionContext>,
) -> Result<ChangeResponse, LinkError> {
    let ActionContext { reason, dry_run, .. } = context.unwrap_or_default();
    let request = FinetuneRequest {
        deployment: deployment.clone(),
        dataset,
        ship: "canary".into(),
        reason,
        dry_run,
        ..FinetuneRequest::default()
    };
    let answer = JobsClient::new(channel).finetune(patient(request)).await?.into_inner();
    if !answer.refusal.is_empty() {
        return Err(LinkError::Refused(answer.refusal));
    }
    let undo = "cancel the job, or roll back: the model itself stays as it is".into();
    let plan = ChangePlan { deployment, effects: answer.plan, undo, ..ChangePlan::default() };
    Ok(ChangeResponse { plan: Some(plan), rollout_id: answer.job_id })
}

fn begun(job_id: String) -> ChangeResponse {
    ChangeResponse { plan: None, rollout_id: job_id }
}

/// Jobs of an agent, newest first.
///
/// # Errors
/// Why the agent did not tell.
pub async fn jobs(channel: Channel) -> Result<Vec<JobSummary>, LinkError> {
    Ok(JobsClient::new(channel).list_jobs(patient(ListJobsRequest {})).await?.into_inner().jobs)
}

/// One job in full.
///
/// # Errors
/// Why the agent did not tell.
pub async fn job(channel: Channel, id: &str) -> Result<JobReport, LinkError> {
    let request = GetJobRequest { id: id.to_owned() };
    let mut client = JobsClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Ok(client.get_job(patient(request)).await?.into_inner())
}

/// Scores what serves now; the job's id.
///
/// # Errors
/// Why the agent did not.
pub async fn evaluate(channel: Channel, deployment: String) -> Result<String, LinkError> {
    let request = EvaluateRequest { deployment, revision: 0 };
    Ok(JobsClient::new(channel).evaluate(patient(request)).await?.into_inner().job_id)
}

/// Rollouts of a deployment, newest first, without what was found.
///
/// # Errors
/// Why the agent did not tell.
pub async fn rollouts(channel: Channel, deployment: &str, limit: u32) -> Result<Vec<Rollout>, LinkError> {
    let request = ListRolloutsRequest { deployment: deployment.to_owned(), limit };
    Ok(ControlClient::new(channel).list_rollouts(patient(request)).await?.into_inner().rollouts)
}

/// A rollout by its id, or the latest of a deployment where the id is empty.
///
/// # Errors
/// Why the agent did not tell.
pub async fn rollout(channel: Channel, deployment: &str, id: &str) -> Result<Option<Rollout>, LinkError> {
    let request = GetRolloutRequest { deployment: deployment.to_owned(), rollout_id: id.to_owned() };
    Ok(ControlClient::new(channel).get_rollout(patient(request)).await?.into_inner().rollout)
}

/// Artifacts of a kind.
///
/// # Errors
/// Why the agent did not tell.
pub async fn artifacts(channel: Channel, kind: &str) -> Result<Vec<Artifact>, LinkError> {
    let request = ListArtifactsRequest { kind: kind.to_owned() };
    Ok(RegistryClient::new(channel).list_artifacts(patient(request)).await?.into_inner().artifacts)
}

fn patient<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}
