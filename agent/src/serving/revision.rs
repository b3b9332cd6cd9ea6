use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use llmdeck_engine::adapter::Adapter;
use tokio::sync::{MutexGuard, Notify};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Upstream};
use crate::placement::{Changes, Loaded, Variant};
use crate::quality::GoldenRun;
use crate::store::RevisionRow;
use crate::telemetry::Recorder;

/// A revision that this node can serve. Its engine may be unloaded while nobody asks; dropped, it gives its memory back
/// when the last request on it has ended.
pub struct LiveRevision {
    spec: RevisionRow,
    parameters: u64,
    weights_bytes: u64,
    loaded: ArcSwapOption<Loaded>,
    changes: Changes,
    /// What answers instead of an engine.
    upstream: Option<Arc<Upstream>>,
    /// Held by whoever loads it again.
    waking: tokio::sync::Mutex<()>,
    recorder: Recorder,
    in_flight: AtomicU32,
    last_used: Mutex<Instant>,
    idle: Notify,
    /// Of the requests that run now; new ones get another when it is used.
    cut: ArcSwap<CancellationToken>,
    golden: ArcSwapOption<GoldenRun>,
}

impl LiveRevision {
    /// Of what was just made ready.
    pub fn new(spec: RevisionRow, backend: Backend) -> Self {
        let (loaded, changes, upstream) = match backend {
            Backend::Engine(variant) => {
                let (loaded, changes) = variant.into_parts();
                (Some(loaded), changes, None)
            }
            Backend::Upstream(upstream) => (None, Changes::default(), Some(upstream)),
        };
        let model = loaded.as_ref().map(|loaded| loaded.model());
        Self {
            spec,
            parameters: model.map_or(0, |model| model.decoder.description().parameters()),
            weights_bytes: model.map_or(0, |model| model.weights_bytes),
            loaded: ArcSwapOption::new(loaded),
            changes,
            upstream,
            waking: tokio::sync::Mutex::default(),
            recorder: Recorder::default(),
            in_flight: AtomicU32::new(0),
            last_used: Mutex::new(Instant::now()),
            idle: Notify::new(),
            cut: ArcSwap::default(),
            golden: ArcSwapOption::empty(),
        }
    }

    /// What it was made of.
    pub fn spec(&self) -> &RevisionRow {
        &self.spec
    }

    /// Its number within the deployment.
    pub fn number(&self) -> u32 {
        self.spec.number
    }

    /// Parameters of its model, in all.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of its weights as stored.
    pub fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    /// Our engine; `None` while it is unloaded, and where another server answers.
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.load_full()
    }

    /// What its model is changed by.
    pub fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.changes.adapter.as_ref()
    }

    /// Another server that answers for it.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.upstream.as_ref()
    }

    /// What answers; `None` while it is unloaded.
    pub fn backend(&self) -> Option<Backend> {
        match &self.upstream {
            Some(upstream) => Some(Backend::Upstream(Arc::clone(upstream))),
            None => self.loaded().map(|loaded| Backend::Engine(self.variant(loaded))),
        }
    }

    /// CPU time that users' requests took on our engine since the last call.
    pub fn take_cpu_time(&self) -> Duration {
        self.changes.cpu_time.take()
    }

    /// A model as this revision serves it.
    pub fn variant(&self, loaded: Arc<Loaded>) -> Variant {
        Variant::new(loaded, self.changes.clone())
    }

    /// Takes up an engine that was loaded again.
    pub fn set_loaded(&self, loaded: &Arc<Loaded>) {
        self.touch();
        self.loaded.store(Some(Arc::clone(loaded)));
    }

    /// The right to load it again: one at a time.
    pub async fn waking(&self) -> MutexGuard<'_, ()> {
        self.waking.lock().await
    }

    /// Lets its engine go unless a request runs. One that comes at this moment keeps the engine until its end, or has it
    /// loaded again. Whether it had one.
    pub fn unload_if_idle(&self) -> bool {
        self.in_flight() == 0 && self.loaded.swap(None).is_some()
    }

    /// Tells its running requests not to finish here; those that come later may.
    pub fn cut_running(&self) {
        self.cut.swap(Arc::default()).cancel();
    }

    /// How long nobody has asked it; `None` while a request runs.
    pub fn idle_for(&self) -> Option<Duration> {
        let last_used = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        (self.in_flight() == 0).then(|| last_used.elapsed())
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
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
    cut: Arc<CancellationToken>,
}

impl InFlight {
    /// Counts one more.
    pub fn new(revision: Arc<LiveRevision>) -> Self {
        revision.in_flight.fetch_add(1, Ordering::SeqCst);
        let cut = revision.cut.load_full();
        Self { revision, cut }
    }

    /// When it is not to finish here.
    pub fn cut(&self) -> &Arc<CancellationToken> {
        &self.cut
    }

    /// What it holds.
    pub fn revision(&self) -> &Arc<LiveRevision> {
        &self.revision
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
        self.revision.touch();
        if self.revision.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.revision.idle.notify_waiters();
        }
    }
}
