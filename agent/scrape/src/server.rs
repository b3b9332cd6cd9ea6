//! Asks a server what it says of itself.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::dialect::Kind;
use crate::exposition::ExpositionError;
use crate::reading::{ModelReading, Reading};

/// Largest answer that is read; vLLM's has some hundred kilobytes.
const MOST_BYTES: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_NAMES: usize = 64;

/// Why nothing is known of a server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ScrapeError {
    /// No address.
    #[error("{url:?} is no address of a server: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No answer.
    #[error("{url} does not answer: {reason}")]
    Silent {
        /// What was asked.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// An answer without what is needed.
    #[error(
        "{0} answers, but tells no metrics that are known; SGLang needs --enable-metrics, llama.cpp --metrics, vLLM must not have --disable-log-stats"
    )]
    Nothing(String),
    /// Not as the format has it.
    #[error("{url}: {source}")]
    Exposition {
        /// What was asked.
        url: String,
        /// What is wrong.
        source: ExpositionError,
    },
}

/// A server that has metrics.
#[derive(Clone)]
pub struct Server {
    client: Client<HttpConnector, Empty<Bytes>>,
    base: String,
}

impl Server {
    /// At `http://host:port`.
    ///
    /// # Errors
    /// When that is no address.
    pub fn new(url: &str) -> Result<Self, ScrapeError> {
        let base = url.trim_end_matches('/').trim_end_matches("/metrics").trim_end_matches("/v1").to_owned();
        let refused = |reason: String| ScrapeError::Url { url: url.to_owned(), reason };
        let uri: Uri = base.parse().map_err(|error| refused(format!("{error}")))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none_or(str::is_empty) {
            return Err(refused("it must be http://HOST:PORT".into()));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), base })
    }

    /// Its address without a path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What it says now.
    ///
    /// # Errors
    /// When it does not answer, or says nothing that is known.
    pub async fn read(&self) -> Result<Reading, ScrapeError> {
        let (status, body) = self.get("/metrics").await?;
        let url = || format!("{}/metrics", self.base);
        if status == StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            let reading =
                Reading::of(&text).map_err(|source| ScrapeError::Exposition { url: url(), source })?;
            if let Some(reading) = reading {
                return Ok(self.named(reading).await);
            }
        }
        match self.ollama().await {
            Some(reading) => Ok(reading),
            None => Err(ScrapeError::Nothing(self.base.clone())),
        }
    }

    /// A server of one model may not name it beside its metrics.
    async fn named(&self, mut reading: Reading) -> Reading {
        if !reading.models.contains_key("") {
            return reading;
        }
        if let (Some(model), Some(name)) = (reading.models.remove(""), self.only_model().await) {
            reading.models.insert(name, model);
        }
        reading
    }

    async fn only_model(&self) -> Option<String> {
        let host = || self.base.trim_start_matches("http://").to_owned();
        let Ok((StatusCode::OK, body)) = self.get("/v1/models").await else { return Some(host()) };
        let models: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name =
            models["data"][0]["id"].as_str().map(|name| name.rsplit('/').next().unwrap_or(name).to_owned());
        name.filter(|name| !name.is_empty()).or_else(|| Some(host()))
    }

    /// Ollama has no metrics, but says what it has loaded.
    async fn ollama(&self) -> Option<Reading> {
        let (status, body) = self.get("/api/ps").await.ok()?;
        let loaded: Value = serde_json::from_slice(&body).ok().filter(|_| status == StatusCode::OK)?;
        let models = loaded["models"].as_array()?.iter().take(MOST_NAMES).filter_map(|model| {
            let resident_bytes = model["size"].as_f64();
            Some((
                model["name"].as_str()?.to_owned(),
                ModelReading { resident_bytes, ..ModelReading::default() },
            ))
        });
        Some(Reading { kind: Kind::Ollama, models: models.collect() })
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), ScrapeError> {
        let url = format!("{}{path}", self.base);
        let silent = |reason: String| ScrapeError::Silent { url: url.clone(), reason };
        let request = Request::get(&url).body(Empty::new()).map_err(|error| silent(error.to_string()))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| innermost(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(silent),
            Err(_) => Err(silent(format!("nothing came within {} s", PATIENCE.as_secs()))),
        }
    }
}

/// The innermost words are the ones that help.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
