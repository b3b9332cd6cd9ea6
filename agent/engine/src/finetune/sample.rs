use std::ops::Range;

/// One example as tokens. Attention does not go beyond it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// At least two.
    pub tokens: Vec<u32>,
    /// How much each token is learned when it follows those before; 0 for what is only read, as prompts are. The first is
    /// never learned.
    pub weights: Vec<f32>,
}

impl Sample {
    /// Of tokens of which some ranges are learned alike.
    pub fn new(tokens: Vec<u32>, learned: &[Range<usize>], weight: f32) -> Self {
        let mut weights = vec![0.0; tokens.len()];
        learned.iter().cloned().for_each(|range| weights[range].fill(weight));
        if let Some(first) = weights.first_mut() {
            *first = 0.0;
        }
        Self { tokens, weights }
    }

    /// The weights of all that is learned.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }
}
