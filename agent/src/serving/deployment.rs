use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use llmdeck_proto::v1;
use llmdeck_proto::v1::revision::State;
use nix::unistd::Pid;

use super::admission::{Admission, AdmissionError, Admitted, Refusal, Rescue};
use super::framed::drain_revision;
use super::recent::{CAPACITY, RecentRequests};
use super::revision::{InFlight, LiveRevision};
use super::route::{Preference, RevisionWish, Route, Split, SplitKind, Stickiness};
use super::trial::Arm;
use crate::placement::{LoadError, Loaded, Loader, Variant};

/// Why a deployment cannot serve while the agent starts.
pub const LOADING: &str = "its model is still loading";

/// Why one cannot serve that an operator stopped.
pub const STOPPED: &str = "it was stopped; a deploy or a rollback brings it back";

/// Copies for a shadow take at most one part of so many of the places that users have.
const MOST_COPIES_PART: usize = 4;

/// What bounds a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentLimits {
    /// Requests that run at once.
    pub max_concurrent: usize,
    /// Requests that wait; one more is refused.
    pub queue_limit: u32,
    /// Longest time from arrival to last byte.
    pub deadline: Duration,
    /// Most tokens of an answer that does not say how long it may be.
    pub default_max_tokens: usize,
    /// Whose requests go the same way while two revisions serve.
    pub stickiness: Stickiness,
}

/// A named model endpoint.
pub struct Deployment {
    name: String,
    limits: DeploymentLimits,
    objective_ttft_p99_us: Option<u64>,
    admission: Admission,
    loader: Arc<Loader>,
    /// What new requests go to.
    route: ArcSwapOption<Route>,
    /// Everything loaded, and what is on its way.
    revisions: Mutex<Vec<Known>>,
    unavailable: Mutex<String>,
    in_flight: AtomicU32,
    failed: AtomicU64,
    pub(super) recent: RecentRequests,
}

/// A revision that the node holds, with what it is doing.
#[derive(Clone)]
struct Known {
    live: Arc<LiveRevision>,
    state: State,
}

impl Deployment {
    /// One that serves nothing yet.
    pub fn new(
        name: &str,
        limits: DeploymentLimits,
        objective_ttft_p99_us: Option<u64>,
        loader: Arc<Loader>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            limits,
            objective_ttft_p99_us,
            admission: Admission::new(limits.max_concurrent, limits.queue_limit),
            loader,
            route: ArcSwapOption::empty(),
            revisions: Mutex::default(),
            unavailable: Mutex::new(LOADING.into()),
            in_flight: AtomicU32::new(0),
            failed: AtomicU64::new(0),
            recent: RecentRequests::default(),
        }
    }

    /// What clients send as `model`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What bounds it.
    pub fn limits(&self) -> DeploymentLimits {
        self.limits
    }

    /// Takes a request, or says why not. The request belongs to the revision that it is sent to at this moment until its
    /// last byte.
    ///
    /// # Errors
    /// When the queue is full, nothing serves, the revision that it asks for takes none, or the deadline passes first.
    pub async fn admit(
        self: &Arc<Self>,
        arrived: Instant,
        preference: &Preference,
    ) -> Result<Admitted, AdmissionError> {
        let deployment = self.name.clone();
        let deadline = arrived + self.limits.deadline;
        if self.route.load().is_none() {
            return Err(AdmissionError::Unavailable { deployment, reason: self.why_unavailable() });
        }
        let place = match self.admission.enter(deadline).await {
            Ok(place) => place,
            Err(Refusal::Full(waiting)) => return Err(AdmissionError::QueueFull { deployment, waiting }),
            Err(Refusal::Deadline) => return Err(AdmissionError::Deadline { deployment }),
            Err(Refusal::Closed) => {
                return Err(AdmissionError::Unavailable {
                    deployment,
                    reason: "the agent is stopping".into(),
                });
            }
        };
        let Some(route) = self.route.load_full() else {
            return Err(AdmissionError::Unavailable { deployment, reason: self.why_unavailable() });
        };
        let Some(chosen) = route.choose(preference) else {
            let number = match preference.revision {
                Some(RevisionWish::Number(number)) => number,
                _ => 0,
            };
            return Err(AdmissionError::NoSuchRevision { deployment, number });
        };
        let revision = InFlight::new(chosen.revision);
        match self.loader.awake(self, revision.revision(), deadline).await {
            Ok(backend) => Ok(Admitted {
                place: Some(place),
                revision,
                backend,
                arrived,
                deadline,
                observed: chosen.observed,
                shadow: chosen.shadow,
            }),
            Err(_) if chosen.observed.as_ref().is_some_and(|(_, arm)| *arm == Arm::Candidate) => {
                self.rescue(Rescue { place: Some(place), arrived, deadline }).await
            }
            Err(error) => Err(AdmissionError::Unavailable { deployment, reason: error.to_string() }),
        }
    }

    /// Hands a request that a candidate has failed to the stable revision, with the place that it has.
    ///
    /// # Errors
    /// When nothing serves.
    pub async fn rescue(self: &Arc<Self>, rescue: Rescue) -> Result<Admitted, AdmissionError> {
        let Rescue { place, arrived, deadline } = rescue;
        let unavailable = |reason| AdmissionError::Unavailable { deployment: self.name.clone(), reason };
        let stable = self.stable().ok_or_else(|| unavailable(self.why_unavailable()))?;
        let revision = InFlight::new(stable);
        let backend = self.loader.awake(self, revision.revision(), deadline).await;
        let backend = backend.map_err(|error| unavailable(error.to_string()))?;
        Ok(Admitted { place, revision, backend, arrived, deadline, observed: None, shadow: None })
    }

    /// Adapters that requests may choose by name.
    pub fn adapters(&self) -> &[String] {
        self.loader.adapters(&self.name)
    }

    /// What serves, with an adapter that a request chooses in the place of its own.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn adapted(&self, variant: &Variant, adapter: &str) -> Result<Variant, LoadError> {
        let adapter = self.loader.adapter(&self.name, adapter, variant.model()).await?;
        Ok(variant.with_adapter(adapter))
    }

    /// A copy of a request for a revision whose answers nobody sees; `None` when none is wanted, or as many copies run as
    /// may.
    pub fn shadow_of(&self, admitted: &Admitted) -> Option<Admitted> {
        let split = admitted.shadow.as_ref()?;
        let backend = split.candidate.backend()?;
        if split.candidate.in_flight() as usize >= self.limits.max_concurrent.div_ceil(MOST_COPIES_PART) {
            return None;
        }
        Some(Admitted {
            place: None,
            revision: InFlight::new(Arc::clone(&split.candidate)),
            backend,
            arrived: Instant::now(),
            deadline: admitted.deadline,
            observed: Some((Arc::clone(&split.trial), Arm::Candidate)),
            shadow: None,
        })
    }

    /// What new requests go to where nothing else is said.
    pub fn stable(&self) -> Option<Arc<LiveRevision>> {
        self.route.load().as_ref().map(|route| Arc::clone(&route.stable))
    }

    /// The revision that is tried beside the stable one, if there is one.
    pub fn candidate(&self) -> Option<Arc<LiveRevision>> {
        let route = self.route.load();
        route.as_ref().and_then(|route| route.split.as_ref()).map(|split| Arc::clone(&split.candidate))
    }

    /// Whether a request would be taken.
    pub fn is_ready(&self) -> bool {
        self.route.load().is_some() && !self.admission.is_closed()
    }

    /// Sends new requests to `revision` from this moment on; what served before drains.
    pub fn swap_to(&self, revision: &Arc<LiveRevision>) {
        let mut revisions = self.lock();
        for known in revisions.iter_mut() {
            if known.state == State::Serving {
                known.state = State::Draining;
            }
        }
        set(&mut revisions, revision, State::Serving);
        self.route.store(Some(Arc::new(Route { stable: Arc::clone(revision), split: None })));
        self.lock_unavailable().clear();
    }

    /// Sends no request to any revision from this moment on; what runs finishes.
    pub fn stop(&self) {
        let mut revisions = self.lock();
        self.set_unavailable(STOPPED);
        self.route.store(None);
        revisions.iter_mut().for_each(|known| known.state = State::Draining);
    }

    /// Sends a part of the new requests, or copies of them, to a candidate; the rest stays where it is. Replaces the
    /// split before. False when nothing serves.
    pub fn split(&self, split: Split) -> bool {
        let mut revisions = self.lock();
        let Some(stable) = self.stable() else { return false };
        let state = match split.kind {
            SplitKind::Canary => State::Serving,
            SplitKind::Shadow => State::Shadow,
        };
        set(&mut revisions, &split.candidate, state);
        self.route.store(Some(Arc::new(Route { stable, split: Some(split) })));
        true
    }

    /// Sends every new request to the stable revision; the candidate drains.
    pub fn end_split(&self) {
        let mut revisions = self.lock();
        let Some(route) = self.route.load_full() else { return };
        let Some(split) = &route.split else { return };
        set(&mut revisions, &split.candidate, State::Draining);
        self.route.store(Some(Arc::new(Route { stable: Arc::clone(&route.stable), split: None })));
    }

    /// Notes what a loaded revision is doing.
    pub fn set_state(&self, revision: &Arc<LiveRevision>, state: State) {
        set(&mut self.lock(), revision, state);
    }

    /// What a revision is doing; `None` when it is not loaded.
    pub fn state_of(&self, number: u32) -> Option<State> {
        self.lock().iter().find(|known| known.live.number() == number).map(|known| known.state)
    }

    /// A loaded revision by its number.
    pub fn loaded(&self, number: u32) -> Option<Arc<LiveRevision>> {
        self.lock().iter().find(|known| known.live.number() == number).map(|known| Arc::clone(&known.live))
    }

    /// Every loaded revision.
    pub fn all_loaded(&self) -> Vec<Arc<LiveRevision>> {
        self.lock().iter().map(|known| Arc::clone(&known.live)).collect()
    }

    /// Loaded revisions that share a model.
    pub fn shares_of(&self, loaded: &Arc<Loaded>) -> usize {
        let shares = |known: &&Known| known.live.loaded().is_some_and(|own| Arc::ptr_eq(&own, loaded));
        self.lock().iter().filter(shares).count()
    }

    /// Lets a revision's model go unless a request runs on it, on whatever revision shares it. Whether it did.
    pub fn unload_if_idle(&self, number: u32) -> bool {
        let Some(loaded) = self.loaded(number).and_then(|live| live.loaded()) else { return false };
        let mut sharing = self.all_loaded();
        sharing.retain(|live| live.loaded().is_some_and(|own| Arc::ptr_eq(&own, &loaded)));
        let idle = sharing.iter().all(|live| live.in_flight() == 0);
        idle && sharing.iter().all(|live| live.unload_if_idle())
    }

    /// Forgets a revision unless it serves; its memory is given back when its last request has ended.
    pub fn retire(&self, number: u32) {
        self.lock().retain(|known| known.live.number() != number || known.state == State::Serving);
    }

    /// Says why nothing serves.
    pub fn set_unavailable(&self, reason: &str) {
        reason.clone_into(&mut self.lock_unavailable());
    }

    /// Refuses everyone from now on.
    pub fn close(&self) {
        self.admission.close();
    }

    /// Requests on all of its revisions.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Requests that we failed, since the agent started.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn request_ended(&self, failed: bool) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if failed {
            self.failed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until no request runs on any revision, or `end` comes.
    pub(super) async fn idle_until(&self, end: Instant) {
        for revision in self.all_loaded() {
            revision.idle_until(end).await;
        }
    }

    /// The last requests, newest first.
    pub fn recent_requests(&self, limit: usize) -> Vec<v1::RequestSummary> {
        self.recent.newest(limit.min(CAPACITY))
    }

    /// Objective on TTFT at the 99th percentile, in microseconds.
    pub fn objective_ttft_us(&self) -> Option<u64> {
        self.objective_ttft_p99_us
    }

    /// TTFT at the 95th percentile of the requests that ended within `window`, in microseconds; `None` where they are fewer
    /// than `least`.
    pub fn ttft_p95_us(&self, window: Duration, least: usize) -> Option<u64> {
        let oldest = crate::time::unix_ms() - i64::try_from(window.as_millis()).unwrap_or(i64::MAX);
        let recent = self.recent.newest(CAPACITY);
        let of_window = recent.iter().take_while(|request| request.time_unix_ms >= oldest);
        let mut ttft_us: Vec<u64> = of_window.filter_map(|request| request.ttft_us).collect();
        ttft_us.sort_unstable();
        (ttft_us.len() >= least).then(|| ttft_us[(ttft_us.len() - 1) * 95 / 100])
    }

    /// Everything that a frame says of it; takes what was recorded since the last call.
    pub fn drain_frame(&self) -> v1::Deployment {
        let route = self.route.load_full();
        let stable = route.as_ref().map_or(0, |route| route.stable.number());
        let share_of = |number| route.as_ref().map_or(0.0, |route| route.share_of(number));
        let mut known = self.lock().clone();
        known.sort_by_key(|known| std::cmp::Reverse(known.live.number()));
        let all = &known;
        v1::Deployment {
            name: self.name.clone(),
            stable_revision: stable,
            revisions: known
                .iter()
                .map(|known| {
                    let number = known.live.number();
                    let tells = tells_of_model(all, &known.live, stable);
                    drain_revision(&known.live, known.state, share_of(number), tells)
                })
                .collect(),
            queue_depth: self.admission.waiting(),
            queue_limit: self.admission.queue_limit(),
            rejected_total: self.admission.rejected(),
            unavailable: if self.is_ready() { String::new() } else { self.why_unavailable() },
            objective_ttft_p99_us: self.objective_ttft_p99_us,
            guaranteed_bytes: self.loader.budget().guaranteed_bytes(&self.name),
            ..v1::Deployment::default()
        }
    }

    /// Processes that the agent runs for revisions, as groups.
    pub fn process_groups(&self) -> Vec<(u32, Pid)> {
        let known = self.lock().clone();
        let group = |known: &Known| Some((known.live.number(), known.live.upstream()?.process_group()?));
        known.iter().filter_map(group).collect()
    }

    /// Hands what a frame says of energy to whoever compares two revisions.
    pub fn observe_energy(&self, frame: &v1::Deployment) {
        let route = self.route.load_full();
        let Some((stable, split)) =
            route.as_ref().and_then(|route| Some((&route.stable, route.split.as_ref()?)))
        else {
            return;
        };
        for (arm, live) in [(Arm::Stable, stable), (Arm::Candidate, &split.candidate)] {
            let told = frame.revisions.iter().find(|revision| revision.number == live.number());
            if let Some(told) = told
                && let (Some(energy_mj), Some(counters)) = (told.energy_mj, &told.counters)
            {
                split.trial.observe_energy(arm, energy_mj, counters.tokens_out);
            }
        }
    }

    /// Why nothing serves; empty when something does.
    pub fn why_unavailable(&self) -> String {
        self.lock_unavailable().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_unavailable(&self) -> MutexGuard<'_, String> {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a revision speaks for the model that it has, in a frame: of those that share one, the stable, or else the newest.
fn tells_of_model(known: &[Known], live: &LiveRevision, stable: u32) -> bool {
    let Some(loaded) = live.loaded() else { return true };
    let sharing: Vec<u32> = known
        .iter()
        .filter(|known| known.live.loaded().is_some_and(|own| Arc::ptr_eq(&own, &loaded)))
        .map(|known| known.live.number())
        .collect();
    let teller = if sharing.contains(&stable) { Some(stable) } else { sharing.iter().max().copied() };
    teller.is_none_or(|teller| teller == live.number())
}

fn set(revisions: &mut Vec<Known>, revision: &Arc<LiveRevision>, state: State) {
    match revisions.iter_mut().find(|known| known.live.number() == revision.number()) {
        Some(known) => known.state = state,
        None => revisions.push(Known { live: Arc::clone(revision), state }),
    }
}
