//! Tokens to text as they come: never half a character, never a stop string.

use crate::EngineError;
use crate::tokenizer::Tokenizer;

/// Stands for bytes that are not yet a character.
const REPLACEMENT: char = '\u{fffd}';

/// The text of one answer, token by token.
pub(crate) struct TextStream {
    tokens: Vec<u32>,
    /// From here on tokens are decoded again, since a token's text may depend on the one before.
    context_start: usize,
    /// Tokens before this one are text already.
    decoded_end: usize,
    stops: Vec<String>,
    held: String,
}

/// What a token added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextStep {
    /// Text that is final.
    pub(crate) text: String,
    /// A stop string was reached; nothing more will come.
    pub(crate) stopped: bool,
}

impl TextStream {
    /// An answer that ends before any of `stops`; empty ones are ignored.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            tokens: Vec::new(),
            context_start: 0,
            decoded_end: 0,
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            held: String::new(),
        }
    }

    /// Takes the next token.
    ///
    /// # Errors
    /// When the tokenizer refuses it.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<TextStep, EngineError> {
        self.tokens.push(token);
        let before = tokenizer.decode(&self.tokens[self.context_start..self.decoded_end])?;
        let after = tokenizer.decode(&self.tokens[self.context_start..])?;
        if after.ends_with(REPLACEMENT) || after.len() <= before.len() {
            return Ok(TextStep { text: String::new(), stopped: false });
        }
        self.context_start = self.decoded_end;
        self.decoded_end = self.tokens.len();
        self.held.push_str(after.get(before.len()..).unwrap_or_default());
        Ok(self.release())
    }

    /// What is left when the answer ends for another reason than a stop string.
    pub(crate) fn finish(&mut self, tokenizer: &Tokenizer) -> String {
        if self.decoded_end < self.tokens.len() {
            let before =
                tokenizer.decode(&self.tokens[self.context_start..self.decoded_end]).unwrap_or_default();
            let after = tokenizer.decode(&self.tokens[self.context_start..]).unwrap_or_default();
            self.held.push_str(after.get(before.len()..).unwrap_or_default());
            self.decoded_end = self.tokens.len();
        }
        let step = self.release();
        if step.stopped { step.text } else { step.text + &std::mem::take(&mut self.held) }
    }

    /// Gives out what cannot be the beginning of a stop string.
    fn release(&mut self) -> TextStep {
        let hit = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(end) = hit {
            self.held.truncate(end);
            return TextStep { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        TextStep { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }
}

/// Bytes at the end of `text` that begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(index, letter)| index + letter.len_utf8())
        .filter(|length| *length < stop.len() && text.ends_with(&stop[..*length]))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::TextStream;

    fn fed(stops: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut stream = TextStream::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out = Vec::new();
        for part in parts {
            stream.held.push_str(part);
            let step = stream.release();
            out.push(step.text);
            if step.stopped {
                return (out, true);
            }
        }
        out.push(std::mem::take(&mut stream.held));
        (out, false)
    }

    #[test]
    fn a_stop_string_across_tokens_is_cut() {
        assert_eq!(
            fed(&["END"], &["abE", "N", "Dxy"]),
            (vec!["ab".into(), String::new(), String::new()], true)
        );
        assert_eq!(fed(&["b", "abc"], &["xab"]), (vec!["xa".into()], true));
    }

    #[test]
    fn what_only_looked_like_a_stop_string_comes_out() {
        let (out, stopped) = fed(&["END", "--"], &["E", "N", "C-", "x"]);
        assert!(!stopped);
        assert_eq!(out.concat(), "ENC-x");
    }

    #[test]
    fn letters_of_several_bytes_are_kept_whole() {
        let (out, stopped) = fed(&["éa"], &["xé", "b"]);
        assert_eq!((out.concat().as_str(), stopped), ("xéb", false));
    }
}
