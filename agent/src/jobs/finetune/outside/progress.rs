//! What a trainer says, as progress and curves of its job.

use std::time::Instant;

use llmdeck_proto::v1::TrainingPoint;
use serde::Deserialize;

use super::super::super::handle::JobHandle;
use super::super::pace::Pace;
use crate::telemetry::NodeMeasurement;

/// What a trainer says of its progress, one JSON object a line.
#[derive(Deserialize)]
struct Said {
    step: u64,
    steps: u64,
    loss: f64,
    #[serde(default)]
    held_out_loss: Option<f64>,
    #[serde(default)]
    learning_rate: f64,
    #[serde(default)]
    tokens: u64,
}

/// What a trainer has told of itself.
pub(super) struct Progress<'a> {
    job: &'a JobHandle,
    began: Instant,
    pub(super) measured: NodeMeasurement,
    pace: Pace,
    pub(super) curve: Vec<TrainingPoint>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(job: &'a JobHandle, measured: NodeMeasurement) -> Self {
        Self { job, began: Instant::now(), measured, pace: Pace::default(), curve: Vec::new() }
    }

    /// A line of its output; `held` goes behind its progress.
    pub(super) fn take(&mut self, line: &str, held: &str) {
        let Ok(said) = serde_json::from_str::<Said>(line) else {
            // A bar that draws over itself is what it shows in the end.
            let shown = line.rsplit('\r').next().unwrap_or(line);
            if !shown.is_empty() {
                self.job.log(shown);
            }
            return;
        };
        let elapsed_s = self.began.elapsed().as_secs_f64();
        if let Some(last) = self.curve.last()
            && let steps @ 1.. = said.step.saturating_sub(last.step)
        {
            self.pace.push((elapsed_s - last.elapsed_s) / steps as f64);
        }
        let share = said.step as f64 / said.steps.max(1) as f64;
        self.job.progress(
            share.min(1.0),
            format!("step {} of {}, loss {:.3}{held}", said.step, said.steps, said.loss),
        );
        let left = usize::try_from(said.steps.saturating_sub(said.step)).unwrap_or(usize::MAX);
        self.job.remaining(self.pace.remaining_s(left, 0.0));
        let point = TrainingPoint {
            elapsed_s,
            step: said.step,
            steps: said.steps,
            loss: said.loss,
            held_out_loss: said.held_out_loss,
            learning_rate: said.learning_rate,
            gradient_norm: 0.0,
            tokens: said.tokens,
            energy_mj: self.measured.so_far().energy_mj,
            held_out_score: None,
            suite_score: None,
        };
        self.curve.push(point);
        self.job.trained(point);
    }
}
