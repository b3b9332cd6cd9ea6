use std::ops::Range;

/// One example as tokens. Attention does not go beyond it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// At least two.
    pub tokens: Vec<u32>,
    /// How much each token is learned when it follows those before; 0 for what is only read, as prompts are. The first is
    /// never learned.
    pub weights: Vec<f32>,
    /// Whether what is learned is what the model itself would say, rather than the tokens: so it stays as it is.
    pub rehearsed: bool,
}

impl Sample {
    /// Of tokens of which a range is learned.
    pub fn new(tokens: Vec<u32>, learned: Range<usize>, weight: f32) -> Self {
        let mut weights = vec![0.0; tokens.len()];
        weights[learned].fill(weight);
        if let Some(first) = weights.first_mut() {
            *first = 0.0;
        }
        Self { tokens, weights, rehearsed: false }
    }

    /// The same, to be kept rather than learned: at every token, of what is asked as well as of what is answered.
    #[must_use]
    pub fn as_rehearsal(self) -> Self {
        let mut weights = vec![1.0; self.tokens.len()];
        weights.iter_mut().take(1).for_each(|first| *first = 0.0);
        Self { weights, rehearsed: true, ..self }
    }

    /// The weights of all that is learned.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }
}
