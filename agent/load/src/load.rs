use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{ChatClient, ChatError};
use crate::report::Report;

/// What is asked, and what would be the right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// What the user says.
    pub text: String,
    /// The right answer to the letter, where there is one.
    pub expected: Option<String>,
}

/// A load to be run.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Such as `http://127.0.0.1:8080`.
    pub server: String,
    /// OpenAI's `model`.
    pub model: String,
    /// Mean arrivals a second.
    pub rate_per_s: f64,
    /// Requests under way at once; one that is due beyond it counts as failed.
    pub max_in_flight: usize,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// A request that takes longer has failed.
    pub patience: Duration,
    /// Drawn at random.
    pub prompts: Vec<Prompt>,
    /// Of arrivals and choices.
    pub seed: u64,
}

/// A load that runs until it is stopped.
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: CancellationToken,
    arrivals: JoinHandle<Option<()>>,
    requests: TaskTracker,
}

impl Load {
    /// Begins.
    ///
    /// # Errors
    /// When the server's address is no URL.
    pub fn start(plan: LoadPlan) -> Result<Self, ChatError> {
        let client = ChatClient::new(&plan.server, &plan.model, plan.max_tokens, plan.patience)?;
        let (report, stop, requests) = (Arc::default(), CancellationToken::new(), TaskTracker::new());
        let arrivals = Arrivals { client, report: Arc::clone(&report), requests: requests.clone(), plan };
        let arrivals = tokio::spawn(stop.clone().run_until_cancelled_owned(arrivals.run()));
        Ok(Self { report, stop, arrivals, requests })
    }

    /// What has been measured so far.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends nothing more, and waits for what runs.
    pub async fn stop(self) -> Report {
        self.stop.cancel();
        let _ = self.arrivals.await;
        self.requests.close();
        self.requests.wait().await;
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Arrivals {
    client: ChatClient,
    report: Arc<Mutex<Report>>,
    requests: TaskTracker,
    plan: LoadPlan,
}

impl Arrivals {
    async fn run(self) {
        let mut rng = StdRng::seed_from_u64(self.plan.seed);
        let places = Arc::new(Semaphore::new(self.plan.max_in_flight));
        let prompts: Arc<[Prompt]> = self.plan.prompts.into();
        let mut due = Instant::now();
        loop {
            due += gap(&mut rng, self.plan.rate_per_s);
            tokio::time::sleep_until(due).await;
            let Some(prompt) = prompts.choose(&mut rng).cloned() else { return };
            let lock = |report: &Mutex<Report>, change: &dyn Fn(&mut Report)| {
                change(&mut report.lock().unwrap_or_else(PoisonError::into_inner));
            };
            lock(&self.report, &|report| report.due += 1);
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                lock(&self.report, &Report::not_sent);
                continue;
            };
            let (client, report) = (self.client.clone(), Arc::clone(&self.report));
            self.requests.spawn(async move {
                match client.ask(&prompt.text).await {
                    Ok(outcome) => lock(&report, &|report| report.answered(due, &prompt, &outcome)),
                    Err(error) => lock(&report, &|report| report.failed(&error)),
                }
                drop(place);
            });
        }
    }
}

/// Exponential, so that arrivals are a Poisson process.
fn gap(rng: &mut StdRng, rate_per_s: f64) -> Duration {
    let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
    Duration::from_secs_f64((-uniform.ln() / rate_per_s).min(60.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn gaps_have_the_rate_as_their_mean() {
        let mut rng = StdRng::seed_from_u64(1);
        let total: f64 = (0..20_000).map(|_| super::gap(&mut rng, 50.0).as_secs_f64()).sum();
        assert!((total / 20_000.0 - 0.02).abs() < 0.001, "{total}");
    }
}
