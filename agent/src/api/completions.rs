use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use llmdeck_engine::generation::{FinishReason, GeneratedToken};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::Wording;
use super::attempt::{Asked, ForEngine, Prompt, answer};
use super::caller::Caller;
use super::error::ApiError;
use super::parameters::{Head, Parameters, parse, require_token};
use super::preference::preference;
use super::proxy::Passed;
use super::{Api, Target};
use crate::placement::Variant;

const MOST_LOGPROBS: i64 = 5;
/// OpenAI's default of the legacy endpoint.
const DEFAULT_MAX_TOKENS: usize = 16;

#[derive(Deserialize)]
struct CompletionRequest {
    prompt: RequestPrompt,
    #[serde(default)]
    logprobs: Option<i64>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    best_of: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a string, a list with one string, or a list of token ids")]
enum RequestPrompt {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
}

/// `POST /v1/completions`
pub(super) async fn completions(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let arrived = Instant::now();
    let body = body?;
    let head: Head = parse(&body)?;
    let Target { deployment, adapter } = api.target(&caller, &head.model)?;
    let most_tokens = head.most_tokens().unwrap_or(deployment.limits().default_max_tokens as u64);
    let passed = Passed { path: "/v1/completions", stream: head.stream(), body: body.clone() };
    let preference = preference(&headers, &caller, head.end_user(), deployment.limits().stickiness)?;
    let charge = caller.charge(most_tokens, body.len())?;
    let for_engine = for_engine(&body);
    answer(Asked { deployment, adapter, preference, charge, arrived, passed, for_engine }).await
}

fn for_engine(body: &[u8]) -> Result<ForEngine<RequestPrompt, CompletionWording>, ApiError> {
    let parameters: Parameters = parse(body)?;
    let request: CompletionRequest = parse(body)?;
    let mut checked = parameters.check()?;
    checked.max_tokens = checked.max_tokens.or(Some(DEFAULT_MAX_TOKENS));
    if let Some(count) = request.logprobs {
        if !(0..=MOST_LOGPROBS).contains(&count) {
            return Err(ApiError::field(
                "logprobs",
                format!("must be between 0 and {MOST_LOGPROBS}, not {count}"),
            ));
        }
        checked.sampling.top_logprobs = usize::try_from(count).ok();
    }
    if request.echo == Some(true) {
        return Err(ApiError::field("echo", "is not supported by the built-in engine"));
    }
    if request.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field("suffix", "is not supported by the built-in engine"));
    }
    if request.best_of.is_some_and(|best_of| best_of != 1) {
        return Err(ApiError::field("best_of", "must be 1"));
    }
    let wording = CompletionWording { named: request.logprobs.is_some(), offset: 0 };
    Ok(ForEngine { prompt: request.prompt, checked, wording })
}

impl Prompt for RequestPrompt {
    fn tokens(&self, variant: &Variant) -> Result<Vec<u32>, ApiError> {
        let model = variant.model();
        let text = match self {
            Self::Text(text) => text,
            Self::Texts(texts) => match &texts[..] {
                [text] => text,
                texts => {
                    let message = format!("has {} prompts; send one request for each", texts.len());
                    return Err(ApiError::field("prompt", message));
                }
            },
            Self::Tokens(tokens) => {
                let vocabulary = model.decoder.description().vocabulary;
                tokens.iter().try_for_each(|token| require_token("prompt", *token, vocabulary))?;
                return Ok(tokens.clone());
            }
        };
        let encoded = model.tokenizer.encode(text);
        encoded.map_err(|error| ApiError::of_engine(&error, CompletionWording::PROMPT_FIELD))
    }
}

#[derive(Clone, Copy)]
struct CompletionWording {
    named: bool,
    /// Characters of the answer so far.
    offset: usize,
}

impl CompletionWording {
    fn logprobs(&mut self, tokens: &[GeneratedToken]) -> Value {
        if !self.named {
            return Value::Null;
        }
        let (mut names, mut logprobs, mut tops, mut offsets) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for token in tokens {
            let Some(named) = &token.named else { continue };
            names.push(named.token.clone());
            logprobs.push(token.logprob);
            let top = named.top.iter().map(|other| (other.token.clone(), json!(other.logprob)));
            tops.push(Value::Object(top.collect::<Map<_, _>>()));
            offsets.push(self.offset);
            self.offset += token.text.chars().count();
        }
        json!({ "tokens": names, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
    }
}

impl Wording for CompletionWording {
    const OBJECT: &'static str = "text_completion";
    const CHUNK_OBJECT: &'static str = "text_completion";
    const ID_PREFIX: &'static str = "cmpl-";
    const PROMPT_FIELD: &'static str = "prompt";

    fn whole(&mut self, text: &str, tokens: &[GeneratedToken], reason: FinishReason) -> Value {
        let logprobs = self.logprobs(tokens);
        json!({ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason.as_str() })
    }

    fn opening(&mut self) -> Option<Value> {
        None
    }

    fn token(&mut self, token: &GeneratedToken) -> Value {
        let logprobs = self.logprobs(std::slice::from_ref(token));
        json!({ "index": 0, "text": token.text, "logprobs": logprobs, "finish_reason": null })
    }

    fn ending(&mut self, text: &str, reason: FinishReason) -> Value {
        json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": reason.as_str() })
    }
}
