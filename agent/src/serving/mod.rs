//! The data path: a request is admitted, bound to the revision that serves, and measured until its last byte.

mod admission;
mod deployment;
mod framed;
mod generation;
mod meter;
mod recent;
mod revision;
mod route;
mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use admission::{AdmissionError, Admitted, Rescue};
pub use deployment::{Deployment, DeploymentLimits, LOADING, STOPPED};
pub use generation::{Generation, GenerationStep, NotStarted};
pub use meter::{CUT, Meter};
pub use revision::{InFlight, LiveRevision};
pub use route::{Preference, RevisionWish, Split, SplitKind, Stickiness};
pub use trial::{Arm, EnergyObservation, Observation, Trial};

/// Every deployment of the node, by name. The set is fixed while the agent runs; what each routes to is not.
pub struct Deployments {
    by_name: BTreeMap<String, Arc<Deployment>>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that ran when admission closed and finished.
    pub finished: u32,
    /// Requests that were cut off at the end of the patience.
    pub cut_off: u32,
}

impl Deployments {
    /// Of these.
    pub fn new(deployments: Vec<Arc<Deployment>>) -> Self {
        Self {
            by_name: deployments
                .into_iter()
                .map(|deployment| (deployment.name().to_owned(), deployment))
                .collect(),
        }
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Deployment>> {
        self.by_name.get(name)
    }

    /// In order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.by_name.values()
    }

    /// Names that clients may send as `model`.
    pub fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    /// Ends every server that runs as a child.
    pub async fn stop_children(&self) {
        let all = self.iter().flat_map(|deployment| deployment.all_loaded());
        let stopping = all.map(async |live| {
            if let Some(upstream) = live.upstream() {
                upstream.stop().await;
            }
        });
        futures_util::future::join_all(stopping).await;
    }

    /// Closes admission everywhere and waits for what runs.
    pub async fn close_and_drain(&self, patience: Duration) -> Drained {
        self.iter().for_each(|deployment| deployment.close());
        let end = Instant::now() + patience;
        let running: u32 = self.iter().map(|deployment| deployment.in_flight()).sum();
        for deployment in self.iter() {
            deployment.idle_until(end).await;
        }
        let cut_off = self.iter().map(|deployment| deployment.in_flight()).sum();
        Drained { finished: running.saturating_sub(cut_off), cut_off }
    }
}
