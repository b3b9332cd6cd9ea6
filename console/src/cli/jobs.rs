use std::io::{self, Write};
use std::time::Duration;

use crate::link::Channel;
use clap::{Args, Subcommand};
use llmdeck_proto::v1::jobs_client::JobsClient;
use llmdeck_proto::v1::{
    CancelJobRequest, GetJobRequest, HoldJobRequest, JobReport, JobSummary, ListJobsRequest,
};
use serde_json::{Value, json};

use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::link::{LinkError, dial};

/// How often a job that is followed is asked for.
const ASK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// Jobs of an agent, newest first.
    List(Common),
    /// Everything that is known of one.
    Show(OneJob),
    /// Follow one to its end; with --json one object a line.
    Watch(OneJob),
    /// End one; what it measured until then is kept.
    Cancel(OneJob),
    /// Hold one that trains, at its next step.
    Pause(OneJob),
    /// Let it go on.
    Resume(OneJob),
}

#[derive(Debug, Args)]
pub(super) struct OneJob {
    /// As `jobs list` names it.
    id: String,
    #[command(flatten)]
    common: Common,
}

pub(super) async fn jobs(command: JobsCommand) -> Result<(), CliError> {
    match command {
        JobsCommand::List(common) => list(common).await,
        JobsCommand::Show(OneJob { id, common }) => {
            let report = get(&mut JobsClient::new(dial(&common.target)), &id).await?;
            if common.json { Ok(print_json(&whole(&report))?) } else { show(&report) }
        }
        JobsCommand::Watch(OneJob { id, common }) => {
            watch(JobsClient::new(dial(&common.target)), &id, common.json).await
        }
        JobsCommand::Cancel(OneJob { id, common }) => {
            let mut client = JobsClient::new(dial(&common.target));
            client.cancel_job(CancelJobRequest { id }).await.map_err(LinkError::from)?;
            Ok(())
        }
        JobsCommand::Pause(job) => hold(job, true).await,
        JobsCommand::Resume(job) => hold(job, false).await,
    }
}

async fn hold(OneJob { id, common }: OneJob, hold: bool) -> Result<(), CliError> {
    let mut client = JobsClient::new(dial(&common.target));
    client.hold_job(HoldJobRequest { id, hold }).await.map_err(LinkError::from)?;
    Ok(())
}

async fn list(common: Common) -> Result<(), CliError> {
    let answer = JobsClient::new(dial(&common.target)).list_jobs(ListJobsRequest {}).await;
    let jobs = answer.map_err(LinkError::from)?.into_inner().jobs;
    if common.json {
        return Ok(print_json(&jobs.iter().map(summary).collect::<Vec<Value>>())?);
    }
    let rows: Vec<Vec<String>> =
        jobs.into_iter().map(|job| vec![job.id, job.kind, job.subject, job.state, job.detail]).collect();
    Ok(print_table(&["ID", "KIND", "SUBJECT", "STATE", "DETAIL"], &rows)?)
}

async fn get(client: &mut JobsClient<Channel>, id: &str) -> Result<JobReport, CliError> {
    let asked = client.get_job(GetJobRequest { id: id.to_owned() }).await;
    Ok(asked.map_err(LinkError::from)?.into_inner())
}

/// Follows a job to its end.
pub(super) async fn watch(mut client: JobsClient<Channel>, id: &str, json: bool) -> Result<(), CliError> {
    let mut said = String::new();
    loop {
        let report = get(&mut client, id).await?;
        let ended = report.ended_unix_ms.is_some();
        let line = if json { far(&report).to_string() } else { words(&report) };
        if line != said {
            writeln!(io::stdout(), "{line}")?;
            said = line;
        }
        if ended {
            let job = report.job.unwrap_or_default();
            return match job.state.as_str() {
                "done" => Ok(()),
                state => Err(CliError::Failed(format!("{} {state}: {}", job.kind, job.detail))),
            };
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn summary(job: &JobSummary) -> Value {
    json!({
        "id": job.id, "kind": job.kind, "subject": job.subject, "state": job.state,
        "detail": job.detail, "created_unix_ms": job.created_unix_ms,
    })
}

/// How far a job is; at its end, what it came to.
fn far(report: &JobReport) -> Value {
    let mut value = summary(&report.job.clone().unwrap_or_default());
    value["progress"] = report.progress.into();
    if let Some(point) = report.training.last() {
        value["step"] = point.step.into();
        value["steps"] = point.steps.into();
        value["loss"] = point.loss.into();
        value["held_out_loss"] = report.training.iter().rev().find_map(|point| point.held_out_loss).into();
        value["tokens"] = point.tokens.into();
    }
    value["remaining_least_s"] = report.remaining_least_s.into();
    value["remaining_most_s"] = report.remaining_most_s.into();
    if report.ended_unix_ms.is_some() {
        value["ended_unix_ms"] = report.ended_unix_ms.into();
        let outcome: Value = serde_json::from_str(&report.report_json).unwrap_or_default();
        for name in ["score_before", "score_after", "adapter"] {
            value[name] = outcome.get(name).cloned().unwrap_or_default();
        }
    }
    value
}

fn whole(report: &JobReport) -> Value {
    let mut value = far(report);
    value["training"] = report
        .training
        .iter()
        .map(|point| {
            json!({
                "elapsed_s": point.elapsed_s, "step": point.step, "loss": point.loss,
                "held_out_loss": point.held_out_loss, "learning_rate": point.learning_rate,
                "gradient_norm": point.gradient_norm, "tokens": point.tokens, "energy_mj": point.energy_mj,
                "held_out_score": point.held_out_score, "suite_score": point.suite_score,
            })
        })
        .collect();
    value["log"] = report.log.clone().into();
    value["report"] = serde_json::from_str(&report.report_json).unwrap_or_default();
    value
}

fn words(report: &JobReport) -> String {
    let job = report.job.clone().unwrap_or_default();
    let share = report.progress.map_or_else(String::new, |share| format!("{:3.0} %  ", share * 100.0));
    let left = match (report.remaining_least_s, report.remaining_most_s) {
        (Some(least), Some(most)) => format!(", {least:.0} to {most:.0} s to go"),
        _ => String::new(),
    };
    format!("{share}{}: {}{left}", job.state, job.detail)
}

fn show(report: &JobReport) -> Result<(), CliError> {
    let job = report.job.clone().unwrap_or_default();
    let mut out = io::stdout().lock();
    writeln!(out, "{} {} ({})", job.kind, job.subject, job.id)?;
    writeln!(out, "{}", words(report))?;
    for line in &report.log {
        writeln!(out, "  {line}")?;
    }
    if !report.report_json.is_empty() {
        let outcome: Value = serde_json::from_str(&report.report_json).unwrap_or_default();
        writeln!(out, "{}", serde_json::to_string_pretty(&outcome).unwrap_or_default())?;
    }
    Ok(())
}
