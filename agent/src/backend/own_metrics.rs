//! What another server says of itself, read beside what is measured of its answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use llmdeck_proto::v1::{Counters, ServerState};
use llmdeck_scrape::{Interval, ModelReading, ScrapeError, Server};
use tokio::task::JoinHandle;

use super::client::ServerClient;

const EVERY: Duration = Duration::from_secs(1);
/// A server without metrics is asked again in case it was not ready yet.
const WITHOUT_METRICS_EVERY: Duration = Duration::from_secs(60);

/// Reads until it is dropped.
pub(super) struct OwnMetrics {
    told: Arc<Mutex<Option<Told>>>,
    task: JoinHandle<()>,
}

/// The latest, and what was counted since it was last taken.
struct Told {
    state: ServerState,
    counters: Counters,
    last: ModelReading,
}

impl OwnMetrics {
    /// Of the model that a server serves under this name.
    pub(super) fn follow(client: Arc<RwLock<Option<ServerClient>>>, model: String) -> Self {
        let told = Arc::<Mutex<Option<Told>>>::default();
        let task = tokio::spawn(read(client, model, Arc::clone(&told)));
        Self { told, task }
    }

    /// What the server says, and what it counted since this was asked before. `None` of one that says nothing.
    pub(super) fn take(&self) -> Option<(ServerState, Counters)> {
        let mut told = lock(&self.told);
        let told = told.as_mut()?;
        Some((told.state.clone(), std::mem::take(&mut told.counters)))
    }
}

impl Drop for OwnMetrics {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(client: Arc<RwLock<Option<ServerClient>>>, model: String, told: Arc<Mutex<Option<Told>>>) {
    loop {
        let base =
            client.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.base().to_owned());
        let mut pause = EVERY;
        let read = match base.as_deref().map(Server::new) {
            Some(Ok(server)) => Some(server.read().await),
            _ => None,
        };
        match read {
            Some(Ok(mut reading)) => {
                let kind = reading.kind.to_string();
                let of_model = reading.models.remove(&model).or_else(|| {
                    // The only one that a server has is the one that is asked.
                    (reading.models.len() == 1)
                        .then(|| reading.models.pop_first().map(|(_, only)| only))
                        .flatten()
                });
                let mut told = lock(&told);
                match of_model {
                    Some(now) => note(&mut told, kind, now),
                    None => *told = None,
                }
            }
            Some(Err(ScrapeError::Nothing(_))) => {
                *lock(&told) = None;
                pause = WITHOUT_METRICS_EVERY;
            }
            // It is down, which others say.
            Some(Err(_)) | None => *lock(&told) = None,
        }
        tokio::time::sleep(pause).await;
    }
}

fn note(told: &mut Option<Told>, kind: String, now: ModelReading) {
    let whole = |value: Option<f64>| value.map(|value| value.round() as u32);
    let state = ServerState {
        kind,
        running: whole(now.running),
        waiting: whole(now.waiting),
        kv_used_share: now.kv_used_share,
    };
    let mut counters = Counters::default();
    if let Some(before) = told.take() {
        let interval = Interval::between(&before.last, &now);
        counters = before.counters;
        counters.prompt_tokens_begun += interval.prefix_asked;
        counters.prompt_tokens_remembered += interval.prefix_found;
        counters.preemptions += interval.preemptions;
        counters.tokens_guessed += interval.guessed;
        counters.tokens_guessed_right += interval.guessed_right;
    }
    *told = Some(Told { state, counters, last: now });
}

fn lock(told: &Mutex<Option<Told>>) -> MutexGuard<'_, Option<Told>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
