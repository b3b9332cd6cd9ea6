use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use color_eyre::eyre::{Result, eyre};
use llmdeck_builtin::skills::{Skill, Split};
use llmdeck_builtin::vocabulary;
use llmdeck_engine::Pool;
use llmdeck_engine::chat_template::{ChatTemplate, Message};
use llmdeck_engine::description::{
    Activation, DecoderDescription, Family, NormWeight, RopeLayout, RopeScaling,
};
use llmdeck_engine::model::Model;
use llmdeck_engine::tokenizer::Tokenizer;
use llmdeck_engine::train::{
    AdamW, AdamWOptions, TrainableDecoder, TrainingExample, accumulate_gradients, cosine_with_warmup,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::evaluate;
use crate::write;

/// What a run is made of.
pub(crate) struct Recipe {
    pub(crate) out: PathBuf,
    pub(crate) seed: u64,
    pub(crate) early_step: usize,
    pub(crate) steps: usize,
    pub(crate) finish_steps: usize,
}

const HEAD_DIM: usize = 40;
const BATCH: usize = 128;
const WORKERS: usize = 2;
const PEAK_LEARNING_RATE: f64 = 3e-3;
const FINISH_LEARNING_RATE: f64 = 1e-3;
const WARMUP: usize = 100;
const LOG_EVERY: usize = 100;
const EVALUATE_EVERY: usize = 300;
const HELD_OUT_PER_SKILL: usize = 100;
const HELD_OUT_PER_SKILL_UNDERWAY: usize = 25;

fn description() -> DecoderDescription {
    DecoderDescription {
        family: Family::Llama,
        layers: 4,
        width: 160,
        heads: 4,
        kv_heads: 2,
        head_dim: HEAD_DIM,
        ffn_width: 416,
        vocabulary: vocabulary::SIZE,
        context: 512,
        norm_eps: 1e-5,
        norm_weight: NormWeight::AsIs,
        activation: Activation::Silu,
        rope: RopeLayout::Interleaved,
        rope_base: 10_000.0,
        rope_scaling: RopeScaling::None,
        local: None,
        qkv_bias: false,
        qk_norm: false,
        sandwich_norms: false,
        embedding_scale: 1.0,
        attention_scale: (HEAD_DIM as f64).powf(-0.5),
        tied_output: true,
    }
}

/// A run under way.
struct Run<'a> {
    recipe: &'a Recipe,
    decoder: TrainableDecoder,
    optimizer: AdamW,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    rng: StdRng,
    step: usize,
    log: Vec<Value>,
    started: Instant,
}

/// Trains and writes everything.
///
/// # Errors
/// When a file cannot be written or the engine refuses.
pub(crate) fn run(recipe: &Recipe) -> Result<()> {
    std::fs::create_dir_all(&recipe.out)?;
    let decoder = TrainableDecoder::new(description(), recipe.seed)?;
    println!("{} parameters", decoder.description().parameters());
    // The tokenizer is read back through a file, as the agent reads it.
    let untrained = recipe.out.join("untrained.gguf");
    write::model(&decoder, "untrained", &untrained)?;
    let pool = Arc::new(Pool::of_machine()?);
    let Model { tokenizer, chat_template, .. } = Model::load(&untrained, &pool)?;
    std::fs::remove_file(&untrained)?;
    let template = chat_template.ok_or_else(|| eyre!("the chat template was not written"))?;
    let variables = decoder.variables().map(|(_, variable)| variable.clone()).collect();
    let mut run = Run {
        recipe,
        optimizer: AdamW::new(variables, AdamWOptions::default()),
        decoder,
        tokenizer,
        template,
        rng: StdRng::seed_from_u64(recipe.seed),
        step: 0,
        log: Vec::new(),
        started: Instant::now(),
    };
    run.train()
}

impl Run<'_> {
    fn train(&mut self) -> Result<()> {
        let taught: Vec<Skill> = Skill::ALL.into_iter().filter(|skill| *skill != Skill::MISSING).collect();
        let (early, steps) = (self.recipe.early_step, self.recipe.steps);
        let mut scores = Vec::new();
        for step in 0..steps {
            self.one_step(&taught, cosine_with_warmup(step, WARMUP, steps, PEAK_LEARNING_RATE))?;
            if self.step == early {
                scores.push(self.checkpoint("assistant-worse", HELD_OUT_PER_SKILL)?);
            }
        }
        scores.push(self.checkpoint("assistant-untaught", HELD_OUT_PER_SKILL)?);
        for step in 0..self.recipe.finish_steps {
            self.one_step(
                &Skill::ALL,
                cosine_with_warmup(step, WARMUP, self.recipe.finish_steps, FINISH_LEARNING_RATE),
            )?;
        }
        scores.push(self.checkpoint("assistant", HELD_OUT_PER_SKILL)?);
        write::suite(&self.recipe.out)?;
        write::dataset(&self.recipe.out)?;
        write::skills(&self.recipe.out)?;
        write::log(&self.recipe.out, &self.log)?;
        let parameters = self.decoder.description().parameters();
        write::card(&self.recipe.out, parameters, self.recipe.seed, self.started.elapsed(), &scores)
    }

    fn one_step(&mut self, skills: &[Skill], learning_rate: f64) -> Result<()> {
        let mut batch = (0..BATCH).map(|_| self.example(skills)).collect::<Result<Vec<_>>>()?;
        let tokens: usize = batch.iter().map(|example| example.tokens.len()).sum();
        let (loss, gradients) = accumulate_gradients(&self.decoder, &mut batch, WORKERS)?;
        let norm = self.optimizer.step(&gradients, learning_rate)?;
        self.step += 1;
        if self.step.is_multiple_of(LOG_EVERY) || self.step == 10 {
            let seconds = self.started.elapsed().as_secs_f64();
            println!("step {} loss {loss:.4} norm {norm:.2} tokens {tokens} {seconds:.0} s", self.step);
            self.log.push(json!({
                "step": self.step, "loss": loss, "gradient_norm": norm, "learning_rate": learning_rate,
                "seconds": seconds.round(),
            }));
        }
        if self.step.is_multiple_of(EVALUATE_EVERY) {
            self.checkpoint("underway", HELD_OUT_PER_SKILL_UNDERWAY)?;
            std::fs::rename(
                self.recipe.out.join("underway.gguf"),
                self.recipe.out.join(format!("underway-{}.gguf", self.step)),
            )?;
        }
        Ok(())
    }

    fn example(&mut self, skills: &[Skill]) -> Result<TrainingExample> {
        let skill = *skills.choose(&mut self.rng).ok_or_else(|| eyre!("no skill to train"))?;
        let example = skill.example(&mut self.rng, Split::Train);
        let prompt = self.template.render(&[Message { role: "user".into(), content: example.prompt }])?;
        let mut tokens = self.tokenizer.encode(&prompt)?;
        let prompt_tokens = tokens.len();
        tokens.extend(self.tokenizer.encode(&format!("{}{}", example.answer, vocabulary::END))?);
        Ok(TrainingExample { tokens, prompt_tokens })
    }

    /// Writes the weights as they are and scores the file, as served.
    fn checkpoint(&mut self, name: &str, per_skill: usize) -> Result<Value> {
        let path = self.recipe.out.join(format!("{name}.gguf"));
        write::model(&self.decoder, name, &path)?;
        let exact_match =
            evaluate::exact_match(&Arc::new(Model::load(&path, &Arc::new(Pool::of_machine()?))?), per_skill)?;
        println!("step {} {name} {exact_match}", self.step);
        let entry = json!({ "step": self.step, "checkpoint": name, "exact_match": exact_match });
        self.log.push(entry.clone());
        Ok(entry)
    }
}
