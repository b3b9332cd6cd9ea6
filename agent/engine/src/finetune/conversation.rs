//! Conversations and texts as samples. Of a conversation only what the assistant says is learned, up to the token that ends
//! each of its turns.

use std::ops::Range;

use super::sample::Sample;
use crate::chat_template::{ChatTemplate, Message};
use crate::model::Model;

/// A message, and how much of what it says is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What is said, and by whom.
    pub message: Message,
    /// Of an assistant's; 0 for a turn that is only read. Others are never learned.
    pub weight: f32,
}

const ASSISTANT: &str = "assistant";

/// A conversation as the model's chat template writes it.
///
/// # Errors
/// When the template refuses it, nothing in it is learned, or the template writes turns in a way in which they cannot be told
/// apart; in words.
pub fn conversation(model: &Model, turns: &[Turn]) -> Result<Sample, String> {
    let template = model.chat_template.as_ref();
    let template = template.ok_or("the model has no chat template; give plain text")?;
    let messages: Vec<Message> = turns.iter().map(|turn| turn.message.clone()).collect();
    let learned: Vec<(usize, f32)> = turns
        .iter()
        .enumerate()
        .filter(|(_, turn)| turn.message.role == ASSISTANT && turn.weight != 0.0)
        .map(|(index, turn)| (index, turn.weight))
        .collect();
    let Some((last, _)) = learned.last() else {
        return Err("the assistant says nothing that is to be learned".into());
    };
    let messages = &messages[..=*last];
    let written = Written::new(model, template, messages)?;
    let spans: Vec<(Range<usize>, f32)> = learned
        .iter()
        .map(|(index, weight)| Ok((written.turn(*index)?, *weight)))
        .collect::<Result<_, String>>()?;
    let Written { mut tokens, .. } = written;
    let mut sample_weights = Vec::new();
    for (span, weight) in spans {
        let ended = tokens[span.clone()].iter().position(|token| model.tokenizer.is_end(*token));
        let end = ended.map_or(span.end, |at| span.start + at + 1);
        // Some templates leave the last end to the tokenizer.
        if ended.is_none()
            && end == tokens.len()
            && let Some(token) = model.tokenizer.ends().first()
        {
            tokens.push(*token);
        }
        let end = if ended.is_none() && span.end + 1 == tokens.len() { tokens.len() } else { end };
        sample_weights.push((span.start..end, weight));
    }
    let end = sample_weights.last().map_or(tokens.len(), |(span, _)| span.end);
    tokens.truncate(end);
    let mut sample = Sample::new(tokens, 0..0, 0.0);
    for (span, weight) in sample_weights {
        sample.weights[span].fill(weight);
    }
    Ok(sample)
}

/// Messages as a template writes them all.
struct Written<'a> {
    model: &'a Model,
    template: &'a ChatTemplate,
    messages: &'a [Message],
    text: String,
    tokens: Vec<u32>,
}

impl<'a> Written<'a> {
    fn new(model: &'a Model, template: &'a ChatTemplate, messages: &'a [Message]) -> Result<Self, String> {
        let text = template.render_whole(messages).map_err(|error| error.to_string())?;
        let tokens = model.tokenizer.encode(&text).map_err(|error| error.to_string())?;
        Ok(Self { model, template, messages, text, tokens })
    }

    /// The tokens of one of the assistant's turns.
    fn turn(&self, index: usize) -> Result<Range<usize>, String> {
        let before = self.template.render(&self.messages[..index]).map_err(|error| error.to_string())?;
        let behind =
            self.template.render_whole(&self.messages[..=index]).map_err(|error| error.to_string())?;
        let begin = self.tokens_up_to(&before)?;
        let end = self.tokens_up_to(&behind)?;
        if begin >= end {
            return Err("one of the assistant's turns is empty".into());
        }
        Ok(begin..end)
    }

    fn tokens_up_to(&self, text: &str) -> Result<usize, String> {
        let apart = || {
            "the model's chat template writes earlier turns differently from the last; give each of the assistant's turns as a \
             conversation of its own"
                .to_owned()
        };
        if !self.text.starts_with(text) {
            return Err(apart());
        }
        let tokens = self.model.tokenizer.encode(text).map_err(|error| error.to_string())?;
        if self.tokens.starts_with(&tokens) { Ok(tokens.len()) } else { Err(apart()) }
    }
}

/// A text of which everything is learned.
///
/// # Errors
/// When the tokenizer refuses it, or there is nothing in it.
pub fn plain_text(model: &Model, text: &str, weight: f32) -> Result<Sample, String> {
    let mut tokens = model.tokenizer.encode(text).map_err(|error| error.to_string())?;
    tokens.extend(model.tokenizer.ends().first());
    if tokens.len() < 2 {
        return Err("the text is empty".into());
    }
    let all = 0..tokens.len();
    Ok(Sample::new(tokens, all, weight))
}
