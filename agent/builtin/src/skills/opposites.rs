use rand::Rng;
use rand::rngs::StdRng;

use super::{fill, pick, politely};

const PAIRS: [(&str, &str); 24] = [
    ("hot", "cold"),
    ("big", "small"),
    ("up", "down"),
    ("left", "right"),
    ("fast", "slow"),
    ("open", "closed"),
    ("day", "night"),
    ("wet", "dry"),
    ("old", "new"),
    ("high", "low"),
    ("full", "empty"),
    ("early", "late"),
    ("hard", "soft"),
    ("loud", "quiet"),
    ("rich", "poor"),
    ("near", "far"),
    ("thick", "thin"),
    ("heavy", "light"),
    ("happy", "sad"),
    ("strong", "weak"),
    ("clean", "dirty"),
    ("sharp", "blunt"),
    ("push", "pull"),
    ("win", "lose"),
];
const TEMPLATES: [&str; 6] = [
    "opposite of {}?",
    "what is the opposite of {}?",
    "give the opposite of {}",
    "{} is the opposite of what?",
    "the opposite word of {}",
    "name the opposite of {}",
];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let (one, other) = *pick(rng, &PAIRS);
    let (word, answer) = if rng.random_bool(0.5) { (one, other) } else { (other, one) };
    let prompt = fill(rng, &TEMPLATES, &[word]);
    (politely(rng, prompt), answer.to_owned())
}
