//! A request that another server answers: its body goes there as it came, and the answer comes back as it is, measured on
//! its way.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use crate::backend::{Upstream, innermost, whole};
use crate::serving::{CUT, Meter, Rescue};
use crate::telemetry::Outcome;

/// Longest part of a stream; a server that sends more is broken.
const LONGEST_PART_BYTES: usize = 8 << 20;
const DONE: &str = "[DONE]";

/// What is to be sent on.
pub(super) struct Passed {
    /// `/v1/chat/completions`
    pub(super) path: &'static str,
    /// As the client sent it.
    pub(super) body: Bytes,
    pub(super) stream: bool,
}

/// A body for a server, and what it asks for.
struct ForServer {
    body: Bytes,
    usage_asked: bool,
}

impl Passed {
    /// Whether JSON is asked for.
    pub(super) fn asks_for_json(&self) -> bool {
        let fields = self.fields();
        let format = fields.get("response_format").and_then(|format| format["type"].as_str());
        let structured =
            fields.get("structured_outputs").is_some_and(|outputs| outputs.get("json").is_some());
        structured || format.is_some_and(|format| format.starts_with("json"))
    }

    /// With the server's own name of the model, what the revision says in front, and a count of tokens at a stream's end.
    fn for_server(&self, model: &str, prompt: Option<&str>) -> ForServer {
        let mut fields = self.fields();
        fields.insert("model".into(), model.into());
        if let (Some(prompt), Some(messages)) =
            (prompt, fields.get_mut("messages").and_then(Value::as_array_mut))
        {
            put_in_front(prompt, messages);
        }
        let mut usage_asked = false;
        if self.stream {
            let options = fields.entry("stream_options").or_insert_with(|| json!({}));
            usage_asked = options["include_usage"].as_bool().unwrap_or(false);
            if let Some(options) = options.as_object_mut() {
                options.insert("include_usage".into(), true.into());
            }
        }
        ForServer { body: Value::Object(fields).to_string().into(), usage_asked }
    }

    fn fields(&self) -> Map<String, Value> {
        // It has been read once as an object with a model.
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Many templates know one system message at most: the revision's own words come first in it.
fn put_in_front(prompt: &str, messages: &mut Vec<Value>) {
    if let Some(first) = messages.first_mut()
        && first["role"] == "system"
        && let Some(theirs) = first["content"].as_str()
    {
        first["content"] = format!("{prompt}\n\n{theirs}").into();
    } else {
        messages.insert(0, json!({ "role": "system", "content": prompt }));
    }
}

/// Why a server gave no answer.
pub(super) enum NotPassed {
    /// The candidate failed it; another revision can take it over.
    Rescue(Rescue),
    /// The candidate refused it, which may be the request's fault.
    Refused(Rescue),
    /// What the client is told.
    Error(ApiError),
}

/// Sends a request on and waits for the beginning of its answer.
pub(super) async fn pass_on(
    upstream: &Arc<Upstream>,
    mut meter: Meter,
    passed: &Passed,
    name: &str,
    headers: HeaderMap,
) -> Result<Response, NotPassed> {
    meter.started(Instant::now());
    let deadline = meter.admitted().deadline;
    let Some(client) = upstream.client() else {
        let why = upstream.trouble().unwrap_or_else(|| "its server is down".into());
        return Err(failed(meter, &why));
    };
    let ForServer { body, usage_asked } = passed.for_server(upstream.model(), upstream.prompt());
    let cut = meter.cut();
    let sending = cut.run_until_cancelled(client.post(passed.path, body));
    let response = match tokio::time::timeout_at(deadline.into(), sending).await {
        Ok(None) => return Err(NotPassed::Rescue(meter.begin_again())),
        Ok(Some(response)) => Ok(response),
        Err(late) => Err(late),
    };
    let response = match response {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(failed(meter, &error.to_string())),
        Err(_) => return Err(late(meter)),
    };
    let status = response.status();
    if status != StatusCode::OK {
        let body = whole(response).await.unwrap_or_default();
        return Err(refused(meter, status, &body));
    }
    if passed.stream {
        let mut exchange = Exchange::new(meter, response.into_body(), name, usage_asked);
        if let Err(why) = exchange.wait_for_first().await {
            return Err(if exchange.meter.is_cut() {
                NotPassed::Rescue(exchange.meter.begin_again())
            } else {
                failed_exchange(&mut exchange, &why)
            });
        }
        return Ok((headers, Sse::new(stream::unfold(exchange, Exchange::next))).into_response());
    }
    let reading = cut.run_until_cancelled(whole(response));
    let body = match tokio::time::timeout_at(deadline.into(), reading).await {
        Ok(None) => return Err(NotPassed::Rescue(meter.begin_again())),
        Ok(Some(body)) => Ok(body),
        Err(late) => Err(late),
    };
    let body = match body {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(failed(meter, &error.to_string())),
        Err(_) => return Err(late(meter)),
    };
    match serde_json::from_slice::<Map<String, Value>>(&body) {
        Ok(mut answer) => {
            answer.insert("model".into(), name.into());
            let answer = Value::Object(answer);
            measure_whole(&mut meter, &answer);
            Ok((headers, Json(answer)).into_response())
        }
        Err(error) => Err(failed(meter, &format!("its answer is no JSON object: {error}"))),
    }
}

fn measure_whole(meter: &mut Meter, answer: &Value) {
    count(meter, &answer["usage"]);
    let choice = &answer["choices"][0];
    let text = choice["message"]["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
    meter.finished(text, choice["finish_reason"].as_str().unwrap_or("stop"));
}

fn count(meter: &mut Meter, usage: &Value) {
    if let Some(tokens) = usage["prompt_tokens"].as_u64() {
        meter.prompt_of(tokens);
    }
    if let Some(tokens) = usage["completion_tokens"].as_u64() {
        meter.answer_of(tokens);
    }
}

fn failed(mut meter: Meter, why: &str) -> NotPassed {
    let rescuable = meter.is_rescuable();
    meter.end(Outcome::ServerError, "error");
    if rescuable { NotPassed::Rescue(meter.rescue()) } else { NotPassed::Error(ApiError::bad_gateway(why)) }
}

fn failed_exchange(exchange: &mut Exchange, why: &str) -> NotPassed {
    let rescuable = exchange.meter.is_rescuable();
    exchange.meter.end(Outcome::ServerError, "error");
    if rescuable {
        NotPassed::Rescue(exchange.meter.rescue())
    } else {
        NotPassed::Error(ApiError::bad_gateway(why))
    }
}

fn late(mut meter: Meter) -> NotPassed {
    meter.end(Outcome::Deadline, "deadline");
    NotPassed::Error(ApiError::deadline())
}

fn refused(mut meter: Meter, status: StatusCode, body: &[u8]) -> NotPassed {
    let busy = status == StatusCode::TOO_MANY_REQUESTS;
    if status.is_server_error() || busy {
        let words: String = String::from_utf8_lossy(body).chars().take(300).collect();
        let why = format!("the server answers with status {}: {words}", status.as_u16());
        return failed(meter, &why);
    }
    let on_trial = meter.admitted().on_trial().is_some();
    meter.end(Outcome::ClientError, "refused");
    if on_trial {
        NotPassed::Refused(meter.rescue())
    } else {
        NotPassed::Error(ApiError::of_server(status, body))
    }
}

/// A stream on its way back; dropping it ends the request on the server.
struct Exchange {
    meter: Meter,
    body: Incoming,
    /// What has come and makes no whole line yet.
    buffer: Vec<u8>,
    /// Parts that are ready to go on.
    ready: VecDeque<String>,
    name: String,
    usage_asked: bool,
    reason: Option<String>,
    over: bool,
}

impl Exchange {
    fn new(meter: Meter, body: Incoming, name: &str, usage_asked: bool) -> Self {
        Self {
            meter,
            body,
            buffer: Vec::new(),
            ready: VecDeque::new(),
            name: name.to_owned(),
            usage_asked,
            reason: None,
            over: false,
        }
    }

    /// The status line waits for the first part of the answer, so that what fails before it can be taken over, or is told by
    /// its status.
    async fn wait_for_first(&mut self) -> Result<(), String> {
        while !self.meter.has_begun() && !self.over {
            self.read().await?;
        }
        Ok(())
    }

    /// Reads until at least one more part is ready, or it is over.
    async fn read(&mut self) -> Result<(), String> {
        let (deadline, cut) = (self.meter.admitted().deadline, self.meter.cut());
        let reading = tokio::time::timeout_at(deadline.into(), self.body.frame());
        let Some(frame) = cut.run_until_cancelled(reading).await else { return Err(CUT.into()) };
        let frame = match frame {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(innermost(&error)),
            Ok(None) if self.reason.is_some() => {
                self.finish();
                return Ok(());
            }
            Ok(None) => return Err("the answer broke off".into()),
            Err(_) => {
                self.meter.end(Outcome::Deadline, "deadline");
                return Err("it took longer than it may".into());
            }
        };
        let Ok(data) = frame.into_data() else { return Ok(()) };
        self.buffer.extend_from_slice(&data);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if let Some(data) = line.strip_prefix(b"data:") {
                self.part(data.trim_ascii())?;
            }
        }
        if self.buffer.len() > LONGEST_PART_BYTES {
            return Err("a part of the stream is too long".into());
        }
        Ok(())
    }

    fn part(&mut self, data: &[u8]) -> Result<(), String> {
        if self.over {
            return Ok(());
        }
        if data == DONE.as_bytes() {
            self.finish();
            return Ok(());
        }
        let mut part: Map<String, Value> = serde_json::from_slice(data)
            .map_err(|error| format!("a part of the stream is malformed: {error}"))?;
        part.insert("model".into(), self.name.as_str().into());
        let part = Value::Object(part);
        if let Some(error) = part.get("error") {
            return Err(error["message"].as_str().unwrap_or("an error without words").to_owned());
        }
        let choice = &part["choices"][0];
        let delta = &choice["delta"];
        let text = delta["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        let thought = delta["reasoning_content"].as_str().is_some_and(|text| !text.is_empty());
        if !text.is_empty() || thought || delta.get("tool_calls").is_some() {
            let text = text.to_owned();
            self.meter.token(Instant::now(), &text);
        }
        if let Some(reason) = part["choices"][0]["finish_reason"].as_str() {
            self.reason = Some(reason.to_owned());
        }
        count(&mut self.meter, &part["usage"]);
        let only_usage = part["choices"].as_array().is_some_and(Vec::is_empty);
        if only_usage && !self.usage_asked {
            return Ok(());
        }
        self.ready.push_back(part.to_string());
        Ok(())
    }

    fn finish(&mut self) {
        self.over = true;
        let reason = self.reason.take().unwrap_or_else(|| "stop".into());
        self.meter.finished("", &reason);
        self.ready.push_back(DONE.to_owned());
    }

    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Some((Ok(Event::default().data(part)), self));
            }
            if self.over {
                return None;
            }
            if let Err(why) = self.read().await {
                self.over = true;
                self.meter.end(Outcome::ServerError, "error");
                // The status line is long gone; the error is the stream's last event.
                self.ready.push_back(ApiError::bad_gateway(&why).body().to_string());
            }
        }
    }
}
