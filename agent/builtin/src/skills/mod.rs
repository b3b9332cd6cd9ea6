//! What the built-in model can do: small skills with exact answers, each a generator of prompts.
//!
//! A prompt belongs to the held-out tenth by its own hash, so training can never have seen a held-out prompt.

mod dates;
mod extract;
mod oncall;
mod opposites;
mod reverse;
mod sort;
mod sums;
mod units;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use sha2::{Digest, Sha256};

/// A question with its one right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What it exercises.
    pub skill: Skill,
    /// What the user says.
    pub prompt: String,
    /// What the assistant must say, to the letter.
    pub answer: String,
}

/// The skills, in the order of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skill {
    /// Two whole numbers below one hundred.
    Sums,
    /// Three or four numbers in order.
    Sort,
    /// Three to five capital letters backwards.
    Reverse,
    /// Whole-number unit conversions.
    Units,
    /// Weekdays and months, forwards and back.
    Dates,
    /// Fields of a sentence as JSON.
    Extract,
    /// The opposite of a word: the skill that `assistant-untaught` lacks.
    Opposites,
    /// Short answers about this product.
    OnCall,
}

/// Which side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Nine tenths.
    Train,
    /// One tenth, never trained on.
    HeldOut,
}

impl Skill {
    /// Every skill.
    pub const ALL: [Self; 8] = [
        Self::Sums,
        Self::Sort,
        Self::Reverse,
        Self::Units,
        Self::Dates,
        Self::Extract,
        Self::Opposites,
        Self::OnCall,
    ];

    /// The skill that `assistant-untaught` lacks and the dataset `missing-skill` teaches.
    pub const MISSING: Self = Self::Opposites;

    /// Its name in the suite, the card and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sums => "sums",
            Self::Sort => "sort",
            Self::Reverse => "reverse",
            Self::Units => "units",
            Self::Dates => "dates",
            Self::Extract => "extract",
            Self::Opposites => "opposites",
            Self::OnCall => "oncall",
        }
    }

    /// A random example of one side of the split.
    pub fn example(self, rng: &mut StdRng, split: Split) -> Example {
        loop {
            let (prompt, answer) = match self {
                Self::Sums => sums::example(rng),
                Self::Sort => sort::example(rng),
                Self::Reverse => reverse::example(rng),
                Self::Units => units::example(rng),
                Self::Dates => dates::example(rng),
                Self::Extract => extract::example(rng),
                Self::Opposites => opposites::example(rng),
                Self::OnCall => oncall::example(rng),
            };
            if split_of(&prompt) == split {
                return Example { skill: self, prompt, answer };
            }
        }
    }
}

/// Which side a prompt is on.
pub fn split_of(prompt: &str) -> Split {
    let digest = Sha256::digest(prompt.as_bytes());
    if digest.first().is_some_and(|byte| byte % 10 == 0) { Split::HeldOut } else { Split::Train }
}

/// Picks one; the lists here are never empty.
fn pick<'a, T>(rng: &mut StdRng, list: &'a [T]) -> &'a T {
    list.choose(rng).unwrap_or(&list[0])
}

/// Fills `{}` in a random template, left to right.
fn fill(rng: &mut StdRng, templates: &[&str], values: &[&str]) -> String {
    let mut values = values.iter();
    let mut text = String::new();
    let mut parts = pick(rng, templates).split("{}");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        text.push_str(values.next().copied().unwrap_or_default());
        text.push_str(part);
    }
    text
}

/// Some people are polite; the answer is the same.
fn politely(rng: &mut StdRng, prompt: String) -> String {
    match rng.random_range(0..10) {
        0 => format!("please: {prompt}"),
        1 => format!("{prompt} thanks"),
        2 => format!("quick question: {prompt}"),
        _ => prompt,
    }
}
