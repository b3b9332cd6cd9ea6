//! From an admitted request to a response, for chat and completions alike: streamed or whole.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use llmdeck_engine::constraint::Constraint;
use llmdeck_engine::generation::{FinishReason, GeneratedToken, GenerationRequest};
use llmdeck_engine::scheduler::Priority;
use serde_json::{Value, json};

use super::answer_format::AskedFormat;
use super::error::ApiError;
use super::parameters::Checked;
use crate::serving::{Admitted, Deployment, Generation, GenerationStep};
use crate::time::unix_ms;

const REVISION_HEADER: HeaderName = HeaderName::from_static("x-llmdeck-revision");
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// How an endpoint words its answers.
pub(super) trait Wording: Send + 'static {
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

/// What is to be answered.
pub(super) struct Asked {
    pub(super) deployment: Arc<Deployment>,
    pub(super) admitted: Admitted,
    pub(super) prompt: Vec<u32>,
    pub(super) checked: Checked,
    pub(super) stream: bool,
}

/// What every answer and every part of it says.
struct Envelope {
    id: String,
    created: i64,
    model: String,
    fingerprint: String,
}

impl Envelope {
    fn wrap(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        })
    }
}

/// Runs the request.
pub(super) async fn answer<W: Wording>(asked: Asked, wording: W) -> Result<Response, ApiError> {
    let Asked { deployment, admitted, prompt, checked, stream } = asked;
    let json_asked = checked.format.as_ref().is_some_and(AskedFormat::is_json);
    let constraint = match checked.format {
        Some(asked) => Some(constraint(&admitted, asked).await?),
        None => None,
    };
    let spec = admitted.revision.spec();
    let revision = format!("{}@{}", deployment.name(), spec.number);
    let envelope = Envelope {
        id: format!("{}{:016x}", W::ID_PREFIX, rand::random::<u64>()),
        created: unix_ms() / 1_000,
        model: deployment.name().to_owned(),
        fingerprint: format!("{revision}-{}", spec.digest.get(..12).unwrap_or(&spec.digest)),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [(REVISION_HEADER, &revision), (REQUEST_ID_HEADER, &envelope.id)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    let request = GenerationRequest {
        prompt,
        max_tokens: checked.max_tokens.unwrap_or(deployment.limits().default_max_tokens),
        sampling: checked.sampling,
        stops: checked.stops,
        priority: Priority::Interactive,
        fairness_key: checked.fairness_key,
        constraint,
        ignore_end: checked.ignore_end,
    };
    let generation = Generation::start(deployment, admitted, envelope.id.clone(), request, json_asked)
        .map_err(|error| ApiError::of_engine(&error, W::PROMPT_FIELD))?;
    if stream {
        let parts = Parts {
            generation,
            envelope,
            wording,
            include_usage: checked.include_usage,
            next: Next::Opening,
        };
        return Ok((headers, Sse::new(stream::unfold(parts, Parts::next))).into_response());
    }
    Ok((headers, Json(whole(generation, &envelope, wording).await?)).into_response())
}

/// Large schemas take a while, and the first of a model longest: not on a thread that serves others.
async fn constraint(admitted: &Admitted, asked: AskedFormat) -> Result<Constraint, ApiError> {
    let AskedFormat { field, format } = asked;
    let model = Arc::clone(admitted.engine.model());
    let made = tokio::task::spawn_blocking(move || model.constraint(&format)).await;
    made.map_err(|_| ApiError::failed("the format met a bug of the agent; its log has the panic"))?
        .map_err(|error| ApiError::field(field, error))
}

async fn whole<W: Wording>(
    mut generation: Generation,
    envelope: &Envelope,
    mut wording: W,
) -> Result<Value, ApiError> {
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
            GenerationStep::Failed(why) => return Err(ApiError::failed(&why)),
            GenerationStep::DeadlineExceeded => return Err(ApiError::deadline()),
        }
    }
    Err(ApiError::failed("the answer ended without a reason"))
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
