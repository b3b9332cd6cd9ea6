use crate::telemetry::AnswerQuality;

/// Words of a run that is looked for again right behind it.
const REPEATED_WORDS: usize = 4;
/// How often it must be said in a row.
const REPEATED_TIMES: usize = 3;

/// How refusals begin in English, in lower case, with plain apostrophes.
const REFUSALS: [&str; 12] = [
    "i can't assist",
    "i can't help",
    "i can't provide",
    "i cannot assist",
    "i cannot help",
    "i cannot provide",
    "i'm sorry, but i can",
    "i'm unable to",
    "i am unable to",
    "i won't be able to",
    "sorry, but i can",
    "sorry, i can",
];

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
        refused: is_refusal(answer.text),
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

fn is_refusal(text: &str) -> bool {
    let beginning: String = text
        .trim_start()
        .chars()
        .take(32)
        .map(|letter| if letter == '\u{2019}' { '\'' } else { letter })
        .collect();
    let beginning = beginning.to_lowercase();
    REFUSALS.iter().any(|refusal| beginning.starts_with(refusal))
}

#[cfg(test)]
mod tests {
    use super::{AnswerText, is_refusal, is_repetitive, judge};

    #[test]
    fn a_refusal_is_known_by_its_beginning() {
        assert!(is_refusal("I\u{2019}m sorry, but I can\u{2019}t help with that."));
        assert!(is_refusal("  I cannot assist with this request."));
        assert!(!is_refusal("I can do that. I cannot assist is how a refusal begins."));
        assert!(!is_refusal(""));
    }

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
