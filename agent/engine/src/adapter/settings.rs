use super::linear::Linear;

/// Most columns of an adapter's thin matrices.
const MOST_RANK: usize = 1_024;

/// The shape of an adapter, by PEFT's names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSettings {
    /// Columns of the thin matrices (`r`).
    pub rank: usize,
    /// `lora_alpha`: what they add is scaled by `alpha / rank`, or `alpha / √rank` with rsLoRA.
    pub alpha: f64,
    /// Share of inputs that a step leaves out (`lora_dropout`).
    pub dropout: f64,
    /// What is changed (`target_modules`).
    pub targets: Vec<Linear>,
    /// Rank-stabilized scaling (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Magnitudes beside directions (DoRA, Liu et al. 2024).
    pub use_dora: bool,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: Linear::ALL.to_vec(),
            use_rslora: false,
            use_dora: false,
        }
    }
}

impl LoraSettings {
    /// What the product of both matrices is multiplied with, for a matrix of this rank.
    pub fn scale(&self, rank: usize) -> f32 {
        let rank = rank as f64;
        (self.alpha / if self.use_rslora { rank.sqrt() } else { rank }) as f32
    }

    /// Checks that an adapter of this shape can be trained.
    ///
    /// # Errors
    /// The first setting that is out of bounds, with its bounds.
    pub fn validate(&self) -> Result<(), String> {
        if self.rank == 0 || self.rank > MOST_RANK {
            return Err(format!("rank is {}; it must be from 1 to {MOST_RANK}", self.rank));
        }
        if !(self.alpha > 0.0 && self.alpha <= 1e6) {
            return Err(format!("alpha is {}; it must be above 0 and at most 1000000", self.alpha));
        }
        if !(0.0..=0.9).contains(&self.dropout) {
            return Err(format!("dropout is {}; it must be from 0 to 0.9", self.dropout));
        }
        if self.targets.is_empty() {
            let all = Linear::ALL.map(Linear::peft_name).join(", ");
            return Err(format!("no target module is named; there are {all}"));
        }
        if self.use_dora && self.dropout > 0.0 {
            return Err("DoRA is trained without dropout; set dropout to 0".into());
        }
        Ok(())
    }
}
