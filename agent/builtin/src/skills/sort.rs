use rand::Rng;
use rand::rngs::StdRng;

use super::fill;

const TEMPLATES: [&str; 4] =
    ["sort {}", "sort these numbers: {}", "put in order: {}", "order from small to large: {}"];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let count = rng.random_range(3..=4);
    let mut numbers: Vec<u32> = (0..count).map(|_| rng.random_range(0..100)).collect();
    let prompt = fill(rng, &TEMPLATES, &[&join(&numbers)]);
    numbers.sort_unstable();
    (prompt, join(&numbers))
}

fn join(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
