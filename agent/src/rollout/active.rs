use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmdeck_proto::v1::{Assessment, Rollout};
use tokio::sync::mpsc;

use super::machine::Happening;
use super::refusal::Refused;
use crate::time::unix_ms;

/// Ended rollouts stay in the frames this long, and the latest of each deployment for good.
const SHOWN_AFTER_END_MS: i64 = 60_000;

/// Who is changing which deployment: one rollout at a time until its swap.
#[derive(Default)]
pub(super) struct Active {
    claims: Mutex<HashMap<String, ClaimRecord>>,
    rollouts: Mutex<Vec<Rollout>>,
}

struct ClaimRecord {
    operator: String,
    reason: String,
    to_revision: u32,
    since_unix_ms: i64,
    steering: mpsc::Sender<Happening>,
}

/// What operators may ask of a rollout under way at once; more is refused.
const MOST_ASKED: usize = 16;

/// The right to change a deployment, given back when dropped.
pub(super) struct Claim {
    active: Arc<Active>,
    deployment: String,
    steering: mpsc::Receiver<Happening>,
}

impl Active {
    /// Takes the right to change a deployment.
    pub(super) fn claim(
        self: &Arc<Self>,
        deployment: &str,
        operator: &str,
        reason: &str,
        to_revision: u32,
    ) -> Result<Claim, Refused> {
        let mut claims = lock(&self.claims);
        if let Some(other) = claims.get(deployment) {
            return Err(Refused::Busy {
                deployment: deployment.to_owned(),
                operator: other.operator.clone(),
                to: other.to_revision,
                seconds_ago: (unix_ms() - other.since_unix_ms).max(0) / 1_000,
                reason: if other.reason.is_empty() { "no reason given".into() } else { other.reason.clone() },
            });
        }
        let (sender, steering) = mpsc::channel(MOST_ASKED);
        let record = ClaimRecord {
            operator: operator.to_owned(),
            reason: reason.to_owned(),
            to_revision,
            since_unix_ms: unix_ms(),
            steering: sender,
        };
        claims.insert(deployment.to_owned(), record);
        Ok(Claim { active: Arc::clone(self), deployment: deployment.to_owned(), steering })
    }

    /// Asks something of the rollout that holds the deployment; its candidate's number, when there is one to ask.
    pub(super) fn steer(&self, deployment: &str, asked: Happening) -> Option<u32> {
        let claims = lock(&self.claims);
        let claim = claims.get(deployment)?;
        claim.steering.try_send(asked).ok().map(|()| claim.to_revision)
    }

    /// The rollout of a deployment that is under way.
    pub(super) fn under_way(&self, deployment: &str) -> Option<Rollout> {
        let rollouts = lock(&self.rollouts);
        let mut of = rollouts.iter().filter(|rollout| rollout.deployment == deployment);
        of.find(|rollout| rollout.ended_unix_ms.is_none()).cloned()
    }

    /// Shows a rollout as it stands now.
    pub(super) fn show(&self, rollout: &Rollout) {
        let mut rollouts = lock(&self.rollouts);
        match rollouts.iter_mut().find(|shown| shown.id == rollout.id) {
            Some(shown) => *shown = rollout.clone(),
            None => rollouts.push(rollout.clone()),
        }
    }

    /// What frames show: what runs, what ended lately, and the latest of each deployment.
    pub(super) fn shown(&self) -> Vec<Rollout> {
        let mut rollouts = lock(&self.rollouts);
        let old = unix_ms() - SHOWN_AFTER_END_MS;
        let latest: HashMap<String, String> =
            rollouts.iter().map(|rollout| (rollout.deployment.clone(), rollout.id.clone())).collect();
        rollouts.retain(|rollout| {
            rollout.ended_unix_ms.is_none_or(|ended| ended >= old)
                || latest.get(&rollout.deployment) == Some(&rollout.id)
        });
        rollouts.iter().map(without_findings).collect()
    }
}

/// Frames come often and far: what was found in full is asked for.
pub(super) fn without_findings(rollout: &Rollout) -> Rollout {
    let assessment = rollout.assessment.as_ref().map(|assessment| Assessment {
        verdict: assessment.verdict,
        sentence: assessment.sentence.clone(),
        stable_requests: assessment.stable_requests,
        candidate_requests: assessment.candidate_requests,
        findings: Vec::new(),
        time_unix_ms: assessment.time_unix_ms,
    });
    Rollout { assessment, history: Vec::new(), ..rollout.clone() }
}

impl Claim {
    /// Waits until an operator asks for something.
    pub(super) async fn asked(&mut self) -> Happening {
        match self.steering.recv().await {
            Some(asked) => asked,
            // The sender goes with the claim itself.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.active.claims).remove(&self.deployment);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Active, Refused};

    #[test]
    fn the_second_operator_is_told_who_was_first() {
        let active = Arc::new(Active::default());
        let claim = active.claim("chat", "alice", "longer context", 8).ok().unwrap();
        let refused = active.claim("chat", "bob", "", 9).err().unwrap();
        assert!(matches!(&refused, Refused::Busy { operator, to: 8, .. } if operator == "alice"));
        let text = refused.to_string();
        assert!(
            text.contains("alice") && text.contains("longer context") && text.contains("abort chat"),
            "{text}"
        );
        assert!(active.claim("other", "bob", "", 1).is_ok());
        drop(claim);
        assert!(active.claim("chat", "bob", "", 9).is_ok());
    }
}
