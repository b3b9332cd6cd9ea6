//! Long work as the operator looks at it: the list of every agent's jobs, and one of them in full.

use llmdeck_load::bench::Outcome;
use llmdeck_proto::v1::{JobReport, JobSummary};
use serde_json::Value;

use super::action::Intent;
use super::{App, Screen};
use crate::link::LinkError;
use crate::model::Model;

/// A job, by its node's index and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobKey {
    /// Index of the node.
    pub node: usize,
    /// The agent's name for it.
    pub id: String,
}

/// What agents said of their jobs last.
#[derive(Debug, Default)]
pub struct JobsState {
    /// By node, newest first each.
    pub lists: Vec<Vec<JobSummary>>,
    /// The one on the screen.
    pub open: Option<OpenJob>,
}

/// One job in full.
#[derive(Debug)]
pub struct OpenJob {
    /// Which.
    pub key: JobKey,
    /// As last told.
    pub report: JobReport,
    /// What it came to.
    pub result: JobResult,
    /// Why the agent does not tell, where it does not.
    pub error: Option<String>,
}

/// What a job came to.
#[derive(Debug, Default)]
pub enum JobResult {
    /// Nothing yet, or nothing that is kept.
    #[default]
    None,
    /// Of a deployment under load.
    Bench(Box<Outcome>),
    /// Of a node.
    Node(Value),
    /// Of a training.
    Finetune(Value),
    /// A report that this console cannot read.
    Unreadable(String),
}

impl JobsState {
    /// Every job with its node, newest first.
    pub fn rows(&self) -> Vec<(JobKey, &JobSummary)> {
        let nodes = self.lists.iter().enumerate();
        let mut rows: Vec<(JobKey, &JobSummary)> = nodes
            .flat_map(|(node, jobs)| jobs.iter().map(move |job| (JobKey { node, id: job.id.clone() }, job)))
            .collect();
        rows.sort_by_key(|(_, job)| std::cmp::Reverse(job.created_unix_ms));
        rows
    }

    pub(super) fn take_list(&mut self, node: usize, jobs: Vec<JobSummary>) {
        if self.lists.len() <= node {
            self.lists.resize_with(node + 1, Vec::new);
        }
        self.lists[node] = jobs;
    }

    pub(super) fn take_report(&mut self, key: &JobKey, told: Result<Box<JobReport>, LinkError>) {
        let Some(open) = self.open.as_mut().filter(|open| open.key == *key) else { return };
        match told {
            Ok(report) => {
                open.result = result(&report);
                open.report = *report;
                open.error = None;
            }
            Err(error) => open.error = Some(error.to_string()),
        }
    }
}

fn result(report: &JobReport) -> JobResult {
    if report.report_json.is_empty() {
        return JobResult::None;
    }
    let kind = report.job.as_ref().map_or("", |job| job.kind.as_str());
    let read = match kind {
        "bench" => {
            serde_json::from_str(&report.report_json).map(|outcome| JobResult::Bench(Box::new(outcome)))
        }
        "finetune" => serde_json::from_str(&report.report_json).map(JobResult::Finetune),
        _ => serde_json::from_str(&report.report_json).map(JobResult::Node),
    };
    read.unwrap_or_else(|error| JobResult::Unreadable(error.to_string()))
}

impl App {
    /// Shows a job, and asks for it.
    pub(super) fn open_job(&mut self, key: JobKey) -> Vec<Intent> {
        let open =
            OpenJob { key: key.clone(), report: JobReport::default(), result: JobResult::None, error: None };
        self.jobs.open = Some(open);
        self.go_to(Screen::Job(key.clone()));
        vec![Intent::GetJob { key }]
    }

    /// What is asked anew each second while jobs are looked at.
    pub(super) fn look_at_jobs(&self, model: &Model) -> Vec<Intent> {
        match &self.screen {
            Screen::Jobs => (0..model.nodes.len()).map(|node| Intent::ListJobs { node }).collect(),
            Screen::Job(key) => {
                let ended = self.jobs.open.as_ref().is_some_and(|open| open.report.ended_unix_ms.is_some());
                if ended { Vec::new() } else { vec![Intent::GetJob { key: key.clone() }] }
            }
            _ => Vec::new(),
        }
    }
}
