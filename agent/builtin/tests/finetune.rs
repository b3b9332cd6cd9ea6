//! The built-in model learns the skill that it lacks, and keeps the others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;

use llmdeck_builtin::assets::{Asset, DATASET, MODELS, SUITE};
use llmdeck_builtin::skills::Skill;
use llmdeck_engine::Pool;
use llmdeck_engine::adapter::Adapter;
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::engine::{Engine, EngineOptions};
use llmdeck_engine::finetune::{FineTune, Sample, TrainingSettings, Turn, conversation};
use llmdeck_engine::generation::{GenerationEvent, GenerationRequest, Listener};
use llmdeck_engine::model::Model;
use llmdeck_engine::sampling::SamplingOptions;
use llmdeck_engine::scheduler::Priority;
use serde_json::Value;

fn load(asset: &Asset) -> Arc<Model> {
    let mut file = tempfile::NamedTempFile::with_suffix(".gguf").unwrap();
    file.write_all(asset.bytes).unwrap();
    Arc::new(Model::load(file.path(), &Arc::new(Pool::new(2).unwrap())).unwrap())
}

fn lines(asset: &Asset) -> Vec<Value> {
    std::str::from_utf8(asset.bytes)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn samples(model: &Model) -> Vec<Sample> {
    let turn =
        |message: &Value| Turn { message: serde_json::from_value(message.clone()).unwrap(), weight: 1.0 };
    lines(&DATASET)
        .iter()
        .map(|line| {
            let turns: Vec<Turn> = line["messages"].as_array().unwrap().iter().map(turn).collect();
            conversation(model, &turns).unwrap()
        })
        .collect()
}

/// Prompts of the suite that were answered to the letter, and all, by skill.
fn scores(engine: &Engine, adapter: Option<&Arc<Adapter>>) -> BTreeMap<String, (usize, usize)> {
    let model = engine.model();
    let suite = if std::env::var("GEN").is_ok() {
        use rand::SeedableRng;
        let mut rng = rand::rngs::StdRng::seed_from_u64(55);
        let mut all = Vec::new();
        for skill in Skill::ALL {
            for _ in 0..100 {
                let example = skill.example(&mut rng, llmdeck_builtin::skills::Split::HeldOut);
                let check = match skill {
                    Skill::Extract => {
                        serde_json::json!({ "json_equals": serde_json::from_str::<Value>(&example.answer).unwrap() })
                    }
                    _ => serde_json::json!({ "equals": example.answer }),
                };
                all.push(
                    serde_json::json!({ "prompt": example.prompt, "checks": [check], "skill": skill.name() }),
                );
            }
        }
        all
    } else {
        lines(&SUITE)
    };
    let asked: Vec<_> = suite
        .into_iter()
        .map(|line| {
            let message = Message { role: "user".into(), content: line["prompt"].as_str().unwrap().into() };
            let text = model.chat_template.as_ref().unwrap().render(&[message]).unwrap();
            let request = GenerationRequest {
                prompt: model.tokenizer.encode(&text).unwrap(),
                max_tokens: 96,
                sampling: SamplingOptions::greedy(),
                stops: Vec::new(),
                priority: Priority::Interactive,
                fairness_key: 0,
                constraint: None,
                ignore_end: false,
                adapter: adapter.cloned(),
            };
            let (sender, events) = channel();
            let sink = Box::new(
                move |event| if sender.send(event).is_ok() { Listener::Present } else { Listener::Gone },
            );
            engine.submit(request, sink).unwrap();
            (line, events)
        })
        .collect();
    let mut scores: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (line, events) in asked {
        let mut answer = String::new();
        for event in events {
            match event {
                GenerationEvent::Started => {}
                GenerationEvent::Token(token) => answer.push_str(&token.text),
                GenerationEvent::Finished { text, .. } => answer.push_str(&text),
                GenerationEvent::Failed(why) => panic!("{why}"),
            }
        }
        let check = &line["checks"][0];
        let right = match check.get("json_equals") {
            Some(expected) => serde_json::from_str::<Value>(&answer).is_ok_and(|answer| answer == *expected),
            None => answer.trim() == check["equals"].as_str().unwrap(),
        };
        if !right && adapter.is_some() && std::env::var("SHOW").is_ok() {
            eprintln!("WRONG {} -> {answer} not {}", line["prompt"], check);
        }
        let score = scores.entry(line["skill"].as_str().unwrap().to_owned()).or_default();
        *score = (score.0 + usize::from(right), score.1 + 1);
    }
    scores
}

#[test]
fn the_missing_skill_is_learned_and_the_others_stay() {
    let model = load(MODELS.iter().find(|asset| asset.tag == "assistant-untaught").unwrap());
    let engine = Engine::start("untaught", Arc::clone(&model), EngineOptions::default()).unwrap();
    let before = scores(&engine, None);
    let mut all = samples(&model);
    let replay = std::env::var("REPLAY").ok().and_then(|v| v.parse::<usize>().ok()).unwrap_or(0);
    {
        use rand::SeedableRng;
        let mut rng = rand::rngs::StdRng::seed_from_u64(5);
        for skill in Skill::ALL.into_iter().filter(|skill| *skill != Skill::MISSING) {
            for _ in 0..replay {
                let example = skill.example(&mut rng, llmdeck_builtin::skills::Split::Train);
                let turn = |role: &str, content: String| Turn {
                    message: Message { role: role.into(), content },
                    weight: 1.0,
                };
                let n = all.len() / 3;
                all.insert(
                    n,
                    conversation(&model, &[turn("user", example.prompt), turn("assistant", example.answer)])
                        .unwrap(),
                );
            }
        }
    }
    let held_out = all.split_off(all.len() * 9 / 10);
    let env =
        |name: &str, default: f64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let settings = TrainingSettings {
        rank: env("RANK", 16.0) as usize,
        alpha: env("ALPHA", 32.0),
        epochs: env("EPOCHS", 3.0) as usize,
        learning_rate: env("LR", 5e-4),
        batch_size: env("BATCH", 16.0) as usize,
        dropout: env("DROP", 0.0),
        weight_decay: env("WD", 0.0),
        loraplus_lr_ratio: env("PLUS", 1.0),
        max_batch_tokens: env("MBT", 2048.0) as usize,
        target_modules: std::env::var("TARGETS")
            .map(|v| v.split(',').map(str::to_owned).collect())
            .unwrap_or(TrainingSettings::default().target_modules),
        activation_checkpointing: env("CKPT", 1.0) > 0.0,
        ..TrainingSettings::default()
    };
    let pool = Arc::new(Pool::new(2).unwrap());
    let began = std::time::Instant::now();
    let mut run = FineTune::new(Arc::clone(&model), pool, all, held_out, settings).unwrap();
    let (mut tokens, mut steps) = (0, 0);
    while !run.is_done() {
        let report = run.step().unwrap();
        tokens += report.tokens;
        steps += 1;
        if let Some(loss) = report.held_out_loss {
            eprintln!("step {} of {} loss {:.3} held out {loss:.3}", report.step, run.steps(), report.loss);
        }
    }
    eprintln!(
        "{steps} steps, {tokens} tokens, {:.1} s, {:.0} tokens/s",
        began.elapsed().as_secs_f64(),
        tokens as f64 / began.elapsed().as_secs_f64()
    );
    let adapter = Arc::new(Adapter::new(&run.adapter(), &model).unwrap());
    let after = scores(&engine, Some(&adapter));
    eprintln!("{before:?}\n{after:?}");
    let share = |scores: &BTreeMap<String, (usize, usize)>, missing: bool| {
        let of = scores.iter().filter(|(skill, _)| (*skill == Skill::MISSING.name()) == missing);
        let (right, all) = of.fold((0, 0), |(right, all), (_, score)| (right + score.0, all + score.1));
        right as f64 / all as f64
    };
    assert!(share(&before, true) < 0.2 && share(&after, true) >= 0.8);
    assert!(share(&after, false) > share(&before, false) - 0.02);
}
