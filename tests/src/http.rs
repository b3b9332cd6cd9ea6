use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::{AgentProcess, PATIENCE};

/// An answer as it came.
#[derive(Debug)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// What followed.
    pub body: String,
}

impl Response {
    /// A header's value, in lower case; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// One request over a connection of its own, byte by byte as given.
pub fn raw(agent: &AgentProcess, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(agent.http()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The agent may answer and close before everything is written.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// One well-formed request.
pub fn send(agent: &AgentProcess, method: &str, path: &str, body: &str) -> Response {
    send_with(agent, method, path, "", body)
}

/// The same with more header lines, each ended.
pub fn send_with(agent: &AgentProcess, method: &str, path: &str, more: &str, body: &str) -> Response {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: llmdeck\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n{body}"
    );
    let answer = raw(agent, request.as_bytes());
    let (head, body) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {method} {path}: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
