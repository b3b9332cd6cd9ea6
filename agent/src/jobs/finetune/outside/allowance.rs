//! What the configuration leaves a trainer, and whether it is there.

use llmdeck_proto::v1::Gpu;

use super::super::FinetuneConfig;

/// Whether the GPUs that a trainer is allowed have the memory that is set aside for it.
///
/// # Errors
/// What is missing, with the remedy.
pub(super) fn check_gpus(gpus: &[Gpu], config: &FinetuneConfig) -> Result<(), String> {
    let named = config.gpus.as_deref().unwrap_or_default();
    if let Some(unknown) = named.iter().find(|index| !gpus.iter().any(|gpu| gpu.index == **index)) {
        return Err(format!(
            "gpus of [finetune] names GPU {unknown}, and the driver tells of {}; llmdeck-agent doctor says more",
            if gpus.is_empty() { "none".into() } else { format!("0 to {}", gpus.len() - 1) }
        ));
    }
    let Some(needed) = config.gpu_memory_mib else { return Ok(()) };
    let free_mib = |gpu: &Gpu| Some(gpu.memory_total_bytes?.saturating_sub(gpu.memory_used_bytes?) >> 20);
    let short = |gpu: &&Gpu| free_mib(gpu).is_some_and(|free| free < needed);
    let allowed: Vec<&Gpu> =
        gpus.iter().filter(|gpu| named.is_empty() || named.contains(&gpu.index)).collect();
    let lacking: Vec<&Gpu> = allowed.iter().copied().filter(short).collect();
    // A trainer that is told no GPUs may take any one.
    if lacking.is_empty() || (named.is_empty() && lacking.len() < allowed.len()) {
        return Ok(());
    }
    let words =
        lacking.iter().map(|gpu| format!("GPU {} has {} MiB free", gpu.index, free_mib(gpu).unwrap_or(0)));
    Err(format!(
        "gpu_memory_mib of [finetune] sets {needed} MiB aside for a trainer, and {}; free some, or lower it",
        words.collect::<Vec<_>>().join(", ")
    ))
}

/// What a trainer may take, in words; `None` where it may take everything.
pub(in crate::jobs::finetune) fn allowance(config: &FinetuneConfig) -> Option<String> {
    let share = config.gpu_share.map(|share| format!("{:.0} % of the time of each GPU", share * 100.0));
    let parts = [
        config.threads.map(|cores| if cores.get() == 1 { "1 core".into() } else { format!("{cores} cores") }),
        config.memory_mib.map(|most| format!("{most} MiB of memory")),
        config
            .gpus
            .as_ref()
            .map(|gpus| format!("GPU {}", gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(" and "))),
        config.gpu_memory_mib.map(|most| format!("{most} MiB of each GPU")),
        share,
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("it may take {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::Gpu;

    use super::{FinetuneConfig, check_gpus};

    fn card(index: u32, free_mib: u64) -> Gpu {
        Gpu {
            index,
            memory_total_bytes: Some(80_000 << 20),
            memory_used_bytes: Some((80_000 - free_mib) << 20),
            ..Gpu::default()
        }
    }

    #[test]
    fn a_trainer_that_does_not_fit_is_refused_with_the_numbers() {
        let config =
            |gpus, memory| FinetuneConfig { gpus, gpu_memory_mib: Some(memory), ..FinetuneConfig::default() };
        let cards = [card(0, 100), card(1, 5_000)];
        assert_eq!(check_gpus(&cards, &config(None, 4_000)), Ok(()), "there is one that has it");
        assert_eq!(check_gpus(&cards, &config(Some(vec![1]), 4_000)), Ok(()));
        let refused = check_gpus(&cards, &config(Some(vec![0, 1]), 4_000)).unwrap_err();
        assert!(
            refused.contains("sets 4000 MiB aside") && refused.contains("GPU 0 has 100 MiB free;"),
            "{refused}"
        );
        let refused = check_gpus(&cards, &config(Some(vec![2]), 1)).unwrap_err();
        assert!(refused.contains("names GPU 2") && refused.contains("0 to 1"), "{refused}");
    }
}
