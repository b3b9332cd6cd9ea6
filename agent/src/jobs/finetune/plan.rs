use super::outside;
use super::prepare::Prepared;
use super::spec::{Ship, Spec};
use super::{FinetuneConfig, FinetuneError};
use crate::placement::{Variant, free_bytes};
use llmdeck_engine::finetune::{TrainingSettings, memory_bytes};

/// Memory that a training takes beside the model, in bytes.
pub(super) fn memory(variant: &Variant, settings: &TrainingSettings, prepared: &Prepared) -> u64 {
    let data = &prepared.data;
    let all = data.samples.iter().chain(&data.rehearsal);
    let longest = all.map(|sample| sample.tokens.len()).max().unwrap_or(0);
    memory_bytes(variant.model().decoder.description(), settings, longest)
}

/// Holds it to what is free, and to what the configuration leaves to training.
pub(super) fn check_memory(needed: u64, most_mib: Option<u64>) -> Result<(), FinetuneError> {
    let (needed_mib, free_mib) = (needed.div_ceil(1 << 20), free_bytes() >> 20);
    let allowed = most_mib.filter(|most| *most < free_mib);
    if needed_mib <= allowed.unwrap_or(free_mib) {
        return Ok(());
    }
    let there_is = match allowed {
        Some(most) => format!("memory_mib of [finetune] allows {most} MiB"),
        None => format!("{free_mib} MiB are free"),
    };
    Err(FinetuneError::Memory(format!(
        "training needs {needed_mib} MiB beside the model and {there_is}; lower max_batch_tokens or rank, set \
         activation_checkpointing or bf16, or free memory"
    )))
}

/// What will happen, in the words that the operator is asked to confirm.
pub(super) fn lines(
    spec: &Spec,
    variant: &Variant,
    prepared: &Prepared,
    needed: u64,
    config: &FinetuneConfig,
) -> Vec<String> {
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
    if spec.trainer.is_some() {
        lines.extend(outside::allowance(config));
    }
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

#[cfg(test)]
mod tests {
    use super::check_memory;

    #[test]
    fn what_the_configuration_leaves_is_held_to() {
        assert!(check_memory(3 << 20, Some(3)).is_ok());
        let refused = check_memory((3 << 20) + 1, Some(3)).unwrap_err().to_string();
        assert!(
            refused.contains("needs 4 MiB") && refused.contains("memory_mib of [finetune] allows 3"),
            "{refused}"
        );
        let refused = check_memory(1 << 60, Some(1 << 50)).unwrap_err().to_string();
        assert!(refused.contains("MiB are free"), "{refused}");
    }
}
