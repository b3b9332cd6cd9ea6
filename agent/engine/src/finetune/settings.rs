use serde::{Deserialize, Serialize};

use crate::adapter::{Linear, LoraSettings};

/// How a learning rate goes on after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// A straight line down to zero.
    Linear,
    /// As it is.
    Constant,
}

/// Settings of a fine-tuning run. Names are those of PEFT and transformers where these have one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSettings {
    /// Columns of the thin matrices.
    pub rank: usize,
    /// What they add is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Share of inputs of the thin matrices that a step leaves out.
    pub dropout: f64,
    /// What is changed: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    pub target_modules: Vec<String>,
    /// Scale by `alpha / √rank` (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Train magnitudes beside directions (Liu et al. 2024).
    pub use_dora: bool,
    /// Times that every example is seen; where it is absent, so often that a few thousand are seen in all, 2 to 10 times.
    pub epochs: Option<usize>,
    /// Examples to a step.
    pub batch_size: usize,
    /// Most tokens that are computed at once; more examples of a step come after each other, and their gradients are added up.
    pub max_batch_tokens: usize,
    /// Longest example, in tokens.
    pub max_tokens: usize,
    /// At its peak; where it is absent, by the width of the model: `5e-4 (2000 / width)^0.78` (Schulman et al. 2025, LoRA Without
    /// Regret).
    pub learning_rate: Option<f64>,
    /// How many times faster `B` learns than `A` (LoRA+, Hayou et al. 2024).
    pub loraplus_lr_ratio: f64,
    /// What the rate does behind its warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which the rate rises from zero.
    pub warmup_ratio: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm.
    pub max_grad_norm: f64,
    /// Share of the examples that is held out.
    pub held_out: f64,
    /// Evaluations without a lower loss on what is held out after which training stops; 0 never stops early.
    pub early_stopping_patience: usize,
    /// Evaluations in an epoch.
    pub evaluations_per_epoch: usize,
    /// Compute layers twice rather than keep what they computed: a fraction of the memory for a third more time. Where what
    /// would be kept takes more than a GiB, unless it is set.
    pub activation_checkpointing: Option<bool>,
    /// Keep what layers computed in bfloat16: half of the memory. What is trained, and all sums, stay in 32 bits.
    pub bf16: bool,
    /// Of the order of examples, of what is left out, and of where the thin matrices begin.
    pub seed: u64,
}

impl Default for TrainingSettings {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: 64.0,
            dropout: 0.0,
            target_modules: Linear::ALL.map(|linear| linear.peft_name().to_owned()).to_vec(),
            use_rslora: false,
            use_dora: false,
            epochs: None,
            batch_size: 16,
            max_batch_tokens: 2_048,
            max_tokens: 2_048,
            learning_rate: None,
            loraplus_lr_ratio: 1.0,
            schedule: Schedule::default(),
            warmup_ratio: 0.05,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            held_out: 0.1,
            early_stopping_patience: 0,
            evaluations_per_epoch: 2,
            activation_checkpointing: None,
            bf16: false,
            seed: 0,
        }
    }
}

/// Examples that are seen in all where nobody says how often.
const EXAMPLES_SEEN: usize = 4_500;

impl TrainingSettings {
    /// The same with everything said that was left to the model and to how much there is to learn.
    #[must_use]
    pub fn resolved(&self, width: usize, examples: usize) -> Self {
        let epochs = self.epochs.unwrap_or_else(|| (EXAMPLES_SEEN / examples.max(1)).clamp(2, 10));
        let rate = self.learning_rate.unwrap_or_else(|| 5e-4 * (2_000.0 / width as f64).powf(0.78));
        Self { epochs: Some(epochs), learning_rate: Some(rate), ..self.clone() }
    }

    /// The adapter's shape.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn lora(&self) -> Result<LoraSettings, String> {
        let target = |name: &String| {
            Linear::from_peft_name(name).ok_or_else(|| {
                let all = Linear::ALL.map(Linear::peft_name).join(", ");
                format!("target_modules has {name:?}; there are {all}")
            })
        };
        let mut targets: Vec<Linear> = self.target_modules.iter().map(target).collect::<Result<_, _>>()?;
        targets.sort_unstable();
        targets.dedup();
        let lora = LoraSettings {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            targets,
            use_rslora: self.use_rslora,
            use_dora: self.use_dora,
        };
        lora.validate().map(|()| lora)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn validate(&self) -> Result<(), String> {
        self.lora()?;
        let counts = [
            ("epochs", self.epochs.unwrap_or(1), 1, 10_000),
            ("batch_size", self.batch_size, 1, 1 << 16),
            ("max_batch_tokens", self.max_batch_tokens, 16, 1 << 22),
            ("max_tokens", self.max_tokens, 2, 1 << 22),
            ("evaluations_per_epoch", self.evaluations_per_epoch, 1, 1_000),
        ];
        for (name, value, least, most) in counts {
            if !(least..=most).contains(&value) {
                return Err(format!("{name} is {value}; it must be from {least} to {most}"));
            }
        }
        let numbers = [
            ("learning_rate", self.learning_rate.unwrap_or(1e-3), f64::MIN_POSITIVE, 10.0),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio, f64::MIN_POSITIVE, 1e3),
            ("warmup_ratio", self.warmup_ratio, 0.0, 1.0),
            ("weight_decay", self.weight_decay, 0.0, 10.0),
            ("max_grad_norm", self.max_grad_norm, f64::MIN_POSITIVE, 1e9),
            ("held_out", self.held_out, 0.0, 0.5),
        ];
        for (name, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                let least =
                    if least == f64::MIN_POSITIVE { "above 0".into() } else { format!("from {least}") };
                return Err(format!("{name} is {value}; it must be {least} to {most}"));
            }
        }
        Ok(())
    }

    /// The rate at a step of so many.
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        let peak = self.learning_rate.unwrap_or(0.0);
        let warmup = (self.warmup_ratio * steps as f64).ceil() as usize;
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / (steps - warmup).max(1) as f64;
        peak * match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Schedule, TrainingSettings};

    #[test]
    fn a_bad_setting_is_named_with_its_bounds() {
        let bad = |settings: TrainingSettings| settings.validate().unwrap_err();
        let ok = TrainingSettings::default();
        assert!(ok.validate().is_ok());
        let reason = bad(TrainingSettings { rank: 0, ..ok.clone() });
        assert!(reason.contains("rank is 0") && reason.contains("1 to 1024"), "{reason}");
        let reason = bad(TrainingSettings { target_modules: vec!["embed".into()], ..ok.clone() });
        assert!(reason.contains("embed") && reason.contains("q_proj"), "{reason}");
        let reason = bad(TrainingSettings { learning_rate: Some(f64::NAN), ..ok.clone() });
        assert!(reason.contains("learning_rate is NaN"), "{reason}");
        assert!(bad(TrainingSettings { use_dora: true, dropout: 0.1, ..ok }).contains("DoRA"));
    }

    #[test]
    fn the_rate_rises_and_falls() {
        for schedule in [Schedule::Cosine, Schedule::Linear] {
            let settings = TrainingSettings {
                schedule,
                warmup_ratio: 0.1,
                learning_rate: Some(1.0),
                ..Default::default()
            };
            let rates: Vec<f64> = (0..100).map(|step| settings.rate(step, 100)).collect();
            assert!((rates[9] - 1.0).abs() < 1e-9 && rates[0] < rates[5] && rates[99] < 0.02, "{rates:?}");
            assert!(rates[10..].windows(2).all(|pair| pair[1] <= pair[0]));
        }
    }
}
