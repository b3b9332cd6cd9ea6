//! An answer does not depend on what else the engine does: other requests, those that go away, a cache that is too
//! small for all, prefixes that are known already, tokens guessed ahead.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};

use llmdeck_builtin::assets::MODELS;
use llmdeck_engine::Pool;
use llmdeck_engine::engine::{CacheFormat, Engine, EngineOptions, Speculation};
use llmdeck_engine::footprint::block_bytes;
use llmdeck_engine::generation::{GenerationEvent, GenerationRequest, Listener};
use llmdeck_engine::gpu::{OpenDevice, Products};
use llmdeck_engine::model::Model;
use llmdeck_engine::sampling::SamplingOptions;
use llmdeck_engine::scheduler::Priority;
use llmdeck_engine::session::Session;
use proptest::prelude::*;

fn model() -> Arc<Model> {
    model_with(false)
}

/// Whose prompts are multiplied in bfloat16, or not, whatever this machine is best at.
fn model_with(bfloat16: bool) -> Arc<Model> {
    static MODELS_OF_KIND: [OnceLock<Arc<Model>>; 2] = [OnceLock::new(), OnceLock::new()];
    let model = MODELS_OF_KIND[usize::from(bfloat16)].get_or_init(|| {
        let mut model = load(None);
        model.decoder.multiply_prompts_in_bfloat16(bfloat16);
        Arc::new(model)
    });
    Arc::clone(model)
}

/// On a GPU where these tests are built for one, or as a GPU does it.
fn batch_invariant_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let device = || if cfg!(feature = "cuda") { OpenDevice::gpu(0).unwrap() } else { OpenDevice::cpu() };
    let load = || Arc::new(load(Some((device(), Products::BatchInvariant))));
    Arc::clone(MODEL.get_or_init(load))
}

fn load(gpu: Option<(OpenDevice, Products)>) -> Model {
    let mut file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    file.write_all(MODELS[0].bytes).unwrap();
    Model::load_with(gpu, file.path(), &Arc::new(Pool::new(3).unwrap()), &mut |_| {}).unwrap()
}

#[derive(Clone, Debug)]
struct Request {
    prompt: Vec<u32>,
    max_tokens: usize,
    temperature: f32,
    priority: Priority,
    key: u64,
    /// It says one token without end.
    endless: bool,
    /// The client goes away after so many tokens.
    leaves_after: Option<usize>,
}

/// Prompts share beginnings, some longer than a block, and have parts that repeat.
fn request() -> impl Strategy<Value = Request> {
    let prompt = (0usize..3, 0usize..70, 1u32..300, 1usize..20).prop_map(|(family, shared, own, repeats)| {
        let shared = (0..shared).map(|index| 20 + (index * 7 + family) as u32 % 200);
        let mut prompt: Vec<u32> = shared.collect();
        prompt.extend((0..repeats).flat_map(|index| [own, 40 + index as u32 % 3, 41]));
        prompt
    });
    let priority = prop_oneof![Just(Priority::Interactive), Just(Priority::Background)];
    let leaves = prop::option::weighted(0.2, 0usize..10);
    (prompt, 1usize..40, prop_oneof![Just(0.0f32), Just(0.8)], priority, 0u64..3, leaves).prop_map(
        |(prompt, max_tokens, temperature, priority, key, leaves_after)| Request {
            prompt,
            max_tokens,
            temperature,
            priority,
            key,
            endless: false,
            leaves_after,
        },
    )
}

fn sampling(request: &Request) -> SamplingOptions {
    let logit_bias = if request.endless { vec![(20, 100.0)] } else { Vec::new() };
    SamplingOptions { temperature: request.temperature, seed: 7, logit_bias, ..SamplingOptions::default() }
}

/// One token after another, alone, with nothing that an engine does.
fn alone(model: &Arc<Model>, request: &Request, format: CacheFormat) -> Vec<u32> {
    let capacity = request.prompt.len() + request.max_tokens;
    let mut session = Session::with_cache(model, format, capacity).unwrap();
    let mut sampler = llmdeck_engine::sampling::Sampler::new(sampling(request), &request.prompt);
    let (mut next, mut answer) = (request.prompt.clone(), Vec::new());
    while answer.len() < request.max_tokens {
        let token = sampler.sample(session.next(&next).unwrap()).token;
        if model.tokenizer.is_end(token) {
            break;
        }
        answer.push(token);
        next = vec![token];
    }
    answer
}

fn submit(engine: &Engine, request: &Request) -> Receiver<GenerationEvent> {
    let (sender, events) = channel();
    let mut left = request.leaves_after.unwrap_or(usize::MAX);
    let sink = Box::new(move |event: GenerationEvent| {
        if matches!(event, GenerationEvent::Token(_)) {
            if left == 0 {
                return Listener::Gone;
            }
            left -= 1;
        }
        if sender.send(event).is_ok() { Listener::Present } else { Listener::Gone }
    });
    let asked = GenerationRequest {
        prompt: request.prompt.clone(),
        max_tokens: request.max_tokens,
        sampling: sampling(request),
        stops: Vec::new(),
        priority: request.priority,
        fairness_key: request.key,
        constraint: None,
        ignore_end: false,
        adapter: None,
        cpu_time: None,
    };
    engine.submit(asked, sink).unwrap();
    events
}

fn tokens(events: &Receiver<GenerationEvent>) -> Vec<u32> {
    let mut all = Vec::new();
    for event in events {
        match event {
            GenerationEvent::Token(token) => all.push(token.id),
            GenerationEvent::Failed(why) => panic!("{why}"),
            GenerationEvent::Started | GenerationEvent::Finished { .. } => {}
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_answer_is_the_same_alone_and_in_any_company(
        requests in prop::collection::vec(request(), 1..14), max_sequences in 1usize..9, step_tokens in 4usize..64,
        columns in 12u64..60, speculation in prop::sample::select(vec![Speculation::Always, Speculation::Off]),
        cache_format in prop::sample::select(vec![CacheFormat::F16, CacheFormat::Bf16, CacheFormat::Int8]),
        bfloat16 in any::<bool>(),
    ) {
        let options = EngineOptions {
            max_sequences, max_step_tokens: step_tokens, speculation, cache_format, ..EngineOptions::default()
        };
        all_answer_as_alone(&model_with(bfloat16), &requests, columns, options)?;
    }

    #[test]
    fn so_it_is_on_a_gpu_that_is_batch_invariant(
        requests in prop::collection::vec(request(), 1..14), max_sequences in 1usize..9, step_tokens in 4usize..64,
        columns in 12u64..60, speculation in prop::sample::select(vec![Speculation::Always, Speculation::Off]),
        cache_format in prop::sample::select(vec![CacheFormat::F16, CacheFormat::Bf16, CacheFormat::Int8]),
    ) {
        let options = EngineOptions {
            max_sequences, max_step_tokens: step_tokens, speculation, cache_format, ..EngineOptions::default()
        };
        all_answer_as_alone(&batch_invariant_model(), &requests, columns, options)?;
    }
}

/// Asks for all at once, of an engine whose cache has so many columns of blocks.
fn all_answer_as_alone(
    model: &Arc<Model>,
    requests: &[Request],
    columns: u64,
    options: EngineOptions,
) -> Result<(), TestCaseError> {
    let description = model.decoder.description();
    let per_column = description.layers as u64 * block_bytes(description, &options);
    let options = EngineOptions { cache_bytes: Some(columns * per_column), ..options };
    let engine = Engine::start("batches", Arc::clone(model), options).unwrap();
    let asked: Vec<_> = requests.iter().map(|request| submit(&engine, request)).collect();
    for (request, events) in requests.iter().zip(&asked) {
        let mut expected = alone(model, request, options.cache_format);
        expected.truncate(request.leaves_after.unwrap_or(usize::MAX));
        prop_assert_eq!(tokens(events), expected, "{:?}", request);
    }
    // Nothing is held once nobody is there: what an idle engine does not reclaim, it has lost.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while engine.readings().cache_used_bytes > 0 {
        prop_assert!(std::time::Instant::now() < end, "{:?}", engine.readings());
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn a_prompt_seen_before_is_not_computed_again() {
    let engine = Engine::start("prefix", model(), EngineOptions::default()).unwrap();
    let request = Request {
        prompt: (20..120).collect(),
        max_tokens: 4,
        temperature: 0.0,
        priority: Priority::Interactive,
        key: 0,
        endless: false,
        leaves_after: None,
    };
    let first = tokens(&submit(&engine, &request));
    let second = tokens(&submit(&engine, &request));
    assert_eq!(first, second);
    let readings = engine.readings();
    assert_eq!((readings.prompt_tokens, readings.remembered_tokens), (200, 96));
}

/// An answer that is part of the next prompt is known up to where it began.
#[test]
fn what_was_answered_in_eight_bits_is_asked_anew_in_bfloat16() {
    for (bfloat16, remembered) in [(false, 128), (true, 96)] {
        let model = model_with(bfloat16);
        let engine = Engine::start("turns", Arc::clone(&model), EngineOptions::default()).unwrap();
        let mut request = Request {
            prompt: (20..120).collect(),
            max_tokens: 40,
            temperature: 0.0,
            priority: Priority::Interactive,
            key: 0,
            endless: true,
            leaves_after: None,
        };
        let answer = tokens(&submit(&engine, &request));
        request.prompt.extend(answer);
        let next = tokens(&submit(&engine, &request));
        assert_eq!(engine.readings().remembered_tokens, remembered);
        assert_eq!(next, alone(&model, &request, CacheFormat::F16));
    }
}

#[test]
fn when_the_cache_is_too_small_for_all_the_last_is_put_off_and_still_answers() {
    let model = model();
    let description = model.decoder.description();
    let per_column = description.layers as u64 * block_bytes(description, &EngineOptions::default());
    let options = EngineOptions { cache_bytes: Some(16 * per_column), ..EngineOptions::default() };
    let engine = Engine::start("small", Arc::clone(&model), options).unwrap();
    let request = |first: u32| Request {
        prompt: (first..first + 60).collect(),
        max_tokens: 150,
        temperature: 0.0,
        priority: Priority::Interactive,
        key: 0,
        endless: true,
        leaves_after: None,
    };
    let asked: Vec<Request> = [30, 130].map(request).into();
    let events: Vec<_> = asked.iter().map(|request| submit(&engine, request)).collect();
    for (request, events) in asked.iter().zip(&events) {
        assert_eq!(tokens(events), alone(&model, request, CacheFormat::F16));
    }
    assert!(engine.readings().put_off > 0, "{:?}", engine.readings());
}

#[test]
fn guesses_that_prove_right_are_kept() {
    let options = EngineOptions { speculation: Speculation::Always, ..EngineOptions::default() };
    let engine = Engine::start("guesses", model(), options).unwrap();
    let model = model();
    let digit = model.tokenizer.encode("7").unwrap();
    let mut asked = Request {
        prompt: digit.clone(),
        max_tokens: 60,
        temperature: 0.0,
        priority: Priority::Interactive,
        key: 0,
        endless: false,
        leaves_after: None,
    };
    asked.prompt.extend(digit.iter().cycle().take(12));
    tokens(&submit(&engine, &asked));
    let readings = engine.readings();
    assert!(readings.guessed_tokens > 0 && readings.kept_tokens <= readings.guessed_tokens, "{readings:?}");
}
