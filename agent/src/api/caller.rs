//! Whose request it is: checked before anything else is looked at, and limited by its key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Api;
use super::error::ApiError;
use crate::security::keys::{Charge, Key, Left, Scope};
use crate::time::unix_ms;

const BEARER: &str = "bearer ";
/// Of text, roughly, in most languages; what was really used is settled at the end.
const BYTES_A_TOKEN: usize = 4;

/// Whose request it is.
#[derive(Clone)]
pub(super) enum Caller {
    /// Nobody's, where no key is needed.
    Anyone,
    /// A key's owner.
    Key(Arc<Key>),
    /// Nobody's, where a key is needed; only probes come so far.
    Stranger,
}

impl Caller {
    /// Whether it may know of a deployment.
    pub(super) fn reaches(&self, deployment: &str) -> bool {
        match self {
            Self::Anyone => true,
            Self::Key(key) => key.reaches(deployment),
            Self::Stranger => false,
        }
    }

    /// The name of its key.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Key(key) => Some(key.name()),
            Self::Anyone | Self::Stranger => None,
        }
    }

    /// Takes a request from its key's budget: the most tokens that it may generate, and about as many as its body has.
    pub(super) fn charge(
        &self,
        most_tokens: u64,
        body_bytes: usize,
    ) -> Result<Option<Arc<Charge>>, ApiError> {
        let Self::Key(key) = self else { return Ok(None) };
        let tokens = most_tokens.saturating_add((body_bytes / BYTES_A_TOKEN) as u64);
        let charge = key.budget().charge(tokens, Instant::now(), unix_ms());
        Ok(Some(Arc::new(charge.map_err(|over| ApiError::over_budget(&over))?)))
    }
}

/// Lets in whoever may; strangers learn nothing but that they are refused, except probes, which learn one bit.
pub(super) async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let scope = match request.uri().path() {
        "/healthz" | "/readyz" => None,
        "/metrics" => Some(Scope::Metrics),
        _ => Some(Scope::Inference),
    };
    let caller = match bearer(request.headers()) {
        Some(text) => match api.keys.find(text) {
            Some(key) if scope.is_none_or(|scope| key.may(scope)) => Caller::Key(key),
            Some(key) => return ApiError::scope(key.name(), scope.map_or("", Scope::as_str)).into_response(),
            // Clients of a server that needs no key send any, as often as not.
            None if !api.keys_required => Caller::Anyone,
            None if scope.is_none() => Caller::Stranger,
            None => return ApiError::no_key().into_response(),
        },
        None if !api.keys_required => Caller::Anyone,
        None if scope.is_none() => Caller::Stranger,
        None => return ApiError::no_key().into_response(),
    };
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    if let Caller::Key(key) = caller {
        let (requests, tokens) = key.budget().left(Instant::now());
        for (names, left) in [(REQUESTS, requests), (TOKENS, tokens)] {
            if let Some(left) = left {
                show(response.headers_mut(), names, left);
            }
        }
    }
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = text.split_at_checked(BEARER.len())?;
    scheme.eq_ignore_ascii_case(BEARER).then_some(key.trim())
}

/// The names that OpenAI gives limit, remainder and reset.
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

fn show(headers: &mut HeaderMap, names: [HeaderName; 3], left: Left) {
    let values = [left.limit.to_string(), left.remaining.to_string(), duration(left.reset)];
    for (name, value) in names.into_iter().zip(values) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
}

/// As OpenAI writes it: `120ms`, `6s`.
fn duration(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{}ms", time.as_millis())
    } else {
        format!("{}s", time.as_secs_f64().ceil())
    }
}
