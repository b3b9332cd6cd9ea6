//! Speaks HTTP with another server.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use llmdeck_load::{Connector, connector};
use serde_json::{Value, json};

/// Largest body of an answer that is read whole.
const MOST_BYTES: usize = 32 << 20;
/// A server on this node or near it answers a connection at once, or is not there.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_KEY: u64 = 4 << 10;
/// Characters of a body that say what went wrong.
const LONGEST_WORDS: usize = 300;

/// Why another server gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is no URL.
    #[error("{url:?} is no URL of a server: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The key.
    #[error("the key in {path}: {reason}")]
    Key {
        /// Where it should be.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// It answered with an error.
    #[error("status {status}: {body}")]
    Status {
        /// HTTP status.
        status: u16,
        /// Beginning of the body.
        body: String,
    },
    /// No connection, or a broken one.
    #[error("{0}")]
    Broken(String),
    /// Not what the API says.
    #[error("the server's answer is not what the OpenAI API says: {0}")]
    Strange(String),
}

/// One server, over connections that are kept.
#[derive(Clone)]
pub struct ServerClient {
    client: Client<Connector, Full<Bytes>>,
    base: String,
    authorization: Option<HeaderValue>,
}

impl ServerClient {
    /// For `http://host:port` or `https://host`. The key goes into the authorization header and nowhere else.
    ///
    /// # Errors
    /// When that is no URL, or the key cannot be read.
    pub fn new(base: &str, api_key_file: Option<&Path>) -> Result<Self, ClientError> {
        let base = base.trim_end_matches('/').to_owned();
        let refused = |reason: String| ClientError::Url { url: base.clone(), reason };
        let uri: Uri = base.parse().map_err(|error| refused(format!("{error}")))?;
        let connector = connector(&uri, Some(CONNECT_PATIENCE)).map_err(&refused)?;
        let authorization = api_key_file.map(key).transpose()?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, base, authorization })
    }

    /// Its address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a body; the answer's own body is still to be read.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn post(&self, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        // Some servers close a kept connection just as the next request goes out on it; then nothing has come, and it goes
        // out once more.
        match self.client.request(self.request(path, body.clone())?).await {
            Err(error) if was_closed(&error) => self.client.request(self.request(path, body)?).await,
            answered => answered,
        }
        .map_err(|error| ClientError::Broken(innermost(&error)))
    }

    fn request(&self, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
        let uri = format!("{}{path}", self.base);
        let mut request = if body.is_empty() { Request::get(uri) } else { Request::post(uri) }
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| ClientError::Broken(error.to_string()))
    }

    /// The status of a path.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn status(&self, path: &str) -> Result<StatusCode, ClientError> {
        Ok(self.post(path, Bytes::new()).await?.status())
    }

    /// What the server lists first as a model.
    ///
    /// # Errors
    /// When it lists none.
    pub async fn first_model(&self) -> Result<String, ClientError> {
        let list = json_of(self.post("/v1/models", Bytes::new()).await?).await?;
        let first = list["data"][0]["id"].as_str();
        first.map(str::to_owned).ok_or_else(|| ClientError::Strange("/v1/models lists no model".into()))
    }

    /// Asks as a user would, greedily; a model without a chat template is given the prompt to complete.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn ask(
        &self,
        model: &str,
        system: Option<&str>,
        prompt: &str,
        max_tokens: usize,
    ) -> Result<String, ClientError> {
        let user = json!({ "role": "user", "content": prompt });
        let messages: Vec<Value> = system
            .map(|text| json!({ "role": "system", "content": text }))
            .into_iter()
            .chain([user])
            .collect();
        let body = json!({
            "model": model, "temperature": 0, "max_tokens": max_tokens,
            "messages": messages,
        });
        let content = |answer: &Value, path: &str| {
            let content = answer["choices"][0].pointer(path).and_then(Value::as_str).map(str::to_owned);
            content.ok_or_else(|| ClientError::Strange("it has no choice with content".into()))
        };
        let asked =
            async |path: &str, body: Value| json_of(self.post(path, body.to_string().into()).await?).await;
        match asked("/v1/chat/completions", body).await {
            // Without a template some servers say so, and others break off. What it said first is what is wrong where it cannot do
            // either.
            Err(
                first @ (ClientError::Status { status: 400 | 404 | 500 | 501, .. } | ClientError::Broken(_)),
            ) => {
                let prompt = system.map_or_else(|| prompt.to_owned(), |text| format!("{text}\n\n{prompt}"));
                let body =
                    json!({ "model": model, "temperature": 0, "max_tokens": max_tokens, "prompt": prompt });
                content(&asked("/v1/completions", body).await.map_err(|_| first)?, "/text")
            }
            answer => content(&answer?, "/message/content"),
        }
    }
}

/// A whole answer as JSON.
///
/// # Errors
/// When its status is not 200, or it is too large or no JSON.
pub(crate) async fn json_of(response: Response<Incoming>) -> Result<Value, ClientError> {
    let status = response.status();
    let body = whole(response).await?;
    if status != StatusCode::OK {
        let body = String::from_utf8_lossy(&body).chars().take(LONGEST_WORDS).collect();
        return Err(ClientError::Status { status: status.as_u16(), body });
    }
    serde_json::from_slice(&body).map_err(|error| ClientError::Strange(error.to_string()))
}

/// A whole body.
///
/// # Errors
/// When it breaks off, or is too large.
pub(crate) async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
    Ok(body.map_err(|error| ClientError::Broken(innermost(error.as_ref())))?.to_bytes())
}

fn key(path: &Path) -> Result<HeaderValue, ClientError> {
    let refused = |reason: String| ClientError::Key { path: path.display().to_string(), reason };
    let size = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?.len();
    if size > LONGEST_KEY {
        return Err(refused(format!("the file has {size} bytes; a key has at most {LONGEST_KEY}")));
    }
    let key = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.trim()))
        .map_err(|_| refused("it has characters that a header may not have".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn was_closed(error: &hyper_util::client::legacy::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<hyper::Error>());
    source.is_some_and(|source| source.is_incomplete_message() || source.is_closed())
}

pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
