use std::str::FromStr;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use super::arrivals::normal;

/// Words that a tokenizer of English has as one token, most of them.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];
const MOST_TOKENS: u64 = 1 << 20;

/// How long prompts or answers are, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// All the same.
    Fixed(u64),
    /// Any between, each as likely.
    Uniform(u64, u64),
    /// Many short, few long: the logarithm is normal, with this median and this standard deviation of the logarithm.
    LogNormal {
        /// Half are shorter.
        median: u64,
        /// Standard deviation of the natural logarithm.
        sigma: f64,
    },
}

impl Length {
    pub(super) fn draw(self, rng: &mut StdRng) -> u64 {
        match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform(least, most) => rng.random_range(least..=most),
            Self::LogNormal { median, sigma } => {
                ((median as f64 * (sigma * normal(rng)).exp()).round() as u64).clamp(1, MOST_TOKENS)
            }
        }
    }
}

impl FromStr for Length {
    type Err = String;

    /// `128`, `64..256`, or `lognormal:128:0.8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no length; give 128, 64..256 or lognormal:128:0.8, up to {MOST_TOKENS} tokens"
            )
        };
        let tokens = |text: &str| {
            text.trim()
                .parse::<u64>()
                .ok()
                .filter(|tokens| (1..=MOST_TOKENS).contains(tokens))
                .ok_or_else(wrong)
        };
        if let Some(rest) = text.strip_prefix("lognormal:") {
            let (median, sigma) = rest.split_once(':').ok_or_else(wrong)?;
            let sigma = sigma.parse().ok().filter(|sigma| (0.0..=3.0).contains(sigma)).ok_or_else(wrong)?;
            return Ok(Self::LogNormal { median: tokens(median)?, sigma });
        }
        match text.split_once("..") {
            Some((least, most)) => {
                let (least, most) = (tokens(least)?, tokens(most)?);
                if least > most { Err(wrong()) } else { Ok(Self::Uniform(least, most)) }
            }
            None => tokens(text).map(Self::Fixed),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompts {
    /// Words by chance.
    Synthetic {
        /// Tokens of a prompt.
        length: Length,
        /// Prompts that begin alike: so many groups, each with so many tokens at the beginning.
        shared_prefix: Option<(u32, u64)>,
        /// Turns of a conversation, each with all that was said before.
        turns: u32,
    },
    /// From a file, over and over in an order by chance.
    Dataset(Vec<Question>),
}

/// A line of a dataset.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Question {
    /// What the user says, where it is one message.
    #[serde(default)]
    pub prompt: Option<String>,
    /// A whole conversation in OpenAI's form.
    #[serde(default)]
    pub messages: Option<Vec<Value>>,
    /// Most tokens of the answer, where the line says.
    #[serde(default)]
    pub max_tokens: Option<u64>,
}

impl Prompts {
    /// Reads JSON lines with `prompt` or `messages`.
    ///
    /// # Errors
    /// The first line that is malformed, by its number.
    pub fn dataset(text: &str) -> Result<Self, String> {
        let mut questions = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |why: String| format!("line {}: {why}", index + 1);
            let question: Question = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
            if question.prompt.is_none() && question.messages.is_none() {
                return Err(wrong("has neither prompt nor messages".into()));
            }
            questions.push(question);
        }
        if questions.is_empty() { Err("it has no line".into()) } else { Ok(Self::Dataset(questions)) }
    }

    /// What a request asks, the same for the same seed and number. A request of a conversation holds the turns before
    /// it with answers made up, so that it does not wait for the server's.
    pub(super) fn question(&self, seed: u64, number: u64, words_per_token: f64) -> Asked {
        let mut rng = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self {
            Self::Synthetic { length, shared_prefix, turns } => {
                let turns = u64::from((*turns).max(1));
                let (conversation, turn) = (number / turns, number % turns);
                let mut of_conversation =
                    StdRng::seed_from_u64(seed ^ conversation.wrapping_mul(0x9e37_79b9) ^ 1);
                let words = |tokens: u64, rng: &mut StdRng| words(tokens, words_per_token, rng);
                let mut messages = Vec::new();
                if let Some((groups, tokens)) = shared_prefix {
                    let group = of_conversation.random_range(0..(*groups).max(1));
                    let mut of_group = StdRng::seed_from_u64(seed ^ u64::from(group) << 20 ^ 2);
                    messages.push(json!({ "role": "system", "content": words(*tokens, &mut of_group) }));
                }
                for past in 0..=turn {
                    let tokens = length.draw(&mut of_conversation);
                    messages.push(json!({ "role": "user", "content": words(tokens, &mut of_conversation) }));
                    if past < turn {
                        messages.push(
                            json!({ "role": "assistant", "content": words(tokens, &mut of_conversation) }),
                        );
                    }
                }
                Asked { messages, max_tokens: None }
            }
            Self::Dataset(questions) => {
                let Some(question) = questions.choose(&mut rng) else {
                    return Asked { messages: Vec::new(), max_tokens: None };
                };
                let messages = question.messages.clone().unwrap_or_else(|| {
                    vec![json!({ "role": "user", "content": question.prompt.clone().unwrap_or_default() })]
                });
                Asked { messages, max_tokens: question.max_tokens }
            }
        }
    }
}

/// One request's content.
pub(super) struct Asked {
    pub(super) messages: Vec<Value>,
    pub(super) max_tokens: Option<u64>,
}

impl Asked {
    /// For an endpoint without roles.
    pub(super) fn text(&self) -> String {
        let contents = self.messages.iter().filter_map(|message| message["content"].as_str());
        contents.collect::<Vec<_>>().join("\n")
    }
}

fn words(tokens: u64, words_per_token: f64, rng: &mut StdRng) -> String {
    let count = ((tokens as f64 * words_per_token).round() as u64).max(1);
    let words: Vec<&str> = (0..count).map(|_| *WORDS.choose(rng).unwrap_or(&"word")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Length, Prompts};

    #[test]
    fn lengths_are_read_and_kept() {
        for (text, length) in [
            ("128", Length::Fixed(128)),
            ("64..256", Length::Uniform(64, 256)),
            ("lognormal:100:0.5", Length::LogNormal { median: 100, sigma: 0.5 }),
        ] {
            assert_eq!(text.parse::<Length>().unwrap(), length);
        }
        for wrong in ["", "0", "9..3", "lognormal:1", "lognormal:1:9", "x", "99999999999"] {
            let error = wrong.parse::<Length>().unwrap_err();
            assert!(error.contains("64..256"), "{error}");
        }
    }

    #[test]
    fn conversations_grow_and_groups_begin_alike() {
        let prompts =
            Prompts::Synthetic { length: Length::Fixed(10), shared_prefix: Some((1, 50)), turns: 3 };
        let asked: Vec<_> = (0..6).map(|number| prompts.question(1, number, 1.0)).collect();
        assert_eq!(asked.iter().map(|asked| asked.messages.len()).collect::<Vec<_>>(), [2, 4, 6, 2, 4, 6]);
        assert_eq!(asked[2].messages[..4], asked[1].messages[..]);
        assert_eq!(asked[3].messages[0], asked[0].messages[0]);
        assert_ne!(asked[3].messages[1], asked[0].messages[1]);
        assert_eq!(asked[0].text().split_whitespace().count(), 60);
        assert_eq!(prompts.question(1, 4, 1.0).messages, asked[4].messages, "the same again");
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let good = "{\"prompt\":\"a\"}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"b\"}]}\n";
        assert!(matches!(Prompts::dataset(good), Ok(Prompts::Dataset(all)) if all.len() == 2));
        assert!(
            Prompts::dataset("{\"prompt\":\"a\"}\n{\"promt\":\"b\"}")
                .unwrap_err()
                .starts_with("line 2: has neither")
        );
        assert!(Prompts::dataset("not json").unwrap_err().starts_with("line 1"));
        assert!(Prompts::dataset("").is_err());
    }
}
