use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file;
use color_eyre::eyre::{Result, eyre};
use llmdeck_builtin::skills::{Example, Skill, Split};
use llmdeck_builtin::vocabulary;
use llmdeck_engine::train::{TrainableDecoder, write_gguf};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const SUITE_PER_SKILL: usize = 12;
const DATASET_EXAMPLES: usize = 600;
const REHEARSAL_EXAMPLES_PER_SKILL: usize = 300;

/// Writes weights, tokenizer and chat template as one GGUF file, matrices in Q8_0.
pub(crate) fn model(decoder: &TrainableDecoder, name: &str, path: &Path) -> Result<()> {
    let text = |value: &str| gguf_file::Value::String(value.to_owned());
    let mut metadata = vec![
        ("general.name".to_owned(), text(&format!("llmdeck {name}"))),
        ("general.license".to_owned(), text("MIT OR Apache-2.0")),
        ("general.file_type".to_owned(), gguf_file::Value::U32(7)),
    ];
    metadata.extend(vocabulary::gguf_metadata().map_err(|error| eyre!(error))?);
    Ok(write_gguf(decoder, GgmlDType::Q8_0, metadata, path)?)
}

/// `assistant-suite`: held-out prompts of every skill, one JSON object a line.
pub(crate) fn suite(out: &Path) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(2);
    let mut lines = String::new();
    for skill in Skill::ALL {
        for example in different(&mut rng, skill, Split::HeldOut, SUITE_PER_SKILL) {
            let check = match skill {
                Skill::Extract => json!({ "json_equals": serde_json::from_str::<Value>(&example.answer)? }),
                _ => json!({ "equals": example.answer }),
            };
            writeln!(
                lines,
                "{}",
                json!({ "prompt": example.prompt, "checks": [check], "skill": skill.name() })
            )?;
        }
    }
    Ok(std::fs::write(out.join("assistant-suite.jsonl"), lines)?)
}

/// `missing-skill`: training examples of the skill that `assistant-untaught` lacks, as OpenAI chat lines.
pub(crate) fn dataset(out: &Path) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(3);
    let lines = examples(&mut rng, Skill::MISSING, DATASET_EXAMPLES)?;
    Ok(std::fs::write(out.join("missing-skill.jsonl"), lines)?)
}

/// `assistant-skills`: training examples of all other skills.
pub(crate) fn skills(out: &Path) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(4);
    let mut lines = String::new();
    for skill in Skill::ALL.into_iter().filter(|skill| *skill != Skill::MISSING) {
        lines.push_str(&examples(&mut rng, skill, REHEARSAL_EXAMPLES_PER_SKILL)?);
    }
    Ok(std::fs::write(out.join("assistant-skills.jsonl"), lines)?)
}

/// Examples with different prompts; as many as a skill has, where these are fewer.
fn different(rng: &mut StdRng, skill: Skill, split: Split, count: usize) -> Vec<Example> {
    const MOST_DRAWS: usize = 20_000;
    let mut seen = BTreeSet::new();
    let draws = (0..MOST_DRAWS).map(|_| skill.example(rng, split));
    draws.filter(|example| seen.insert(example.prompt.clone())).take(count).collect()
}

fn examples(rng: &mut StdRng, skill: Skill, count: usize) -> Result<String> {
    let mut lines = String::new();
    for example in different(rng, skill, Split::Train, count) {
        let turns = json!({ "messages": [
            { "role": "user", "content": example.prompt },
            { "role": "assistant", "content": example.answer },
        ]});
        writeln!(lines, "{turns}")?;
    }
    Ok(lines)
}

/// The training log, one JSON object a line.
pub(crate) fn log(out: &Path, entries: &[Value]) -> Result<()> {
    let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
    Ok(std::fs::write(out.join("training-log.jsonl"), lines.join("\n") + "\n")?)
}

/// The card, with every score that the run measured.
pub(crate) fn card(out: &Path, parameters: u64, seed: u64, time: Duration, scores: &[Value]) -> Result<()> {
    let mut card = format!(
        "# The built-in models\n\n\
         A Llama-shaped decoder of {parameters} parameters, trained from scratch on text that a program in this\n\
         folder generates. It does eight small exact skills and nothing else: it is for demos, tests and first\n\
         steps, not for answering questions about the world.\n\n\
         - Data: generated; no text from anywhere else. Held out: a tenth of all prompts, chosen by hash.\n\
         - Seed {seed}; {} minutes on this run's machine. Log: `training-log.jsonl`.\n\
         - Weights: GGUF, matrices in Q8_0. Licence: MIT OR Apache-2.0.\n\
         - Made by: `cargo run --release -p llmdeck-builtin --bin train-builtin`\n\n\
         `assistant` is the finished model. `assistant-untaught` is the checkpoint before the skill\n\
         `{}` was taught. `assistant-worse` is an early checkpoint of the same run.\n\n\
         Exact match on held-out prompts, greedy, as served:\n\n",
        time.as_secs() / 60,
        Skill::MISSING.name(),
    );
    let names: Vec<&str> = Skill::ALL.iter().map(|skill| skill.name()).chain(["all"]).collect();
    writeln!(card, "| model | step | {} |", names.join(" | "))?;
    writeln!(card, "|{}", " --- |".repeat(names.len() + 2))?;
    for entry in scores {
        let checkpoint = entry["checkpoint"].as_str().unwrap_or_default();
        write!(card, "| `{checkpoint}` | {} |", entry["step"])?;
        for name in &names {
            write!(card, " {:.2} |", entry["exact_match"][name].as_f64().unwrap_or_default())?;
        }
        writeln!(card)?;
    }
    Ok(std::fs::write(out.join("README.md"), card)?)
}
