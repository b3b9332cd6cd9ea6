//! Answers that are held to a format have it, whatever the model would rather say.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};

use llmdeck_builtin::assets::MODELS;
use llmdeck_engine::Pool;
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::constraint::AnswerFormat;
use llmdeck_engine::engine::{Engine, EngineOptions, Speculation};
use llmdeck_engine::generation::{FinishReason, GenerationEvent, GenerationRequest, Listener};
use llmdeck_engine::model::Model;
use llmdeck_engine::sampling::SamplingOptions;
use llmdeck_engine::scheduler::Priority;
use serde_json::{Value, json};

fn model() -> &'static Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
        std::fs::write(file.path(), MODELS[0].bytes).unwrap();
        Arc::new(Model::load(file.path(), &Arc::new(Pool::new(2).unwrap())).unwrap())
    })
}

fn engine(speculation: Speculation) -> Engine {
    let options = EngineOptions { speculation, ..EngineOptions::default() };
    Engine::start("formats", Arc::clone(model()), options).unwrap()
}

fn ask(
    engine: &Engine,
    format: Option<&AnswerFormat>,
    seed: u64,
    max_tokens: usize,
) -> Receiver<GenerationEvent> {
    let message = Message { role: "user".into(), content: "compute 52 + 28".into() };
    let text = model().chat_template.as_ref().unwrap().render(&[message]).unwrap();
    // Hot, so that the model would say anything.
    let sampling = SamplingOptions { temperature: 2.0, seed, ..SamplingOptions::default() };
    let request = GenerationRequest {
        prompt: model().tokenizer.encode(&text).unwrap(),
        max_tokens,
        sampling,
        stops: Vec::new(),
        priority: Priority::Interactive,
        fairness_key: 0,
        constraint: format.map(|format| model().constraint(format).unwrap()),
        ignore_end: false,
        adapter: None,
        cpu_time: None,
    };
    let (sender, events) = channel();
    let sink =
        Box::new(move |event| if sender.send(event).is_ok() { Listener::Present } else { Listener::Gone });
    engine.submit(request, sink).unwrap();
    events
}

fn answer(events: &Receiver<GenerationEvent>) -> (String, FinishReason) {
    let mut answer = String::new();
    for event in events {
        match event {
            GenerationEvent::Started => {}
            GenerationEvent::Token(token) => answer.push_str(&token.text),
            GenerationEvent::Finished { reason, text } => return (answer + &text, reason),
            GenerationEvent::Failed(why) => panic!("{why}"),
        }
    }
    panic!("it ended without a reason")
}

fn schema() -> AnswerFormat {
    AnswerFormat::JsonSchema(json!({
        "type": "object",
        "properties": {
            "verdict": { "enum": ["better", "no worse", "worse", "undecided"] },
            "revision": { "type": "integer", "minimum": 1, "maximum": 99 },
            "figures": { "type": "array", "items": { "type": "number" }, "minItems": 1, "maxItems": 3 },
            "note": { "$ref": "#/$defs/note" },
        },
        "$defs": { "note": { "type": ["string", "null"], "maxLength": 12 } },
        "required": ["verdict", "revision", "figures"],
        "additionalProperties": false,
    }))
}

fn meets_schema(answer: &str) -> bool {
    let Ok(Value::Object(object)) = serde_json::from_str(answer) else { return false };
    let verdicts = ["better", "no worse", "worse", "undecided"];
    let note = object.get("note").unwrap_or(&Value::Null);
    object.keys().all(|key| ["verdict", "revision", "figures", "note"].contains(&key.as_str()))
        && object["verdict"].as_str().is_some_and(|verdict| verdicts.contains(&verdict))
        && object["revision"].as_i64().is_some_and(|number| (1..=99).contains(&number))
        && object["figures"]
            .as_array()
            .is_some_and(|all| (1..=3).contains(&all.len()) && all.iter().all(Value::is_number))
        && (note.is_null() || note.as_str().is_some_and(|note| note.chars().count() <= 12))
}

#[test]
fn every_answer_has_its_format_alone_and_in_company_guessed_or_not() {
    let choice = AnswerFormat::Choice(vec!["roll back".into(), "wait (5 min)".into(), "promote".into()]);
    let regex = AnswerFormat::Regex(r"GPU [0-7] at \d{2,3} °C".into());
    let formats = [schema(), choice, regex, AnswerFormat::JsonObject];
    let mut alone = Vec::new();
    let off = engine(Speculation::Off);
    for seed in 0..24 {
        let format = &formats[seed as usize % formats.len()];
        let (text, reason) = answer(&ask(&off, Some(format), seed, 400));
        match format {
            AnswerFormat::JsonSchema(_) => assert!(meets_schema(&text), "{text}"),
            AnswerFormat::Choice(texts) => assert!(texts.contains(&text), "{text}"),
            AnswerFormat::Regex(_) => {
                let degrees = text.strip_prefix("GPU ").and_then(|rest| rest.get(1..)).unwrap();
                let degrees = degrees.strip_prefix(" at ").and_then(|rest| rest.strip_suffix(" °C")).unwrap();
                assert!((10..1_000).contains(&degrees.parse::<u32>().unwrap()), "{text}");
            }
            // Any object may be longer than the answer.
            AnswerFormat::JsonObject if reason == FinishReason::Length => {
                assert!(text.trim_start().starts_with('{'));
            }
            AnswerFormat::JsonObject => {
                assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
            }
        }
        if !matches!(format, AnswerFormat::JsonObject) {
            assert_eq!(reason, FinishReason::Stop, "{text}");
        }
        alone.push(text);
    }
    let always = engine(Speculation::Always);
    let together: Vec<Receiver<GenerationEvent>> =
        (0..24).map(|seed| ask(&always, Some(&formats[seed as usize % formats.len()]), seed, 400)).collect();
    let free: Vec<Receiver<GenerationEvent>> = (0..4).map(|seed| ask(&always, None, seed, 64)).collect();
    let together: Vec<String> = together.iter().map(|events| answer(events).0).collect();
    assert_eq!(together, alone);
    free.iter().for_each(|events| drop(answer(events)));
    let readings = always.readings();
    assert!(readings.constrained_tokens > 0 && readings.constraint_us > 0, "{readings:?}");
    assert!(readings.kept_tokens > 0, "what is forced is guessed: {readings:?}");
}

#[test]
fn a_format_that_is_not_supported_is_named_before_anything_runs() {
    let refusal = |format: &AnswerFormat| model().constraint(format).err().map(|error| error.to_string());
    let unknown = refusal(&AnswerFormat::JsonSchema(json!({ "type": "colour" }))).unwrap();
    assert!(unknown.contains("colour"), "{unknown}");
    let broken = refusal(&AnswerFormat::Regex("(".into())).unwrap();
    assert!(!broken.is_empty());
    let never =
        refusal(&AnswerFormat::JsonSchema(json!({ "allOf": [{ "type": "string" }, { "type": "number" }] })));
    assert!(never.is_some());
    let elsewhere =
        json!({ "type": "object", "properties": { "a": { "$ref": "http://127.0.0.1:1/schema" } } });
    assert!(refusal(&AnswerFormat::JsonSchema(elsewhere)).is_some(), "nothing is fetched from elsewhere");
    let patterns = |properties: Value| {
        let schema = json!({ "type": "object", "items": [{ "type": "object", "properties": properties }] });
        refusal(&AnswerFormat::JsonSchema(schema))
    };
    let inner = json!({ "a": { "patternProperties": { "^b$": {} } } });
    assert!(patterns(inner).unwrap().contains("patternProperties is not supported"));
    assert_eq!(patterns(json!({ "patternProperties": { "const": 1 } })), None, "a property may be called so");
}
