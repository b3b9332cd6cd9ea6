//! Texts as words, and how alike two of them are.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Words of a run that texts are compared by.
const SHINGLE_WORDS: usize = 3;
/// Hashes of a signature, in bands of [`ROWS`]: two texts meet in a band with a chance of `1 - (1 - s⁴)³²` where `s` is how
/// alike they are (Broder 1997; Leskovec, Rajaraman and Ullman 2014, section 3.4): 0.37 at 0.35, 0.9998 at 0.7.
const HASHES: usize = BANDS * ROWS;
const BANDS: usize = 32;
const ROWS: usize = 4;

/// Lower-case words without punctuation.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Words as one text: what is equal in it differs in case, punctuation or white space only.
pub(crate) fn normalized(text: &str) -> String {
    words(text).join(" ")
}

/// Hashes of all runs of `count` words; the whole text where it is shorter.
pub(crate) fn runs(words: &[String], count: usize) -> HashSet<u64> {
    let hash = |words: &[String]| {
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        hasher.finish()
    };
    if words.len() < count {
        return if words.is_empty() { HashSet::new() } else { HashSet::from([hash(words)]) };
    }
    words.windows(count).map(hash).collect()
}

/// The share of runs that two texts have in common (Jaccard 1901).
pub(crate) fn likeness(a: &HashSet<u64>, b: &HashSet<u64>) -> f64 {
    let common = a.intersection(b).count();
    let all = a.len() + b.len() - common;
    if all == 0 { 0.0 } else { common as f64 / all as f64 }
}

/// Finds texts that are alike without comparing each with each.
#[derive(Default)]
pub(crate) struct NearDuplicates {
    shingles: Vec<HashSet<u64>>,
    bands: HashMap<(usize, u64), Vec<usize>>,
}

impl NearDuplicates {
    /// The text before that this one is most like, and how much, where that is at least `least`; then it is one of those
    /// before.
    pub(crate) fn add(&mut self, text: &str, least: f64) -> Option<(usize, f64)> {
        let shingles = runs(&words(text), SHINGLE_WORDS);
        let found = self.find_in(&shingles, least);
        let index = self.shingles.len();
        for key in bands(&shingles) {
            self.bands.entry(key).or_default().push(index);
        }
        self.shingles.push(shingles);
        found
    }

    /// The same without adding it.
    pub(crate) fn find(&self, text: &str, least: f64) -> Option<(usize, f64)> {
        self.find_in(&runs(&words(text), SHINGLE_WORDS), least)
    }

    fn find_in(&self, shingles: &HashSet<u64>, least: f64) -> Option<(usize, f64)> {
        let candidates: HashSet<usize> =
            bands(shingles).filter_map(|key| self.bands.get(&key)).flatten().copied().collect();
        let mut alike: Vec<(usize, f64)> = candidates
            .into_iter()
            .map(|index| (index, likeness(&self.shingles[index], shingles)))
            .filter(|(_, likeness)| *likeness >= least)
            .collect();
        alike.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        alike.first().copied()
    }
}

/// The bands of a text's signature: for each of many hash functions, the least hash of its runs.
fn bands(shingles: &HashSet<u64>) -> impl Iterator<Item = (usize, u64)> {
    let mut signature = [u64::MAX; HASHES];
    for shingle in shingles {
        for (index, least) in signature.iter_mut().enumerate() {
            *least = (*least).min(mixed(*shingle, index as u64));
        }
    }
    let of_band = move |band: usize| {
        let rows = &signature[band * ROWS..][..ROWS];
        (band, rows.iter().fold(band as u64, |hash, row| mixed(hash ^ row, 1)))
    };
    let any = if shingles.is_empty() { 0 } else { BANDS };
    (0..any).map(of_band)
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
fn mixed(value: u64, seed: u64) -> u64 {
    let mut z = value.wrapping_add(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{NearDuplicates, normalized};

    #[test]
    fn what_differs_in_case_and_punctuation_is_the_same() {
        assert_eq!(normalized("Hello,  WORLD!"), normalized("hello world"));
    }

    proptest! {
        #[test]
        fn a_text_with_one_word_changed_is_found_among_many(
            words in prop::collection::vec("[a-z]{3,9}", 40..60), at in 0usize..40, others in 0usize..50,
        ) {
            let mut texts = NearDuplicates::default();
            for other in 0..others {
                texts.add(&format!("{other} {} {other} stands apart from {other}", other * 7), 0.8);
            }
            texts.add(&words.join(" "), 0.8);
            let mut changed = words.clone();
            changed[at] = "zzz".into();
            // Three runs of about forty differ on either side: 0.85 at least.
            let found = texts.find(&changed.join(" "), 0.8);
            prop_assert!(found.is_some_and(|(index, _)| index == others), "{:?}", found);
        }
    }
}
