use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::generation::{FinishReason, GeneratedToken};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::answer::Wording;
use super::attempt::{Asked, ForEngine, Prompt, answer};
use super::caller::Caller;
use super::error::ApiError;
use super::parameters::{Head, Parameters, at_least_one, parse};
use super::preference::preference;
use super::proxy::Passed;
use super::{Api, Target};
use crate::placement::Variant;

const MOST_MESSAGES: usize = 1_024;
const MOST_TOP_LOGPROBS: i64 = 20;

#[derive(Deserialize)]
struct ChatRequest {
    messages: Vec<RequestMessage>,
    #[serde(default)]
    max_completion_tokens: Option<i64>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<i64>,
    #[serde(default)]
    tools: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct RequestMessage {
    role: Role,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a string or a list of parts, each {\"type\": \"text\", \"text\": …}")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: String,
}

/// `POST /v1/chat/completions`
pub(super) async fn chat_completions(
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
    let passed = Passed { path: "/v1/chat/completions", stream: head.stream(), body: body.clone() };
    let preference = preference(&headers, &caller, head.end_user(), deployment.limits().stickiness)?;
    let charge = caller.charge(most_tokens, body.len())?;
    let for_engine = for_engine(&body);
    answer(Asked { deployment, adapter, preference, charge, arrived, passed, for_engine }).await
}

fn for_engine(body: &[u8]) -> Result<ForEngine<ChatPrompt, ChatWording>, ApiError> {
    let parameters: Parameters = parse(body)?;
    let request: ChatRequest = parse(body)?;
    let mut checked = parameters.check()?;
    if let Some(tokens) = request.max_completion_tokens {
        checked.max_tokens = Some(at_least_one("max_completion_tokens", tokens)?);
    }
    checked.sampling.top_logprobs = top_logprobs(&request)?;
    if request.tools.is_some_and(|tools| !tools.is_empty()) {
        return Err(ApiError::field("tools", "are not supported by the built-in engine"));
    }
    let wording = ChatWording { named: checked.sampling.top_logprobs.is_some() };
    Ok(ForEngine { prompt: ChatPrompt(messages(request.messages)?), checked, wording })
}

struct ChatPrompt(Vec<Message>);

impl Prompt for ChatPrompt {
    fn tokens(&self, variant: &Variant) -> Result<Vec<u32>, ApiError> {
        let model = variant.model();
        let template = model.chat_template.as_ref().ok_or_else(|| {
            ApiError::field("messages", "this model has no chat template; use /v1/completions")
        })?;
        let encoded = template
            .render(&variant.with_prompt(self.0.clone()))
            .and_then(|text| model.tokenizer.encode(&text));
        encoded.map_err(|error| ApiError::of_engine(&error, ChatWording::PROMPT_FIELD))
    }
}

fn top_logprobs(request: &ChatRequest) -> Result<Option<usize>, ApiError> {
    let count = match (request.logprobs, request.top_logprobs) {
        (Some(true), count) => count.unwrap_or(0),
        (_, None) => return Ok(None),
        (_, Some(_)) => {
            return Err(ApiError::field("top_logprobs", "is only allowed where logprobs is true"));
        }
    };
    if !(0..=MOST_TOP_LOGPROBS).contains(&count) {
        return Err(ApiError::field(
            "top_logprobs",
            format!("must be between 0 and {MOST_TOP_LOGPROBS}, not {count}"),
        ));
    }
    Ok(usize::try_from(count).ok())
}

fn messages(messages: Vec<RequestMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() || messages.len() > MOST_MESSAGES {
        return Err(ApiError::field("messages", format!("must have 1 to {MOST_MESSAGES} turns")));
    }
    Ok(messages
        .into_iter()
        .map(|message| Message {
            role: match message.role {
                Role::System | Role::Developer => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
            }
            .into(),
            content: match message.content {
                None => String::new(),
                Some(Content::Text(text)) => text,
                Some(Content::Parts(parts)) => parts.into_iter().map(|part| part.text).collect(),
            },
        })
        .collect())
}

#[derive(Clone, Copy)]
struct ChatWording {
    named: bool,
}

impl ChatWording {
    fn logprobs(&self, tokens: &[GeneratedToken]) -> Value {
        if !self.named {
            return Value::Null;
        }
        let content: Vec<Value> = tokens
            .iter()
            .filter_map(|token| token.named.as_ref().map(|named| (token, named)))
            .map(|(token, named)| {
                let top: Vec<Value> =
                    named.top.iter().map(|other| entry(&other.token, other.logprob)).collect();
                let mut entry = entry(&named.token, token.logprob);
                entry["top_logprobs"] = top.into();
                entry
            })
            .collect();
        json!({ "content": content })
    }
}

fn entry(token: &str, logprob: f32) -> Value {
    json!({ "token": token, "logprob": logprob, "bytes": token.as_bytes() })
}

impl Wording for ChatWording {
    const OBJECT: &'static str = "chat.completion";
    const CHUNK_OBJECT: &'static str = "chat.completion.chunk";
    const ID_PREFIX: &'static str = "chatcmpl-";
    const PROMPT_FIELD: &'static str = "messages";

    fn whole(&mut self, text: &str, tokens: &[GeneratedToken], reason: FinishReason) -> Value {
        json!({
            "index": 0, "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": self.logprobs(tokens), "finish_reason": reason.as_str(),
        })
    }

    fn opening(&mut self) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        Some(json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": null }))
    }

    fn token(&mut self, token: &GeneratedToken) -> Value {
        json!({
            "index": 0, "delta": { "content": token.text },
            "logprobs": self.logprobs(std::slice::from_ref(token)), "finish_reason": null,
        })
    }

    fn ending(&mut self, text: &str, reason: FinishReason) -> Value {
        let delta = if text.is_empty() { json!({}) } else { json!({ "content": text }) };
        json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason.as_str() })
    }
}
