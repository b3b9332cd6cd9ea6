//! Failures as OpenAI reports them: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use llmdeck_engine::EngineError;
use llmdeck_load::refusal_message;
use serde_json::{Value, json};

use crate::security::keys::OverBudget;
use crate::serving::AdmissionError;

/// Seconds after which a client that met a full queue should try again.
const RETRY_AFTER_S: u32 = 1;

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), kind, param: None, code: None, retry_after_s: None }
    }

    /// A field that is not as it should be.
    pub(super) fn field(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        let message = if param.is_empty() { message.to_string() } else { format!("{param}: {message}") };
        Self { param: Some(param), ..Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message) }
    }

    pub(super) fn unknown_model(model: &str, known: &[String]) -> Self {
        let message = format!("the model {model:?} does not exist here; there is {}", known.join(", "));
        Self {
            param: Some("model".into()),
            code: Some("model_not_found"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        }
    }

    pub(super) fn not_found(path: &str) -> Self {
        let message =
            format!("there is nothing at {path}; see /v1/models, /v1/chat/completions and /v1/completions");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    pub(super) fn method_not_allowed(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    pub(super) fn deadline() -> Self {
        Self {
            code: Some("deadline_exceeded"),
            ..Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "the answer took longer than the deployment's deadline",
            )
        }
    }

    /// For strangers, who learn nothing else.
    pub(super) fn no_key() -> Self {
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_request_error",
                "refused: send a valid key as `Authorization: Bearer KEY`",
            )
        }
    }

    /// A key that is good for something else.
    pub(super) fn scope(key: &str, scope: &str) -> Self {
        let message = format!("the key {key:?} lacks the scope {scope:?}; ask for one that has it");
        Self {
            code: Some("insufficient_scope"),
            ..Self::new(StatusCode::FORBIDDEN, "permission_error", message)
        }
    }

    pub(super) fn over_budget(over: &OverBudget) -> Self {
        let seconds = over.retry_after.as_secs_f64().ceil().max(1.0);
        Self {
            code: Some("rate_limit_exceeded"),
            retry_after_s: Some(seconds.min(f64::from(u32::MAX)) as u32),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", over.to_string())
        }
    }

    pub(super) fn failed(why: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", why)
    }

    /// Another server, whose fault it is.
    pub(super) fn bad_gateway(why: &str) -> Self {
        let message = format!("the model's server failed: {why}");
        Self { code: Some("backend_failed"), ..Self::new(StatusCode::BAD_GATEWAY, "server_error", message) }
    }

    /// What another server found wrong with the request, in its words.
    pub(super) fn of_server(status: StatusCode, body: &[u8]) -> Self {
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let param = said["error"]["param"].as_str().map(str::to_owned);
        Self { param, ..Self::new(status, "invalid_request_error", refusal_message(body)) }
    }

    /// Whether it is the request's fault, in the eyes of whoever refused it.
    pub(super) fn is_refusal(&self) -> bool {
        self.status.is_client_error()
    }

    pub(super) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

impl From<AdmissionError> for ApiError {
    fn from(error: AdmissionError) -> Self {
        let message = error.to_string();
        match error {
            AdmissionError::QueueFull { .. } => Self {
                code: Some("queue_full"),
                retry_after_s: Some(RETRY_AFTER_S),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            },
            AdmissionError::Unavailable { .. } => Self {
                code: Some("unavailable"),
                retry_after_s: Some(RETRY_AFTER_S),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
            },
            AdmissionError::NoSuchRevision { .. } => Self {
                code: Some("revision_not_found"),
                ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
            },
            AdmissionError::Deadline { .. } => Self {
                code: Some("deadline_exceeded"),
                ..Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
            },
        }
    }
}

impl ApiError {
    /// An engine's refusal; `param` is the field that holds the prompt.
    pub(super) fn of_engine(error: &EngineError, param: &str) -> Self {
        match error {
            EngineError::PromptTooLong { .. } => {
                Self { code: Some("context_length_exceeded"), ..Self::field(param, error) }
            }
            EngineError::EmptyPrompt | EngineError::ChatTemplate(_) | EngineError::Tokenizer(_) => {
                Self::field(param, error)
            }
            EngineError::QueueFull => Self {
                retry_after_s: Some(RETRY_AFTER_S),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", error.to_string())
            },
            EngineError::Stopped => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", error.to_string())
            }
            other => Self::failed(&other.to_string()),
        }
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        let status = rejection.status();
        let message = if status == StatusCode::PAYLOAD_TOO_LARGE {
            format!("the request is larger than {} bytes", super::MOST_BODY_BYTES)
        } else {
            rejection.body_text()
        };
        Self::new(status, "invalid_request_error", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
