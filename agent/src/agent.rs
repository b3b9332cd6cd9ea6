//! Starts the agent's parts, wires them, and stops them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use llmdeck_audit::{AuditError, AuditLog};
use llmdeck_proto::v1::alert::Severity;
use llmdeck_sensors::gpu::GpuSampler;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Metrics, router};
use crate::backend::{GpuMemory, end_leftover_children};
use crate::config::{Config, DeploymentConfig};
use crate::data_dir::{DataDir, DataDirError};
use crate::doors::Doors;
use crate::frames::FrameLoop;
use crate::jobs::{Finetunes, Jobs};
use crate::placement::{Loader, MemoryBudget, give_gaps_back_now_and_then, unload_when_idle};
use crate::quality::{Suite, score_on_schedule};
use crate::registry::{BuiltinArtifacts, Registry, RegistryError};
use crate::rollout::{Controller, Refused, RolloutSettings};
use crate::rpc::{Listeners, OwnApi, Rpc, serve};
use crate::security::access::Access;
use crate::security::keys::{KeyError, Keys};
use crate::security::tls::TlsError;
use crate::serving::{Deployment, DeploymentLimits, Deployments, Drained};
use crate::store::{Store, StoreError};
use crate::telemetry::events::Events;
use crate::telemetry::{FrameMaker, History, NodeMeter, Subscribers};

/// How often what keys used is kept; a crash loses no more.
const KEEP_KEY_USAGE: Duration = Duration::from_secs(10);

/// Where the agent lives and listens.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// What it serves.
    pub config: Config,
    /// Where its data is.
    pub data_dir: PathBuf,
    /// Its gRPC socket.
    pub socket: PathBuf,
    /// Its HTTP address.
    pub http: SocketAddr,
    /// Where consoles reach it over TLS; only by the socket where it is `None`.
    pub grpc: Option<SocketAddr>,
    /// NVML's path; the system's search path where it is `None`.
    pub nvml_library: Option<OsString>,
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit file.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A suite.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Rollouts that a crash had cut off could not be settled.
    #[error(transparent)]
    Rollouts(#[from] Refused),
    /// Open to the network without TLS.
    #[error(
        "{0} is reachable from the network, which needs TLS: give [tls] with certificate and key in the configuration (`llmdeck-agent pki` makes them), or listen on 127.0.0.1"
    )]
    NoTls(SocketAddr),
    /// Open to the network without authentication.
    #[error(
        "--http {0} is reachable from the network, which needs keys: take `require_keys = false` out of the configuration, or listen on 127.0.0.1"
    )]
    NoKeys(SocketAddr),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Someone listens there.
    #[error("an agent already answers on {0}; stop it, or choose another --listen")]
    SocketInUse(PathBuf),
    /// The threads that compute.
    #[error("the threads that compute could not start: {0}; set threads lower, or name other cores")]
    Threads(#[source] std::io::Error),
    /// The system refused.
    #[error("{what}: {source}")]
    System {
        /// What was tried, and what would mend it.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::System { what, source }
}

/// A running agent.
pub struct Agent {
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    socket: PathBuf,
    deployments: Arc<Deployments>,
    controller: Arc<Controller>,
    keys: Arc<Keys>,
    events: Arc<Events>,
    jobs: Arc<Jobs>,
    history: Arc<History>,
    stop: CancellationToken,
    tasks: TaskTracker,
    patience: Duration,
    _data_dir: DataDir,
}

impl Agent {
    /// Starts everything; models load in the background, and `/readyz` says when they serve.
    ///
    /// # Errors
    /// What stands in the way; nothing is left running then.
    pub async fn start(options: AgentOptions) -> Result<Self, StartError> {
        let AgentOptions { config, data_dir, socket, http, grpc, nvml_library } = options;
        let doors = Doors::check(&config, http, grpc)?;
        let data_dir = DataDir::lock(&data_dir)?;
        let folder = data_dir.path();
        let store = Arc::new(Store::open(&folder.join("store.sqlite"))?);
        let node = config.node.clone().unwrap_or_else(host_name);
        let audit = Arc::new(AuditLog::open(folder, &node)?);
        let artifacts = folder.join("artifacts");
        let builtin = BuiltinArtifacts::unpack(&artifacts)
            .map_err(system(format!("writing the built-in models to {}", artifacts.display())))?;
        // Children know their agent by this, wherever it was started.
        let mark = std::fs::canonicalize(folder).map_err(system("the data directory's path"))?;
        let left = end_leftover_children(&mark);
        if left > 0 {
            tracing::warn!(left, "servers that an earlier agent left running were ended");
        }
        let registry = Arc::new(Registry::new(builtin, Arc::clone(&store), artifacts));
        let settings = settings(&config, &registry)?;
        let events = Arc::new(Events::default());
        let interval = Duration::from_millis(config.interval_ms);
        let gpu = GpuSampler::start(nvml_library, interval).map_err(system("starting the GPU's thread"))?;
        let gpu = Arc::new(gpu);
        let loader = Arc::new(loader(&config, &registry, &events, &mark, GpuMemory::new(Arc::clone(&gpu)))?);
        let all = config.deployments.iter().map(|config| deployment(config, &loader)).collect();
        let deployments = Arc::new(Deployments::new(all));
        loader.set_deployments(&deployments);
        let keys = Arc::new(Keys::open(Arc::clone(&store))?);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let doors = doors.open(&config, &tasks, &stop).await?;
        let listeners = Listeners { socket: bind_socket(&socket)?, tls: doors.grpc };

        let instance = format!("{:016x}", rand::random::<u64>());
        let maker =
            FrameMaker::new(node, instance, doors.own_http.to_string(), config.prices.clone(), folder, gpu);
        let history = Arc::new(History::new(Arc::clone(&store), config.history_bytes));
        let controller = Arc::new(Controller::new(
            Arc::clone(&deployments),
            settings,
            Arc::clone(&store),
            Arc::clone(&registry),
            loader,
            Arc::clone(&audit),
            Arc::clone(&events),
        ));
        controller.settle_interrupted().await?;

        let subscribers = Arc::new(Subscribers::default());
        let (jobs, metrics) = (Arc::new(Jobs::default()), Arc::new(Metrics::default()));
        let finetunes = Arc::new(Finetunes::new(
            Arc::clone(&jobs),
            Arc::clone(&controller),
            Arc::clone(&deployments),
            Arc::clone(&registry),
            store,
            Arc::clone(&events),
            NodeMeter::new(Arc::clone(&subscribers), config.prices.clone()),
            config.finetune.clone(),
            folder.join("jobs"),
        ));
        let frames = FrameLoop {
            maker,
            interval,
            deployments: Arc::clone(&deployments),
            controller: Arc::clone(&controller),
            jobs: Arc::clone(&jobs),
            events: Arc::clone(&events),
            history: Arc::clone(&history),
            metrics: Arc::clone(&metrics),
            subscribers: Arc::clone(&subscribers),
        };
        tasks.spawn(frames.run(stop.clone()));
        let rpc = Rpc {
            deployments: Arc::clone(&deployments),
            controller: Arc::clone(&controller),
            access: Access::new(config.access.clone()),
            registry,
            jobs: Arc::clone(&jobs),
            finetunes: Arc::clone(&finetunes),
            keys: Arc::clone(&keys),
            own_api: OwnApi {
                server: format!("http://{}", doors.own_http),
                key: doors.keys_required.then(|| keys.own_secret()),
            },
            audit,
            history: Arc::clone(&history),
            subscribers,
        };
        tasks.spawn(serve_rpc(Arc::new(rpc), listeners, stop.clone()));
        let api = router(Api::new(Arc::clone(&deployments), metrics, Arc::clone(&keys), doors.keys_required));
        for listener in doors.http_listeners {
            tasks.spawn(listener.serve(api.clone(), stop.clone()));
        }
        tasks.spawn(stop.clone().run_until_cancelled_owned(keep_key_usage(Arc::clone(&keys))));
        tasks.spawn(stop.clone().run_until_cancelled_owned(give_gaps_back_now_and_then()));
        for config in &config.deployments {
            bring_up(config, &deployments, &controller, &events, &tasks, &stop);
        }
        finetunes.take_up()?;
        let patience = Duration::from_secs(config.shutdown_s);
        Ok(Self {
            http: doors.http,
            grpc: doors.grpc_address,
            socket,
            deployments,
            controller,
            keys,
            events,
            jobs,
            history,
            stop,
            tasks,
            patience,
            _data_dir: data_dir,
        })
    }

    /// Where HTTP is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where gRPC is served over TLS.
    pub fn grpc(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// Where gRPC is served.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it serves.
    pub fn deployments(&self) -> &Arc<Deployments> {
        &self.deployments
    }

    /// Stops admission, lets what runs finish or runs out of patience, then stops everything.
    pub async fn stop(self) -> Drained {
        self.events.push(Severity::Information, "agent", "is stopping; new requests are refused", "");
        self.jobs.cancel_all();
        let drained = self.deployments.close_and_drain(self.patience).await;
        self.deployments.stop_children().await;
        self.stop.cancel();
        self.tasks.close();
        let ended = async { tokio::join!(self.tasks.wait(), self.controller.stops_ended()) };
        if tokio::time::timeout(Duration::from_secs(5), ended).await.is_err() {
            tracing::warn!("some tasks did not stop in time");
        }
        if let Err(error) = self.history.flush() {
            tracing::error!(%error, "the last frames could not be kept");
        }
        if let Err(error) = self.keys.keep_usage() {
            tracing::error!(%error, "what keys used last could not be kept");
        }
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.socket);
        drained
    }
}

fn settings(config: &Config, registry: &Registry) -> Result<HashMap<String, RolloutSettings>, StartError> {
    let one = |config: &DeploymentConfig| {
        let suite = config.suite.as_ref().map(|reference| {
            let (path, text) = registry.suite(reference)?;
            Suite::parse(&path, &text).map(Arc::new)
        });
        let suite_part = config.suite.as_ref().map(|reference| registry.suite_part(reference)).transpose()?;
        let drain = Duration::from_secs(config.drain_s);
        let settings = RolloutSettings {
            suite: suite.transpose()?,
            suite_part,
            golden_floor: config.golden_floor,
            drain,
            rollout: config.rollout.clone(),
        };
        Ok((config.name.clone(), settings))
    };
    config.deployments.iter().map(one).collect()
}

fn loader(
    config: &Config,
    registry: &Arc<Registry>,
    events: &Arc<Events>,
    data_dir: &Path,
    gpus: GpuMemory,
) -> Result<Loader, StartError> {
    let pool = Arc::new(config.compute_pool().map_err(StartError::Threads)?);
    let budget = MemoryBudget::new(config.model_memory_bytes(), config.guaranteed());
    let settings = config.deployments.iter().map(|config| (config.name.clone(), config.load_settings()));
    let (registry, events, data_dir) = (Arc::clone(registry), Arc::clone(events), data_dir.to_owned());
    Ok(Loader::new(registry, pool, budget, events, settings.collect(), data_dir, gpus))
}

fn deployment(config: &DeploymentConfig, loader: &Arc<Loader>) -> Arc<Deployment> {
    let limits = DeploymentLimits {
        max_concurrent: config.max_concurrent,
        queue_limit: config.queue_limit,
        deadline: Duration::from_secs(config.deadline_s),
        default_max_tokens: config.default_max_tokens,
        stickiness: config.rollout.sticky,
    };
    let objective_us = config.objective_ttft_p99_ms.map(|ms| (ms * 1_000.0) as u64);
    Arc::new(Deployment::new(&config.name, limits, objective_us, Arc::clone(loader)))
}

fn bring_up(
    config: &DeploymentConfig,
    deployments: &Deployments,
    controller: &Arc<Controller>,
    events: &Arc<Events>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let Some(deployment) = deployments.get(&config.name).cloned() else { return };
    let suite = controller.settings(&config.name).and_then(|settings| settings.suite.clone());
    let every = Duration::from_secs(config.golden_every_s);
    if let Some(after) = config.idle_unload_s.map(Duration::from_secs) {
        let unloading = unload_when_idle(Arc::clone(&deployment), after, Arc::clone(events));
        tasks.spawn(stop.clone().run_until_cancelled_owned(unloading));
    }
    let (controller, events, model) = (Arc::clone(controller), Arc::clone(events), config.model.clone());
    tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
        controller.bring_up(&deployment, &model).await;
        if let Some(suite) = suite {
            score_on_schedule(deployment, suite, every, events).await;
        }
    }));
}

async fn serve_rpc(rpc: Arc<Rpc>, listeners: Listeners, stop: CancellationToken) {
    if let Err(error) = serve(rpc, listeners, stop).await {
        tracing::error!(error, "the gRPC server stopped");
    }
}

async fn keep_key_usage(keys: Arc<Keys>) {
    loop {
        tokio::time::sleep(KEEP_KEY_USAGE).await;
        let keys = Arc::clone(&keys);
        let kept = tokio::task::spawn_blocking(move || keys.keep_usage()).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(%error, "what keys used could not be kept");
        }
    }
}

/// Binds the socket; one that a killed agent left behind is replaced.
fn bind_socket(path: &Path) -> Result<UnixListener, StartError> {
    let what = || format!("--listen {}; choose another path", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(system(what()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(StartError::SocketInUse(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system(what())(error)),
    }
    let listener = UnixListener::bind(path).map_err(system(what()))?;
    // Anyone on the node may look; who may act is decided by the peer's uid.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(system(what()))?;
    Ok(listener)
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "node".into())
}
