use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::revision::InFlight;
use super::route::Split;
use super::trial::{Arm, Trial};
use crate::backend::Backend;

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// As many wait as may.
    #[error("{deployment} has {waiting} requests waiting, its limit; try again in a moment")]
    QueueFull {
        /// Of which deployment.
        deployment: String,
        /// How many wait.
        waiting: u32,
    },
    /// Nothing serves.
    #[error("{deployment} cannot serve: {reason}")]
    Unavailable {
        /// Which deployment.
        deployment: String,
        /// Why.
        reason: String,
    },
    /// The revision that was asked for takes no requests.
    #[error(
        "revision {number} of {deployment} takes no requests now; it may be asked for while a rollout tries it"
    )]
    NoSuchRevision {
        /// Of which deployment.
        deployment: String,
        /// Which was asked for.
        number: u32,
    },
    /// Its time was over before its turn came.
    #[error("the request waited longer than its deadline; {deployment} is overloaded")]
    Deadline {
        /// Of which deployment.
        deployment: String,
    },
}

/// A place to run and the revision that it runs on.
pub struct Admitted {
    /// Given back last, when the response is through. A copy for a shadow takes none.
    pub(super) place: Option<OwnedSemaphorePermit>,
    /// What serves it.
    pub revision: InFlight,
    /// What answers it.
    pub backend: Backend,
    /// When the request came.
    pub arrived: Instant,
    /// When it must be over.
    pub deadline: Instant,
    /// Where it is compared with others.
    pub(super) observed: Option<(Arc<Trial>, Arm)>,
    /// What gets a copy of it.
    pub(super) shadow: Option<Split>,
}

impl Admitted {
    /// Where its end is noted, if it is a candidate's that the stable revision can take over.
    pub fn on_trial(&self) -> Option<&Arc<Trial>> {
        let observed =
            self.observed.as_ref().filter(|(_, arm)| *arm == Arm::Candidate && self.place.is_some());
        observed.map(|(trial, _)| trial)
    }

    /// Where it is compared with others.
    pub fn compared_in(&self) -> Option<&Arc<Trial>> {
        self.observed.as_ref().map(|(trial, _)| trial)
    }

    /// Gives up its place for another attempt.
    pub fn rescue(self) -> Rescue {
        Rescue { place: self.place, arrived: self.arrived, deadline: self.deadline }
    }
}

/// What a request takes along from a candidate that failed it before it said anything.
pub struct Rescue {
    pub(super) place: Option<OwnedSemaphorePermit>,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
}

/// Places to run, and a bounded line for them.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    waiting: AtomicU32,
    queue_limit: u32,
    rejected: AtomicU64,
    closed: AtomicBool,
}

pub(super) enum Refusal {
    Full(u32),
    Closed,
    Deadline,
}

/// Leaves the line however the wait ends.
struct InLine<'a>(&'a AtomicU32);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Admission {
    pub(super) fn new(places: usize, queue_limit: u32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            waiting: AtomicU32::new(0),
            queue_limit,
            rejected: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Waits for a place in order of arrival.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Refusal::Closed);
        }
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
        let _in_line = InLine(&self.waiting);
        if waiting >= self.queue_limit {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::Full(waiting));
        }
        match tokio::time::timeout_at(deadline.into(), Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) => Err(Refusal::Closed),
            Err(_) => Err(Refusal::Deadline),
        }
    }

    /// Refuses everyone from now on, those in line too.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.places.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn queue_limit(&self) -> u32 {
        self.queue_limit
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Admission, Refusal};

    #[tokio::test]
    async fn the_line_is_bounded_and_deadlines_hold() {
        let admission = Admission::new(1, 1);
        let far = Instant::now() + Duration::from_secs(3600);
        let place = admission.enter(far).await.ok().unwrap();
        let mut second = std::pin::pin!(admission.enter(far));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(admission.waiting(), 1);
        assert!(matches!(admission.enter(far).await, Err(Refusal::Full(1))));
        assert_eq!((admission.waiting(), admission.rejected()), (1, 1));
        drop(place);
        let place = second.await.ok().unwrap();
        assert_eq!(admission.waiting(), 0);
        assert!(matches!(admission.enter(Instant::now()).await, Err(Refusal::Deadline)));
        drop(place);
        admission.close();
        assert!(matches!(admission.enter(far).await, Err(Refusal::Closed)));
    }
}
