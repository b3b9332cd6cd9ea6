//! vLLM's sleep mode: a standby gives its GPU memory back and keeps its weights in the host's, so that going back to it takes
//! no load (<https://docs.vllm.ai/en/stable/features/sleep_mode/>; the server needs `--enable-sleep-mode`, and
//! `VLLM_SERVER_DEV_MODE=1` for its paths).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::client::{ClientError, ServerClient, json_of};

/// Weights of hundreds of gigabytes go through the host's memory.
const PATIENCE: Duration = Duration::from_secs(300);
const ASKED: &str = "/is_sleeping";
/// Level 1: weights go to the host's memory, the cache is dropped.
const SLEEP: &str = "/sleep?level=1";
const WAKE: &str = "/wake_up";

/// Whether a server sleeps, as far as this agent has sent it to.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    asleep: AtomicBool,
    /// Held by whoever sends it to sleep or keeps it awake.
    turn: Arc<Mutex<()>>,
}

/// As long as it is held, nobody sends the server to sleep.
#[derive(Debug)]
pub struct Awake(#[expect(dead_code, reason = "held, not read")] OwnedMutexGuard<()>);

impl Sleep {
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Sends it to sleep where it can and `unused` still says so; whether it sleeps.
    pub(super) async fn fall_asleep(
        &self,
        client: &ServerClient,
        unused: impl Fn() -> bool,
    ) -> Result<bool, ClientError> {
        let _turn = self.turn.lock().await;
        if asleep(client).await?.is_none() || !unused() {
            return Ok(false);
        }
        // Marked first: if it does not answer, it may sleep.
        self.asleep.store(true, Ordering::SeqCst);
        tell(client, SLEEP).await?;
        Ok(true)
    }

    /// Wakes it where it sleeps, whoever sent it to sleep.
    pub(super) async fn wake(&self, client: &ServerClient) -> Result<(), ClientError> {
        if asleep(client).await? == Some(true) {
            tell(client, WAKE).await?;
        }
        self.asleep.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Keeps it awake as long as what this returns is held. Asks nothing of a server that was not sent to sleep.
    pub(super) async fn keep_awake(&self, client: Option<&ServerClient>) -> Result<Awake, ClientError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if self.is_asleep() {
            self.wake(client.ok_or_else(|| ClientError::Broken("it is down".into()))?).await?;
        }
        Ok(Awake(turn))
    }
}

/// Whether it sleeps; `None` for a server that cannot.
async fn asleep(client: &ServerClient) -> Result<Option<bool>, ClientError> {
    match json_of(client.post(ASKED, bytes::Bytes::new()).await?).await {
        Ok(answer) => Ok(answer["is_sleeping"].as_bool()),
        Err(ClientError::Broken(reason)) => Err(ClientError::Broken(reason)),
        // Any other answer is that of a server without this path.
        Err(_) => Ok(None),
    }
}

async fn tell(client: &ServerClient, path: &str) -> Result<(), ClientError> {
    let told = tokio::time::timeout(PATIENCE, client.post(path, "{}".into())).await;
    let slow = || ClientError::Broken(format!("{path} took longer than {} s", PATIENCE.as_secs()));
    match told.map_err(|_| slow())?? {
        response if response.status() == StatusCode::OK => Ok(()),
        response => {
            let status = response.status().as_u16();
            Err(ClientError::Status { status, body: format!("to {path}") })
        }
    }
}
