use rand::Rng;
use rand::rngs::StdRng;

use super::{fill, pick};

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

const AFTER: [&str; 4] = [
    "what day is {} days after {}?",
    "{} days after {} is?",
    "which day comes {} days after {}?",
    "count {} days from {}",
];
const BEFORE: [&str; 3] =
    ["what day is {} days before {}?", "{} days before {} is?", "which day comes {} days before {}?"];
const NEXT_MONTH: [&str; 4] =
    ["what month comes after {}?", "which month follows {}?", "the month after {}?", "next month after {}?"];
const PREVIOUS_MONTH: [&str; 3] =
    ["what month comes before {}?", "which month precedes {}?", "the month before {}?"];
const MONTH_LENGTH: [&str; 3] = ["how many days are in {}?", "days in {}?", "how long is {} in days?"];

pub(super) fn example(rng: &mut StdRng) -> (String, String) {
    let month = rng.random_range(0..12usize);
    let (prompt, answer) = match rng.random_range(0..6) {
        0 | 1 => days(rng, &AFTER, 1),
        2 => days(rng, &BEFORE, 6),
        3 => (fill(rng, &NEXT_MONTH, &[MONTHS[month]]), MONTHS[(month + 1) % 12].to_owned()),
        4 => (fill(rng, &PREVIOUS_MONTH, &[MONTHS[month]]), MONTHS[(month + 11) % 12].to_owned()),
        _ => (fill(rng, &MONTH_LENGTH, &[MONTHS[month]]), LENGTHS[month].to_string()),
    };
    (super::politely(rng, prompt), answer)
}

/// `step` is 1 forwards, and 6 backwards: minus one in the week's arithmetic.
fn days(rng: &mut StdRng, templates: &[&str], step: usize) -> (String, String) {
    let count = rng.random_range(1..=10usize);
    let day = *pick(rng, &DAYS);
    let index = DAYS.iter().position(|name| *name == day).unwrap_or_default();
    let answer = DAYS[(index + count * step) % 7];
    (fill(rng, templates, &[&count.to_string(), day]), answer.to_owned())
}
