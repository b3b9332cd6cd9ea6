use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_engine::EngineError;
use llmdeck_engine::generation::{
    FinishReason, GeneratedToken, GenerationEvent, GenerationRequest, Listener,
};
use llmdeck_proto::v1::RequestSummary;
use tokio::sync::mpsc;

use super::admission::{Admitted, Rescue};
use super::deployment::Deployment;
use super::revision::LiveRevision;
use super::trial::Observation;
use crate::quality::{AnswerText, judge};
use crate::telemetry::{AnswerQuality, Outcome};
use crate::time::unix_ms;

/// What a client is sent next.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationStep {
    /// A token.
    Token(GeneratedToken),
    /// The end, with text that was held back.
    Finished {
        /// Why.
        reason: FinishReason,
        /// The rest.
        text: String,
    },
    /// We failed; in words.
    Failed(String),
    /// It took longer than it may.
    DeadlineExceeded,
}

/// A request under way. Dropping it before its end is the client going away: the engine stops within a token.
pub struct Generation {
    deployment: Arc<Deployment>,
    admitted: Admitted,
    events: mpsc::Receiver<(Instant, GenerationEvent)>,
    /// Taken from the events, and not yet by whoever sends them on.
    peeked: Option<GenerationStep>,
    meter: Meter,
}

struct Meter {
    id: String,
    json_asked: bool,
    tokens_in: u64,
    tokens_out: u64,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    text: String,
    logprob_sum: f64,
    entropy_sum: f64,
    quality: Option<AnswerQuality>,
    ended: bool,
}

/// Why an admitted request did not begin.
pub struct NotStarted {
    /// What the engine said.
    pub error: EngineError,
    /// With what the stable revision can take it over, where the candidate failed it.
    pub rescue: Option<Rescue>,
}

impl Generation {
    /// Hands an admitted request to its revision's engine. `id` names it in the list of recent requests.
    ///
    /// # Errors
    /// When the engine refuses the prompt, or has stopped; counted as the client's error or ours.
    pub fn start(
        deployment: Arc<Deployment>,
        admitted: Admitted,
        id: String,
        request: GenerationRequest,
        json_asked: bool,
    ) -> Result<Self, Box<NotStarted>> {
        let tokens_in = request.prompt.len() as u64;
        let longest = admitted.engine.max_sequence_tokens();
        // Room for every event of the request, so that the engine never waits for a slow client.
        let (sender, events) = mpsc::channel(request.max_tokens.min(longest) + 3);
        let sink = Box::new(move |event| match sender.try_send((Instant::now(), event)) {
            Ok(()) => Listener::Present,
            Err(_) => Listener::Gone,
        });
        if admitted.place.is_some() {
            deployment.request_started();
        }
        let meter = Meter {
            id,
            json_asked,
            tokens_in,
            tokens_out: 0,
            first_token: None,
            last_token: None,
            text: String::new(),
            logprob_sum: 0.0,
            entropy_sum: 0.0,
            quality: None,
            ended: false,
        };
        let mut generation = Self { deployment, admitted, events, peeked: None, meter };
        match generation.admitted.engine.submit(request, sink) {
            Ok(()) => Ok(generation),
            Err(error) => {
                let ours = matches!(error, EngineError::Stopped | EngineError::QueueFull);
                let outcome = if ours { Outcome::ServerError } else { Outcome::ClientError };
                let rescuable = ours && generation.is_rescuable();
                generation.end(outcome, &error.to_string());
                let rescue = rescuable.then(|| generation.rescue());
                Err(Box::new(NotStarted { error, rescue }))
            }
        }
    }

    /// Whether the stable revision can take it over, should it fail next: it is a candidate's, and has said nothing yet.
    pub fn is_rescuable(&self) -> bool {
        self.admitted.on_trial().is_some() && self.meter.first_token.is_none()
    }

    /// Gives up its place for another attempt.
    pub fn rescue(&mut self) -> Rescue {
        Rescue {
            place: self.admitted.place.take(),
            arrived: self.admitted.arrived,
            deadline: self.admitted.deadline,
        }
    }

    /// The revision that answers.
    pub fn revision(&self) -> &LiveRevision {
        &self.admitted.revision
    }

    /// Tokens of the prompt.
    pub fn tokens_in(&self) -> u64 {
        self.meter.tokens_in
    }

    /// Tokens of the answer so far.
    pub fn tokens_out(&self) -> u64 {
        self.meter.tokens_out
    }

    /// What comes next, without taking it.
    pub async fn peek(&mut self) -> Option<&GenerationStep> {
        if self.peeked.is_none() {
            self.peeked = self.step().await;
        }
        self.peeked.as_ref()
    }

    /// What comes next; `None` behind the end.
    pub async fn next(&mut self) -> Option<GenerationStep> {
        match self.peeked.take() {
            Some(step) => Some(step),
            None => self.step().await,
        }
    }

    async fn step(&mut self) -> Option<GenerationStep> {
        loop {
            if self.meter.ended {
                return None;
            }
            let received = tokio::time::timeout_at(self.admitted.deadline.into(), self.events.recv()).await;
            let Ok(received) = received else {
                self.end(Outcome::Deadline, "deadline");
                return Some(GenerationStep::DeadlineExceeded);
            };
            let (at, event) = received.unwrap_or_else(|| {
                (Instant::now(), GenerationEvent::Failed(EngineError::Stopped.to_string()))
            });
            match event {
                GenerationEvent::Started => {
                    let waited = at.saturating_duration_since(self.admitted.arrived);
                    self.admitted.revision.recorder().queued(waited);
                }
                GenerationEvent::Token(token) => {
                    self.count(at, &token);
                    return Some(GenerationStep::Token(token));
                }
                GenerationEvent::Finished { reason, text } => {
                    self.meter.text.push_str(&text);
                    self.judge(reason);
                    self.end(Outcome::Ok, reason.as_str());
                    return Some(GenerationStep::Finished { reason, text });
                }
                GenerationEvent::Failed(why) => {
                    self.end(Outcome::ServerError, "error");
                    return Some(GenerationStep::Failed(why));
                }
            }
        }
    }

    fn count(&mut self, at: Instant, token: &GeneratedToken) {
        let recorder = self.admitted.revision.recorder();
        match self.meter.last_token {
            None => recorder.first_token(at.saturating_duration_since(self.admitted.arrived)),
            Some(last) => recorder.next_token(at.saturating_duration_since(last)),
        }
        self.meter.first_token.get_or_insert(at);
        self.meter.last_token = Some(at);
        self.meter.tokens_out += 1;
        self.meter.logprob_sum += f64::from(token.logprob);
        self.meter.entropy_sum += f64::from(token.entropy);
        self.meter.text.push_str(&token.text);
    }

    fn judge(&mut self, reason: FinishReason) {
        let meter = &self.meter;
        let quality = judge(AnswerText {
            text: &meter.text,
            truncated: reason == FinishReason::Length,
            json_asked: meter.json_asked,
            logprob_sum: meter.logprob_sum,
            entropy_sum: meter.entropy_sum,
            tokens: meter.tokens_out,
        });
        self.admitted.revision.recorder().judged(quality);
        self.meter.quality = Some(quality);
    }

    fn end(&mut self, outcome: Outcome, finish_reason: &str) {
        if std::mem::replace(&mut self.meter.ended, true) {
            return;
        }
        let rescued = outcome == Outcome::ServerError && self.is_rescuable();
        let (meter, admitted) = (&self.meter, &self.admitted);
        let e2e = admitted.arrived.elapsed();
        let generating = match (meter.first_token, meter.last_token) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        };
        admitted.revision.recorder().ended(outcome, e2e, generating, meter.tokens_in, meter.tokens_out);
        let ttft_us =
            meter.first_token.map(|first| micros(first.saturating_duration_since(admitted.arrived)));
        if let Some((trial, arm)) = &admitted.observed {
            trial.observe(Observation {
                arm: *arm,
                outcome,
                ttft_us,
                tpot_us: (meter.tokens_out > 1).then(|| micros(generating) / (meter.tokens_out - 1)),
                e2e_us: micros(e2e),
                tokens_out: meter.tokens_out,
                quality: meter.quality,
            });
        }
        // A copy is nobody's request.
        if admitted.place.is_none() {
            return;
        }
        self.deployment.recent.push(RequestSummary {
            time_unix_ms: unix_ms(),
            id: meter.id.clone(),
            revision: admitted.revision.number(),
            tokens_in: u32::try_from(meter.tokens_in).unwrap_or(u32::MAX),
            tokens_out: u32::try_from(meter.tokens_out).unwrap_or(u32::MAX),
            ttft_us,
            e2e_us: micros(e2e),
            finish_reason: if rescued { "taken over".into() } else { finish_reason.to_owned() },
        });
        self.deployment.request_ended(outcome == Outcome::ServerError && !rescued);
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, "cancelled");
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
