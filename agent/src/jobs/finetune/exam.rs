//! What an adapter is asked while it is trained: the same prompts as before and after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_engine::adapter::Adapter;

use super::super::handle::JobHandle;
use super::compare::{Scores, score};
use crate::backend::Backend;
use crate::placement::Variant;
use crate::quality::Suite;

/// Share of the time of steps that asking may take.
const MOST_TIME: f64 = 0.15;

/// The prompts, and the time that they take.
pub(super) struct Exam {
    variant: Variant,
    task: Suite,
    suite: Option<Suite>,
    /// What it took the last time.
    took: Duration,
    spent: Duration,
}

/// How an adapter did; nothing where it was not asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ExamScores {
    pub(super) held_out: Option<f64>,
    pub(super) suite: Option<f64>,
}

impl ExamScores {
    fn of(scores: &Scores) -> Self {
        let mean =
            |shares: &[f64]| (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64);
        let suite: Vec<f64> = scores.suite.iter().map(|(_, share)| *share).collect();
        Self { held_out: mean(&scores.task), suite: mean(&suite) }
    }

    /// `None` where nothing was asked.
    pub(super) fn words(&self) -> Option<String> {
        let part = |name: &str, score: Option<f64>| score.map(|score| format!("{name} {score:.2}"));
        let parts = [part("held-out examples", self.held_out), part("suite", self.suite)];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

impl Exam {
    /// `took` is how long the model without an adapter was asked.
    pub(super) fn new(variant: &Variant, task: Suite, suite: Option<Suite>, took: Duration) -> Self {
        Self { variant: variant.clone(), task, suite, took, spent: Duration::ZERO }
    }

    /// Time that asking has taken.
    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    /// Whether asking once more leaves it within its share of the time that steps took.
    pub(super) fn has_time(&self, trained: Duration) -> bool {
        (self.spent + self.took).as_secs_f64() <= MOST_TIME * trained.as_secs_f64()
    }

    /// Asks everything.
    ///
    /// # Errors
    /// When the job was cancelled, or a prompt could not be asked.
    pub(super) async fn take(
        &mut self,
        job: &JobHandle,
        when: &str,
        adapter: Arc<Adapter>,
    ) -> Result<ExamScores, String> {
        let began = Instant::now();
        let backend = Backend::Engine(self.variant.with_adapter(adapter));
        let scores = score(job, when, &backend, &self.task, self.suite.as_ref()).await?;
        self.took = began.elapsed();
        self.spent += self.took;
        Ok(ExamScores::of(&scores))
    }
}
