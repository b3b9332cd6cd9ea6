use std::time::Duration;

use super::dial::Channel;
use llmdeck_proto::MAX_MESSAGE_BYTES;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Frame, HistoryRequest, WatchRequest};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::codec::CompressionEncoding;

use super::error::LinkError;

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// How much of the past is asked for when a link comes up: what fits a screen, and soon comes over a slow link.
const HISTORY_FRAMES: u32 = 120;
const HISTORY_MS: i64 = 120_000;

/// What a link tells.
#[derive(Debug)]
pub enum LinkEvent {
    /// Frames of the past, oldest first; comes once a connection, at any time.
    History(Vec<Frame>),
    /// A frame.
    Frame(Box<Frame>),
    /// The agent does not answer.
    Lost {
        /// In words.
        reason: String,
        /// When it is tried again.
        retry_at: Instant,
    },
}

/// Watches an agent for as long as someone listens, and comes back by itself. `now_unix_ms` is asked for the wall clock.
pub async fn watch(channel: Channel, now_unix_ms: fn() -> i64, events: mpsc::Sender<LinkEvent>) {
    let mut client = TelemetryClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let mut backoff = FIRST_BACKOFF;
    loop {
        let outcome = follow(&mut client, now_unix_ms, &events, &mut backoff).await;
        let Err(error) = outcome else { return };
        let pause = backoff.mul_f64(rand::rng().random_range(0.8..1.2));
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
        let lost = LinkEvent::Lost { reason: error.to_string(), retry_at: Instant::now() + pause };
        if events.send(lost).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Ok when nobody listens any more.
async fn follow(
    client: &mut TelemetryClient<Channel>,
    now_unix_ms: fn() -> i64,
    events: &mpsc::Sender<LinkEvent>,
    backoff: &mut Duration,
) -> Result<(), LinkError> {
    let from_unix_ms = now_unix_ms() - HISTORY_MS;
    let range = HistoryRequest { from_unix_ms, to_unix_ms: 0, max_frames: HISTORY_FRAMES };
    let mut frames = client.watch(WatchRequest { interval_ms: 0 }).await?.into_inner();
    // The present does not wait for the past, which is much larger.
    let mut past = std::pin::pin!(client.history(range));
    let mut asked = true;
    loop {
        let event = tokio::select! {
            biased;
            frame = frames.message() => match frame? {
                Some(frame) => LinkEvent::Frame(Box::new(frame)),
                None => return Err(LinkError::Unreachable("the agent has stopped".into())),
            },
            past = &mut past, if asked => {
                asked = false;
                // Without it the charts begin now; the link itself is well.
                LinkEvent::History(past.map(|past| past.into_inner().frames).unwrap_or_default())
            }
        };
        *backoff = FIRST_BACKOFF;
        // Waiting here is what makes the agent merge frames for a slow screen.
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
}
