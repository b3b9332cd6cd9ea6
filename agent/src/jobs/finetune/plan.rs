use super::FinetuneError;
use super::prepare::Prepared;
use super::spec::{Ship, Spec};
use crate::placement::{Variant, free_bytes};
use llmdeck_engine::finetune::{TrainingSettings, memory_bytes};

/// Memory that a training takes beside the model, in bytes.
pub(super) fn memory(variant: &Variant, settings: &TrainingSettings, prepared: &Prepared) -> u64 {
    let data = &prepared.data;
    let all = data.samples.iter().chain(&data.rehearsal);
    let longest = all.map(|sample| sample.tokens.len()).max().unwrap_or(0);
    memory_bytes(variant.model().decoder.description(), settings, longest)
}

pub(super) fn check_memory(needed: u64) -> Result<(), FinetuneError> {
    let free = free_bytes();
    if needed <= free {
        return Ok(());
    }
    Err(FinetuneError::Memory(format!(
        "training needs {} MiB beside the model and {} MiB are free; lower max_batch_tokens or rank, leave activation_checkpointing \
         on, or free memory",
        needed.div_ceil(1 << 20),
        free >> 20
    )))
}

/// What will happen, in the words that the operator is asked to confirm.
pub(super) fn lines(spec: &Spec, variant: &Variant, prepared: &Prepared, needed: u64) -> Vec<String> {
    let settings = &prepared.settings;
    let epochs = settings.epochs.unwrap_or(1);
    let mut lines =
        vec![format!("trains an adapter on {} examples of {}", prepared.examples, spec.dataset.reference)];
    if prepared.rehearsed > 0 {
        let names: Vec<&str> = spec.rehearsal.iter().map(|part| part.reference.as_str()).collect();
        let names = names.join(", ");
        lines.push(format!("rehearses {} of {names} in each epoch", prepared.rehearsed));
    } else {
        lines.push("without rehearsal: skills that are not in the data may be lost".into());
    }
    let steps = (prepared.examples + prepared.rehearsed).div_ceil(settings.batch_size) * epochs;
    let method = if settings.use_dora { "DoRA" } else { "LoRA" };
    lines.push(format!(
        "{method} of rank {} in {steps} steps, {} tokens, {} held out",
        settings.rank,
        prepared.tokens * epochs,
        prepared.data.held_out.len()
    ));
    lines.push(match &spec.trainer {
        None => format!("shares the model that serves; takes {} MiB beside it", needed.div_ceil(1 << 20)),
        Some(command) => format!("trained by {}, which has its own copy of the model", command.join(" ")),
    });
    if variant.adapter().is_some() {
        lines.push("begins at the model itself, not at the adapter that serves now".into());
    }
    lines.push(match spec.ship {
        Ship::None => format!("keeps the adapter as {}; nothing changes for users", spec.tag),
        Ship::Canary => format!("where it is no worse, a canary with {}", spec.tag),
        Ship::Replace => format!("where it is no worse, {} serves at once", spec.tag),
    });
    lines
}
