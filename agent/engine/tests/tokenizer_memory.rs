//! That a tokenizer takes its memory with it: models come and go for as long as an agent runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]
#![cfg(target_os = "linux")]

use std::path::Path;

use llmdeck_engine::tokenizer::Tokenizer;
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;

/// Rounds until what is allocated once is.
const SETTLED: usize = 5;
const ROUNDS: usize = 25;
/// Of the growth behind that. The words of a round are 3 MB where they are kept.
const MOST_GROWTH_BYTES: usize = 8 << 20;

/// A tokenizer that has a token for each byte, and merges two of them.
fn write_tokenizer(folder: &Path) {
    let mut letters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    let names = letters.iter().map(char::to_string).chain(["wo".to_owned()]);
    let model = BPE::builder()
        .vocab_and_merges(
            names.zip(0..).collect::<tokenizers::models::bpe::Vocab>(),
            vec![("w".into(), "o".into())],
        )
        .build()
        .unwrap();
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.save(folder.join("tokenizer.json"), false).unwrap();
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1_024
}

#[test]
fn what_a_tokenizer_has_seen_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    write_tokenizer(folder.path());
    let text: String = (0..9_000).map(|word| format!("word{word:06} ")).collect();
    let mut settled = 0;
    for round in 0..ROUNDS {
        let tokenizer = Tokenizer::from_folder(folder.path(), &json!({})).unwrap();
        assert!(tokenizer.encode(&text).unwrap().len() > 80_000);
        drop(tokenizer);
        if round == SETTLED {
            settled = resident_bytes();
        }
    }
    let growth = resident_bytes().saturating_sub(settled);
    assert!(growth < MOST_GROWTH_BYTES, "{growth} bytes stay behind {} tokenizers", ROUNDS - SETTLED);
}
