//! Benches that the agent runs: of the node itself, and of deployments that are not within reach of this machine.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::link::Channel;
use llmdeck_load::bench::Outcome;
use llmdeck_proto::v1::jobs_client::JobsClient;
use llmdeck_proto::v1::{CancelJobRequest, GetJobRequest, JobReport};

use super::BenchArguments;
use crate::cli::CliError;
use crate::link::{LinkError, dial};

const ASK_EVERY: Duration = Duration::from_millis(300);

/// Has the agent measure a deployment.
pub(super) async fn bench(arguments: &BenchArguments) -> Result<Outcome, CliError> {
    let channel = dial(&arguments.common.target);
    let started = JobsClient::new(channel.clone()).bench(arguments.job_request()?).await;
    let id = started.map_err(LinkError::from)?.into_inner().job_id;
    let report = follow(channel, &id).await?;
    serde_json::from_str(&report.report_json)
        .map_err(|error| CliError::Failed(format!("the agent's report cannot be read: {error}")))
}

/// Waits for a job's end and shows how far it is; Ctrl-C ends the job, and what it measured is shown all the same.
pub(super) async fn follow(channel: Channel, id: &str) -> Result<JobReport, CliError> {
    let mut client = JobsClient::new(channel);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut cancelled = false;
    loop {
        let asked = client.get_job(GetJobRequest { id: id.to_owned() }).await;
        let report = asked.map_err(LinkError::from)?.into_inner();
        let job = report.job.clone().unwrap_or_default();
        if report.ended_unix_ms.is_some() {
            clear();
            return if report.report_json.is_empty() {
                Err(CliError::Failed(format!("{} {}: {}", job.kind, job.state, job.detail)))
            } else {
                Ok(report)
            };
        }
        show(&report, &job.state, &job.detail);
        tokio::select! {
            _ = &mut interrupted, if !cancelled => {
                cancelled = true;
                let request = CancelJobRequest { id: id.to_owned() };
                client.cancel_job(request).await.map_err(LinkError::from)?;
            }
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}

/// The line is only for who waits; one that cannot be written matters to nobody.
fn show(report: &JobReport, state: &str, detail: &str) {
    if io::stderr().is_terminal() {
        let share = report.progress.map_or_else(String::new, |share| format!("{:.0} % ", share * 100.0));
        let _ = write!(io::stderr(), "\r\x1b[K{share}{state}: {detail}");
    }
}

fn clear() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}
