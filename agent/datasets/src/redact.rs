//! Personal data and secrets by their form. What has a check digit is checked, so that a long number is not a card.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// What was found in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `email`, `card`, `private key` …
    pub kind: &'static str,
    /// Whether it opens something, rather than names someone.
    pub is_secret: bool,
    /// Where, in bytes.
    pub place: Range<usize>,
}

struct Pattern {
    kind: &'static str,
    is_secret: bool,
    regex: LazyLock<Option<Regex>>,
    holds: fn(&str) -> bool,
}

macro_rules! pattern {
    ($kind:literal, $is_secret:literal, $regex:literal, $holds:expr) => {
        // A pattern that does not compile fails the test below, and finds nothing.
        Pattern {
            kind: $kind,
            is_secret: $is_secret,
            regex: LazyLock::new(|| Regex::new($regex).ok()),
            holds: $holds,
        }
    };
}

static PATTERNS: [Pattern; 13] = [
    pattern!("private key", true, r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----", always),
    pattern!("AWS key", true, r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", always),
    pattern!("GitHub token", true, r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})", always),
    pattern!("Slack token", true, r"\bxox[abeprs]-[A-Za-z0-9-]{10,}", always),
    pattern!("API key", true, r"\b(?:sk|rk|pk)[-_](?:[A-Za-z]+[-_])*[A-Za-z0-9_-]{20,}", always),
    pattern!("Hugging Face token", true, r"\bhf_[A-Za-z0-9]{30,}", always),
    pattern!(
        "JSON web token",
        true,
        r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        always
    ),
    pattern!(
        "password",
        true,
        r#"(?i)\b(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token)["']?\s*[:=]\s*["']?[^\s"',;]{8,}"#,
        always
    ),
    pattern!(
        "email",
        false,
        r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b",
        always
    ),
    pattern!("card", false, r"\b(?:\d[ -]?){12,18}\d\b", luhn),
    pattern!("IBAN", false, r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", iban),
    pattern!(
        "phone",
        false,
        r"(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|\(\d{3}\) ?\d{3}[-. ]\d{4})\b",
        phone
    ),
    pattern!("social security number", false, r"\b\d{3}-\d{2}-\d{4}\b", always),
];

fn always(_: &str) -> bool {
    true
}

/// The check digit of card numbers (ISO/IEC 7812-1).
fn luhn(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|letter| letter.to_digit(10)).collect();
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| match digit * (1 + index as u32 % 2) {
            double if double > 9 => double - 9,
            digit => digit,
        })
        .sum();
    digits.len() >= 13 && digits.iter().any(|digit| *digit != digits[0]) && sum.is_multiple_of(10)
}

/// The check digits of account numbers (ISO 13616): the rest by 97 is 1.
fn iban(text: &str) -> bool {
    let letters: Vec<char> = text.chars().filter(|letter| *letter != ' ').collect();
    if !(15..=34).contains(&letters.len()) {
        return false;
    }
    let turned = letters[4..].iter().chain(&letters[..4]);
    let rest = turned
        .filter_map(|letter| letter.to_digit(36))
        .fold(0u32, |rest, value| (rest * if value > 9 { 100 } else { 10 } + value) % 97);
    rest == 1
}

fn phone(text: &str) -> bool {
    (8..=15).contains(&text.chars().filter(char::is_ascii_digit).count())
}

/// Everything in a text, in order, without overlaps.
pub fn find(text: &str) -> Vec<Finding> {
    let mut all: Vec<Finding> = Vec::new();
    for pattern in &PATTERNS {
        let Some(regex) = pattern.regex.as_ref() else { continue };
        for found in regex.find_iter(text).filter(|found| (pattern.holds)(found.as_str())) {
            let place = found.range();
            if all.iter().all(|known| known.place.end <= place.start || place.end <= known.place.start) {
                all.push(Finding { kind: pattern.kind, is_secret: pattern.is_secret, place });
            }
        }
    }
    all.sort_by_key(|finding| finding.place.start);
    all
}

/// The text with every finding replaced by its kind in brackets.
pub fn redacted(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut end = 0;
    for finding in find(text) {
        clean.push_str(&text[end..finding.place.start]);
        clean.push_str(&format!("[{}]", finding.kind));
        end = finding.place.end;
    }
    clean.push_str(&text[end..]);
    clean
}

#[cfg(test)]
mod tests {
    use super::{PATTERNS, find, redacted};

    fn kinds(text: &str) -> Vec<&'static str> {
        find(text).into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn each_kind_is_found_and_what_only_looks_like_it_is_not() {
        assert!(PATTERNS.iter().all(|pattern| pattern.regex.is_some()));
        for (text, kind) in [
            ("write to anna.smith@mail.example.org now", "email"),
            ("card 4111 1111 1111 1111 please", "card"),
            ("pay to DE89 3704 0044 0532 0130 00", "IBAN"),
            ("call +44 20 7946 0958", "phone"),
            ("call (212) 555-0187", "phone"),
            ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
            ("AKIAIOSFODNN7EXAMPLE", "AWS key"),
            ("token ghp_0123456789abcdefghijklmnopqrstuvwxyz", "GitHub token"),
            ("sk-proj-abcdefghijklmnopqrstuvwx", "API key"),
            ("password = hunter2hunter2", "password"),
        ] {
            assert_eq!(kinds(text), [kind], "{text}");
        }
        for text in [
            "card 4111 1111 1111 1112",
            "sort 97 94 75 71 12 13 14 15 16",
            "DE00 3704 0044 0532 0130 00",
            "1234567890123456789",
            "a@b",
            "the password is not said here",
            "version 1.2.3.4",
        ] {
            assert!(kinds(text).is_empty(), "{text}: {:?}", kinds(text));
        }
    }

    #[test]
    fn what_is_redacted_has_nothing_left_to_find() {
        let text = "Mail anna@example.org, or +44 20 7946 0958; key sk-abcdefghijklmnopqrstuvwxyz.";
        let clean = redacted(text);
        assert_eq!(clean, "Mail [email], or [phone]; key [API key].");
        assert!(find(&clean).is_empty());
    }
}
