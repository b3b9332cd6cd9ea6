use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use llmdeck_engine::EngineError;
use llmdeck_engine::Pool;
use llmdeck_engine::engine::{Engine, EngineOptions};
use llmdeck_engine::model::Model;
use tokio::sync::Notify;

use crate::quality::GoldenRun;
use crate::registry::{Registry, RegistryError};
use crate::store::RevisionRow;
use crate::telemetry::Recorder;

/// Why a revision could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model.
    #[error(transparent)]
    Model(#[from] EngineError),
    /// The file is no longer the one that the revision was made of.
    #[error(
        "{path} has changed since {revision} was made: its sha256 is {found}, not {expected}; deploy it as a new revision"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// `chat@7`.
        revision: String,
        /// Its digest now.
        found: String,
        /// Its digest then.
        expected: String,
    },
    /// The file cannot be found or read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Another failure of the system.
    #[error("the model's engine could not start: {0}")]
    System(#[from] std::io::Error),
}

/// A loaded revision. It is dropped, and its memory given back, when the last request on it has ended.
pub struct LiveRevision {
    spec: RevisionRow,
    engine: Engine,
    recorder: Recorder,
    in_flight: AtomicU32,
    idle: Notify,
    golden: ArcSwapOption<GoldenRun>,
}

impl LiveRevision {
    /// Loads the model and starts its engine; takes as long as the file is large. `progress` hears the share that is loaded.
    ///
    /// # Errors
    /// When the file is missing, changed, malformed or not supported.
    pub fn load(
        deployment: &str,
        spec: RevisionRow,
        options: EngineOptions,
        pool: &Arc<Pool>,
        registry: &Registry,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Self, LoadError> {
        let revision = format!("{deployment}@{}", spec.number);
        let path = PathBuf::from(&spec.path);
        let found = registry.digest_of(&path)?;
        if found != spec.digest {
            return Err(LoadError::Changed { path, revision, found, expected: spec.digest });
        }
        let model = Arc::new(Model::load_telling(&path, pool, progress)?);
        let engine = Engine::start(&revision, model, options)?;
        Ok(Self {
            spec,
            engine,
            recorder: Recorder::default(),
            in_flight: AtomicU32::new(0),
            idle: Notify::new(),
            golden: ArcSwapOption::empty(),
        })
    }

    /// What it was made of.
    pub fn spec(&self) -> &RevisionRow {
        &self.spec
    }

    /// Its number within the deployment.
    pub fn number(&self) -> u32 {
        self.spec.number
    }

    /// Runs its tokens.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tokenizer, template and weights.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// Measures its requests.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The latest golden run, if there was one.
    pub fn golden(&self) -> Option<Arc<GoldenRun>> {
        self.golden.load_full()
    }

    /// Keeps a golden run as the latest.
    pub fn set_golden(&self, run: GoldenRun) {
        self.golden.store(Some(Arc::new(run)));
    }

    /// Requests that hold it.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Waits until no request holds it; false when `end` came first.
    pub async fn idle_until(&self, end: Instant) -> bool {
        loop {
            let notified = self.idle.notified();
            if self.in_flight() == 0 {
                return true;
            }
            if tokio::time::timeout_at(end.into(), notified).await.is_err() {
                return self.in_flight() == 0;
            }
        }
    }
}

/// A request's hold on its revision, until its last byte.
pub struct InFlight {
    revision: Arc<LiveRevision>,
}

impl InFlight {
    /// Counts one more.
    pub fn new(revision: Arc<LiveRevision>) -> Self {
        revision.in_flight.fetch_add(1, Ordering::SeqCst);
        Self { revision }
    }
}

impl std::ops::Deref for InFlight {
    type Target = LiveRevision;

    fn deref(&self) -> &LiveRevision {
        &self.revision
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.revision.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.revision.idle.notify_waiters();
        }
    }
}
