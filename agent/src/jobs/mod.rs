//! Long work with progress that operators ask for: at present, scoring a revision now.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmdeck_proto::v1::{Job, JobSummary};
use tokio::sync::Semaphore;

use crate::placement::Loaded;
use crate::quality::{Suite, run_suite};
use crate::serving::LiveRevision;
use crate::time::unix_ms;

/// Jobs remembered; the oldest ended one makes room.
const MOST_KEPT: usize = 100;
/// Jobs that may wait or run at once; one more is refused.
const MOST_UNENDED: usize = 8;
/// Ended jobs stay in the frames this long.
const SHOWN_AFTER_END_MS: i64 = 60_000;

/// Why a job was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_UNENDED} jobs wait or run already; try again when one has ended")]
pub struct TooManyJobs;

/// Runs one job at a time, in order.
pub struct Jobs {
    list: Arc<Mutex<VecDeque<Entry>>>,
    turn: Arc<Semaphore>,
}

#[derive(Clone)]
struct Entry {
    job: Job,
    created_unix_ms: i64,
    ended_unix_ms: Option<i64>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { list: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Jobs {
    /// Scores a revision with its suite; the score becomes its latest. Returns the job's id.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn evaluate(
        &self,
        subject: String,
        live: Arc<LiveRevision>,
        engine: Arc<Loaded>,
        suite: Arc<Suite>,
    ) -> Result<String, TooManyJobs> {
        let id = self.add("evaluate", subject)?;
        let (list, turn, job) = (Arc::clone(&self.list), Arc::clone(&self.turn), id.clone());
        tokio::spawn(async move {
            let _turn = turn.acquire().await;
            let update = |state: &str, progress: Option<f64>, detail: String| {
                update(&list, &job, state, progress, detail);
            };
            let total = suite.prompts.len();
            update("running", Some(0.0), format!("0 of {total} prompts"));
            let run = run_suite(&engine, &suite, |done| {
                update("running", Some(done as f64 / total as f64), format!("{done} of {total} prompts"));
            });
            match run.await {
                Ok(run) => {
                    live.set_golden(run);
                    let score = run.score;
                    let detail = format!("score {:.2} ({:.2} to {:.2})", score.score, score.low, score.high);
                    update("done", Some(1.0), detail);
                }
                Err(error) => update("failed", None, error.to_string()),
            }
        });
        Ok(id)
    }

    /// What frames show: what waits, runs, or has ended lately.
    pub fn shown(&self) -> Vec<Job> {
        let old = unix_ms() - SHOWN_AFTER_END_MS;
        lock(&self.list)
            .iter()
            .filter(|entry| entry.ended_unix_ms.is_none_or(|ended| ended >= old))
            .map(|entry| entry.job.clone())
            .collect()
    }

    /// Everything remembered, newest first.
    pub fn all(&self) -> Vec<JobSummary> {
        lock(&self.list)
            .iter()
            .rev()
            .map(|Entry { job, created_unix_ms, .. }| JobSummary {
                id: job.id.clone(),
                kind: job.kind.clone(),
                subject: job.subject.clone(),
                state: job.state.clone(),
                detail: job.detail.clone(),
                created_unix_ms: *created_unix_ms,
            })
            .collect()
    }

    fn add(&self, kind: &str, subject: String) -> Result<String, TooManyJobs> {
        let mut list = lock(&self.list);
        if list.iter().filter(|entry| entry.ended_unix_ms.is_none()).count() >= MOST_UNENDED {
            return Err(TooManyJobs);
        }
        if list.len() == MOST_KEPT
            && let Some(oldest) = list.iter().position(|entry| entry.ended_unix_ms.is_some())
        {
            list.remove(oldest);
        }
        let id = format!("{:016x}", rand::random::<u64>());
        let job = Job {
            id: id.clone(),
            kind: kind.into(),
            subject,
            state: "queued".into(),
            progress: None,
            detail: String::new(),
        };
        list.push_back(Entry { job, created_unix_ms: unix_ms(), ended_unix_ms: None });
        Ok(id)
    }
}

fn update(list: &Mutex<VecDeque<Entry>>, id: &str, state: &str, progress: Option<f64>, detail: String) {
    let mut list = lock(list);
    let Some(entry) = list.iter_mut().find(|entry| entry.job.id == id) else { return };
    state.clone_into(&mut entry.job.state);
    entry.job.progress = progress;
    entry.job.detail = detail;
    if matches!(state, "done" | "failed") {
        entry.ended_unix_ms = Some(unix_ms());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
