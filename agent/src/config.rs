//! The configuration file: TOML, checked whole before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use llmdeck_engine::Pool;
use llmdeck_engine::device::Device;
use llmdeck_engine::engine::EngineOptions;
use serde::Deserialize;

use crate::jobs::FinetuneConfig;
use crate::placement::{CacheNumbers, EngineSettings, Guessing, LoadSettings, free_bytes};
use crate::rollout::RolloutConfig;
use crate::security::access::Grant;
use crate::security::tls::TlsConfig;
use crate::telemetry::Prices;

const LONGEST_NAME: usize = 64;
const MOST_DEPLOYMENTS: usize = 32;
const MOST_THREADS: usize = 1_024;
/// The share of free memory that models leave to others is one part of so many.
const MEMORY_LEFT_ALONE: u64 = 16;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("{path}: {source}; check that the file exists and that the agent may read it")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its text, with line and column.
    #[error("{path}: {source}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value out of range.
    #[error("{path}: {problem}")]
    Value {
        /// Which.
        path: PathBuf,
        /// Of what, and what it may be.
        problem: String,
    },
}

/// Everything that the file may say.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the node; the host's name where it is absent.
    pub node: Option<String>,
    /// For cost per token; without it no cost is shown.
    pub prices: Option<Prices>,
    /// Milliseconds between frames.
    #[serde(default = "defaults::interval_ms")]
    pub interval_ms: u64,
    /// Most bytes of history on disk.
    #[serde(default = "defaults::history_bytes")]
    pub history_bytes: u64,
    /// Seconds that a shutdown waits for requests under way.
    #[serde(default = "defaults::shutdown_s")]
    pub shutdown_s: u64,
    /// Threads that compute, shared by all deployments; as many as the process may use where it is absent.
    pub threads: Option<NonZero<usize>>,
    /// Cores that threads stay on, one thread each, by the system's numbers; wherever the system puts them where it is absent.
    #[serde(default)]
    pub cores: Vec<usize>,
    /// Bytes of memory that models may take together; most of what is free at the start where it is absent.
    pub memory_bytes: Option<u64>,
    /// Certificates, for listening beyond loopback.
    pub tls: Option<TlsConfig>,
    /// Whether the HTTP API answers only callers with a key; beyond loopback it always does.
    pub require_keys: Option<bool>,
    /// Who may do what; whoever reaches the socket may look where there is none.
    #[serde(default)]
    pub access: Vec<Grant>,
    /// What fine-tuning may take, and learn from.
    #[serde(default)]
    pub finetune: FinetuneConfig,
    /// What is served.
    #[serde(default, rename = "deployment")]
    pub deployments: Vec<DeploymentConfig>,
}

/// One named endpoint.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct DeploymentConfig {
    /// What clients send as `model`.
    pub name: String,
    /// A tag, a digest, a GGUF file or a folder with safetensors.
    pub model: String,
    /// Golden suite: a tag or a file.
    pub suite: Option<String>,
    /// A redeploy that scores below this is refused unless forced.
    pub golden_floor: Option<f64>,
    /// Seconds between golden runs of what serves.
    #[serde(default = "defaults::golden_every_s")]
    pub golden_every_s: u64,
    /// Objective on TTFT at the 99th percentile, in milliseconds.
    pub objective_ttft_p99_ms: Option<f64>,
    /// Requests that run at once.
    #[serde(default = "defaults::max_concurrent")]
    pub max_concurrent: usize,
    /// Requests that wait; one more is refused with 429.
    #[serde(default = "defaults::queue_limit")]
    pub queue_limit: u32,
    /// Seconds that a request may take in all.
    #[serde(default = "defaults::deadline_s")]
    pub deadline_s: u64,
    /// Most tokens that one step of its engine computes, of prompts and answers together.
    pub max_step_tokens: Option<usize>,
    /// Whether its engine guesses tokens ahead.
    #[serde(default)]
    pub speculation: Guessing,
    /// How its engines store keys and values.
    #[serde(default)]
    pub cache_format: CacheNumbers,
    /// Where its models compute: `cpu`, `cuda` or `cuda:N`.
    #[serde(default)]
    pub device: Device,
    /// Whether an answer from a GPU is the same whatever else it computes.
    #[serde(default)]
    pub batch_invariant: bool,
    /// Tokens of an answer whose request does not say.
    #[serde(default = "defaults::default_max_tokens")]
    pub default_max_tokens: usize,
    /// Longest prompt and answer together, in tokens; the model's own context where it is absent.
    pub context_tokens: Option<usize>,
    /// Bytes of key and value cache, for each loaded revision. Where it is absent: what `max_concurrent` requests of the
    /// full context need, but at most 1 GiB.
    pub cache_bytes: Option<u64>,
    /// Bytes of memory that other deployments never take from this one.
    #[serde(default)]
    pub guaranteed_bytes: u64,
    /// Seconds without a request after which the model is unloaded; the next request loads it again. Never where it is
    /// absent.
    pub idle_unload_s: Option<u64>,
    /// Seconds that a rollout waits for the old revision's requests before it counts as done.
    #[serde(default = "defaults::drain_s")]
    pub drain_s: u64,
    /// Adapters that a request may choose as `name:adapter`: tags, digests or folders.
    #[serde(default)]
    pub adapters: Vec<String>,
    /// How a new revision comes to serve where a deploy does not say.
    #[serde(default)]
    pub rollout: RolloutConfig,
}

mod defaults {
    pub(super) fn interval_ms() -> u64 {
        1_000
    }
    pub(super) fn history_bytes() -> u64 {
        1 << 30
    }
    pub(super) fn shutdown_s() -> u64 {
        30
    }
    pub(super) fn golden_every_s() -> u64 {
        300
    }
    pub(super) fn max_concurrent() -> usize {
        32
    }
    pub(super) fn queue_limit() -> u32 {
        256
    }
    pub(super) fn deadline_s() -> u64 {
        300
    }
    pub(super) fn default_max_tokens() -> usize {
        1_024
    }
    pub(super) fn drain_s() -> u64 {
        120
    }
}

impl Config {
    /// Memory that models may take together, in bytes.
    pub fn model_memory_bytes(&self) -> u64 {
        self.memory_bytes.unwrap_or_else(|| {
            let free = free_bytes();
            free - free / MEMORY_LEFT_ALONE
        })
    }

    /// What each deployment can count on.
    pub fn guaranteed(&self) -> BTreeMap<String, u64> {
        let all = self.deployments.iter().filter(|deployment| deployment.guaranteed_bytes > 0);
        all.map(|deployment| (deployment.name.clone(), deployment.guaranteed_bytes)).collect()
    }

    /// Threads that compute.
    pub fn compute_threads(&self) -> usize {
        if !self.cores.is_empty() {
            return self.cores.len();
        }
        self.threads.or(std::thread::available_parallelism().ok()).map_or(1, NonZero::get)
    }

    /// The threads that compute.
    ///
    /// # Errors
    /// When a core cannot be used, or the system has no thread left.
    pub fn compute_pool(&self) -> std::io::Result<Pool> {
        if self.cores.is_empty() { Pool::new(self.compute_threads()) } else { Pool::pinned(&self.cores) }
    }

    /// What runs without a file: the built-in model as `assistant`.
    pub fn builtin() -> Self {
        let text =
            "[[deployment]]\nname = \"assistant\"\nmodel = \"assistant\"\nsuite = \"assistant-suite\"\n";
        toml::from_str(text).unwrap_or_default()
    }

    /// Reads and checks a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config = Self::parse(path, &text)?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for deployment in &mut config.deployments {
            deployment.model = beside(folder, &deployment.model);
            deployment.suite = deployment.suite.take().map(|suite| beside(folder, &suite));
            deployment.adapters.iter_mut().for_each(|adapter| *adapter = beside(folder, adapter));
        }
        if let Some(TlsConfig { certificate, key, client_authority }) = &mut config.tls {
            for file in [Some(certificate), Some(key), client_authority.as_mut()].into_iter().flatten() {
                *file = folder.join(&file);
            }
        }
        Ok(config)
    }

    /// Reads and checks a text; `path` is for errors only.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        config.check().map_err(|problem| ConfigError::Value { path: path.to_owned(), problem })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.deployments.is_empty() || self.deployments.len() > MOST_DEPLOYMENTS {
            return Err(format!(
                "has {} deployments; give 1 to {MOST_DEPLOYMENTS}, each as [[deployment]] with name and model",
                self.deployments.len()
            ));
        }
        if self.threads.is_some_and(|threads| threads.get() > MOST_THREADS) {
            return Err(format!("threads must be at most {MOST_THREADS}"));
        }
        if !self.cores.is_empty() && self.threads.is_some() {
            return Err("threads and cores cannot both be given: there is one thread for each core".into());
        }
        let distinct = self.cores.iter().collect::<BTreeSet<_>>().len();
        if distinct < self.cores.len() || self.cores.len() > MOST_THREADS {
            return Err(format!("cores must be at most {MOST_THREADS}, each named once"));
        }
        if !(50..=60_000).contains(&self.interval_ms) {
            return Err(format!("interval_ms must be between 50 and 60000, not {}", self.interval_ms));
        }
        let guaranteed =
            self.deployments.iter().try_fold(0u64, |sum, one| sum.checked_add(one.guaranteed_bytes));
        if let Some(memory) = self.memory_bytes
            && guaranteed.is_none_or(|guaranteed| guaranteed > memory)
        {
            return Err(format!(
                "the deployments' guaranteed_bytes add up to more than memory_bytes, {memory}; lower them or raise it"
            ));
        }
        for grant in &self.access {
            if grant.is_empty() {
                return Err("each [[access]] must name users, groups, certificates or keys".into());
            }
            let unknown =
                |name: &&String| !self.deployments.iter().any(|deployment| deployment.name == **name);
            if let Some(name) = grant.deployments.iter().flatten().find(unknown) {
                return Err(format!("[[access]] names deployment {name:?}, which is not configured"));
            }
        }
        if let Some(problem) = self.finetune.problem() {
            return Err(format!("finetune.{problem}"));
        }
        let mut names = BTreeSet::new();
        for deployment in &self.deployments {
            deployment.check()?;
            if !names.insert(&deployment.name) {
                return Err(format!("two deployments are named {:?}; names must differ", deployment.name));
            }
        }
        Ok(())
    }
}

impl DeploymentConfig {
    /// How its revisions are loaded.
    pub fn load_settings(&self) -> LoadSettings {
        let engine = EngineOptions {
            max_sequences: self.max_concurrent,
            context_tokens: self.context_tokens,
            cache_bytes: self.cache_bytes,
            max_step_tokens: self.max_step_tokens.unwrap_or(EngineOptions::default().max_step_tokens),
            speculation: self.speculation.into(),
            cache_format: self.cache_format.into(),
            device: self.device,
            batch_invariant: self.batch_invariant,
            // Golden prompts and warm-ups come on top of what admission lets through.
            max_waiting: self.max_concurrent + 64,
        };
        LoadSettings { engine, may_unload: self.idle_unload_s.is_some(), adapters: self.adapters.clone() }
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            return Err(format!(
                "deployment name {name:?} must have 1 to {LONGEST_NAME} letters, digits, - _ or ."
            ));
        }
        if self.golden_floor.is_some_and(|floor| !(0.0..=1.0).contains(&floor)) {
            return Err(format!("deployment {name}: golden_floor must be between 0 and 1"));
        }
        if self.golden_floor.is_some() && self.suite.is_none() {
            return Err(format!("deployment {name}: golden_floor needs a suite to be measured with"));
        }
        if self.objective_ttft_p99_ms.is_some_and(|objective| !(objective > 0.0 && objective < 3.6e6)) {
            return Err(format!(
                "deployment {name}: objective_ttft_p99_ms must be above 0 and below an hour"
            ));
        }
        if let Err(problem) = EngineSettings::of(&self.load_settings().engine).changed("", "") {
            return Err(format!("deployment {name}: {problem}"));
        }
        if let Some(problem) = self.rollout.problem() {
            return Err(format!("deployment {name}: rollout.{problem}"));
        }
        for (field, value, most) in [
            ("max_concurrent", self.max_concurrent as u64, 4_096),
            ("deadline_s", self.deadline_s, 86_400),
            ("default_max_tokens", self.default_max_tokens as u64, 1 << 24),
            ("golden_every_s", self.golden_every_s, 86_400 * 30),
            ("cache_bytes", self.cache_bytes.unwrap_or(1), 1 << 44),
            ("context_tokens", self.context_tokens.unwrap_or(1) as u64, 1 << 26),
            ("idle_unload_s", self.idle_unload_s.unwrap_or(1), 86_400 * 30),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("deployment {name}: {field} must be between 1 and {most}, not {value}"));
            }
        }
        Ok(())
    }
}

/// A relative path that exists beside the file is meant from there; anything else may be a tag.
fn beside(folder: &Path, reference: &str) -> String {
    let path = folder.join(reference);
    if Path::new(reference).is_relative() && path.exists() {
        return path.to_string_lossy().into_owned();
    }
    reference.to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Config;

    fn refusal(text: &str) -> String {
        Config::parse(Path::new("llmdeck.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn the_smallest_file_is_enough_and_no_file_serves_the_builtin_model() {
        let config =
            Config::parse(Path::new("a"), "[[deployment]]\nname = \"gemma\"\nmodel = \"gemma.gguf\"\n")
                .unwrap();
        assert_eq!((config.deployments[0].queue_limit, config.deployments[0].deadline_s), (256, 300));
        assert_eq!(Config::builtin().deployments[0].name, "assistant");
    }

    #[test]
    fn mistakes_are_named_with_the_line() {
        let text = refusal("[[deployment]]\nname = \"a\"\nmodel = \"b\"\nqueue = 3\n");
        assert!(text.contains("line 4") && text.contains("queue"), "{text}");
        let text = refusal("[[deployment]]\nname = \"a b\"\nmodel = \"b\"\n");
        assert!(text.contains("\"a b\""), "{text}");
        let text = refusal("[[deployment]]\nname = \"a\"\nmodel = \"b\"\ngolden_floor = 2.0\n");
        assert!(text.contains("golden_floor"), "{text}");
        let text = refusal(
            "[[deployment]]\nname = \"a\"\nmodel = \"b\"\nrollout = { judge = { ttft_p96 = 0.1 } }\n",
        );
        assert!(text.contains("ttft_p96") && text.contains("ttft_p95"), "{text}");
        let text = refusal("[[access]]\nrole = \"operator\"\n[[deployment]]\nname = \"a\"\nmodel = \"b\"\n");
        assert!(text.contains("users, groups"), "{text}");
        let text = refusal("cores = [0, 0]\n[[deployment]]\nname = \"a\"\nmodel = \"b\"\n");
        assert!(text.contains("each named once"), "{text}");
        assert!(refusal("").contains("[[deployment]]"));
    }
}
