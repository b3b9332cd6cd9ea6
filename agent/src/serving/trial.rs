use std::sync::{Mutex, PoisonError};

use crate::telemetry::{AnswerQuality, Outcome};

/// Tokens that energy is measured over at least: a meter ticks some times a second.
const LEAST_TOKENS: u64 = 50;
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
    /// Time from a token to the next, of one that was drawn at random, so that each is as likely as another; `None` of
    /// fewer than two.
    pub itl_us: Option<u64>,
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
            itl_us: None,
            tpot_us: None,
            e2e_us: 0,
            tokens_out: 0,
            quality: None,
        }
    }
}

/// What a revision spent on a number of tokens, of whatever requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnergyObservation {
    /// Which revision.
    pub arm: Arm,
    /// Microjoules a token.
    pub per_token_uj: u64,
}

/// Gathers what happens to requests while two revisions are compared.
#[derive(Default)]
pub struct Trial {
    waiting: Mutex<Vec<Observation>>,
    energy: Mutex<Energy>,
}

#[derive(Default)]
struct Energy {
    /// Energy and tokens that are too few yet, of the stable revision and of the candidate.
    gathered: [(u64, u64); 2],
    waiting: Vec<EnergyObservation>,
}

impl Trial {
    /// Notes the end of a request.
    pub fn observe(&self, observation: Observation) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MOST_WAITING {
            waiting.push(observation);
        }
    }

    /// Notes what an interval took, in millijoules, for so many tokens.
    pub fn observe_energy(&self, arm: Arm, energy_mj: u64, tokens: u64) {
        let mut energy = self.energy.lock().unwrap_or_else(PoisonError::into_inner);
        let gathered = &mut energy.gathered[usize::from(arm == Arm::Candidate)];
        gathered.0 += energy_mj;
        gathered.1 += tokens;
        if gathered.1 >= LEAST_TOKENS {
            let (spent_mj, tokens) = std::mem::take(gathered);
            if energy.waiting.len() < MOST_WAITING {
                energy.waiting.push(EnergyObservation { arm, per_token_uj: spent_mj * 1_000 / tokens });
            }
        }
    }

    /// What was spent since the last call.
    pub fn take_energy(&self) -> Vec<EnergyObservation> {
        std::mem::take(&mut self.energy.lock().unwrap_or_else(PoisonError::into_inner).waiting)
    }

    /// What came since the last call, in order.
    pub fn take(&self) -> Vec<Observation> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::{Arm, EnergyObservation, Trial};

    #[test]
    fn energy_is_gathered_until_there_are_tokens_enough() {
        let trial = Trial::default();
        trial.observe_energy(Arm::Candidate, 500, 20);
        trial.observe_energy(Arm::Stable, 1_000, 100);
        // Reading a prompt costs, too.
        trial.observe_energy(Arm::Candidate, 300, 0);
        trial.observe_energy(Arm::Candidate, 400, 40);
        let of = |arm, per_token_uj| EnergyObservation { arm, per_token_uj };
        assert_eq!(trial.take_energy(), [of(Arm::Stable, 10_000), of(Arm::Candidate, 20_000)]);
        assert_eq!(trial.take_energy(), []);
    }
}
