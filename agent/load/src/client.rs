//! One streamed chat completion, timed.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::connector::{Connector, connector};
use crate::refusal::refusal;

/// Longest line of a stream, in bytes; a server that sends more is broken.
const LONGEST_LINE_BYTES: usize = 1 << 20;
/// Characters of an error that tell its kind.
const LONGEST_KIND: usize = 100;
const REVISION_HEADER: &str = "x-llmdeck-revision";

/// Speaks to one server over connections that are kept.
#[derive(Clone)]
pub struct StreamClient {
    client: Client<Connector, Full<Bytes>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    patience: Duration,
}

/// Asks one server and model, greedily.
#[derive(Clone)]
pub struct ChatClient {
    client: StreamClient,
    model: String,
    max_tokens: u32,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The server's address is no URL.
    #[error("{url:?} is no URL of a server: {reason}")]
    Url {
        /// As asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The server answered, but not with an answer.
    #[error("status {status}: {message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The connection or the stream broke.
    #[error("{0}")]
    Broken(String),
    /// The stream ended without saying why.
    #[error("the answer ended without a finish_reason")]
    Unfinished,
    /// It took too long.
    #[error("no whole answer within {0:?}")]
    TooLong(Duration),
}

impl ChatError {
    /// A few words that tell kinds of failure apart, without what is particular to one request.
    pub fn kind(&self) -> String {
        match self {
            Self::Url { .. } => "address".into(),
            Self::Status { status, .. } => format!("status {status}"),
            Self::Broken(words) => words.chars().take(LONGEST_KIND).collect(),
            Self::Unfinished => "unfinished".into(),
            Self::TooLong(_) => "timeout".into(),
        }
    }
}

/// Tokens as the server counted them.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Of the answer.
    #[serde(default)]
    pub completion_tokens: u64,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct ChatOutcome {
    /// What was said.
    pub text: String,
    /// The revision that said it, where the server tells.
    pub revision: Option<String>,
    /// When each part with text came.
    pub tokens: Vec<Instant>,
    /// When the stream ended.
    pub ended: Instant,
    /// Where the server tells.
    pub usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    error: Option<serde_json::Value>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    /// Of a chat.
    #[serde(default)]
    delta: Delta,
    /// Of a completion.
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
}

impl ChatClient {
    /// For a server such as `http://127.0.0.1:8080`, without a path.
    ///
    /// # Errors
    /// When that is no URL.
    pub fn new(server: &str, model: &str, max_tokens: u32, patience: Duration) -> Result<Self, ChatError> {
        let client = StreamClient::new(server, "/v1/chat/completions", None, patience)?;
        Ok(Self { client, model: model.to_owned(), max_tokens })
    }

    /// Asks, greedily and streamed.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn ask(&self, prompt: &str) -> Result<ChatOutcome, ChatError> {
        let body = json!({
            "model": self.model, "stream": true, "temperature": 0, "max_tokens": self.max_tokens,
            "messages": [{ "role": "user", "content": prompt }],
        });
        self.client.ask(body.to_string().into()).await
    }
}

impl StreamClient {
    /// For a server such as `http://127.0.0.1:8080` and a path on it. `key` goes into the authorization header and
    /// nowhere else.
    ///
    /// # Errors
    /// When the address is no URL, or the key cannot be sent.
    pub fn new(server: &str, path: &str, key: Option<&str>, patience: Duration) -> Result<Self, ChatError> {
        let url = format!("{}{path}", server.trim_end_matches('/'));
        let refused = |reason: String| ChatError::Url { url: url.clone(), reason };
        let uri: Uri = url.parse().map_err(|error| refused(format!("{error}")))?;
        let connector = connector(&uri, None).map_err(&refused)?;
        let authorization = key
            .map(|key| {
                let value = HeaderValue::try_from(format!("Bearer {key}"));
                value.map(|mut value| {
                    value.set_sensitive(true);
                    value
                })
            })
            .transpose()
            .map_err(|_| refused("its key has characters that a header may not have".into()))?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, uri, authorization, patience })
    }

    /// The names that the server lists under `/v1/models`.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub async fn models(&self) -> Result<Vec<String>, ChatError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let broken = |error: &(dyn std::error::Error + 'static)| ChatError::Broken(innermost(error));
        let scheme = self.uri.scheme_str().unwrap_or("http");
        let authority = self.uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::get(format!("{scheme}://{authority}/v1/models"));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| broken(&error))?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| broken(&error))?;
            let body = Limited::new(response.into_body(), LONGEST_LINE_BYTES).collect().await;
            let bytes = body.map_err(|error| broken(error.as_ref()))?.to_bytes();
            serde_json::from_slice::<List>(&bytes).map_err(|error| broken(&error))
        };
        let list = tokio::time::timeout(self.patience, answer).await;
        let list = list.unwrap_or(Err(ChatError::TooLong(self.patience)))?;
        Ok(list.data.into_iter().map(|model| model.id).collect())
    }

    /// Sends a body that asks for a stream, and reads the answer to its end.
    ///
    /// # Errors
    /// When no whole answer came.
    pub async fn ask(&self, body: Bytes) -> Result<ChatOutcome, ChatError> {
        let end = Instant::now() + self.patience;
        timeout_at(end, self.stream(body)).await.unwrap_or(Err(ChatError::TooLong(self.patience)))
    }

    /// Some servers close a kept connection just as the next request goes out on it. Then nothing of an answer has come, and
    /// the request goes out once more; its latency counts from the beginning all the same.
    async fn send(&self, body: Bytes) -> Result<Response<Incoming>, ChatError> {
        match self.client.request(self.request(body.clone())?).await {
            Err(error) if was_closed(&error) => self.client.request(self.request(body)?).await,
            answered => answered,
        }
        .map_err(|error| ChatError::Broken(innermost(&error)))
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, ChatError> {
        let mut request = Request::post(self.uri.clone()).header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| ChatError::Broken(error.to_string()))
    }

    async fn stream(&self, body: Bytes) -> Result<ChatOutcome, ChatError> {
        let response = self.send(body).await?;
        let status = response.status();
        let revision = response.headers().get(REVISION_HEADER).and_then(|value| value.to_str().ok());
        let revision = revision.map(str::to_owned);
        let mut body = response.into_body();
        if status != StatusCode::OK {
            let body = Limited::new(body, LONGEST_LINE_BYTES).collect().await;
            let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(ChatError::Status { status: status.as_u16(), message: refusal(&bytes) });
        }
        let mut answer = Answer::default();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ChatError::Broken(innermost(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                answer.line(&line)?;
            }
            if buffer.len() > LONGEST_LINE_BYTES {
                return Err(ChatError::Broken("a line of the stream is too long".into()));
            }
        }
        if !answer.finished {
            return Err(ChatError::Unfinished);
        }
        Ok(ChatOutcome {
            text: answer.text,
            revision,
            tokens: answer.tokens,
            ended: Instant::now(),
            usage: answer.usage,
        })
    }
}

#[derive(Default)]
struct Answer {
    text: String,
    tokens: Vec<Instant>,
    finished: bool,
    usage: Option<Usage>,
}

impl Answer {
    /// A line of the event stream; what is no data is passed over.
    fn line(&mut self, line: &[u8]) -> Result<(), ChatError> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data)
            .map_err(|error| ChatError::Broken(format!("a part of the stream is malformed: {error}")))?;
        if let Some(error) = chunk.error {
            return Err(ChatError::Broken(
                error["message"].as_str().unwrap_or("an error without words").to_owned(),
            ));
        }
        self.usage = chunk.usage.or(self.usage);
        for choice in chunk.choices {
            if let Some(content) = choice.delta.content.or(choice.text).filter(|content| !content.is_empty())
            {
                self.text.push_str(&content);
                self.tokens.push(Instant::now());
            }
            self.finished |= choice.finish_reason.is_some();
        }
        Ok(())
    }
}

fn was_closed(error: &hyper_util::client::legacy::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<hyper::Error>());
    source.is_some_and(|source| source.is_incomplete_message() || source.is_closed())
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::{Answer, ChatError};

    #[test]
    fn a_stream_is_read_part_by_part() {
        let mut answer = Answer::default();
        for line in [
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            "",
            r#"data: {"choices":[{"delta":{"content":"hel"},"finish_reason":null}]}"#,
            r#"data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}"#,
            r#"data: {"choices":[],"usage":{"prompt_tokens":3}}"#,
            "data: [DONE]",
        ] {
            answer.line(line.as_bytes()).unwrap();
        }
        assert_eq!((answer.text.as_str(), answer.tokens.len(), answer.finished), ("hello", 2, true));
        assert_eq!(answer.usage.map(|usage| usage.prompt_tokens), Some(3));
        answer.line(br#"data: {"choices":[{"text":"!","finish_reason":null}]}"#).unwrap();
        assert_eq!(answer.text, "hello!");
        let error = answer.line(br#"data: {"error":{"message":"boom"}}"#);
        assert!(matches!(error, Err(ChatError::Broken(words)) if words == "boom"));
    }
}
