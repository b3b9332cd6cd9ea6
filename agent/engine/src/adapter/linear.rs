use crate::description::{DecoderDescription, LayerPart, RopeLayout};

/// The matrices of a layer that an adapter may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Linear {
    Query,
    Key,
    Value,
    AttentionOutput,
    Gate,
    Up,
    Down,
}

impl Linear {
    /// Every one, in the order in which a layer computes them.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::AttentionOutput, Self::Gate, Self::Up, Self::Down];

    /// Its name in PEFT's `target_modules`.
    pub fn peft_name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::AttentionOutput => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// From PEFT's name.
    pub fn from_peft_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|linear| linear.peft_name() == name)
    }

    /// Its place in a Hugging Face layer.
    pub(super) fn block(self) -> &'static str {
        match self {
            Self::Query | Self::Key | Self::Value | Self::AttentionOutput => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        }
    }

    /// The part of a layer that it is.
    pub fn part(self) -> LayerPart {
        match self {
            Self::Query => LayerPart::Query,
            Self::Key => LayerPart::Key,
            Self::Value => LayerPart::Value,
            Self::AttentionOutput => LayerPart::AttentionOutput,
            Self::Gate => LayerPart::Gate,
            Self::Up => LayerPart::Up,
            Self::Down => LayerPart::Down,
        }
    }

    /// Outputs and inputs.
    pub fn shape(self, description: &DecoderDescription) -> (usize, usize) {
        let (width, ffn) = (description.width, description.ffn_width);
        let queries = description.heads * description.head_dim;
        let keys = description.kv_heads * description.head_dim;
        match self {
            Self::Query => (queries, width),
            Self::Key | Self::Value => (keys, width),
            Self::AttentionOutput => (width, queries),
            Self::Gate | Self::Up => (ffn, width),
            Self::Down => (width, ffn),
        }
    }

    /// Where each output of a Hugging Face matrix is in the model's own: GGUF files of Llama have the rows of queries and
    /// keys in another order, since they turn other pairs.
    pub(super) fn own_row(self, description: &DecoderDescription, row: usize) -> usize {
        let turned = matches!(self, Self::Query | Self::Key) && description.rope == RopeLayout::Interleaved;
        if !turned {
            return row;
        }
        let (dim, half) = (description.head_dim, description.head_dim / 2);
        let (head, within) = (row / dim, row % dim);
        head * dim + within % half * 2 + within / half
    }
}
