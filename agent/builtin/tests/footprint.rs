//! What a model is said to take before it is loaded is what it takes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::sync::Arc;

use llmdeck_builtin::assets::MODELS;
use llmdeck_engine::Pool;
use llmdeck_engine::engine::{Engine, EngineOptions};
use llmdeck_engine::footprint::Footprint;
use llmdeck_engine::model::Model;
use llmdeck_engine::scratch::Scratch;

const MIB: u64 = 1 << 20;

fn file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), MODELS[0].bytes).unwrap();
    file
}

#[test]
fn the_estimate_is_what_is_taken_to_the_byte() {
    let file = file();
    let pool = Arc::new(Pool::new(2).unwrap());
    for options in [
        EngineOptions::default(),
        EngineOptions { max_sequences: 3, cache_bytes: Some(5_000_000), ..EngineOptions::default() },
        EngineOptions { context_tokens: Some(100), ..EngineOptions::default() },
    ] {
        let footprint = Footprint::of(file.path(), &options).unwrap();
        let model = Arc::new(Model::load(file.path(), &pool).unwrap());
        assert_eq!(footprint.weights_bytes, model.decoder.size_bytes());
        let scratch =
            Scratch::with_room(model.decoder.description(), 256, options.max_sequences + 16).unwrap();
        assert_eq!(footprint.scratch_bytes, scratch.size_bytes());
        let engine = Engine::start("estimate", model, options).unwrap();
        assert_eq!(footprint.cache_bytes, engine.readings().cache_total_bytes);
        assert_eq!(footprint.context_tokens, engine.max_sequence_tokens());
    }
}

#[test]
fn the_default_cache_holds_as_many_full_contexts_as_run_at_once() {
    let file = file();
    let footprint = Footprint::of(file.path(), &EngineOptions::default()).unwrap();
    assert_eq!(footprint.sequences, 32);
    let short = EngineOptions { context_tokens: Some(64), ..EngineOptions::default() };
    let short = Footprint::of(file.path(), &short).unwrap();
    assert_eq!((short.context_tokens, short.sequences), (64, 32));
    assert!(short.cache_bytes < footprint.cache_bytes);
}

#[test]
fn what_is_proposed_fits_and_nothing_is_proposed_where_nothing_fits() {
    let file = file();
    let asked = Footprint::of(file.path(), &EngineOptions::default()).unwrap();
    let mut proposed_before = 0;
    for room in (0..asked.total_bytes() + MIB).step_by(MIB as usize) {
        let Some((options, fitting)) = asked.fitting(room) else {
            assert_eq!(proposed_before, 0, "what fits into less fits into more");
            continue;
        };
        proposed_before = room;
        assert!(fitting.total_bytes() <= room, "{fitting:?} in {room}");
        assert!(fitting.context_tokens >= 256);
        let again = Footprint::of(file.path(), &options).unwrap();
        assert_eq!(again, fitting, "the settings give what was promised of them");
    }
    assert!(proposed_before > 0);
}
