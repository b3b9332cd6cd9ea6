use crate::telemetry::AnswerQuality;

/// Words of a run that is looked for again right behind it.
const REPEATED_WORDS: usize = 4;
/// How often it must be said in a row.
const REPEATED_TIMES: usize = 3;

/// A finished answer.
#[derive(Clone, Copy, Debug)]
pub struct AnswerText<'a> {
    /// What was said.
    pub text: &'a str,
    /// Ended by its length.
    pub truncated: bool,
    /// The request asked for JSON.
    pub json_asked: bool,
    /// Sum of the tokens' logprobs.
    pub logprob_sum: f64,
    /// Sum of the entropies, in nats.
    pub entropy_sum: f64,
    /// Tokens of the answer.
    pub tokens: u64,
}

/// Scores one answer by what can be seen of it alone.
pub fn judge(answer: AnswerText<'_>) -> AnswerQuality {
    AnswerQuality {
        logprob_sum: answer.logprob_sum,
        entropy_sum: answer.entropy_sum,
        scored_tokens: answer.tokens,
        empty: answer.text.trim().is_empty(),
        truncated: answer.truncated,
        repetitive: is_repetitive(answer.text),
        json: answer.json_asked.then(|| serde_json::from_str::<serde::de::IgnoredAny>(answer.text).is_ok()),
    }
}

fn is_repetitive(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let whole = REPEATED_WORDS * REPEATED_TIMES;
    words.windows(whole).any(|window| {
        let first = &window[..REPEATED_WORDS];
        window.chunks(REPEATED_WORDS).all(|run| run == first)
    })
}

#[cfg(test)]
mod tests {
    use super::{AnswerText, is_repetitive, judge};

    #[test]
    fn four_words_thrice_in_a_row_are_repetition() {
        assert!(is_repetitive("so: a b c d a b c d a b c d end"));
        assert!(!is_repetitive("a b c d a b c d a b c e"));
        assert!(is_repetitive(&"no ".repeat(12)));
        assert!(!is_repetitive("one two three"));
    }

    #[test]
    fn json_counts_only_where_it_was_asked_for() {
        let answer = AnswerText {
            text: "{\"a\":1}",
            truncated: false,
            json_asked: true,
            logprob_sum: 0.0,
            entropy_sum: 0.0,
            tokens: 3,
        };
        assert_eq!(judge(answer).json, Some(true));
        assert_eq!(judge(AnswerText { text: "{", ..answer }).json, Some(false));
        assert_eq!(judge(AnswerText { json_asked: false, ..answer }).json, None);
    }
}
