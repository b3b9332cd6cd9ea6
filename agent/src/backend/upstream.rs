//! Another server that answers a revision's requests. A child is started again when it ends, ever more slowly, and given
//! up when it does not stay up.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use llmdeck_proto::v1::{Counters, ServerState};
use nix::unistd::Pid;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::child::ServerProcess;
use super::client::{ClientError, ServerClient};
use super::gpu_memory::GpuMemory;
use super::own_metrics::OwnMetrics;
use super::processes::Processes;
use super::sleep::{Awake, Sleep};
use super::spec::{BackendKind, BackendSpec, ProcessSpec, SpecError, Standby};

const PROBE_EVERY: Duration = Duration::from_millis(100);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A child that stayed up so long has not failed to start.
const STAYED_UP: Duration = Duration::from_secs(60);
/// Ends in a row without staying up, after which it is given up.
const MOST_ENDS: u32 = 5;

/// Why a server could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its file.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It cannot be reached.
    #[error("{url}: {source}; check that the server runs, and its address")]
    Client {
        /// Its address.
        url: String,
        /// What happened.
        source: ClientError,
    },
    /// The program cannot be started.
    #[error("{name} could not be started: {source}; check the command in its file")]
    Spawn {
        /// `chat@7`.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} was not ready: {how}")]
    Ended {
        /// `chat@7`.
        name: String,
        /// In words.
        how: String,
    },
    /// It took too long.
    #[error("{name} was not ready within {seconds} s; raise ready_timeout_s if it needs longer{hint}")]
    NotReady {
        /// `chat@7`.
        name: String,
        /// How long it had.
        seconds: u64,
        /// Its last line, where there is one.
        hint: String,
    },
}

/// A server in use.
pub struct Upstream {
    model: String,
    prompt: Option<String>,
    /// Changes when a child comes back on another port. `None` while it is down.
    client: Arc<RwLock<Option<ServerClient>>>,
    trouble: Arc<Mutex<Option<String>>>,
    standby: Standby,
    sleep: Sleep,
    own_metrics: OwnMetrics,
    processes: Arc<Processes>,
    supervisor: Mutex<Option<Supervisor>>,
}

struct Supervisor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Makes the server of a file ready: connects to it, or starts it.
    ///
    /// # Errors
    /// Why it cannot be used; no child is left running then.
    pub async fn start(
        path: &Path,
        name: &str,
        data_dir: &Path,
        gpus: &GpuMemory,
        prompt: Option<String>,
    ) -> Result<Self, StartError> {
        let spec = BackendSpec::read(path)?;
        let (client, process) = match &spec.kind {
            BackendKind::Remote(remote) => (ready_remote(&spec, &remote.url, name).await?, None),
            BackendKind::Process(process) => {
                let (client, child) = ready_child(&spec, process, name, data_dir).await?;
                (client, Some((process.clone(), child)))
            }
        };
        // Someone may have sent it to sleep, this agent before it was killed perhaps.
        let sleep = Sleep::default();
        sleep.wake(&client).await.map_err(|source| unreachable(&client, source))?;
        let standby = spec.standby;
        let model = match &spec.model {
            Some(model) => model.clone(),
            None => client.first_model().await.map_err(|source| unreachable(&client, source))?,
        };
        let client = Arc::new(RwLock::new(Some(client)));
        let trouble = Arc::<Mutex<Option<String>>>::default();
        let processes = Arc::<Processes>::default();
        let supervisor = process.map(|(process, child)| {
            let (stop, stopped) = oneshot::channel();
            let supervision = Supervision {
                spec,
                process,
                name: name.to_owned(),
                data_dir: data_dir.to_owned(),
                client: Arc::clone(&client),
                trouble: Arc::clone(&trouble),
                processes: Arc::clone(&processes),
                gpus: gpus.clone(),
            };
            Supervisor { stop, task: tokio::spawn(supervision.run(child, stopped)) }
        });
        let own_metrics = OwnMetrics::follow(Arc::clone(&client), model.clone());
        let supervisor = Mutex::new(supervisor);
        Ok(Self { model, prompt, client, trouble, standby, sleep, own_metrics, processes, supervisor })
    }

    /// What the server says of itself, and what it counted since this was asked before. `None` of one that says nothing.
    pub fn own_metrics(&self) -> Option<(ServerState, Counters)> {
        self.own_metrics.take()
    }

    /// The processes that the agent runs for it, as a group; `None` while they are down, and of a server that someone else runs.
    pub fn process_group(&self) -> Option<Pid> {
        self.processes.group()
    }

    /// CPU time that these took since the last call.
    pub fn take_cpu_time(&self) -> Duration {
        self.processes.take_cpu_time()
    }

    /// Whether it sleeps, and must be woken before it is asked.
    pub fn is_asleep(&self) -> bool {
        self.sleep.is_asleep()
    }

    /// Sends it to sleep if it is to stand by that way, can, and is `unused` still; whether it sleeps. Nobody may be waiting
    /// for its answers.
    ///
    /// # Errors
    /// When it does not do as it is told.
    pub async fn stand_by(&self, unused: impl Fn() -> bool) -> Result<bool, ClientError> {
        match self.client() {
            Some(client) if self.standby == Standby::Asleep => self.sleep.fall_asleep(&client, unused).await,
            _ => Ok(false),
        }
    }

    /// Wakes it if it sleeps, and keeps it awake as long as what this returns is held.
    ///
    /// # Errors
    /// When it sleeps and is down, or does not wake.
    pub async fn keep_awake(&self) -> Result<Awake, ClientError> {
        self.sleep.keep_awake(self.client().as_ref()).await
    }

    /// What the server calls the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// What is said in front of every conversation.
    pub fn prompt(&self) -> Option<&str> {
        self.prompt.as_deref()
    }

    /// A client of the server; `None` while it is down.
    pub fn client(&self) -> Option<ServerClient> {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What went wrong with it since it was ready, if anything did.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends a child, and waits until it is gone. Nothing is to be ended of a server that someone else runs.
    pub async fn stop(&self) {
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Supervisor { stop, task }) = supervisor {
            let _ = stop.send(());
            let _ = task.await;
        }
    }
}

/// When the last request on it has ended and nobody stopped it before, its child goes in the background: the supervisor
/// sees that its other end is gone.
impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Keeps a child running.
struct Supervision {
    spec: BackendSpec,
    process: ProcessSpec,
    name: String,
    data_dir: PathBuf,
    client: Arc<RwLock<Option<ServerClient>>>,
    trouble: Arc<Mutex<Option<String>>>,
    processes: Arc<Processes>,
    gpus: GpuMemory,
}

impl Supervision {
    async fn run(self, mut child: ServerProcess, mut stopped: oneshot::Receiver<()>) {
        let (mut pause, mut ends) = (FIRST_PAUSE, 0);
        loop {
            let up = Instant::now();
            self.processes.set_group(Some(child.group()));
            let how = tokio::select! {
                // A stop, or the last user of the server gone.
                _ = &mut stopped => {
                    let gone = self.processes.seen();
                    self.processes.set_group(None);
                    child.stop().await;
                    self.wait_for_memory(&gone).await;
                    return;
                }
                how = child.ended() => how,
            };
            self.set_client(None);
            let gone = self.processes.seen();
            self.processes.set_group(None);
            child.clear().await;
            self.wait_for_memory(&gone).await;
            if up.elapsed() >= STAYED_UP {
                (pause, ends) = (FIRST_PAUSE, 0);
            }
            let mut how = how;
            child = loop {
                ends += 1;
                if ends >= MOST_ENDS {
                    self.note(format!("{how}; given up after {ends} times in a row"));
                    return;
                }
                self.note(format!("{how}; started again in {} s", pause.as_secs()));
                tokio::select! {
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                let started = tokio::select! {
                    _ = &mut stopped => return,
                    started = ready_child(&self.spec, &self.process, &self.name, &self.data_dir) => started,
                };
                match started {
                    Ok((client, child)) => {
                        self.set_client(Some(client));
                        break child;
                    }
                    Err(error) => how = error.to_string(),
                }
            };
        }
    }

    async fn wait_for_memory(&self, gone: &[i32]) {
        if let Err(problem) = self.gpus.given_back(gone).await {
            tracing::warn!(child = self.name, problem);
        }
    }

    fn set_client(&self, client: Option<ServerClient>) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn note(&self, trouble: String) {
        tracing::warn!(child = self.name, trouble);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }
}

fn unreachable(client: &ServerClient, source: ClientError) -> StartError {
    StartError::Client { url: client.base().to_owned(), source }
}

async fn ready_remote(spec: &BackendSpec, url: &str, name: &str) -> Result<ServerClient, StartError> {
    let client = ServerClient::new(url, spec.api_key_file.as_deref())
        .map_err(|source| StartError::Client { url: url.to_owned(), source })?;
    // A server without such a path may still list its models.
    match client.status(&spec.ready_path).await {
        Ok(StatusCode::OK | StatusCode::NOT_FOUND) => Ok(client),
        Ok(status) => Err(StartError::Ended {
            name: name.to_owned(),
            how: format!("{url}{} answers with status {}", spec.ready_path, status.as_u16()),
        }),
        Err(source) => Err(unreachable(&client, source)),
    }
}

/// Starts a child and waits until it is ready; one that is not is gone when this returns.
async fn ready_child(
    spec: &BackendSpec,
    process: &ProcessSpec,
    name: &str,
    data_dir: &Path,
) -> Result<(ServerClient, ServerProcess), StartError> {
    let spawn = |source| StartError::Spawn { name: name.to_owned(), source };
    let mut child = ServerProcess::start(process, name, data_dir).map_err(spawn)?;
    let url = format!("http://127.0.0.1:{}", child.port);
    let client = match ServerClient::new(&url, spec.api_key_file.as_deref()) {
        Ok(client) => client,
        Err(source) => {
            child.stop().await;
            return Err(StartError::Client { url, source });
        }
    };
    let probe = async {
        while !matches!(client.status(&spec.ready_path).await, Ok(StatusCode::OK)) {
            tokio::time::sleep(PROBE_EVERY).await;
        }
    };
    let outcome = tokio::select! {
        () = probe => Ok(()),
        how = child.ended() => Err(StartError::Ended { name: name.to_owned(), how }),
        () = tokio::time::sleep(spec.ready_timeout()) => Err(StartError::NotReady {
            name: name.to_owned(),
            seconds: spec.ready_timeout().as_secs(),
            hint: child.last_lines.hint(),
        }),
    };
    match outcome {
        Ok(()) => Ok((client, child)),
        Err(error) => {
            child.stop().await;
            Err(error)
        }
    }
}
