//! What a job tells of itself, and what it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use llmdeck_proto::v1::{BenchPoint, TrainingPoint};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::line::{Line, Turn};
use super::list::{Entry, JobEnd, lock};
use crate::time::unix_ms;

/// Lines kept of a job's log; the oldest goes first.
const MOST_LOG_LINES: usize = 200;
/// Points kept of a job; one more and every second one goes.
pub(super) const MOST_POINTS: usize = 4_096;

/// A job's own end of the list.
#[derive(Clone)]
pub(super) struct JobHandle {
    pub(super) list: Arc<Mutex<VecDeque<Entry>>>,
    pub(super) id: String,
    pub(super) cancel: CancellationToken,
    pub(super) held: Option<watch::Receiver<bool>>,
}

impl JobHandle {
    /// Its name.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Waits while it is held. False when it was cancelled.
    pub(super) async fn go_on(&self) -> bool {
        let Some(mut held) = self.held.clone() else { return !self.cancel.is_cancelled() };
        if *held.borrow() {
            self.set_state("paused");
            let cancel = self.cancel.clone();
            // The other end lives as long as the job.
            let _ = cancel.run_until_cancelled(held.wait_for(|held| !held)).await;
            self.set_state("running");
        }
        !self.cancel.is_cancelled()
    }

    /// Whether it is to wait.
    pub(super) fn is_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| *held.borrow())
    }

    pub(super) fn set_state(&self, state: &str) {
        self.update(|entry| state.clone_into(&mut entry.job.state));
    }

    /// Keeps a step of a training.
    pub(super) fn trained(&self, point: TrainingPoint) {
        self.update(|entry| {
            // What is done again stands once.
            entry.training.retain(|known| known.step < point.step);
            entry.training.push(point);
            thin(&mut entry.training);
        });
    }

    /// Says how long it may still take, at least and at most, in seconds.
    pub(super) fn remaining(&self, remaining_s: Option<(f64, f64)>) {
        self.update(|entry| entry.remaining_s = remaining_s);
    }

    /// Writes a line into its log.
    pub(super) fn log(&self, line: impl Into<String>) {
        let line = format!("{} {}", clock(unix_ms()), line.into());
        self.update(|entry| {
            if entry.log.len() == MOST_LOG_LINES {
                entry.log.pop_front();
            }
            entry.log.push_back(line);
        });
    }

    /// Says how far it is.
    pub(super) fn progress(&self, share: f64, detail: impl Into<String>) {
        self.update(|entry| {
            entry.job.progress = Some(share);
            entry.job.detail = detail.into();
        });
    }

    /// Says what it does now.
    pub(super) fn detail(&self, detail: impl Into<String>) {
        self.update(|entry| entry.job.detail = detail.into());
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

    /// Waits for its turn; `None`, and it has ended, when it was cancelled first.
    pub(super) async fn turn(&self, line: &Line, priority: i32) -> Option<Turn> {
        let turn = self.cancel.run_until_cancelled(line.turn(priority)).await;
        match &turn {
            Some(_) => self.begin(),
            None => self.end(Err("was cancelled before its turn".into())),
        }
        turn
    }

    fn begin(&self) {
        self.update(|entry| entry.job.state = "running".into());
    }

    pub(super) fn end(&self, ended: Result<JobEnd, String>) {
        let cancelled = self.cancel.is_cancelled();
        self.update(|entry| {
            entry.remaining_s = None;
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

/// Every second one goes where there are too many; what was evaluated stays.
pub(super) fn thin(points: &mut Vec<TrainingPoint>) {
    if points.len() > MOST_POINTS {
        let mut index = 0;
        points.retain(|point| {
            index += 1;
            index % 2 == 0 || point.held_out_loss.is_some() || point.suite_score.is_some()
        });
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

/// `21:40:07`, UTC.
fn clock(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
