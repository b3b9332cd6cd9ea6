use std::sync::Arc;

use super::list::{JobEnd, Jobs, TooManyJobs};
use crate::backend::Backend;
use crate::quality::{Suite, run_suite};
use crate::serving::LiveRevision;

impl Jobs {
    /// Scores a revision with its suite; the score becomes its latest. Returns the job's id.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn evaluate(
        &self,
        subject: String,
        live: Arc<LiveRevision>,
        backend: Backend,
        suite: Arc<Suite>,
    ) -> Result<String, TooManyJobs> {
        self.start("evaluate", subject, async move |job| {
            let total = suite.prompts.len();
            job.progress(0.0, format!("0 of {total} prompts"));
            let scoring = run_suite(&backend, &suite, |done| {
                job.progress(done as f64 / total as f64, format!("{done} of {total} prompts"));
            });
            let run = job.cancel.run_until_cancelled(scoring).await.ok_or("was cancelled")?;
            let run = run.map_err(|error| error.to_string())?;
            live.set_golden(run);
            let score = run.score;
            let detail = format!("score {:.2} ({:.2} to {:.2})", score.score, score.low, score.high);
            Ok(JobEnd { detail, report_json: String::new() })
        })
    }
}
