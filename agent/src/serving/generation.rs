use std::time::Instant;

use llmdeck_engine::EngineError;
use llmdeck_engine::engine::Engine;
use llmdeck_engine::generation::{
    FinishReason, GeneratedToken, GenerationEvent, GenerationRequest, Listener,
};
use tokio::sync::mpsc;

use super::admission::Rescue;
use super::meter::{CUT, Meter};
use super::revision::LiveRevision;
use crate::telemetry::Outcome;

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
    /// It was told not to finish here; whoever sends it on decides whether it begins again or ends.
    Cut,
}

/// A request that our engine answers. Dropping it before its end is the client going away: the engine stops within a token.
pub struct Generation {
    events: mpsc::Receiver<(Instant, GenerationEvent)>,
    /// Taken from the events, and not yet by whoever sends them on.
    peeked: Option<GenerationStep>,
    meter: Meter,
}

/// Why an admitted request did not begin.
pub struct NotStarted {
    /// What the engine said.
    pub error: EngineError,
    /// With what the stable revision can take it over, where the candidate failed it.
    pub rescue: Option<Rescue>,
}

impl Generation {
    /// Hands an admitted request to an engine. `id` names it in the list of recent requests.
    ///
    /// # Errors
    /// When the engine refuses the prompt, or has stopped; counted as the client's error or ours.
    pub fn start(
        engine: &Engine,
        mut meter: Meter,
        request: GenerationRequest,
    ) -> Result<Self, Box<NotStarted>> {
        meter.prompt_of(request.prompt.len() as u64);
        // Room for every event of the request, so that the engine never waits for a slow client.
        let (sender, events) = mpsc::channel(request.max_tokens.min(engine.max_sequence_tokens()) + 3);
        let sink = Box::new(move |event| match sender.try_send((Instant::now(), event)) {
            Ok(()) => Listener::Present,
            Err(_) => Listener::Gone,
        });
        match engine.submit(request, sink) {
            Ok(()) => Ok(Self { events, peeked: None, meter }),
            Err(error) => {
                let ours = matches!(error, EngineError::Stopped | EngineError::QueueFull);
                let outcome = if ours { Outcome::ServerError } else { Outcome::ClientError };
                let rescuable = ours && meter.is_rescuable();
                meter.end(outcome, &error.to_string());
                let rescue = rescuable.then(|| meter.rescue());
                Err(Box::new(NotStarted { error, rescue }))
            }
        }
    }

    /// Whether the stable revision can take it over, should it fail next.
    pub fn is_rescuable(&self) -> bool {
        self.meter.is_rescuable()
    }

    /// Gives up its place for another attempt.
    pub fn rescue(&mut self) -> Rescue {
        self.meter.rescue()
    }

    /// Nothing of it has been sent: it can begin again elsewhere.
    pub fn begin_again(&mut self) -> Rescue {
        self.meter.begin_again()
    }

    /// A part of it has been sent: it ends here.
    pub fn end_cut(&mut self) {
        self.meter.end(Outcome::ServerError, CUT);
    }

    /// The revision that answers.
    pub fn revision(&self) -> &LiveRevision {
        &self.meter.admitted().revision
    }

    /// Tokens of the prompt.
    pub fn tokens_in(&self) -> u64 {
        self.meter.tokens_in()
    }

    /// Tokens of the answer so far.
    pub fn tokens_out(&self) -> u64 {
        self.meter.tokens_out()
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
            if self.meter.has_ended() {
                return None;
            }
            let (deadline, cut) = (self.meter.admitted().deadline, self.meter.cut());
            let received = tokio::select! {
                biased;
                () = cut.cancelled() => return Some(GenerationStep::Cut),
                received = tokio::time::timeout_at(deadline.into(), self.events.recv()) => received,
            };
            let Ok(received) = received else {
                self.meter.end(Outcome::Deadline, "deadline");
                return Some(GenerationStep::DeadlineExceeded);
            };
            let (at, event) = received.unwrap_or_else(|| {
                (Instant::now(), GenerationEvent::Failed(EngineError::Stopped.to_string()))
            });
            match event {
                GenerationEvent::Started => self.meter.started(at),
                GenerationEvent::Token(token) => {
                    self.meter.token(at, &token.text);
                    self.meter.sure(token.logprob, token.entropy);
                    return Some(GenerationStep::Token(token));
                }
                GenerationEvent::Finished { reason, text } => {
                    self.meter.finished(&text, reason.as_str());
                    return Some(GenerationStep::Finished { reason, text });
                }
                GenerationEvent::Failed(why) => {
                    self.meter.end(Outcome::ServerError, "error");
                    return Some(GenerationStep::Failed(why));
                }
            }
        }
    }
}
