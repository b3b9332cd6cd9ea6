//! What a request wants its answer held to: OpenAI's `response_format`, or vLLM's `structured_outputs`.

use llmdeck_engine::constraint::AnswerFormat;
use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;

const MOST_SCHEMA_BYTES: usize = 256 << 10;
const MOST_REGEX_BYTES: usize = 16 << 10;
const MOST_CHOICES: usize = 1_000;
const MOST_CHOICE_BYTES: usize = 64 << 10;

/// OpenAI's field.
#[derive(Debug, Deserialize)]
pub(super) struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    json_schema: Option<NamedSchema>,
}

#[derive(Debug, Deserialize)]
struct NamedSchema {
    #[serde(default)]
    schema: Option<Value>,
}

/// vLLM's field; exactly one of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StructuredOutputs {
    #[serde(default)]
    json: Option<Value>,
    #[serde(default)]
    json_object: Option<bool>,
    #[serde(default)]
    regex: Option<String>,
    #[serde(default)]
    choice: Option<Vec<String>>,
}

/// A format and the field that asked for it, for errors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct AskedFormat {
    pub(super) field: &'static str,
    pub(super) format: AnswerFormat,
}

impl AskedFormat {
    /// Whether the answer is to be JSON.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.format, AnswerFormat::JsonObject | AnswerFormat::JsonSchema(_))
    }
}

/// Checks both fields; `None` asks for plain text.
pub(super) fn asked_format(
    response_format: Option<ResponseFormat>,
    structured_outputs: Option<StructuredOutputs>,
) -> Result<Option<AskedFormat>, ApiError> {
    let of_openai = response_format.map(of_response_format).transpose()?.flatten();
    let of_vllm = structured_outputs.map(of_structured_outputs).transpose()?;
    match (of_openai, of_vllm) {
        (Some(_), Some(_)) => Err(ApiError::field(
            "structured_outputs",
            "cannot be given beside response_format; give one of them",
        )),
        (asked, other) => Ok(asked.or(other)),
    }
}

fn of_response_format(format: ResponseFormat) -> Result<Option<AskedFormat>, ApiError> {
    let format = match format.kind.as_str() {
        "text" => return Ok(None),
        "json_object" => AnswerFormat::JsonObject,
        "json_schema" => {
            const FIELD: &str = "response_format.json_schema.schema";
            let schema = format.json_schema.and_then(|named| named.schema);
            let schema = schema.ok_or_else(|| ApiError::field(FIELD, "is missing"))?;
            AnswerFormat::JsonSchema(checked_schema(FIELD, schema)?)
        }
        other => {
            return Err(ApiError::field(
                "response_format.type",
                format!("{other:?} is not supported; use text, json_object or json_schema"),
            ));
        }
    };
    Ok(Some(AskedFormat { field: "response_format", format }))
}

fn of_structured_outputs(outputs: StructuredOutputs) -> Result<AskedFormat, ApiError> {
    const FIELD: &str = "structured_outputs";
    let StructuredOutputs { json, json_object, regex, choice } = outputs;
    let json_object = json_object.filter(|wanted| *wanted);
    let format = match (json, json_object, regex, choice) {
        (Some(schema), None, None, None) => {
            // vLLM's clients send the schema itself or its text.
            let schema = match schema {
                Value::String(text) => serde_json::from_str(&text).map_err(|error| {
                    ApiError::field("structured_outputs.json", format!("is not JSON: {error}"))
                })?,
                schema => schema,
            };
            AnswerFormat::JsonSchema(checked_schema("structured_outputs.json", schema)?)
        }
        (None, Some(_), None, None) => AnswerFormat::JsonObject,
        (None, None, Some(regex), None) => {
            if regex.is_empty() || regex.len() > MOST_REGEX_BYTES {
                let problem = format!("must have 1 to {MOST_REGEX_BYTES} bytes");
                return Err(ApiError::field("structured_outputs.regex", problem));
            }
            AnswerFormat::Regex(regex)
        }
        (None, None, None, Some(choice)) => {
            let bytes: usize = choice.iter().map(String::len).sum();
            if choice.is_empty() || choice.len() > MOST_CHOICES || bytes > MOST_CHOICE_BYTES {
                let problem =
                    format!("must have 1 to {MOST_CHOICES} texts of {MOST_CHOICE_BYTES} bytes together");
                return Err(ApiError::field("structured_outputs.choice", problem));
            }
            AnswerFormat::Choice(choice)
        }
        _ => {
            return Err(ApiError::field(
                FIELD,
                "must have exactly one of json, json_object, regex and choice",
            ));
        }
    };
    Ok(AskedFormat { field: FIELD, format })
}

fn checked_schema(field: &str, schema: Value) -> Result<Value, ApiError> {
    if !schema.is_object() && !schema.is_boolean() {
        return Err(ApiError::field(field, "must be a JSON schema: an object"));
    }
    let bytes = schema.to_string().len();
    if bytes > MOST_SCHEMA_BYTES {
        return Err(ApiError::field(field, format!("has {bytes} bytes; at most {MOST_SCHEMA_BYTES}")));
    }
    Ok(schema)
}
