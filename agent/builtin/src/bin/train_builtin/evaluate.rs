use std::sync::Arc;

use color_eyre::eyre::{Result, eyre};
use llmdeck_builtin::skills::{Example, Skill, Split};
use llmdeck_engine::chat_template::Message;
use llmdeck_engine::model::Model;
use llmdeck_engine::session::Session;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

const MOST_TOKENS: usize = 48;
/// Held-out prompts are drawn with a seed of their own, the same for every checkpoint.
const SEED: u64 = 99;

/// Share of held-out prompts answered to the letter, by skill and in all, greedily.
pub(crate) fn exact_match(model: &Arc<Model>, per_skill: usize) -> Result<Value> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut by_skill = Map::new();
    let mut total = 0;
    for skill in Skill::ALL {
        let mut right = 0;
        for _ in 0..per_skill {
            let example = skill.example(&mut rng, Split::HeldOut);
            right += usize::from(answer(model, &example)? == example.answer);
        }
        total += right;
        by_skill.insert(skill.name().into(), json!(right as f64 / per_skill as f64));
    }
    by_skill.insert("all".into(), json!(total as f64 / (per_skill * Skill::ALL.len()) as f64));
    Ok(Value::Object(by_skill))
}

fn answer(model: &Arc<Model>, example: &Example) -> Result<String> {
    let template = model.chat_template.as_ref().ok_or_else(|| eyre!("the model has no chat template"))?;
    let prompt = template.render(&[Message { role: "user".into(), content: example.prompt.clone() }])?;
    let mut tokens = model.tokenizer.encode(&prompt)?;
    let mut session = Session::new(model, tokens.len() + MOST_TOKENS)?;
    let mut answer = Vec::new();
    while answer.len() < MOST_TOKENS {
        let logits = session.next(&tokens).map_err(|_| eyre!("the session is too short"))?;
        let next = (0u32..).zip(&*logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token);
        if model.tokenizer.is_end(next) {
            break;
        }
        answer.push(next);
        tokens = vec![next];
    }
    Ok(model.tokenizer.decode(&answer)?)
}
