use std::sync::Arc;
use std::time::{Duration, Instant};

use llmdeck_proto::v1::RequestSummary;
use rand::Rng;
use tokio_util::sync::CancellationToken;

use super::admission::{Admitted, Rescue};
use super::deployment::Deployment;
use super::trial::Observation;
use crate::quality::{AnswerText, judge};
use crate::security::keys::Charge;
use crate::telemetry::{AnswerQuality, Outcome};
use crate::time::unix_ms;

/// Why a request ended that was told not to finish on its revision.
pub const CUT: &str = "cut off by a rollback";

/// Measures a request from its admission to its end, whatever answers it. Dropped before its end, it counts as given up
/// by the client.
pub struct Meter {
    deployment: Arc<Deployment>,
    admitted: Admitted,
    charge: Option<Arc<Charge>>,
    id: String,
    json_asked: bool,
    tokens_in: u64,
    tokens_out: u64,
    /// Of those: counted when they came.
    tokens_told: u64,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    itl: DrawnItl,
    text: String,
    logprob_sum: f64,
    entropy_sum: f64,
    quality: Option<AnswerQuality>,
    ended: bool,
}

impl Meter {
    /// Of a request that was admitted; its tokens are spent from `charge`. `id` names it in the list of recent requests.
    pub fn new(
        deployment: Arc<Deployment>,
        admitted: Admitted,
        charge: Option<Arc<Charge>>,
        id: String,
        json_asked: bool,
    ) -> Self {
        if admitted.place.is_some() {
            deployment.request_started();
        }
        Self {
            deployment,
            admitted,
            charge,
            id,
            json_asked,
            tokens_in: 0,
            tokens_out: 0,
            tokens_told: 0,
            first_token: None,
            last_token: None,
            itl: DrawnItl::default(),
            text: String::new(),
            logprob_sum: 0.0,
            entropy_sum: 0.0,
            quality: None,
            ended: false,
        }
    }

    /// What was admitted.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Tokens of the prompt.
    pub fn tokens_in(&self) -> u64 {
        self.tokens_in
    }

    /// Tokens of the answer so far.
    pub fn tokens_out(&self) -> u64 {
        self.tokens_out
    }

    /// Whether something of the answer has come.
    pub fn has_begun(&self) -> bool {
        self.first_token.is_some()
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Notes how long the prompt is.
    pub fn prompt_of(&mut self, tokens: u64) {
        self.tokens_in = tokens;
    }

    /// Its computation began.
    pub fn started(&self, at: Instant) {
        let waited = at.saturating_duration_since(self.admitted.arrived);
        self.admitted.revision.recorder().queued(waited);
    }

    /// A token came, or a part of a stream that stands for one.
    pub fn token(&mut self, at: Instant, text: &str) {
        let recorder = self.admitted.revision.recorder();
        match self.last_token {
            None => recorder.first_token(at.saturating_duration_since(self.admitted.arrived)),
            Some(last) => {
                let itl = at.saturating_duration_since(last);
                recorder.next_token(itl);
                if self.admitted.observed.is_some() {
                    self.itl.see(itl);
                }
            }
        }
        self.first_token.get_or_insert(at);
        self.last_token = Some(at);
        self.tokens_out += 1;
        self.tokens_told += 1;
        self.text.push_str(text);
    }

    /// How sure the model was of the last token.
    pub fn sure(&mut self, logprob: f32, entropy: f32) {
        self.logprob_sum += f64::from(logprob);
        self.entropy_sum += f64::from(entropy);
    }

    /// The server's own count of the answer's tokens, where parts of its stream stand for several.
    pub fn answer_of(&mut self, tokens: u64) {
        self.tokens_out = tokens;
    }

    /// The answer is whole.
    pub fn finished(&mut self, rest: &str, reason: &str) {
        self.text.push_str(rest);
        let quality = judge(AnswerText {
            text: &self.text,
            truncated: reason == "length",
            json_asked: self.json_asked,
            logprob_sum: self.logprob_sum,
            entropy_sum: self.entropy_sum,
            tokens: self.tokens_out,
        });
        self.admitted.revision.recorder().judged(quality);
        self.quality = Some(quality);
        self.end(Outcome::Ok, reason);
    }

    /// Whether the stable revision can take it over, should it fail next: it is a candidate's or was cut, and has said nothing
    /// yet.
    pub fn is_rescuable(&self) -> bool {
        let may_be = self.admitted.on_trial().is_some() || self.is_cut();
        may_be && self.first_token.is_none() && self.admitted.place.is_some()
    }

    /// Whether it was told not to finish here.
    pub fn is_cut(&self) -> bool {
        self.admitted.revision.cut().is_cancelled()
    }

    /// When it is told not to finish here.
    pub fn cut(&self) -> Arc<CancellationToken> {
        Arc::clone(self.admitted.revision.cut())
    }

    /// Nothing of the answer has been sent, whatever was computed: it can begin again elsewhere.
    pub fn begin_again(&mut self) -> Rescue {
        self.first_token = None;
        self.end(Outcome::ServerError, CUT);
        self.rescue()
    }

    /// Gives up its place for another attempt.
    pub fn rescue(&mut self) -> Rescue {
        Rescue {
            place: self.admitted.place.take(),
            arrived: self.admitted.arrived,
            deadline: self.admitted.deadline,
        }
    }

    /// It is over.
    pub fn end(&mut self, outcome: Outcome, finish_reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let rescued = outcome == Outcome::ServerError && self.is_rescuable();
        let admitted = &self.admitted;
        let e2e = admitted.arrived.elapsed();
        let generating = match (self.first_token, self.last_token) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        };
        let (tokens_in, tokens_out) = (self.tokens_in, self.tokens_out);
        admitted.revision.recorder().ended(outcome, e2e, generating, tokens_in, tokens_out, self.tokens_told);
        let ttft_us = self.first_token.map(|first| micros(first.saturating_duration_since(admitted.arrived)));
        if let Some((trial, arm)) = &admitted.observed {
            trial.observe(Observation {
                arm: *arm,
                outcome,
                ttft_us,
                itl_us: self.itl.drawn.map(micros),
                tpot_us: (self.tokens_out > 1).then(|| micros(generating) / (self.tokens_out - 1)),
                e2e_us: micros(e2e),
                tokens_out: self.tokens_out,
                quality: self.quality,
            });
        }
        // A copy is nobody's request.
        if admitted.place.is_none() {
            return;
        }
        // What another revision takes over is paid for there.
        if let Some(charge) = self.charge.take_if(|_| !rescued) {
            charge.spend(self.tokens_in + self.tokens_out);
        }
        self.deployment.recent.push(RequestSummary {
            time_unix_ms: unix_ms(),
            id: self.id.clone(),
            revision: admitted.revision.number(),
            tokens_in: u32::try_from(self.tokens_in).unwrap_or(u32::MAX),
            tokens_out: u32::try_from(self.tokens_out).unwrap_or(u32::MAX),
            ttft_us,
            e2e_us: micros(e2e),
            finish_reason: if rescued { "taken over".into() } else { finish_reason.to_owned() },
        });
        self.deployment.request_ended(outcome == Outcome::ServerError && !rescued);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled, "cancelled");
    }
}

/// One of the times between tokens, drawn while they come: the k-th takes the place of the one before with a chance of one in
/// k (reservoir sampling, Vitter 1985), so that in the end each is as likely as another.
#[derive(Default)]
struct DrawnItl {
    seen: u64,
    drawn: Option<Duration>,
}

impl DrawnItl {
    fn see(&mut self, itl: Duration) {
        self.seen += 1;
        if rand::rng().random_range(0..self.seen) == 0 {
            self.drawn = Some(itl);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::DrawnItl;

    #[test]
    fn every_time_between_tokens_is_as_likely_to_be_drawn() {
        let mut drawn = [0u32; 5];
        for _ in 0..10_000 {
            let mut itl = DrawnItl::default();
            (0..5).for_each(|gap| itl.see(Duration::from_secs(gap)));
            drawn[itl.drawn.unwrap().as_secs() as usize] += 1;
        }
        // Ten standard deviations of a count around 2,000.
        assert!(drawn.iter().all(|count| count.abs_diff(2_000) < 400), "{drawn:?}");
        assert_eq!(DrawnItl::default().drawn, None);
    }
}
