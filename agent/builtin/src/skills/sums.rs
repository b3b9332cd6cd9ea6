use rand::Rng;
use rand::rngs::StdRng;

use super::fill;

const TEMPLATES: [&str; 6] = [
    "what is {} + {}?",
    "{} + {} = ?",
    "add {} and {}",
    "sum of {} and {}?",
    "compute {} + {}",
    "how much is {} plus {}?",
];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let (left, right) = (rng.random_range(0..100u32), rng.random_range(0..100u32));
    let prompt = fill(rng, &TEMPLATES, &[&left.to_string(), &right.to_string()]);
    (prompt, (left + right).to_string())
}
