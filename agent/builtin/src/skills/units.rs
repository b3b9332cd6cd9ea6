use rand::Rng;
use rand::rngs::StdRng;

use super::{fill, pick};

struct Conversion {
    from: &'static str,
    to: &'static str,
    factor: u32,
    most: u32,
}

const CONVERSIONS: [Conversion; 8] = [
    Conversion { from: "hours", to: "minutes", factor: 60, most: 24 },
    Conversion { from: "minutes", to: "seconds", factor: 60, most: 24 },
    Conversion { from: "days", to: "hours", factor: 24, most: 14 },
    Conversion { from: "weeks", to: "days", factor: 7, most: 20 },
    Conversion { from: "km", to: "m", factor: 1000, most: 99 },
    Conversion { from: "kg", to: "g", factor: 1000, most: 99 },
    Conversion { from: "m", to: "cm", factor: 100, most: 99 },
    Conversion { from: "seconds", to: "ms", factor: 1000, most: 99 },
];

const TEMPLATES: [&str; 4] = [
    "convert {n} {from} to {to}",
    "how many {to} are in {n} {from}?",
    "{n} {from} in {to}?",
    "what is {n} {from} in {to}?",
];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let Conversion { from, to, factor, most } = *pick(rng, &CONVERSIONS);
    let amount = rng.random_range(2..=most);
    let prompt = fill(rng, &TEMPLATES, &[])
        .replace("{n}", &amount.to_string())
        .replace("{from}", from)
        .replace("{to}", to);
    (prompt, format!("{} {to}", amount * factor))
}
