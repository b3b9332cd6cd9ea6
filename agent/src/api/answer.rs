//! How a generation becomes a response, for chat and completions alike: streamed or whole.

use std::convert::Infallible;

use axum::Json;
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use llmdeck_engine::generation::{FinishReason, GeneratedToken};
use serde_json::{Value, json};

use super::error::ApiError;
use crate::serving::{CUT, Generation, GenerationStep, Rescue};

/// How an endpoint words its answers.
pub(super) trait Wording: Clone + Send + Sync + 'static {
    /// `object` of a whole answer.
    const OBJECT: &'static str;
    /// `object` of a streamed part.
    const CHUNK_OBJECT: &'static str;
    /// Before the id's random part.
    const ID_PREFIX: &'static str;
    /// The field that holds the prompt, for errors.
    const PROMPT_FIELD: &'static str;

    /// The one choice of a whole answer.
    fn whole(&mut self, text: &str, tokens: &[GeneratedToken], reason: FinishReason) -> Value;
    /// The choice of the part that opens a stream, where there is one.
    fn opening(&mut self) -> Option<Value>;
    /// The choice of a streamed token.
    fn token(&mut self, token: &GeneratedToken) -> Value;
    /// The choice that ends a stream.
    fn ending(&mut self, text: &str, reason: FinishReason) -> Value;
}

/// What every answer and every part of it says.
pub(super) struct Envelope {
    pub(super) id: String,
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) fingerprint: String,
}

impl Envelope {
    fn wrap(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        })
    }
}

/// How an answer is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Whole,
    Streamed { include_usage: bool },
}

/// A generation as a response.
///
/// # Errors
/// With what the client is told; or, where it was cut off before anything was sent, with what it can begin again with.
pub(super) async fn respond<W: Wording>(
    mut generation: Generation,
    envelope: Envelope,
    wording: W,
    headers: HeaderMap,
    delivery: Delivery,
) -> Result<Response, Unanswered> {
    match delivery {
        Delivery::Streamed { include_usage } => {
            // The status line waits for the first token, so that what fails before it is told by its status.
            match generation.peek().await {
                Some(GenerationStep::Cut) => return Err(Unanswered::Cut(generation.begin_again())),
                Some(GenerationStep::Failed(why)) => return Err(ApiError::failed(why).into()),
                Some(GenerationStep::DeadlineExceeded) => return Err(ApiError::deadline().into()),
                _ => {}
            }
            let parts = Parts { generation, envelope, wording, include_usage, next: Next::Opening };
            Ok((headers, Sse::new(stream::unfold(parts, Parts::next))).into_response())
        }
        Delivery::Whole => {
            let body = whole(generation, &envelope, wording).await?;
            Ok((headers, Json(body)).into_response())
        }
    }
}

async fn whole<W: Wording>(
    mut generation: Generation,
    envelope: &Envelope,
    mut wording: W,
) -> Result<Value, Unanswered> {
    let (mut answer, mut tokens) = (String::new(), Vec::new());
    while let Some(step) = generation.next().await {
        match step {
            GenerationStep::Token(token) => {
                answer.push_str(&token.text);
                tokens.push(token);
            }
            GenerationStep::Finished { reason, text } => {
                answer.push_str(&text);
                let choice = wording.whole(&answer, &tokens, reason);
                let mut body = envelope.wrap(W::OBJECT, json!([choice]));
                body["usage"] = usage(&generation);
                return Ok(body);
            }
            GenerationStep::Failed(why) => return Err(ApiError::failed(&why).into()),
            GenerationStep::DeadlineExceeded => return Err(ApiError::deadline().into()),
            GenerationStep::Cut => return Err(Unanswered::Cut(generation.begin_again())),
        }
    }
    Err(ApiError::failed("the answer ended without a reason").into())
}

/// Why there is no response.
pub(super) enum Unanswered {
    Error(ApiError),
    Cut(Rescue),
}

impl From<ApiError> for Unanswered {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

fn usage(generation: &Generation) -> Value {
    let (input, output) = (generation.tokens_in(), generation.tokens_out());
    json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output })
}

/// A stream of server-sent events; dropping it ends the generation.
struct Parts<W> {
    generation: Generation,
    envelope: Envelope,
    wording: W,
    include_usage: bool,
    next: Next,
}

enum Next {
    Opening,
    Tokens,
    Usage,
    Done,
    Nothing,
}

impl<W: Wording> Parts<W> {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            let data = match self.next {
                Next::Opening => {
                    self.next = Next::Tokens;
                    match self.wording.opening() {
                        Some(choice) => self.chunk(json!([choice])),
                        None => continue,
                    }
                }
                Next::Tokens => self.step().await?,
                Next::Usage => {
                    self.next = Next::Done;
                    let mut body = self.envelope.wrap(W::CHUNK_OBJECT, json!([]));
                    body["usage"] = usage(&self.generation);
                    body.to_string()
                }
                Next::Done => {
                    self.next = Next::Nothing;
                    "[DONE]".to_owned()
                }
                Next::Nothing => return None,
            };
            return Some((Ok(Event::default().data(data)), self));
        }
    }

    async fn step(&mut self) -> Option<String> {
        Some(match self.generation.next().await? {
            GenerationStep::Token(token) => {
                let choice = self.wording.token(&token);
                self.chunk(json!([choice]))
            }
            GenerationStep::Finished { reason, text } => {
                self.next = if self.include_usage { Next::Usage } else { Next::Done };
                let choice = self.wording.ending(&text, reason);
                self.chunk(json!([choice]))
            }
            GenerationStep::Failed(why) => self.failed(&ApiError::failed(&why)),
            GenerationStep::DeadlineExceeded => self.failed(&ApiError::deadline()),
            GenerationStep::Cut => {
                self.generation.end_cut();
                self.failed(&ApiError::failed(CUT))
            }
        })
    }

    /// The status line is long gone; the error is the stream's last event.
    fn failed(&mut self, error: &ApiError) -> String {
        self.next = Next::Nothing;
        error.body().to_string()
    }

    fn chunk(&self, choices: Value) -> String {
        let mut body = self.envelope.wrap(W::CHUNK_OBJECT, choices);
        if self.include_usage {
            body["usage"] = Value::Null;
        }
        body.to_string()
    }
}
