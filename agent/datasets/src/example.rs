use std::fmt;

use serde::{Deserialize, Serialize};

/// Who says a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are OpenAI's")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        })
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// By whom.
    pub role: Role,
    /// What is said.
    pub content: String,
    /// How much it is learned, where an assistant says it; 0 for a turn that is only read.
    pub weight: f32,
}

/// What an example is.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Turns, of which the assistant's are learned.
    Conversation(Vec<Turn>),
    /// A text, all of which is learned.
    Text(String),
}

/// One example of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Where it is in its file, counted from 1: a line, a row, an entry or a paragraph.
    pub line: usize,
    /// What it is.
    pub body: Body,
}

impl Example {
    /// All of its text, turn by turn.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let (turns, text) = match &self.body {
            Body::Conversation(turns) => (turns.as_slice(), None),
            Body::Text(text) => (&[][..], Some(text.as_str())),
        };
        turns.iter().map(|turn| turn.content.as_str()).chain(text)
    }

    /// What is asked, without what is answered; nothing of plain text.
    pub fn prompt(&self) -> String {
        self.joined(|role| role != Role::Assistant)
    }

    /// What is learned.
    pub fn answer(&self) -> String {
        match &self.body {
            Body::Conversation(_) => self.joined(|role| role == Role::Assistant),
            Body::Text(text) => text.clone(),
        }
    }

    fn joined(&self, wanted: impl Fn(Role) -> bool) -> String {
        let Body::Conversation(turns) = &self.body else { return String::new() };
        let texts: Vec<&str> =
            turns.iter().filter(|turn| wanted(turn.role)).map(|turn| turn.content.as_str()).collect();
        texts.join("\n")
    }

    /// The same with every text changed.
    #[must_use]
    pub fn map_texts(&self, change: impl Fn(&str) -> String) -> Self {
        let body = match &self.body {
            Body::Text(text) => Body::Text(change(text)),
            Body::Conversation(turns) => Body::Conversation(
                turns.iter().map(|turn| Turn { content: change(&turn.content), ..turn.clone() }).collect(),
            ),
        };
        Self { body, ..*self }
    }

    /// As a line of OpenAI's chat format, or `{"text": …}`.
    pub fn to_line(&self) -> String {
        let value = match &self.body {
            Body::Text(text) => serde_json::json!({ "text": text }),
            Body::Conversation(turns) => {
                let message = |turn: &Turn| {
                    let mut message = serde_json::json!({ "role": turn.role, "content": turn.content });
                    if turn.role == Role::Assistant && turn.weight != 1.0 {
                        message["weight"] = turn.weight.into();
                    }
                    message
                };
                serde_json::json!({ "messages": turns.iter().map(message).collect::<Vec<_>>() })
            }
        };
        value.to_string()
    }
}
