use std::sync::{Mutex, PoisonError};

use crate::telemetry::{AnswerQuality, Outcome};

/// Most observations that wait to be taken; a node that ends more requests between two looks loses the rest.
const MOST_WAITING: usize = 200_000;

/// Which of two revisions that run beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// What serves.
    Stable,
    /// What is tried.
    Candidate,
}

/// One request that ended while two revisions were compared. One number each a request: tokens of one answer are not
/// independent of each other.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Which revision answered.
    pub arm: Arm,
    /// How it ended.
    pub outcome: Outcome,
    /// Time to first token; `None` when none came.
    pub ttft_us: Option<u64>,
    /// Mean time a token behind the first; `None` of fewer than two.
    pub tpot_us: Option<u64>,
    /// Arrival to last byte.
    pub e2e_us: u64,
    /// Tokens of the answer.
    pub tokens_out: u64,
    /// Of a whole answer.
    pub quality: Option<AnswerQuality>,
}

impl Observation {
    /// A request that a revision could not even begin.
    pub fn refused(arm: Arm) -> Self {
        Self {
            arm,
            outcome: Outcome::ServerError,
            ttft_us: None,
            tpot_us: None,
            e2e_us: 0,
            tokens_out: 0,
            quality: None,
        }
    }
}

/// Gathers what happens to requests while two revisions are compared.
#[derive(Default)]
pub struct Trial {
    waiting: Mutex<Vec<Observation>>,
}

impl Trial {
    /// Notes the end of a request.
    pub fn observe(&self, observation: Observation) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST_WAITING {
            waiting.push(observation);
        }
    }

    /// What came since the last call, in order.
    pub fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
