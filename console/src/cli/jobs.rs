use clap::Subcommand;
use llmdeck_proto::v1::ListJobsRequest;
use llmdeck_proto::v1::jobs_client::JobsClient;
use serde_json::{Value, json};

use super::output::{print_json, print_table};
use super::{CliError, Common};
use crate::link::{LinkError, dial};

#[derive(Debug, Subcommand)]
pub(super) enum JobsCommand {
    /// Jobs of an agent, newest first.
    List(Common),
}

pub(super) async fn jobs(command: JobsCommand) -> Result<(), CliError> {
    let JobsCommand::List(common) = command;
    let answer = JobsClient::new(dial(&common.target)).list_jobs(ListJobsRequest {}).await;
    let jobs = answer.map_err(LinkError::from)?.into_inner().jobs;
    if common.json {
        let jobs = jobs.iter().map(|job| {
            json!({
                "id": job.id, "kind": job.kind, "subject": job.subject, "state": job.state,
                "detail": job.detail, "created_unix_ms": job.created_unix_ms,
            })
        });
        return Ok(print_json(&jobs.collect::<Vec<Value>>())?);
    }
    let rows: Vec<Vec<String>> =
        jobs.into_iter().map(|job| vec![job.id, job.kind, job.subject, job.state, job.detail]).collect();
    Ok(print_table(&["ID", "KIND", "SUBJECT", "STATE", "DETAIL"], &rows)?)
}
