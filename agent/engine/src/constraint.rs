//! Answers that are held to a JSON schema, a regular expression or a choice (llguidance): before each token is chosen,
//! those that cannot be part of such an answer are ruled out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::EngineError;
use crate::tokenizer::Tokenizer;

/// White space between the parts of JSON. Bounded: small models otherwise like to go on with it for ever.
const JSON_WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,24}";
/// Where a schema says how its JSON is written.
const JSON_STYLE: &str = "x-guidance";

/// What an answer has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerFormat {
    /// Any JSON object.
    JsonObject,
    /// JSON that meets a schema.
    JsonSchema(Value),
    /// Text that a regular expression (Rust's syntax) matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Keywords that llguidance takes and then gets wrong (its issue 265: answers that cannot end).
const UNSUPPORTED_KEYWORDS: [&str; 1] = ["patternProperties"];
/// Keywords whose values name schemas by names of the user's.
const NAMING_KEYWORDS: [&str; 4] = ["properties", "$defs", "definitions", "dependentSchemas"];

impl AnswerFormat {
    fn check(&self) -> Result<(), EngineError> {
        match self {
            Self::JsonSchema(schema) => match unsupported_keyword(schema) {
                Some(keyword) => {
                    Err(EngineError::Constraint(format!("{keyword} is not supported; name the properties")))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn grammar(&self) -> TopLevelGrammar {
        match self {
            Self::JsonObject => TopLevelGrammar::from_json_schema(styled(&json!({ "type": "object" }))),
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(styled(schema)),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
                TopLevelGrammar::from_regex(&texts.join("|"))
            }
        }
    }
}

/// Schemas are as deep as the JSON reader lets through.
fn unsupported_keyword(schema: &Value) -> Option<&'static str> {
    match schema {
        Value::Object(keywords) => keywords.iter().find_map(|(keyword, value)| {
            let unsupported = UNSUPPORTED_KEYWORDS.into_iter().find(|unsupported| unsupported == keyword);
            unsupported.or_else(|| match value {
                Value::Object(named) if NAMING_KEYWORDS.contains(&keyword.as_str()) => {
                    named.values().find_map(unsupported_keyword)
                }
                // What these hold is data.
                _ if matches!(keyword.as_str(), "enum" | "const" | "default" | "examples") => None,
                value => unsupported_keyword(value),
            })
        }),
        Value::Array(schemas) => schemas.iter().find_map(unsupported_keyword),
        _ => None,
    }
}

fn styled(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(schema) = schema.as_object_mut() {
        schema.entry(JSON_STYLE).or_insert_with(|| json!({ "whitespace_pattern": JSON_WHITE_SPACE }));
    }
    schema
}

fn escaped(text: &str) -> String {
    let special = |letter: &char| r"\.+*?()|[]{}^$#&-~/".contains(*letter);
    text.chars().flat_map(|letter| special(&letter).then_some('\\').into_iter().chain([letter])).collect()
}

/// What a model's vocabulary has to be for constraints; made once for each model, with the first constraint.
pub struct Grammars {
    factory: ParserFactory,
}

/// The vocabulary as llguidance walks it.
struct Environment {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer.encode_inner(text).unwrap_or_default()
        })
    }
}

impl Grammars {
    /// For a tokenizer of a model with `vocabulary` logits.
    ///
    /// # Errors
    /// When the vocabulary has no end token, or llguidance refuses it.
    pub(crate) fn new(tokenizer: &Arc<Tokenizer>, vocabulary: usize) -> Result<Self, EngineError> {
        let refused = |reason: String| EngineError::Constraint(reason);
        let mut ends = tokenizer.ends().iter().copied();
        let end = ends.next().ok_or_else(|| refused("the model has no token that ends an answer".into()))?;
        let vocabulary = u32::try_from(vocabulary).map_err(|error| refused(error.to_string()))?;
        let words: Vec<Vec<u8>> = (0..vocabulary)
            .map(|id| match tokenizer.token_bytes(id) {
                Some(bytes) => bytes,
                None => {
                    let name = tokenizer.token_text(id);
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
                }
            })
            .collect();
        let mut info = TokRxInfo::new(vocabulary, end);
        info.tok_end_of_turn = ends.next();
        let trie = TokTrie::from(&info, &words);
        let environment: TokEnv = Arc::new(Environment { tokenizer: Arc::clone(tokenizer), trie });
        let abilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let mut factory = ParserFactory::new(&environment, abilities, &SlicedBiasComputer::general_slices())
            .map_err(|error| refused(error.to_string()))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory })
    }

    /// A constraint for one answer. May take milliseconds, and longer for large schemas, which are bounded.
    ///
    /// # Errors
    /// What of the format is not supported or too large, in words.
    pub(crate) fn constraint(&self, format: &AnswerFormat) -> Result<Constraint, EngineError> {
        let began = Instant::now();
        format.check()?;
        let parser = self.factory.create_parser(format.grammar());
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(EngineError::Constraint(error));
        }
        // Whether anything at all could be said shows here rather than in the middle of a batch.
        matcher.compute_mask().map_err(|error| EngineError::Constraint(error.to_string()))?;
        Ok(Constraint { matcher, took: began.elapsed() })
    }
}

/// Rules out tokens for one answer.
pub struct Constraint {
    matcher: Matcher,
    took: Duration,
}

impl Constraint {
    /// Sets the logits of what cannot come next to minus infinity.
    ///
    /// # Errors
    /// In words, when the constraint met its limits or nothing is left.
    pub(crate) fn rule_out(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let began = Instant::now();
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
        if allowed.is_zero() {
            return Err("no token of the vocabulary can go on here".into());
        }
        for (word, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(32)) {
            if *word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        self.took += began.elapsed();
        Ok(())
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// In words, when the constraint met its limits, or the answer can neither end nor go on.
    pub(crate) fn take(&mut self, token: u32) -> Result<(), String> {
        let began = Instant::now();
        let taken = self.matcher.consume_token(token).map_err(|error| error.to_string());
        let stopped = self.matcher.stop_reason();
        let ended_well = match stopped {
            StopReason::NotStopped | StopReason::EndOfSentence => true,
            StopReason::NoExtension | StopReason::NoExtensionBias => {
                self.matcher.is_accepting().unwrap_or(false)
            }
            _ => false,
        };
        self.took += began.elapsed();
        taken?;
        if ended_well { Ok(()) } else { Err(format!("the answer came to a dead end ({stopped})")) }
    }

    /// Whether the answer is complete and nothing but its end can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// What must come next whatever the model says.
    pub(crate) fn forced(&mut self, most: usize) -> Vec<u32> {
        let began = Instant::now();
        let mut forced = self.matcher.compute_ff_tokens();
        forced.truncate(most);
        self.took += began.elapsed();
        forced
    }

    /// Time that was spent on it since the last call.
    pub(crate) fn took(&mut self) -> Duration {
        std::mem::take(&mut self.took)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}
