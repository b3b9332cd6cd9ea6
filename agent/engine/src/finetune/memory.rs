use super::network::MOST_LOGITS;
use super::settings::TrainingSettings;
use crate::adapter::Linear;
use crate::description::DecoderDescription;

/// Copies of what is trained: values, gradients, two moments; the best values; and all but the gradients once more to go back
/// to.
const COPIES: usize = 9;

/// What layers may keep together where the settings do not say, in bytes.
const MOST_KEPT_BYTES: usize = 1 << 30;

/// Numbers that a layer keeps of a token, as `layer.rs` has them.
fn kept_a_token(description: &DecoderDescription, settings: &TrainingSettings) -> usize {
    let heads = description.heads * description.head_dim;
    let kv = description.kv_heads * description.head_dim;
    let low = Linear::ALL.len() * settings.rank;
    6 * description.width + 2 * (heads + 2 * kv) + 2 * heads + 3 * description.ffn_width + low
}

/// Of a number that waits for the way back.
fn kept_bytes(settings: &TrainingSettings) -> usize {
    if settings.bf16 { size_of::<half::bf16>() } else { size_of::<f32>() }
}

/// Whether layers are computed twice rather than kept.
pub(super) fn checkpointing(
    description: &DecoderDescription,
    settings: &TrainingSettings,
    longest_tokens: usize,
) -> bool {
    settings.activation_checkpointing.unwrap_or_else(|| {
        let tokens = settings.max_batch_tokens.max(longest_tokens);
        let numbers = kept_a_token(description, settings) * description.layers * tokens;
        numbers * kept_bytes(settings) > MOST_KEPT_BYTES
    })
}

/// Memory that training takes beside the model, in bytes, where the longest sample has so many tokens. What a pass allocates for
/// a moment is counted with its largest part.
pub fn memory_bytes(
    description: &DecoderDescription,
    settings: &TrainingSettings,
    longest_tokens: usize,
) -> u64 {
    let (width, ffn) = (description.width, description.ffn_width);
    let heads = description.heads * description.head_dim;
    let kv = description.kv_heads * description.head_dim;
    let trained: usize = Linear::ALL
        .into_iter()
        .filter(|linear| settings.target_modules.iter().any(|name| name == linear.peft_name()))
        .map(|linear| {
            let (outputs, inputs) = linear.shape(description);
            (outputs + inputs) * settings.rank + if settings.use_dora { outputs } else { 0 }
        })
        .sum();
    let tokens = settings.max_batch_tokens.max(longest_tokens);
    let kept = kept_a_token(description, settings);
    // What the way back has beside that.
    let backward = 3 * width + 3 * ffn + 3 * heads + 2 * (heads + 2 * kv);
    let twice = checkpointing(description, settings, longest_tokens);
    // A layer at work has its tape in 32 bits; what waits is another copy in 16.
    let (at_work, waiting) = match (twice, settings.bf16) {
        (true, _) => (kept, 0),
        (false, true) => (kept, kept * description.layers),
        (false, false) => (0, kept * description.layers),
    };
    let waiting = waiting + description.layers * width;
    let logits = (tokens * description.vocabulary).min(MOST_LOGITS.max(description.vocabulary));
    let numbers = COPIES * trained * description.layers + tokens * (at_work + backward + 2 * width) + logits;
    (numbers * size_of::<f32>() + tokens * waiting * kept_bytes(settings)) as u64
}
