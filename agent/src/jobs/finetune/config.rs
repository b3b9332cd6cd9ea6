use std::collections::BTreeSet;
use std::num::NonZero;

use llmdeck_datasets::Policy;
use serde::Deserialize;

/// What fine-tuning may take of the node, and what it may learn from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Threads that train, behind everything else; as many as compute for users where it is absent. An external trainer is held
    /// to as many cores; it has all where it is absent.
    pub threads: Option<NonZero<usize>>,
    /// Memory that a training may take beside the model, in MiB; what is free where it is absent. An external trainer that takes
    /// more is ended.
    pub memory_mib: Option<u64>,
    /// GPUs that an external trainer sees, by the driver's numbers; all where it is absent.
    pub gpus: Option<Vec<u32>>,
    /// Share of each GPU's time that an external trainer may take, above 0 to 1; all where it is absent.
    pub gpu_share: Option<f64>,
    /// Memory of each GPU that an external trainer may take, in MiB; one that takes more is ended, and none begins where less is
    /// free. All where it is absent.
    pub gpu_memory_mib: Option<u64>,
    /// Training waits while TTFT at the 95th percentile is above this, in milliseconds; the deployment's objective where it is
    /// absent.
    pub max_ttft_p95_ms: Option<f64>,
    /// A command that trains instead of the agent where a job asks for it; it gets the job's folder as its last argument.
    #[serde(default)]
    pub trainer: Vec<String>,
    /// What stands in the way of training.
    #[serde(default)]
    pub policy: Policy,
}

impl FinetuneConfig {
    /// What is wrong with it, for a configuration's error.
    pub fn problem(&self) -> Option<String> {
        if let Some(share) = self.gpu_share
            && !(share > 0.0 && share <= 1.0)
        {
            return Some(format!("gpu_share must be above 0 and at most 1, not {share}"));
        }
        if let Some(gpus) = &self.gpus
            && (gpus.is_empty() || gpus.iter().collect::<BTreeSet<_>>().len() < gpus.len())
        {
            return Some("gpus must name at least one GPU, and each once; leave it out for all".into());
        }
        let of_gpus = [
            ("gpu_share", self.gpu_share.is_some()),
            ("gpu_memory_mib", self.gpu_memory_mib.is_some()),
            ("gpus", self.gpus.is_some()),
        ];
        let for_nobody = of_gpus.iter().find(|(_, given)| *given && self.trainer.is_empty());
        for_nobody.map(|(name, _)| {
            format!("{name} is for an external trainer, and there is none; name its command as trainer, or leave {name} out")
        })
    }
}
