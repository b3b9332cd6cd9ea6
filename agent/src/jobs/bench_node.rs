use std::path::PathBuf;
use std::sync::Arc;

use llmdeck_engine::device::Device;
use llmdeck_engine::roofline::{GpuLimits, MachineLimits, ModelRate, measure_model};
use llmdeck_engine::{EngineError, Pool};
use serde::{Deserialize, Serialize};

use super::disk::read_bytes_per_s;
use super::handle::JobHandle;
use super::list::{JobEnd, Jobs, TooManyJobs};
use crate::placement::{Loaded, free_bytes};

const SCHEMA: &str = "llmdeck.node-bench/1";

/// What a node can do, and how near its models come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeBench {
    /// Names this format.
    pub schema: String,
    /// Of memory and arithmetic.
    pub limits: MachineLimits,
    /// Of the GPUs that this build can use.
    #[serde(default)]
    pub gpus: Vec<GpuLimits>,
    /// One reader of a file that is not in memory; absent where there is no file to read.
    pub disk_read_bytes_per_s: Option<f64>,
    /// Loaded models.
    pub models: Vec<ModelBench>,
}

/// One loaded model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelBench {
    /// `chat@7`.
    pub revision: String,
    /// As asked for.
    pub model: String,
    /// Where it computes.
    pub device: Device,
    /// Of its matrices and vectors, in memory.
    pub weights_bytes: u64,
    /// Prompts and answers.
    pub rates: Vec<ModelRate>,
}

/// A loaded revision that is measured.
pub struct MeasuredModel {
    /// `chat@7`.
    pub revision: String,
    /// As asked for.
    pub model: String,
    /// Its file.
    pub path: PathBuf,
    /// Held while it is measured.
    pub engine: Arc<Loaded>,
}

impl Jobs {
    /// Measures the node and what is loaded on it. Returns the job's id.
    ///
    /// # Errors
    /// When too many wait already.
    pub fn bench_node(
        &self,
        node: String,
        pool: Arc<Pool>,
        models: Vec<MeasuredModel>,
    ) -> Result<String, TooManyJobs> {
        self.start("bench-node", node, async move |job| {
            let measured = tokio::task::spawn_blocking(move || measure(&job, &pool, &models)).await;
            measured.map_err(|_| "met a bug of the agent; its log has the panic")?
        })
    }
}

fn measure(job: &JobHandle, pool: &Pool, models: &[MeasuredModel]) -> Result<JobEnd, String> {
    let stages = (models.len() + 2) as f64;
    job.progress(0.0, "memory and arithmetic");
    let wrong = |error: std::io::Error| error.to_string();
    let failed = |error: EngineError| error.to_string();
    let mut limits = MachineLimits::measure(pool, free_bytes()).map_err(wrong)?;
    let gpus = GpuLimits::measure_all().map_err(failed)?;
    job.progress(1.0 / stages, "disk");
    let file = models.iter().map(|model| &model.path).find(|path| path.is_file());
    let disk_read_bytes_per_s = file
        .map(|path| read_bytes_per_s(path).map_err(|error| format!("{}: {error}", path.display())))
        .transpose()?;
    let mut steps = Vec::new();
    for (index, measured) in models.iter().enumerate() {
        if job.cancel.is_cancelled() {
            break;
        }
        let before = (index + 2) as f64;
        let told = |share: f64| {
            job.progress((before + share) / stages, measured.revision.clone());
            !job.cancel.is_cancelled()
        };
        told(0.0);
        steps.push(measure_model(measured.engine.model(), told).map_err(failed)?);
    }
    limits.measure_memory_again(pool, free_bytes()).map_err(wrong)?;
    let models = models
        .iter()
        .zip(steps)
        .map(|(measured, steps)| ModelBench {
            revision: measured.revision.clone(),
            model: measured.model.clone(),
            device: measured.engine.model().device,
            weights_bytes: measured.engine.model().decoder.size_bytes(),
            rates: steps.iter().map(|step| step.rate(&limits, &gpus)).collect(),
        })
        .collect();
    let bench = NodeBench { schema: SCHEMA.into(), limits, gpus, disk_read_bytes_per_s, models };
    let detail = format!("{:.1} GB/s from memory", bench.limits.memory_read_bytes_per_s / 1e9);
    let report_json = serde_json::to_string(&bench).map_err(|error| error.to_string())?;
    Ok(JobEnd { detail, report_json })
}
