//! What an agent would have sent, made of a server's own metrics.

use std::time::Instant;

use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::{
    Alert, CoarseLatency, Counters, Deployment, Event, Frame, Quality, Revision, ServerState,
};

use crate::interval::{Interval, began_anew};
use crate::reading::{ModelReading, Reading};
use crate::server::{ScrapeError, Server};

/// The number that what serves has where nobody counts revisions.
const ONLY_REVISION: u32 = 1;
/// From this share on a cache has no room for long.
const FULL_CACHE: f64 = 0.95;

/// A server, watched.
pub struct ServerFrames {
    server: Server,
    instance: String,
    sequence: u64,
    last: Option<(Instant, Reading)>,
    silent_since_unix_ms: Option<i64>,
    events: u64,
}

impl ServerFrames {
    /// Of a server. `instance` is new whenever the watching begins anew.
    pub fn new(server: Server, instance: String) -> Self {
        Self { server, instance, sequence: 0, last: None, silent_since_unix_ms: None, events: 0 }
    }

    /// Asks the server; the frame says what happened since it answered before. One that does not answer is a frame too,
    /// with what was known, and an alert.
    pub async fn next(&mut self, now_unix_ms: i64) -> Frame {
        self.sequence += 1;
        let node = self.server.base().trim_start_matches("http://").to_owned();
        let http_address = node.clone();
        let mut frame = Frame {
            node,
            time_unix_ms: now_unix_ms,
            sequence: self.sequence,
            merged_frames: 1,
            agent_instance: self.instance.clone(),
            http_address,
            ..Frame::default()
        };
        let read = self.server.read().await;
        let now = Instant::now();
        match read {
            Ok(reading) => {
                if let Some(since_unix_ms) = self.silent_since_unix_ms.take() {
                    let seconds = (now_unix_ms - since_unix_ms) / 1_000;
                    let text = format!("answers again, after {seconds} s");
                    frame.events.push(self.event(Severity::Information, now_unix_ms, text));
                }
                let before = self.last.take();
                let since = before.as_ref().map(|(at, _)| now.saturating_duration_since(*at));
                frame.interval_ms =
                    since.map_or(0, |since| u32::try_from(since.as_millis()).unwrap_or(u32::MAX));
                for (name, model) in &reading.models {
                    let earlier = before.as_ref().and_then(|(_, earlier)| earlier.models.get(name));
                    if earlier.is_some_and(|earlier| began_anew(earlier, model)) {
                        let text = format!("was started anew; {name} counts from 0 again");
                        frame.events.push(self.event(Severity::Warning, now_unix_ms, text));
                    }
                    // Without an earlier reading nothing is known to have happened.
                    let interval = Interval::between(earlier.unwrap_or(model), model);
                    frame.alerts.extend(alerts(name, model, &interval, now_unix_ms));
                    frame.deployments.push(deployment(&reading, name, model, &interval));
                }
                self.last = Some((now, reading));
            }
            Err(error) => {
                let (subject, text) = ("server".to_owned(), words(&error));
                if self.silent_since_unix_ms.is_none() {
                    frame.events.push(self.event(Severity::Bad, now_unix_ms, text.clone()));
                }
                let since_unix_ms = *self.silent_since_unix_ms.get_or_insert(now_unix_ms);
                if let Some((_, reading)) = &self.last {
                    for (name, model) in &reading.models {
                        let mut known = deployment(reading, name, model, &Interval::default());
                        known.unavailable.clone_from(&text);
                        frame.deployments.push(known);
                    }
                }
                frame.alerts.push(Alert { severity: Severity::Bad.into(), subject, text, since_unix_ms });
            }
        }
        frame
    }

    fn event(&mut self, severity: Severity, time_unix_ms: i64, text: String) -> Event {
        self.events += 1;
        Event {
            time_unix_ms,
            sequence: self.events,
            severity: severity.into(),
            subject: "server".into(),
            text,
            operator: String::new(),
        }
    }
}

/// Its address is beside it on every screen.
fn words(error: &ScrapeError) -> String {
    match error {
        ScrapeError::Silent { reason, .. } => format!("does not answer: {reason}"),
        other => other.to_string(),
    }
}

fn alerts(name: &str, model: &ModelReading, interval: &Interval, now_unix_ms: i64) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut warn = |text: String| {
        let severity = Severity::Warning.into();
        alerts.push(Alert { severity, subject: name.to_owned(), text, since_unix_ms: now_unix_ms });
    };
    if interval.preemptions > 0 {
        warn(format!("{} requests were put off for want of cache", interval.preemptions));
    } else if let Some(share) = model.kv_used_share.filter(|share| *share >= FULL_CACHE) {
        let waiting = model.waiting.unwrap_or(0.0);
        warn(format!("the cache is {:.0} % full, {waiting:.0} requests wait", share * 100.0));
    }
    alerts
}

fn deployment(reading: &Reading, name: &str, model: &ModelReading, interval: &Interval) -> Deployment {
    let whole = |value: Option<f64>| value.map(|value| value.round() as u32);
    let server = ServerState {
        kind: reading.kind.to_string(),
        running: whole(model.running),
        waiting: whole(model.waiting),
        kv_used_share: model.kv_used_share,
    };
    let counters = Counters {
        requests_ok: interval.ok,
        requests_server_error: interval.failed,
        requests_cancelled: interval.cancelled,
        tokens_in: interval.tokens_in,
        tokens_out: interval.tokens_out,
        prompt_tokens_begun: interval.prefix_asked,
        prompt_tokens_remembered: interval.prefix_found,
        preemptions: interval.preemptions,
        tokens_guessed: interval.guessed,
        tokens_guessed_right: interval.guessed_right,
        ..Counters::default()
    };
    let coarse = CoarseLatency {
        queue_us: interval.queue.bounds_us.clone(),
        ttft_us: interval.ttft.bounds_us.clone(),
        itl_us: interval.itl.bounds_us.clone(),
        e2e_us: interval.e2e.bounds_us.clone(),
    };
    let revision = Revision {
        number: ONLY_REVISION,
        state: State::Serving.into(),
        traffic_share: 1.0,
        model: name.to_owned(),
        weights_bytes: model.resident_bytes.unwrap_or(0.0) as u64,
        queue_us: Some(interval.queue.spread().encode()),
        ttft_us: Some(interval.ttft.spread().encode()),
        itl_us: Some(interval.itl.spread().encode()),
        e2e_us: Some(interval.e2e.spread().encode()),
        counters: Some(counters),
        in_flight: server.running.unwrap_or(0),
        batch_size: server.running.unwrap_or(0),
        quality: Some(Quality {
            responses: interval.ok,
            truncated_responses: interval.cut_off,
            ..Quality::default()
        }),
        server: Some(server),
        coarse: Some(coarse),
        ..Revision::default()
    };
    Deployment {
        name: name.to_owned(),
        stable_revision: ONLY_REVISION,
        queue_depth: whole(model.waiting).unwrap_or(0),
        revisions: vec![revision],
        ..Deployment::default()
    }
}
