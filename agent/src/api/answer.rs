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
use llmdeck_engine::model::Model;
use llmdeck_engine::scheduler::Priority;
use serde_json::{Value, json};

use super::answer_format::AskedFormat;
use super::error::ApiError;
use super::parameters::Checked;
use crate::serving::{Admitted, Arm, Deployment, Generation, GenerationStep, NotStarted, Observation};
use crate::time::unix_ms;

/// Which revision answers; in a request, which one is to.
pub(super) const REVISION_HEADER: HeaderName = HeaderName::from_static("x-llmdeck-revision");
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

/// What a model is asked, before it is in that model's tokens.
pub(super) trait Prompt: Send + Sync + 'static {
    /// In the tokens of a model.
    fn tokens(&self, model: &Model) -> Result<Vec<u32>, ApiError>;
}

/// What is to be answered.
pub(super) struct Asked<P> {
    pub(super) deployment: Arc<Deployment>,
    pub(super) admitted: Admitted,
    pub(super) prompt: P,
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
pub(super) async fn answer<P: Prompt, W: Wording>(asked: Asked<P>, wording: W) -> Result<Response, ApiError> {
    let Asked { deployment, admitted, prompt, checked, stream } = asked;
    let include_usage = checked.include_usage;
    let id = format!("{}{:016x}", W::ID_PREFIX, rand::random::<u64>());
    let attempt = Arc::new(Attempt::<P> { deployment, prompt, checked, id, prompt_field: W::PROMPT_FIELD });
    if let Some(copy) = attempt.deployment.shadow_of(&admitted) {
        // It has its request's deadline, and there are few at once.
        tokio::spawn(Arc::clone(&attempt).shadow(copy));
    }
    let generation = attempt.begin(admitted).await?;
    let spec = generation.revision().spec();
    let revision = format!("{}@{}", attempt.deployment.name(), spec.number);
    let envelope = Envelope {
        id: attempt.id.clone(),
        created: unix_ms() / 1_000,
        model: attempt.deployment.name().to_owned(),
        fingerprint: format!("{revision}-{}", spec.digest.get(..12).unwrap_or(&spec.digest)),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [(REVISION_HEADER, &revision), (REQUEST_ID_HEADER, &envelope.id)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    if stream {
        let parts = Parts { generation, envelope, wording, include_usage, next: Next::Opening };
        return Ok((headers, Sse::new(stream::unfold(parts, Parts::next))).into_response());
    }
    Ok((headers, Json(whole(generation, &envelope, wording).await?)).into_response())
}

/// A request that any revision of its deployment may be asked to answer.
struct Attempt<P> {
    deployment: Arc<Deployment>,
    prompt: P,
    checked: Checked,
    id: String,
    prompt_field: &'static str,
}

impl<P: Prompt> Attempt<P> {
    /// Begins on the revision that it was admitted to. What a candidate fails before it says anything, the stable revision
    /// takes over: nobody is to suffer from a trial.
    async fn begin(&self, mut admitted: Admitted) -> Result<Generation, ApiError> {
        let mut refused_by = None;
        loop {
            let request = match self.request(&admitted).await {
                Ok(request) => request,
                Err(error) => match admitted.on_trial() {
                    Some(trial) => {
                        refused_by = Some(Arc::clone(trial));
                        admitted = self.deployment.rescue(admitted.rescue()).await?;
                        continue;
                    }
                    None => return Err(error),
                },
            };
            // Not the request's fault, then: another revision takes it.
            if let Some(trial) = refused_by.take() {
                trial.observe(Observation::refused(Arm::Candidate));
            }
            let rescue = match self.start(admitted, request) {
                Ok(mut generation) => {
                    let rescuable = generation.is_rescuable();
                    if !rescuable || !matches!(generation.peek().await, Some(GenerationStep::Failed(_))) {
                        return Ok(generation);
                    }
                    generation.rescue()
                }
                Err(not_started) => match not_started.rescue {
                    Some(rescue) => rescue,
                    None => return Err(ApiError::of_engine(&not_started.error, self.prompt_field)),
                },
            };
            admitted = self.deployment.rescue(rescue).await?;
        }
    }

    fn start(&self, admitted: Admitted, request: GenerationRequest) -> Result<Generation, Box<NotStarted>> {
        let json_asked = self.checked.format.as_ref().is_some_and(AskedFormat::is_json);
        Generation::start(Arc::clone(&self.deployment), admitted, self.id.clone(), request, json_asked)
    }

    /// A copy, whose answer is measured and scored and goes nowhere.
    async fn shadow(self: Arc<Self>, admitted: Admitted) {
        let Ok(request) = self.request(&admitted).await else { return };
        let request = GenerationRequest { priority: Priority::Background, ..request };
        if let Ok(mut generation) = self.start(admitted, request) {
            while generation.next().await.is_some() {}
        }
    }

    async fn request(&self, admitted: &Admitted) -> Result<GenerationRequest, ApiError> {
        let checked = &self.checked;
        let constraint = match &checked.format {
            Some(asked) => Some(constraint(admitted, asked).await?),
            None => None,
        };
        Ok(GenerationRequest {
            prompt: self.prompt.tokens(admitted.engine.model())?,
            max_tokens: checked.max_tokens.unwrap_or(self.deployment.limits().default_max_tokens),
            sampling: checked.sampling.clone(),
            stops: checked.stops.clone(),
            priority: Priority::Interactive,
            fairness_key: checked.fairness_key(),
            constraint,
            ignore_end: checked.ignore_end,
        })
    }
}

/// Large schemas take a while, and the first of a model longest: not on a thread that serves others.
async fn constraint(admitted: &Admitted, asked: &AskedFormat) -> Result<Constraint, ApiError> {
    let AskedFormat { field, format } = asked.clone();
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
