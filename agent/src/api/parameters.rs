//! The fields that chat and completions share, checked before anything is computed.

use std::collections::HashMap;

use llmdeck_engine::sampling::SamplingOptions;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer_format::{AskedFormat, ResponseFormat, StructuredOutputs, asked_format};
use super::error::ApiError;

const MOST_STOPS: usize = 16;
const LONGEST_STOP_BYTES: usize = 1_000;
const MOST_BIASES: usize = 1_024;

/// Reads a body; an error names the field.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            ApiError::field(if path == "." { String::new() } else { path }, inner)
        } else {
            ApiError::field("", format!("the body is not JSON: {inner}"))
        }
    })?;
    reader.end().map_err(|error| ApiError::field("", format!("the body is not JSON: {error}")))?;
    Ok(parsed)
}

/// What is needed to know where a request goes, whatever else is in it.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) model: String,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    safety_identifier: Option<String>,
    #[serde(default)]
    max_tokens: Option<Value>,
    #[serde(default)]
    max_completion_tokens: Option<Value>,
    #[serde(default)]
    n: Option<Value>,
}

impl Head {
    /// Tokens that the answer may have at most, where the request says so; wrong values are for others to complain of.
    pub(super) fn most_tokens(&self) -> Option<u64> {
        let said = [&self.max_completion_tokens, &self.max_tokens];
        let most = said.into_iter().flatten().find_map(Value::as_u64)?;
        Some(most.saturating_mul(self.n.as_ref().and_then(Value::as_u64).unwrap_or(1)))
    }

    pub(super) fn stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whose request it is.
    pub(super) fn end_user(self) -> Option<String> {
        self.safety_identifier.or(self.user)
    }
}

/// OpenAI's names; `top_k`, `min_p`, `repetition_penalty` and `structured_outputs` as vLLM names them.
#[derive(Debug, Deserialize)]
pub(super) struct Parameters {
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    top_k: Option<i64>,
    #[serde(default)]
    min_p: Option<f32>,
    #[serde(default)]
    seed: Option<i64>,
    #[serde(default)]
    stop: Option<Stop>,
    #[serde(default)]
    max_tokens: Option<i64>,
    #[serde(default)]
    repetition_penalty: Option<f32>,
    #[serde(default)]
    presence_penalty: Option<f32>,
    #[serde(default)]
    frequency_penalty: Option<f32>,
    #[serde(default)]
    logit_bias: Option<HashMap<String, f32>>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    structured_outputs: Option<StructuredOutputs>,
    #[serde(default)]
    n: Option<i64>,
    /// As vLLM and llama.cpp have it, for measurements.
    #[serde(default)]
    ignore_eos: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "must be a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// What the checked fields ask for.
#[derive(Debug)]
pub(super) struct Checked {
    /// Whose request it is.
    /// Whether the answer goes on to its length.
    pub(super) ignore_end: bool,
    pub(super) sampling: SamplingOptions,
    pub(super) format: Option<AskedFormat>,
    pub(super) stops: Vec<String>,
    /// `None` means the deployment's default.
    pub(super) max_tokens: Option<usize>,
    pub(super) include_usage: bool,
}

impl Parameters {
    /// Checks every range.
    pub(super) fn check(self) -> Result<Checked, ApiError> {
        if self.n.is_some_and(|n| n != 1) {
            return Err(ApiError::field("n", "must be 1; send one request for each answer"));
        }
        if self.stream_options.is_some() && self.stream != Some(true) {
            return Err(ApiError::field("stream_options", "is only allowed where stream is true"));
        }
        let top_k = match self.top_k {
            None | Some(-1 | 0) => None,
            Some(k) if k > 0 => usize::try_from(k).ok(),
            Some(_) => return Err(ApiError::field("top_k", "must be at least 1; -1 or 0 keeps all")),
        };
        let sampling = SamplingOptions {
            temperature: within("temperature", self.temperature, 0.0, 2.0, 1.0)?,
            top_p: within("top_p", self.top_p, 0.0, 1.0, 1.0)?,
            top_k,
            min_p: within("min_p", self.min_p, 0.0, 1.0, 0.0)?,
            seed: self.seed.map_or_else(rand::random, i64::cast_unsigned),
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, 0.01, 10.0, 1.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0, 2.0, 0.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0, 2.0, 0.0)?,
            logit_bias: biases(self.logit_bias.unwrap_or_default())?,
            top_logprobs: None,
        };
        Ok(Checked {
            ignore_end: self.ignore_eos.unwrap_or(false),
            sampling,
            format: asked_format(self.response_format, self.structured_outputs)?,
            stops: stops(self.stop)?,
            max_tokens: self.max_tokens.map(|tokens| at_least_one("max_tokens", tokens)).transpose()?,
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        })
    }
}

impl Checked {
    /// Fails where it names a token that a model of so many does not have.
    pub(super) fn require_tokens_of(&self, vocabulary: usize) -> Result<(), ApiError> {
        self.sampling
            .logit_bias
            .iter()
            .try_for_each(|(token, _)| require_token("logit_bias", *token, vocabulary))
    }
}

/// Fails where a model of so many tokens does not have it.
pub(super) fn require_token(field: &str, token: u32, vocabulary: usize) -> Result<(), ApiError> {
    if (token as usize) < vocabulary {
        return Ok(());
    }
    Err(ApiError::field(field, format!("{token} is not a token; there are {vocabulary}")))
}

/// A count of tokens.
pub(super) fn at_least_one(field: &str, tokens: i64) -> Result<usize, ApiError> {
    usize::try_from(tokens)
        .ok()
        .filter(|tokens| *tokens > 0)
        .ok_or_else(|| ApiError::field(field, format!("must be at least 1, not {tokens}")))
}

fn within(field: &str, value: Option<f32>, low: f32, high: f32, default: f32) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::field(field, format!("must be between {low} and {high}, not {value}")))
}

fn stops(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let stops = match stop {
        None => Vec::new(),
        Some(Stop::One(stop)) => vec![stop],
        Some(Stop::Many(stops)) => stops,
    };
    if stops.len() > MOST_STOPS {
        return Err(ApiError::field("stop", format!("has {} strings; at most {MOST_STOPS}", stops.len())));
    }
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > LONGEST_STOP_BYTES) {
        return Err(ApiError::field("stop", format!("each must have 1 to {LONGEST_STOP_BYTES} bytes")));
    }
    Ok(stops)
}

fn biases(biases: HashMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    if biases.len() > MOST_BIASES {
        return Err(ApiError::field(
            "logit_bias",
            format!("has {} tokens; at most {MOST_BIASES}", biases.len()),
        ));
    }
    let mut list = Vec::with_capacity(biases.len());
    for (token, bias) in biases {
        let field = || format!("logit_bias.{token}");
        let id = token.parse().map_err(|_| ApiError::field(field(), "must be a token's id"))?;
        list.push((id, within(&field(), Some(bias), -100.0, 100.0, 0.0)?));
    }
    list.sort_by_key(|(id, _)| *id);
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::{Head, Parameters, parse};

    fn refusal(body: &str) -> String {
        let read = parse::<Head>(body.as_bytes()).and_then(|_| parse::<Parameters>(body.as_bytes()));
        let error = match read {
            Ok(parameters) => parameters.check().unwrap_err(),
            Err(error) => error,
        };
        error.body()["error"].to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, param, words) in [
            (r#"{"model":"m","temperature":"hot"}"#, "temperature", "invalid type"),
            (r#"{"model":"m","temperature":3}"#, "temperature", "between 0 and 2"),
            (r#"{"model":"m","n":2}"#, "n", "must be 1"),
            (r#"{"model":"m","max_tokens":0}"#, "max_tokens", "at least 1"),
            (r#"{"model":"m","stop":[""]}"#, "stop", "1 to"),
            (r#"{"model":"m","stop":5}"#, "stop", "a list of strings"),
            (r#"{"model":"m","logit_bias":{"x":1}}"#, "logit_bias.x", "token"),
            (r#"{"model":"m","response_format":{"type":"xml"}}"#, "response_format.type", "json_schema"),
            (
                r#"{"model":"m","response_format":{"type":"json_schema"}}"#,
                "response_format.json_schema.schema",
                "missing",
            ),
            (
                r#"{"model":"m","structured_outputs":{"regex":"a","choice":["b"]}}"#,
                "structured_outputs",
                "exactly one",
            ),
            (r#"{"model":"m","structured_outputs":{"json":"{"}}"#, "structured_outputs.json", "not JSON"),
            (r#"{"model":"m","structured_outputs":{"choice":[]}}"#, "structured_outputs.choice", "1 to"),
            (r#"{"model":"m","stream_options":{}}"#, "stream_options", "stream is true"),
            (r#"{"temperature":1}"#, "", "model"),
            (r#"{"model":"m""#, "", "not JSON"),
            (r#"{"model":"m"} x"#, "", "not JSON"),
        ] {
            let error = refusal(body);
            assert!(
                error.contains(words) && error.contains(&format!("\"param\":\"{param}\"")),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn defaults_are_openais() {
        let parameters: Parameters = parse(br#"{"model":"m","user":"someone","store":false}"#).unwrap();
        let checked = parameters.check().unwrap();
        assert!((checked.sampling.temperature - 1.0).abs() < f32::EPSILON && checked.max_tokens.is_none());
    }
}
