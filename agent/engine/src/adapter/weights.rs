use std::collections::BTreeMap;

use super::linear::Linear;
use super::settings::LoraSettings;
use crate::description::DecoderDescription;

/// The numbers of an adapter, as they are trained and written to files. Rows are in the order of the model's own matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterWeights {
    /// Its shape.
    pub settings: LoraSettings,
    /// By layer and matrix.
    pub matrices: BTreeMap<(usize, Linear), ThinMatrices>,
}

/// What an adapter has for one matrix `[outputs, inputs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ThinMatrices {
    /// Columns between both.
    pub rank: usize,
    /// `lora_A`, `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `lora_B`, `[outputs, rank]`.
    pub b: Vec<f32>,
    /// `lora_magnitude_vector`, `[outputs]`, of DoRA.
    pub magnitude: Option<Vec<f32>>,
    /// What the product of both is multiplied with.
    pub scale: f32,
}

impl AdapterWeights {
    /// Numbers in all.
    pub fn parameters(&self) -> usize {
        let of =
            |thin: &ThinMatrices| thin.a.len() + thin.b.len() + thin.magnitude.as_ref().map_or(0, Vec::len);
        self.matrices.values().map(of).sum()
    }

    /// Checks every matrix against a model.
    ///
    /// # Errors
    /// The first that does not fit, in words.
    pub fn check(&self, description: &DecoderDescription) -> Result<(), String> {
        for ((layer, linear), thin) in &self.matrices {
            let name = linear.peft_name();
            if *layer >= description.layers {
                let layers = description.layers;
                return Err(format!("changes {name} of layer {layer}, the model has {layers} layers"));
            }
            let (outputs, inputs) = linear.shape(description);
            let ours = (thin.b.len() / thin.rank.max(1), thin.a.len() / thin.rank.max(1));
            if ours != (outputs, inputs) {
                return Err(format!(
                    "changes {name} of layer {layer} as a matrix of {} x {}, the model's is {outputs} x {inputs}; it was \
                     made for another model",
                    ours.0, ours.1
                ));
            }
        }
        Ok(())
    }
}
