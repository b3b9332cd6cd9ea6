use std::num::NonZero;

use llmdeck_datasets::Policy;
use serde::Deserialize;

/// What fine-tuning may take of the node, and what it may learn from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Threads that train, behind everything else; as many as compute for users where it is absent.
    pub threads: Option<NonZero<usize>>,
    /// Memory that a training may take beside the model, in MiB; what is free where it is absent.
    pub memory_mib: Option<u64>,
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
