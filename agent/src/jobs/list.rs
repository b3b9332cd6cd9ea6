use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmdeck_proto::v1::{BenchPoint, Job, JobReport, JobSummary};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::time::unix_ms;

/// Jobs remembered; the oldest ended one makes room.
const MOST_KEPT: usize = 100;
/// Jobs that may wait or run at once; one more is refused.
const MOST_UNENDED: usize = 8;
/// Ended jobs stay in the frames this long.
const SHOWN_AFTER_END_MS: i64 = 60_000;
/// Points kept of a job; one more and every second one goes.
const MOST_POINTS: usize = 4_096;

/// Why a job was not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_UNENDED} jobs wait or run already; try again when one has ended")]
pub struct TooManyJobs;

/// No job has this id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no job {0:?} here; llmdeck jobs list shows those that are remembered")]
pub struct UnknownJob(pub String);

/// Runs one job at a time, in order.
pub struct Jobs {
    list: Arc<Mutex<VecDeque<Entry>>>,
    turn: Arc<Semaphore>,
}

struct Entry {
    job: Job,
    created_unix_ms: i64,
    ended_unix_ms: Option<i64>,
    cancel: CancellationToken,
    points: Vec<BenchPoint>,
    report_json: String,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { list: Arc::default(), turn: Arc::new(Semaphore::new(1)) }
    }
}

/// How a job ended.
pub(super) struct JobEnd {
    /// In words.
    pub(super) detail: String,
    /// Empty where there is nothing to keep.
    pub(super) report_json: String,
}

/// A job's own end of the list.
#[derive(Clone)]
pub(super) struct JobHandle {
    list: Arc<Mutex<VecDeque<Entry>>>,
    id: String,
    pub(super) cancel: CancellationToken,
}

impl JobHandle {
    /// Says how far it is.
    pub(super) fn progress(&self, share: f64, detail: impl Into<String>) {
        self.update(|entry| {
            entry.job.progress = Some(share);
            entry.job.detail = detail.into();
        });
    }

    /// Keeps what was seen since the last point.
    pub(super) fn point(&self, point: BenchPoint) {
        self.update(|entry| {
            entry.points.push(point);
            if entry.points.len() > MOST_POINTS {
                entry.points = joined(&entry.points);
            }
        });
    }

    fn begin(&self) {
        self.update(|entry| entry.job.state = "running".into());
    }

    fn end(&self, ended: Result<JobEnd, String>) {
        let cancelled = self.cancel.is_cancelled();
        self.update(|entry| {
            let (state, detail, report) = match ended {
                Ok(end) => (if cancelled { "cancelled" } else { "done" }, end.detail, end.report_json),
                Err(why) => (if cancelled { "cancelled" } else { "failed" }, why, String::new()),
            };
            state.clone_into(&mut entry.job.state);
            entry.job.progress = (state == "done").then_some(1.0);
            entry.job.detail = detail;
            entry.report_json = report;
            entry.ended_unix_ms = Some(unix_ms());
        });
    }

    fn update(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = lock(&self.list).iter_mut().find(|entry| entry.job.id == self.id) {
            change(entry);
        }
    }
}

/// Every two neighbours as one.
fn joined(points: &[BenchPoint]) -> Vec<BenchPoint> {
    let join = |pair: &[BenchPoint]| {
        let sum = |of: fn(&BenchPoint) -> u64| pair.iter().map(of).sum();
        let last = pair.last().copied().unwrap_or_default();
        BenchPoint {
            ok: sum(|point| point.ok),
            failed: sum(|point| point.failed),
            completion_tokens: sum(|point| point.completion_tokens),
            ..last
        }
    };
    points.chunks(2).map(join).collect()
}

impl Jobs {
    /// Runs `work` when its turn comes; returns the job's id.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) fn start<F>(
        &self,
        kind: &str,
        subject: String,
        work: impl FnOnce(JobHandle) -> F + Send + 'static,
    ) -> Result<String, TooManyJobs>
    where
        F: Future<Output = Result<JobEnd, String>> + Send,
    {
        let handle = self.add(kind, subject)?;
        let (turn, id) = (Arc::clone(&self.turn), handle.id.clone());
        tokio::spawn(async move {
            let cancel = handle.cancel.clone();
            let Some(turn) = cancel.run_until_cancelled(turn.acquire()).await else {
                return handle.end(Err("was cancelled before its turn".into()));
            };
            handle.begin();
            let ended = work(handle.clone()).await;
            drop(turn);
            handle.end(ended);
        });
        Ok(id)
    }

    /// Asks a job to end.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn cancel(&self, id: &str) -> Result<(), UnknownJob> {
        let list = lock(&self.list);
        let entry = list.iter().find(|entry| entry.job.id == id).ok_or_else(|| UnknownJob(id.to_owned()))?;
        entry.cancel.cancel();
        Ok(())
    }

    /// Asks everything that has not ended to end.
    pub fn cancel_all(&self) {
        lock(&self.list).iter().for_each(|entry| entry.cancel.cancel());
    }

    /// Everything that is known of a job.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn report(&self, id: &str) -> Result<JobReport, UnknownJob> {
        let list = lock(&self.list);
        let entry = list.iter().find(|entry| entry.job.id == id).ok_or_else(|| UnknownJob(id.to_owned()))?;
        Ok(JobReport {
            job: Some(summary(entry)),
            progress: entry.job.progress,
            points: entry.points.clone(),
            report_json: entry.report_json.clone(),
            ended_unix_ms: entry.ended_unix_ms,
        })
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
        lock(&self.list).iter().rev().map(summary).collect()
    }

    fn add(&self, kind: &str, subject: String) -> Result<JobHandle, TooManyJobs> {
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
        let cancel = CancellationToken::new();
        let job = Job {
            id: id.clone(),
            kind: kind.into(),
            subject,
            state: "queued".into(),
            progress: None,
            detail: String::new(),
        };
        list.push_back(Entry {
            job,
            created_unix_ms: unix_ms(),
            ended_unix_ms: None,
            cancel: cancel.clone(),
            points: Vec::new(),
            report_json: String::new(),
        });
        Ok(JobHandle { list: Arc::clone(&self.list), id, cancel })
    }
}

fn summary(entry: &Entry) -> JobSummary {
    let job = &entry.job;
    JobSummary {
        id: job.id.clone(),
        kind: job.kind.clone(),
        subject: job.subject.clone(),
        state: job.state.clone(),
        detail: job.detail.clone(),
        created_unix_ms: entry.created_unix_ms,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::BenchPoint;

    use super::{JobEnd, Jobs, TooManyJobs, UnknownJob};

    #[tokio::test]
    async fn one_runs_the_next_waits_and_both_can_be_cancelled() {
        let jobs = Jobs::default();
        let first = jobs.start("bench", "chat@1".into(), async |handle| {
            handle.progress(0.5, "half");
            handle.cancel.cancelled().await;
            Ok(JobEnd { detail: "half of it".into(), report_json: "{}".into() })
        });
        let first = first.unwrap();
        let second = jobs.start("bench", "chat@1".into(), async |_| Err("never runs".into())).unwrap();
        let state = |id: &str| jobs.report(id).unwrap().job.unwrap().state;
        while jobs.report(&first).unwrap().progress.is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!((state(&first).as_str(), state(&second).as_str()), ("running", "queued"));
        jobs.cancel(&second).unwrap();
        jobs.cancel(&first).unwrap();
        while jobs.report(&first).unwrap().ended_unix_ms.is_none() {
            tokio::task::yield_now().await;
        }
        let report = jobs.report(&first).unwrap();
        assert_eq!((state(&first).as_str(), report.report_json.as_str()), ("cancelled", "{}"));
        assert_eq!(state(&second), "cancelled");
        assert_eq!(jobs.cancel("x"), Err(UnknownJob("x".into())));
    }

    #[tokio::test]
    async fn a_long_job_keeps_all_it_counted_and_the_line_is_bounded() {
        let jobs = Jobs::default();
        let id = jobs.start("bench", "chat@1".into(), async |handle| {
            for second in 0..10_000 {
                handle.point(BenchPoint { elapsed_s: f64::from(second), ok: 1, ..BenchPoint::default() });
            }
            handle.cancel.cancelled().await;
            Err("stopped".into())
        });
        let id = id.unwrap();
        for _ in 0..7 {
            jobs.start("bench", "chat@1".into(), async |_| Err(String::new())).unwrap();
        }
        assert_eq!(jobs.start("bench", "x".into(), async |_| Err(String::new())), Err(TooManyJobs));
        while jobs.report(&id).unwrap().points.iter().map(|point| point.ok).sum::<u64>() < 10_000 {
            tokio::task::yield_now().await;
        }
        assert!(jobs.report(&id).unwrap().points.len() <= super::MOST_POINTS);
        jobs.cancel(&id).unwrap();
    }
}
