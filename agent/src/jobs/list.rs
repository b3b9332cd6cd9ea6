use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmdeck_proto::v1::{BenchPoint, Job, JobReport, JobSummary, TrainingPoint};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::handle::JobHandle;
use super::line::Line;
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

/// No job has this id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no job {0:?} here; llmdeck jobs list shows those that are remembered")]
pub struct UnknownJob(pub String);

/// A job that cannot be held.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {0} job cannot be held; cancel it instead")]
pub struct NotHeld(pub String);

/// Runs jobs in two lines, one at a time each: what measures, and what trains.
#[derive(Default)]
pub struct Jobs {
    list: Arc<Mutex<VecDeque<Entry>>>,
    measuring: Line,
    training: Line,
    stopping: AtomicBool,
}

/// What is known of a job.
pub(super) struct Entry {
    pub(super) job: Job,
    pub(super) created_unix_ms: i64,
    pub(super) ended_unix_ms: Option<i64>,
    pub(super) cancel: CancellationToken,
    /// Of jobs that can be held.
    pub(super) held: Option<watch::Sender<bool>>,
    pub(super) points: Vec<BenchPoint>,
    pub(super) training: Vec<TrainingPoint>,
    pub(super) log: VecDeque<String>,
    pub(super) remaining_s: Option<(f64, f64)>,
    pub(super) report_json: String,
}

/// A job as it begins, or as it is remembered.
pub(super) struct NewJob {
    pub(super) id: String,
    pub(super) kind: &'static str,
    pub(super) subject: String,
    pub(super) created_unix_ms: i64,
    pub(super) can_be_held: bool,
}

impl NewJob {
    /// One that was just asked for.
    pub(super) fn now(kind: &'static str, subject: String) -> Self {
        let id = format!("{:016x}", rand::random::<u64>());
        Self { id, kind, subject, created_unix_ms: unix_ms(), can_be_held: false }
    }
}

/// How a job ended.
pub(super) struct JobEnd {
    /// In words.
    pub(super) detail: String,
    /// Empty where there is nothing to keep.
    pub(super) report_json: String,
}

impl Jobs {
    /// Runs `work` when its turn comes; returns the job's id.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) fn start<F>(
        &self,
        kind: &'static str,
        subject: String,
        work: impl FnOnce(JobHandle) -> F + Send + 'static,
    ) -> Result<String, TooManyJobs>
    where
        F: Future<Output = Result<JobEnd, String>> + Send,
    {
        let handle = self.add(NewJob::now(kind, subject))?;
        let id = handle.id.clone();
        let line = self.measuring.clone();
        tokio::spawn(async move {
            if let Some(turn) = handle.turn(&line, 0).await {
                let ended = work(handle.clone()).await;
                drop(turn);
                handle.end(ended);
            }
        });
        Ok(id)
    }

    /// Runs `work`, which trains, when its turn comes. It is in the list when this returns.
    ///
    /// # Errors
    /// When too many wait already.
    pub(super) fn start_training<F>(
        &self,
        new: NewJob,
        priority: i32,
        work: impl FnOnce(JobHandle) -> F + Send + 'static,
    ) -> Result<(), TooManyJobs>
    where
        F: Future<Output = Result<JobEnd, String>> + Send,
    {
        let handle = self.add(new)?;
        let line = self.training.clone();
        tokio::spawn(async move {
            if let Some(turn) = handle.turn(&line, priority).await {
                let ended = work(handle.clone()).await;
                drop(turn);
                handle.end(ended);
            }
        });
        Ok(())
    }

    /// Puts a job into the list that ended before the agent started.
    pub(super) fn remember(
        &self,
        new: NewJob,
        state: &str,
        ended: JobEnd,
        history: JobReport,
        ended_unix_ms: i64,
    ) {
        let mut entry = Entry::new(new, None);
        (entry.training, entry.log) = (history.training, history.log.into());
        state.clone_into(&mut entry.job.state);
        entry.job.progress = (state == "done").then_some(1.0);
        entry.job.detail = ended.detail;
        entry.report_json = ended.report_json;
        entry.ended_unix_ms = Some(ended_unix_ms);
        let mut list = lock(&self.list);
        make_room(&mut list);
        list.push_back(entry);
    }

    /// Holds a job, or lets it go on.
    ///
    /// # Errors
    /// When there is none of that id, or it is of a kind that cannot be held.
    pub fn hold(&self, id: &str, hold: bool) -> Result<Result<(), NotHeld>, UnknownJob> {
        let list = lock(&self.list);
        let entry = list.iter().find(|entry| entry.job.id == id).ok_or_else(|| UnknownJob(id.to_owned()))?;
        Ok(match &entry.held {
            Some(held) => {
                held.send_replace(hold);
                Ok(())
            }
            None => Err(NotHeld(entry.job.kind.clone())),
        })
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

    /// Asks everything that has not ended to end; the agent stops.
    pub fn cancel_all(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        lock(&self.list).iter().for_each(|entry| entry.cancel.cancel());
    }

    /// Whether the agent stops: what can go on after its next start is to leave its work as it is.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
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
            training: entry.training.clone(),
            log: entry.log.iter().cloned().collect(),
            remaining_least_s: entry.remaining_s.map(|(least, _)| least),
            remaining_most_s: entry.remaining_s.map(|(_, most)| most),
            report_json: entry.report_json.clone(),
            ended_unix_ms: entry.ended_unix_ms,
        })
    }

    /// Curve and log of a job, to be remembered with.
    pub(super) fn history(&self, id: &str) -> JobReport {
        let list = lock(&self.list);
        let entry = list.iter().find(|entry| entry.job.id == id);
        let history = entry.map(|entry| JobReport {
            training: entry.training.clone(),
            log: entry.log.iter().cloned().collect(),
            ..JobReport::default()
        });
        history.unwrap_or_default()
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

    fn add(&self, new: NewJob) -> Result<JobHandle, TooManyJobs> {
        let mut list = lock(&self.list);
        if list.iter().filter(|entry| entry.ended_unix_ms.is_none()).count() >= MOST_UNENDED {
            return Err(TooManyJobs);
        }
        make_room(&mut list);
        let id = new.id.clone();
        let (sender, held) = if new.can_be_held {
            let (sender, receiver) = watch::channel(false);
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let entry = Entry::new(new, sender);
        let cancel = entry.cancel.clone();
        list.push_back(entry);
        Ok(JobHandle { list: Arc::clone(&self.list), id, cancel, held })
    }
}

impl Entry {
    fn new(new: NewJob, held: Option<watch::Sender<bool>>) -> Self {
        let NewJob { id, kind, subject, created_unix_ms, .. } = new;
        let job = Job {
            id,
            kind: kind.into(),
            subject,
            state: "queued".into(),
            progress: None,
            detail: String::new(),
        };
        Self {
            job,
            created_unix_ms,
            ended_unix_ms: None,
            cancel: CancellationToken::new(),
            held,
            points: Vec::new(),
            training: Vec::new(),
            log: VecDeque::new(),
            remaining_s: None,
            report_json: String::new(),
        }
    }
}

fn make_room(list: &mut VecDeque<Entry>) {
    if list.len() == MOST_KEPT
        && let Some(oldest) = list.iter().position(|entry| entry.ended_unix_ms.is_some())
    {
        list.remove(oldest);
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::BenchPoint;

    use super::super::handle::MOST_POINTS;
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
        assert!(jobs.report(&id).unwrap().points.len() <= MOST_POINTS);
        jobs.cancel(&id).unwrap();
    }
}
