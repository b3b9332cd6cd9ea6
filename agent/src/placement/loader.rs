//! Brings revisions into memory: checks that the file is the one that the revision was made of, makes room within the
//! budget, loads, and loads again what was unloaded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use llmdeck_engine::adapter::Adapter;
use llmdeck_engine::engine::{Engine, EngineOptions};
use llmdeck_engine::footprint::Footprint;
use llmdeck_engine::model::Model;
use llmdeck_engine::{EngineError, Pool};
use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::revision::State;

use super::adapters::Adapters;
use super::budget::{MemoryBudget, Reservation, Shortage};
use super::engine_settings::EngineSettings;
use super::free::free_bytes;
use super::loaded::Loaded;
use super::room::{Candidate, Loses, RoomPlan, plan_room};
use super::variant::{Changes, Variant};
use crate::backend::{Backend, BackendSpec, GpuMemory, StartError, Upstream};
use crate::registry::{Registry, RegistryError};
use crate::serving::{Deployment, Deployments, LiveRevision};
use crate::store::{PartRow, RevisionRow};
use crate::telemetry::events::Events;

/// How long an engine that gives up its memory may take to end.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// How often someone who waits for memory looks whether others have become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Why a revision could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model.
    #[error(transparent)]
    Model(#[from] EngineError),
    /// It does not fit.
    #[error("{model}: {shortage}")]
    Memory {
        /// As asked for.
        model: String,
        /// By how much, and what would help.
        shortage: Box<Shortage>,
    },
    /// Nor does an adapter.
    #[error("adapter {adapter} {reason}")]
    AdapterMemory {
        /// As asked for.
        adapter: String,
        /// What it needs, what there is, and what would help.
        reason: String,
    },
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
    /// The other server.
    #[error(transparent)]
    Upstream(#[from] StartError),
    /// Another failure of the system.
    #[error("the model's engine could not start: {0}")]
    System(#[from] std::io::Error),
    /// The request could not wait so long.
    #[error("it is being loaded again, which takes longer than the request may wait; try again in a moment")]
    TooLong,
    /// A bug.
    #[error("a task of the agent panicked; its log has more")]
    Panicked,
}

/// How the revisions of one deployment are loaded.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// For their engines.
    pub engine: EngineOptions,
    /// Whether what serves may be unloaded while nobody asks.
    pub may_unload: bool,
    /// Adapters that requests may choose by name.
    pub adapters: Vec<String>,
}

/// Where a revision's model comes from.
pub enum Memory {
    /// It is loaded into this.
    Reserved(Reservation),
    /// Another revision of the same model has it.
    Shared(Arc<Loaded>),
    /// Another server has its own.
    Elsewhere,
}

/// Loads revisions within the node's budget.
pub struct Loader {
    registry: Arc<Registry>,
    pool: Arc<Pool>,
    budget: Arc<MemoryBudget>,
    events: Arc<Events>,
    settings: HashMap<String, LoadSettings>,
    data_dir: PathBuf,
    gpus: GpuMemory,
    adapters: Adapters,
    /// Whose standbys and idle engines may give way.
    deployments: OnceLock<Weak<Deployments>>,
}

impl Loader {
    /// For deployments with these settings; children know the agent by its data directory.
    pub fn new(
        registry: Arc<Registry>,
        pool: Arc<Pool>,
        budget: MemoryBudget,
        events: Arc<Events>,
        settings: HashMap<String, LoadSettings>,
        data_dir: PathBuf,
        gpus: GpuMemory,
    ) -> Self {
        let (budget, deployments) = (Arc::new(budget), OnceLock::new());
        let adapters = Adapters::default();
        Self { registry, pool, budget, events, settings, data_dir, gpus, adapters, deployments }
    }

    /// Says who is there to give way; once.
    pub fn set_deployments(&self, deployments: &Arc<Deployments>) {
        let _ = self.deployments.set(Arc::downgrade(deployments));
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The node's budget.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// Settings of a deployment's engines where a revision does not say otherwise.
    pub fn engine_settings(&self, deployment: &str) -> EngineSettings {
        EngineSettings::of(&self.configured_options(deployment))
    }

    fn configured_options(&self, deployment: &str) -> EngineOptions {
        self.settings.get(deployment).map(|settings| settings.engine).unwrap_or_default()
    }

    fn options(&self, deployment: &str, spec: &RevisionRow) -> EngineOptions {
        let configured = self.configured_options(deployment);
        let kept = spec.engine.as_ref().and_then(EngineSettings::kept);
        kept.map_or(configured, |settings| settings.over(configured))
    }

    /// What a revision's model would take; `None` where another server answers.
    ///
    /// # Errors
    /// When its header cannot be read.
    pub async fn footprint(
        &self,
        deployment: &str,
        spec: &RevisionRow,
    ) -> Result<Option<Footprint>, LoadError> {
        let path = PathBuf::from(&spec.path);
        if BackendSpec::is_one(&path) {
            return Ok(None);
        }
        let options = self.options(deployment, spec);
        Ok(Some(blocking(move || Footprint::of(&path, &options)).await??))
    }

    /// Who would have to give way for a load.
    ///
    /// # Errors
    /// When it does not fit even then.
    pub fn check_room(
        &self,
        deployment: &str,
        model: &str,
        needed: &Footprint,
    ) -> Result<Vec<Candidate>, LoadError> {
        let (holdings, free, candidates) =
            (self.budget.holdings(), free_bytes(), self.candidates(deployment));
        match plan_room(&self.budget, &holdings, deployment, needed.total_bytes(), free, &candidates) {
            RoomPlan::Fits(give_way) => Ok(give_way),
            RoomPlan::DoesNotFit => Err(LoadError::Memory {
                model: model.to_owned(),
                shortage: Box::new(self.budget.shortage(deployment, needed, holdings, free)),
            }),
        }
    }

    /// Takes memory for a revision, from idle engines and standbys where it must. Waits until `until` for others to become
    /// idle.
    ///
    /// # Errors
    /// When it does not fit by then.
    pub async fn reserve(
        &self,
        deployment: &str,
        revision: u32,
        model: &str,
        needed: &Footprint,
        until: Instant,
    ) -> Result<Reservation, LoadError> {
        let began = Instant::now();
        loop {
            let given_back = self.budget.given_back();
            if let Ok(reservation) = self.budget.reserve(deployment, revision, needed, free_bytes()) {
                return Ok(reservation);
            }
            let now = Instant::now();
            let until = match self.check_room(deployment, model, needed) {
                Ok(candidates) => {
                    candidates.iter().for_each(|candidate| self.give_way(candidate, deployment));
                    until.max(began + GIVING_BACK)
                }
                Err(error) if now >= until => return Err(error),
                Err(_) => until,
            };
            if now >= until {
                let shortage = self.budget.shortage(deployment, needed, self.budget.holdings(), free_bytes());
                return Err(LoadError::Memory { model: model.to_owned(), shortage: Box::new(shortage) });
            }
            // Memory that was given back before this point was seen by no one: hence no wait without an end.
            let _ = tokio::time::timeout(LOOK_AGAIN.min(until - now), given_back).await;
        }
    }

    /// Whoever could give way for `deployment`: first those whom nobody asks, the longest idle first; then standbys, its
    /// own first.
    fn candidates(&self, deployment: &str) -> Vec<Candidate> {
        let Some(deployments) = self.deployments.get().and_then(Weak::upgrade) else { return Vec::new() };
        let (mut idle, mut standbys) = (Vec::new(), Vec::new());
        for other in deployments.iter() {
            let may_unload = self.settings.get(other.name()).is_some_and(|settings| settings.may_unload);
            let own = other.name() == deployment;
            for live in other.all_loaded() {
                let Some(loaded) = live.loaded() else { continue };
                let candidate = |loses| Candidate {
                    deployment: other.name().to_owned(),
                    revision: live.number(),
                    holder: loaded.holder(),
                    loses,
                };
                match (other.state_of(live.number()), live.idle_for()) {
                    // One that shares its model gives nothing back.
                    (Some(State::Standby), _) if other.shares_of(&loaded) > 1 => {}
                    (Some(State::Standby), _) => standbys.push((!own, candidate(Loses::Standby))),
                    (Some(State::Serving), Some(idle_for)) if may_unload && !own => {
                        idle.push((std::cmp::Reverse(idle_for), candidate(Loses::Idleness)));
                    }
                    _ => {}
                }
            }
        }
        idle.sort_by_key(|(idle_for, _)| *idle_for);
        standbys.sort_by_key(|(other, _)| *other);
        idle.into_iter()
            .map(|(_, candidate)| candidate)
            .chain(standbys.into_iter().map(|(_, candidate)| candidate))
            .collect()
    }

    fn give_way(&self, candidate: &Candidate, to: &str) {
        let deployments = self.deployments.get().and_then(Weak::upgrade);
        let Some(deployment) = deployments.and_then(|all| all.get(&candidate.deployment).cloned()) else {
            return;
        };
        let why = match candidate.loses {
            Loses::Idleness => {
                if !deployment.unload_if_idle(candidate.revision) {
                    return;
                }
                format!("unloaded to make room for {to}; its next request loads it again")
            }
            Loses::Standby => {
                deployment.retire(candidate.revision);
                format!("gave up its place as standby to make room for {to}")
            }
        };
        let subject = format!("{}@{}", candidate.deployment, candidate.revision);
        self.events.push(Severity::Information, &subject, why, "");
    }

    /// A loaded model that a revision which differs by adapter or prompt can share, and whose it is. The same spec again is
    /// loaded anew: that is what it is asked for.
    pub fn shared(&self, deployment: &str, spec: &RevisionRow) -> Option<(u32, Arc<Loaded>)> {
        let deployments = self.deployments.get().and_then(Weak::upgrade)?;
        deployments.get(deployment)?.all_loaded().into_iter().find_map(|live| {
            let known = live.spec();
            let same_model = known.digest == spec.digest
                && known.has_engine_of(spec)
                && known.number != spec.number
                && !known.has_parts_of(spec);
            live.loaded().filter(|_| same_model).map(|loaded| (known.number, loaded))
        })
    }

    /// Brings a revision up: loads its model into memory that was reserved for it, takes up one that is loaded, or makes its
    /// server ready. `progress` hears the share that is loaded.
    ///
    /// # Errors
    /// When a file is missing, changed, malformed or not supported, or the server does not become ready.
    pub async fn load(
        &self,
        deployment: &str,
        spec: RevisionRow,
        memory: Memory,
        progress: impl FnMut(f64) + Send + 'static,
    ) -> Result<Arc<LiveRevision>, LoadError> {
        let loaded = match memory {
            Memory::Reserved(reservation) => self.bring_in(deployment, &spec, reservation, progress).await?,
            Memory::Shared(loaded) => loaded,
            Memory::Elsewhere => {
                let upstream = self.connect(deployment, &spec).await?;
                return Ok(Arc::new(LiveRevision::new(spec, Backend::Upstream(upstream))));
            }
        };
        let changes = self.changes(deployment, &spec, Arc::clone(loaded.model())).await?;
        let variant = Variant::new(loaded, changes);
        Ok(Arc::new(LiveRevision::new(spec, Backend::Engine(variant))))
    }

    /// The agent's data directory, which marks its children.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Adapters that requests of a deployment may choose by name.
    pub fn adapters(&self, deployment: &str) -> &[String] {
        self.settings.get(deployment).map_or(&[], |settings| &settings.adapters)
    }

    /// One of them, for a model.
    ///
    /// # Errors
    /// When it is not in the registry, or is another model's.
    pub async fn adapter(
        &self,
        deployment: &str,
        name: &str,
        model: &Arc<Model>,
    ) -> Result<Arc<Adapter>, LoadError> {
        if let Some(adapter) = self.adapters.by_name(name, model) {
            return Ok(adapter);
        }
        let (registry, wanted) = (Arc::clone(&self.registry), name.to_owned());
        let part = blocking(move || registry.adapter(&wanted)).await??;
        if let Some(adapter) = self.adapters.by_digest(name, &part.digest, model) {
            return Ok(adapter);
        }
        let (path, wanted) = (PathBuf::from(&part.path), Arc::clone(model));
        let adapter = Arc::new(blocking(move || Adapter::load(&path, &wanted)).await??);
        let reservation = loop {
            match self.reserve_adapter(deployment, 0, name, &adapter) {
                Ok(reservation) => break reservation,
                Err(error) if !self.adapters.give_way() => return Err(error),
                Err(_) => {}
            }
        };
        self.adapters.keep(name, &part.digest, model, &adapter, reservation);
        Ok(adapter)
    }

    fn reserve_adapter(
        &self,
        deployment: &str,
        revision: u32,
        name: &str,
        adapter: &Adapter,
    ) -> Result<Reservation, LoadError> {
        let held = self.budget.reserve_adapter(deployment, revision, adapter.size_bytes(), free_bytes());
        held.map_err(|reason| LoadError::AdapterMemory { adapter: name.to_owned(), reason })
    }

    /// What sets a revision apart from others of its model.
    async fn changes(
        &self,
        deployment: &str,
        spec: &RevisionRow,
        model: Arc<Model>,
    ) -> Result<Changes, LoadError> {
        let (adapter, registry) = (spec.adapter.clone(), Arc::clone(&self.registry));
        let (prompt, revision) = (spec.prompt.clone(), format!("{deployment}@{}", spec.number));
        let mut changes = blocking(move || {
            let unchanged = |part: &PartRow| {
                let path = PathBuf::from(&part.path);
                check_unchanged(&registry, &revision, &path, &part.digest).map(|()| path)
            };
            let adapter = match adapter {
                Some(part) => Some(Arc::new(Adapter::load(&unchanged(&part)?, &model)?)),
                None => None,
            };
            let prompt = match prompt {
                Some(part) => {
                    let path = unchanged(&part)?;
                    let text = std::fs::read_to_string(&path)
                        .map_err(|source| RegistryError::Read { path, source })?;
                    Some(text.trim_end().into())
                }
                None => None,
            };
            Ok::<_, LoadError>(Changes { adapter, prompt, ..Changes::default() })
        })
        .await??;
        if let (Some(adapter), Some(part)) = (&changes.adapter, &spec.adapter) {
            let reservation = self.reserve_adapter(deployment, spec.number, &part.reference, adapter)?;
            changes.adapter_memory = Some(Arc::new(reservation));
        }
        Ok(changes)
    }

    async fn connect(&self, deployment: &str, spec: &RevisionRow) -> Result<Arc<Upstream>, LoadError> {
        let (path, revision) = (PathBuf::from(&spec.path), format!("{deployment}@{}", spec.number));
        let (registry, spec) = (Arc::clone(&self.registry), spec.clone());
        let (read, of) = (path.clone(), revision.clone());
        let prompt = blocking(move || {
            check_unchanged(&registry, &of, &read, &spec.digest)?;
            let Some(part) = &spec.prompt else { return Ok(None) };
            let path = PathBuf::from(&part.path);
            check_unchanged(&registry, &of, &path, &part.digest)?;
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|source| RegistryError::Read { path, source })?;
            Ok::<_, LoadError>(Some(text.trim_end().to_owned()))
        });
        let prompt = prompt.await??;
        Ok(Arc::new(Upstream::start(&path, &revision, &self.data_dir, &self.gpus, prompt).await?))
    }

    /// What answers for a revision: its engine is loaded again where it was unloaded. The load goes on though nobody waits any more: who
    /// gave up asks again, and would otherwise begin it anew each time.
    ///
    /// # Errors
    /// When it cannot be loaded, or neither fits nor is loaded by `until`.
    pub async fn awake(
        self: &Arc<Self>,
        deployment: &Deployment,
        live: &Arc<LiveRevision>,
        until: Instant,
    ) -> Result<Backend, LoadError> {
        if let Some(backend) = live.backend() {
            return Ok(backend);
        }
        let awoken = live;
        let (loader, name, live) = (Arc::clone(self), deployment.name().to_owned(), Arc::clone(live));
        let loading = tokio::spawn(async move { loader.load_again(&name, &live, until).await });
        match tokio::time::timeout_at(until.into(), loading).await {
            Ok(loaded) => Ok(Backend::Engine(awoken.variant(loaded.map_err(|_| LoadError::Panicked)??))),
            Err(_) => Err(LoadError::TooLong),
        }
    }

    async fn load_again(
        &self,
        name: &str,
        live: &LiveRevision,
        until: Instant,
    ) -> Result<Arc<Loaded>, LoadError> {
        let _waking = live.waking().await;
        if let Some(loaded) = live.loaded() {
            return Ok(loaded);
        }
        let spec = live.spec();
        if let Some((_, loaded)) = self.shared(name, spec) {
            live.set_loaded(&loaded);
            return Ok(loaded);
        }
        let began = Instant::now();
        // Another server is never unloaded, and so never loaded again.
        let needed = self.footprint(name, spec).await?.ok_or(LoadError::TooLong)?;
        let reservation = self.reserve(name, spec.number, &spec.model, &needed, until).await?;
        let loaded = self.bring_in(name, spec, reservation, |_| {}).await?;
        live.set_loaded(&loaded);
        let subject = format!("{name}@{}", spec.number);
        let text = format!("loaded again for a request in {} ms", began.elapsed().as_millis());
        self.events.push(Severity::Information, &subject, text, "");
        Ok(loaded)
    }

    async fn bring_in(
        &self,
        deployment: &str,
        spec: &RevisionRow,
        reservation: Reservation,
        mut progress: impl FnMut(f64) + Send + 'static,
    ) -> Result<Arc<Loaded>, LoadError> {
        let (registry, pool, options) =
            (Arc::clone(&self.registry), Arc::clone(&self.pool), self.options(deployment, spec));
        let (revision, spec) = (format!("{deployment}@{}", spec.number), spec.clone());
        blocking(move || {
            let path = PathBuf::from(&spec.path);
            check_unchanged(&registry, &revision, &path, &spec.digest)?;
            let model = Arc::new(Model::load_on(&options, &path, &pool, &mut progress)?);
            let description = model.decoder.description().clone();
            let footprint = Footprint::new(description, model.decoder.size_bytes(), &options);
            let engine = Engine::start(&revision, model, options)?;
            Ok(Arc::new(Loaded::new(engine, footprint, spec.number, reservation)))
        })
        .await?
    }
}

/// Holds a file to what it was when its revision was made.
fn check_unchanged(
    registry: &Registry,
    revision: &str,
    path: &Path,
    expected: &str,
) -> Result<(), LoadError> {
    let found = registry.digest_of(path)?;
    if found == expected {
        return Ok(());
    }
    Err(LoadError::Changed {
        path: path.to_owned(),
        revision: revision.to_owned(),
        found,
        expected: expected.to_owned(),
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| LoadError::Panicked)
}
