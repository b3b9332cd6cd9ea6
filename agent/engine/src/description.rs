//! What a decoder is made of, as data: every supported family is a value of [`DecoderDescription`].

/// The families whose files are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3 and everything shaped like it.
    Llama,
    /// Qwen 1.5, 2 and 2.5: Llama with biases on the query, key and value projections.
    Qwen2,
    /// Qwen 3: Llama with norms on the query and key heads.
    Qwen3,
    /// Gemma 3, text only: sandwich norms, alternating local and global attention.
    Gemma3,
}

/// How a norm's weight enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormWeight {
    /// `x * w`
    AsIs,
    /// `x * (1 + w)`, as Gemma stores it in safetensors; its GGUF files have the one added already.
    PlusOne,
}

/// The gate's activation in the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// GELU by its tanh approximation (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// Which pairs of a head's numbers a rotary embedding turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// `(i, i + head_dim / 2)`, as in safetensors of every family here.
    Halves,
    /// `(2i, 2i + 1)`, as in GGUF files of Llama, whose projections are permuted for it.
    Interleaved,
}

/// How rotary frequencies are stretched for contexts longer than those of pre-training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's band-wise scaling.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` stay.
        high_freq_factor: f64,
        /// Context of pre-training, in tokens.
        original_context: f64,
    },
}

/// Layers that see only the last tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalAttention {
    /// A token sees itself and the `window - 1` before it.
    pub window: usize,
    /// Every `global_every`-th layer sees everything; the others are local.
    pub global_every: usize,
    /// Rotary base of the local layers.
    pub rope_base: f64,
}

/// A decoder-only transformer, described once and varied by data.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderDescription {
    /// Where it comes from: decides tensor names, nothing else.
    pub family: Family,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// Width of the feed-forward block.
    pub ffn_width: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Epsilon of every RMS norm.
    pub norm_eps: f64,
    /// How norm weights enter.
    pub norm_weight: NormWeight,
    /// The gate's activation.
    pub activation: Activation,
    /// Rotary layout.
    pub rope: RopeLayout,
    /// Rotary base of the global layers.
    pub rope_base: f64,
    /// Scaling of the global layers' frequencies.
    pub rope_scaling: RopeScaling,
    /// Local layers, where there are any.
    pub local: Option<LocalAttention>,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// RMS norms over each query and key head.
    pub qk_norm: bool,
    /// Norms behind attention and feed-forward as well as before.
    pub sandwich_norms: bool,
    /// The embedding is multiplied by this.
    pub embedding_scale: f64,
    /// Attention scores are multiplied by this.
    pub attention_scale: f64,
    /// The output matrix is the embedding.
    pub tied_output: bool,
}

impl DecoderDescription {
    /// The window of a layer, or `None` where it sees everything.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.local.filter(|local| !(layer + 1).is_multiple_of(local.global_every)).map(|local| local.window)
    }

    /// Every layer's window.
    pub fn windows(&self) -> Vec<Option<usize>> {
        (0..self.layers).map(|layer| self.window(layer)).collect()
    }

    /// Inverse frequencies of the rotary embedding, `head_dim / 2` of them; local layers have a base of their own
    /// and no scaling. Llama 3.1's bands follow Meta's reference code.
    pub fn rope_inverse_frequencies(&self, local: bool) -> Vec<f32> {
        let (base, scaling) = match (&self.local, local) {
            (Some(attention), true) => (attention.rope_base, RopeScaling::None),
            _ => (self.rope_base, self.rope_scaling),
        };
        (0..self.head_dim / 2)
            .map(|pair| base.powf(-2.0 * pair as f64 / self.head_dim as f64))
            .map(|frequency| scale_frequency(frequency, scaling) as f32)
            .collect()
    }

    /// Every tensor that the decoder needs, with its shape, in file order.
    pub fn tensors(&self) -> Vec<(TensorRole, Vec<usize>)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![(TensorRole::Embedding, vec![self.vocabulary, self.width])];
        for layer in 0..self.layers {
            let mut push = |part, shape| all.push((TensorRole::Layer(layer, part), shape));
            push(LayerPart::AttentionNorm, vec![self.width]);
            push(LayerPart::Query, vec![q, self.width]);
            push(LayerPart::Key, vec![kv, self.width]);
            push(LayerPart::Value, vec![kv, self.width]);
            push(LayerPart::AttentionOutput, vec![self.width, q]);
            if self.qkv_bias {
                push(LayerPart::QueryBias, vec![q]);
                push(LayerPart::KeyBias, vec![kv]);
                push(LayerPart::ValueBias, vec![kv]);
            }
            if self.qk_norm {
                push(LayerPart::QueryNorm, vec![self.head_dim]);
                push(LayerPart::KeyNorm, vec![self.head_dim]);
            }
            if self.sandwich_norms {
                push(LayerPart::PostAttentionNorm, vec![self.width]);
                push(LayerPart::PostFeedForwardNorm, vec![self.width]);
            }
            push(LayerPart::FeedForwardNorm, vec![self.width]);
            push(LayerPart::Gate, vec![self.ffn_width, self.width]);
            push(LayerPart::Up, vec![self.ffn_width, self.width]);
            push(LayerPart::Down, vec![self.width, self.ffn_width]);
        }
        all.push((TensorRole::FinalNorm, vec![self.width]));
        if !self.tied_output {
            all.push((TensorRole::Output, vec![self.vocabulary, self.width]));
        }
        all
    }

    /// Weights in all.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
    }

    /// Checks what the decoder relies on.
    ///
    /// # Errors
    /// The first number that is zero, out of bounds or does not divide, in words.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("layers", self.layers, 1 << 10),
            ("width", self.width, 1 << 16),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("ffn_width", self.ffn_width, 1 << 20),
            ("vocabulary", self.vocabulary, 1 << 24),
            ("context", self.context, 1 << 26),
        ];
        for (name, value, limit) in sizes {
            if value == 0 || value > limit {
                return Err(format!("{name} is {value}; it must be from 1 to {limit}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!("{} heads cannot share {} key and value heads", self.heads, self.kv_heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {}; rotary embeddings need an even number", self.head_dim));
        }
        if self.local.is_some_and(|local| local.window == 0 || local.global_every == 0) {
            return Err("the sliding window and its pattern must be at least 1".into());
        }
        Ok(())
    }
}

fn scale_frequency(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let wavelength = std::f64::consts::TAU / frequency;
            if wavelength < original_context / high_freq_factor {
                frequency
            } else if wavelength > original_context / low_freq_factor {
                frequency / factor
            } else {
                let smooth =
                    (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// What a tensor is for, whatever its file calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// Token embedding, `[vocabulary, width]`.
    Embedding,
    /// Norm before the output matrix.
    FinalNorm,
    /// Output matrix, `[vocabulary, width]`.
    Output,
    /// A part of a layer.
    Layer(usize, LayerPart),
}

/// The parts of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LayerPart {
    AttentionNorm,
    Query,
    Key,
    Value,
    AttentionOutput,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    PostAttentionNorm,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
    PostFeedForwardNorm,
}

impl TensorRole {
    /// Its name in GGUF files.
    pub fn gguf_name(self) -> String {
        match self {
            Self::Embedding => "token_embd.weight".into(),
            Self::FinalNorm => "output_norm.weight".into(),
            Self::Output => "output.weight".into(),
            Self::Layer(layer, part) => {
                let name = match part {
                    LayerPart::AttentionNorm => "attn_norm.weight",
                    LayerPart::Query => "attn_q.weight",
                    LayerPart::Key => "attn_k.weight",
                    LayerPart::Value => "attn_v.weight",
                    LayerPart::AttentionOutput => "attn_output.weight",
                    LayerPart::QueryBias => "attn_q.bias",
                    LayerPart::KeyBias => "attn_k.bias",
                    LayerPart::ValueBias => "attn_v.bias",
                    LayerPart::QueryNorm => "attn_q_norm.weight",
                    LayerPart::KeyNorm => "attn_k_norm.weight",
                    LayerPart::PostAttentionNorm => "post_attention_norm.weight",
                    LayerPart::FeedForwardNorm => "ffn_norm.weight",
                    LayerPart::Gate => "ffn_gate.weight",
                    LayerPart::Up => "ffn_up.weight",
                    LayerPart::Down => "ffn_down.weight",
                    LayerPart::PostFeedForwardNorm => "post_ffw_norm.weight",
                };
                format!("blk.{layer}.{name}")
            }
        }
    }

    /// Its name in Hugging Face safetensors.
    pub fn hf_name(self, family: Family) -> String {
        match self {
            Self::Embedding => "model.embed_tokens.weight".into(),
            Self::FinalNorm => "model.norm.weight".into(),
            Self::Output => "lm_head.weight".into(),
            Self::Layer(layer, part) => {
                let name = match part {
                    LayerPart::AttentionNorm => "input_layernorm.weight",
                    LayerPart::Query => "self_attn.q_proj.weight",
                    LayerPart::Key => "self_attn.k_proj.weight",
                    LayerPart::Value => "self_attn.v_proj.weight",
                    LayerPart::AttentionOutput => "self_attn.o_proj.weight",
                    LayerPart::QueryBias => "self_attn.q_proj.bias",
                    LayerPart::KeyBias => "self_attn.k_proj.bias",
                    LayerPart::ValueBias => "self_attn.v_proj.bias",
                    LayerPart::QueryNorm => "self_attn.q_norm.weight",
                    LayerPart::KeyNorm => "self_attn.k_norm.weight",
                    LayerPart::PostAttentionNorm => "post_attention_layernorm.weight",
                    LayerPart::FeedForwardNorm if family == Family::Gemma3 => {
                        "pre_feedforward_layernorm.weight"
                    }
                    LayerPart::FeedForwardNorm => "post_attention_layernorm.weight",
                    LayerPart::Gate => "mlp.gate_proj.weight",
                    LayerPart::Up => "mlp.up_proj.weight",
                    LayerPart::Down => "mlp.down_proj.weight",
                    LayerPart::PostFeedForwardNorm => "post_feedforward_layernorm.weight",
                };
                format!("model.layers.{layer}.{name}")
            }
        }
    }
}
