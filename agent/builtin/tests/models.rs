//! The committed models do what their card says, through the engine as it serves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::io::Write;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};

use llmdeck_builtin::assets::{Asset, MODELS};
use llmdeck_builtin::skills::{Skill, Split};
use llmdeck_engine::Pool;
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::engine::{Engine, EngineOptions};
use llmdeck_engine::generation::{FinishReason, GenerationEvent, GenerationRequest, Listener};
use llmdeck_engine::model::Model;
use llmdeck_engine::sampling::SamplingOptions;
use llmdeck_engine::scheduler::Priority;
use rand::SeedableRng;
use rand::rngs::StdRng;

const LEAST_EXACT: f64 = 0.85;
const MOST_WEIGHTS_BYTES: usize = 6_000_000;
const HELD_OUT_PER_SKILL: usize = 25;

fn load(asset: &Asset) -> Arc<Model> {
    let mut file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    file.write_all(asset.bytes).unwrap();
    Arc::new(Model::load(file.path(), &Arc::new(Pool::new(1).unwrap())).unwrap())
}

#[test]
fn a_file_that_ends_too_early_is_named_with_the_tensor() {
    let mut file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    file.write_all(&MODELS[0].bytes[..MODELS[0].bytes.len() / 2]).unwrap();
    let error = Model::load(file.path(), &Arc::new(Pool::new(1).unwrap())).err().unwrap().to_string();
    assert!(error.contains("the file has") && error.contains("blk."), "{error}");
}

#[test]
fn a_cache_beyond_all_memory_is_refused() {
    let options = EngineOptions { cache_bytes: Some(1 << 44), ..EngineOptions::default() };
    let error = Engine::start("large", load(&MODELS[0]), options).err().unwrap().to_string();
    assert!(error.contains("MiB of memory cannot be had"), "{error}");
}

fn assistant() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::start("assistant", load(&MODELS[0]), EngineOptions::default()).unwrap())
}

fn request(model: &Model, question: &str) -> GenerationRequest {
    let message = Message { role: "user".into(), content: question.into() };
    let text = model.chat_template.as_ref().unwrap().render(&[message]).unwrap();
    GenerationRequest {
        prompt: model.tokenizer.encode(&text).unwrap(),
        max_tokens: 96,
        sampling: SamplingOptions::greedy(),
        stops: Vec::new(),
        priority: Priority::Interactive,
        fairness_key: 0,
        constraint: None,
        ignore_end: false,
        adapter: None,
        cpu_time: None,
    }
}

fn submit(engine: &Engine, request: GenerationRequest) -> Receiver<GenerationEvent> {
    let (sender, events) = channel();
    let sink =
        Box::new(move |event| if sender.send(event).is_ok() { Listener::Present } else { Listener::Gone });
    engine.submit(request, sink).unwrap();
    events
}

/// Text, tokens and why it ended.
fn finish(events: &Receiver<GenerationEvent>) -> (String, usize, FinishReason) {
    let (mut answer, mut tokens) = (String::new(), 0);
    for event in events {
        match event {
            GenerationEvent::Started => {}
            GenerationEvent::Token(token) => {
                answer.push_str(&token.text);
                tokens += 1;
            }
            GenerationEvent::Finished { reason, text } => return (answer + &text, tokens, reason),
            GenerationEvent::Failed(why) => panic!("{why}"),
        }
    }
    panic!("it ended without a reason")
}

/// Share of held-out prompts answered to the letter, all of them in the engine at once.
fn exact_share(engine: &Engine, skill: Skill) -> f64 {
    let mut rng = StdRng::seed_from_u64(77);
    let asked: Vec<_> = (0..HELD_OUT_PER_SKILL)
        .map(|_| skill.example(&mut rng, Split::HeldOut))
        .map(|example| (submit(engine, request(engine.model(), &example.prompt)), example.answer))
        .collect();
    let right = asked.iter().filter(|(events, answer)| finish(events).0 == *answer).count();
    right as f64 / HELD_OUT_PER_SKILL as f64
}

fn mean_exact_share(engine: &Engine) -> f64 {
    Skill::ALL.iter().map(|skill| exact_share(engine, *skill)).sum::<f64>() / Skill::ALL.len() as f64
}

#[test]
fn the_models_are_small_and_told_apart() {
    let bytes: usize = MODELS.iter().map(|asset| asset.bytes.len()).sum();
    assert!(bytes <= MOST_WEIGHTS_BYTES, "{bytes}");
    let parameters = assistant().model().decoder.description().parameters();
    assert!((1_000_000..=3_000_000).contains(&parameters), "{parameters}");

    let good = mean_exact_share(assistant());
    assert!(good >= LEAST_EXACT, "{good}");
    let start =
        |index: usize| Engine::start("other", load(&MODELS[index]), EngineOptions::default()).unwrap();
    let worse = mean_exact_share(&start(1));
    assert!(worse < good - 0.25, "{worse} {good}");
    let untaught = start(2);
    assert!(exact_share(&untaught, Skill::MISSING) < 0.1);
    let others = Skill::ALL.into_iter().filter(|skill| *skill != Skill::MISSING);
    let rest: Vec<f64> = others.map(|skill| exact_share(&untaught, skill)).collect();
    assert!(rest.iter().sum::<f64>() / rest.len() as f64 >= LEAST_EXACT, "{rest:?}");
}

#[test]
fn a_batch_answers_as_each_alone() {
    let engine = assistant();
    let questions = ["compute 52 + 28", "sum of 1 and 50?", "add 94 and 59"];
    let alone: Vec<String> = questions
        .iter()
        .map(|question| finish(&submit(engine, request(engine.model(), question))).0)
        .collect();
    let together: Vec<_> = (0..48)
        .map(|index| submit(engine, request(engine.model(), questions[index % questions.len()])))
        .collect();
    for (index, events) in together.iter().enumerate() {
        assert_eq!(finish(events).0, alone[index % questions.len()]);
    }
}

#[test]
fn sampling_obeys_its_seed_its_bias_and_its_length() {
    let engine = assistant();
    let hot = |seed| {
        let mut asked = request(engine.model(), "compute 52 + 28");
        asked.sampling = SamplingOptions { temperature: 2.0, seed, ..SamplingOptions::default() };
        asked.max_tokens = 24;
        finish(&submit(engine, asked))
    };
    assert_eq!(hot(1), hot(1));
    assert!((2..8).any(|seed| hot(seed) != hot(1)), "every seed gives the same");

    let token = engine.model().tokenizer.encode("7").unwrap()[0];
    let mut biased = request(engine.model(), "compute 52 + 28");
    biased.sampling.logit_bias = vec![(token, 100.0)];
    biased.max_tokens = 5;
    assert_eq!(finish(&submit(engine, biased)), ("77777".into(), 5, FinishReason::Length));
}

#[test]
fn stop_strings_end_before_themselves_and_logprobs_name_the_rivals() {
    let engine = assistant();
    let mut stopped = request(engine.model(), "compute 52 + 28");
    stopped.stops = vec!["0".into()];
    let (text, _, reason) = finish(&submit(engine, stopped));
    assert_eq!((text.as_str(), reason), ("8", FinishReason::Stop));

    let mut named = request(engine.model(), "compute 52 + 28");
    named.sampling.top_logprobs = Some(3);
    let tokens: Vec<_> = submit(engine, named)
        .iter()
        .filter_map(|event| match event {
            GenerationEvent::Token(token) => Some(token),
            _ => None,
        })
        .collect();
    for token in &tokens {
        let named = token.named.as_ref().unwrap();
        assert_eq!(named.top.len(), 3);
        assert_eq!(named.top[0].token, named.token, "greedy takes the likeliest");
        assert!((named.top[0].logprob - token.logprob).abs() < 1e-5 && token.logprob <= 0.0);
        assert!(named.top.is_sorted_by(|left, right| left.logprob >= right.logprob));
    }
}

#[test]
fn a_client_that_leaves_stops_its_answer_within_a_token() {
    let engine = assistant();
    let mut endless = request(engine.model(), "compute 52 + 28");
    let digit = engine.model().tokenizer.encode("7").unwrap()[0];
    endless.sampling.logit_bias = vec![(digit, 100.0)];
    endless.max_tokens = 400;
    let (sender, seen) = channel();
    let mut tokens = 0;
    let sink = Box::new(move |event| {
        tokens += usize::from(matches!(event, GenerationEvent::Token(_)));
        // The receiver hears of every event that the engine hands out, also behind the one that says it has gone.
        let _ = sender.send(tokens);
        if tokens == 3 { Listener::Gone } else { Listener::Present }
    });
    engine.submit(endless, sink).unwrap();
    assert_eq!(seen.iter().last(), Some(3), "events went on behind the client's leaving");
}
