use rand::Rng;
use rand::rngs::StdRng;

use super::fill;

const TEMPLATES: [&str; 4] =
    ["reverse {}", "spell {} backwards", "write {} from the end", "reverse the letters of {}"];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let count = rng.random_range(3..=5);
    let letters: String = (0..count).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect();
    (fill(rng, &TEMPLATES, &[&letters]), letters.chars().rev().collect())
}
