use std::sync::Arc;
use std::time::Duration;

use llmdeck_load::bench::{
    Api, Arrivals, Length, LoadShape, Measured, Objectives, Outcome, Plan, Progress, Prompts, calibrate, run,
};
use llmdeck_proto::v1::BenchPoint;
use serde_json::json;
use tokio::sync::watch;

use super::cost_meter::CostMeter;
use super::handle::JobHandle;
use super::list::{JobEnd, Jobs, TooManyJobs};
use crate::telemetry::Subscribers;
use crate::time::unix_ms;

const WARM_UP: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
const MOST_IN_FLIGHT: usize = 10_000;
const POINT_EVERY: Duration = Duration::from_secs(1);

/// A bench of a deployment, checked.
#[derive(Clone, PartialEq)]
pub struct BenchPlan {
    /// Such as `http://127.0.0.1:8080`.
    pub server: String,
    /// What it wants to be asked with.
    pub key: Option<String>,
    /// Which deployment.
    pub deployment: String,
    /// Open or closed loop.
    pub shape: LoadShape,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Measured time.
    pub duration: Duration,
    /// Of times and prompts.
    pub seed: u64,
}

impl BenchPlan {
    fn plan(&self) -> Plan {
        Plan {
            server: self.server.clone(),
            api: Api::Completions,
            model: self.deployment.clone(),
            key: self.key.clone(),
            shape: self.shape.clone(),
            prompts: Prompts::Synthetic {
                length: Length::Fixed(self.prompt_tokens),
                shared_prefix: None,
                turns: 1,
            },
            answer: Length::Fixed(self.output_tokens),
            ignore_end: true,
            warm_up: WARM_UP,
            duration: Some(self.duration),
            requests: None,
            patience: PATIENCE,
            max_in_flight: MOST_IN_FLIGHT,
            seed: self.seed,
            objectives: Objectives::default(),
            words_per_token: 1.0,
        }
    }

    fn describe(&self) -> serde_json::Value {
        let shape = match &self.shape {
            LoadShape::Open { rate_per_s, .. } => json!({ "rate_per_s": rate_per_s, "arrivals": "poisson" }),
            LoadShape::Closed { concurrency } => json!({ "concurrency": concurrency }),
        };
        json!({
            "server": self.server, "model": self.deployment, "api": "completions", "shape": shape,
            "prompts": { "tokens": self.prompt_tokens }, "output_tokens": self.output_tokens, "ignore_end": true,
            "warm_up_s": WARM_UP.as_secs_f64(), "duration_s": self.duration.as_secs_f64(), "seed": self.seed,
        })
    }

    /// A shape from what a request says: a rate, or users.
    pub fn shape(rate_per_s: f64, concurrency: usize) -> LoadShape {
        if rate_per_s > 0.0 {
            LoadShape::Open { arrivals: Arrivals::Poisson, rate_per_s }
        } else {
            LoadShape::Closed { concurrency }
        }
    }
}

impl Jobs {
    /// Asks a deployment over HTTP as its users do, and measures the answers. Returns the job's id.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn bench(
        &self,
        subject: String,
        plan: BenchPlan,
        frames: Arc<Subscribers>,
    ) -> Result<String, TooManyJobs> {
        self.start("bench", subject, async move |job| bench(job, &plan, &frames).await)
    }
}

async fn bench(job: JobHandle, asked: &BenchPlan, frames: &Subscribers) -> Result<JobEnd, String> {
    let mut plan = asked.plan();
    job.progress(0.0, "learning how long a token is");
    plan.words_per_token = calibrate(&plan).await.map_err(|error| error.to_string())?;
    let started_unix_ms = unix_ms();
    let (sender, receiver) = watch::channel(Progress::default());
    let mut cost = CostMeter::new(frames, &asked.deployment);
    let measuring = run(&plan, sender, job.cancel.clone());
    let watching = watch_progress(&job, asked.duration, receiver, &mut cost);
    let (measured, ()) = tokio::join!(measuring, watching);
    // The process computes the answers as well: what asking takes of it is not known.
    let measured = Measured { cpu_cores: None, ..measured.map_err(|error| error.to_string())? };
    let open_loop = matches!(plan.shape, LoadShape::Open { .. });
    let mut outcome = Outcome::new(asked.describe(), started_unix_ms, vec![measured], open_loop);
    outcome.cost = cost.take().await;
    if let Some(why) = outcome.all_failed() {
        return Err(why);
    }
    let detail = format!(
        "{:.0} tokens/s, {:.1} answers/s, {} failed",
        outcome.output_tokens_per_s.value, outcome.achieved_per_s.value, outcome.failed
    );
    let report_json = serde_json::to_string(&outcome).map_err(|error| error.to_string())?;
    Ok(JobEnd { detail, report_json })
}

async fn watch_progress(
    job: &JobHandle,
    duration: Duration,
    mut progress: watch::Receiver<Progress>,
    cost: &mut CostMeter,
) {
    let mut every = tokio::time::interval(POINT_EVERY);
    let mut before = Progress::default();
    while progress.has_changed().is_ok() {
        every.tick().await;
        let now = *progress.borrow_and_update();
        if now.elapsed.is_zero() {
            job.progress(0.0, format!("warming up, {} under way", now.in_flight));
            continue;
        }
        cost.begin();
        // The rest behind the last whole second would look like a peak.
        if now.elapsed < before.elapsed + POINT_EVERY / 2 {
            continue;
        }
        job.point(BenchPoint {
            elapsed_s: now.elapsed.as_secs_f64(),
            in_flight: now.in_flight,
            ok: now.ok - before.ok,
            failed: now.failed - before.failed,
            completion_tokens: now.completion_tokens - before.completion_tokens,
        });
        let share = now.elapsed.as_secs_f64() / duration.as_secs_f64();
        let detail = format!("{} answered, {} failed, {} under way", now.ok, now.failed, now.in_flight);
        job.progress(share.min(1.0), detail);
        before = now;
    }
}
