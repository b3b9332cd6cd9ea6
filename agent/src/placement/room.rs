//! Whose memory is given up for another load. Pure: the loader gathers the candidates and acts.

use super::budget::{Holding, MemoryBudget};

/// A revision that could do without its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Of which deployment.
    pub deployment: String,
    /// Its revision's number.
    pub revision: u32,
    /// The revision that the budget knows its memory by.
    pub holder: u32,
    /// What it loses.
    pub loses: Loses,
}

/// What a revision loses with its memory. The cheaper one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loses {
    /// Nobody asks it now; its next request has to wait for a load.
    Idleness,
    /// The place as standby: a rollback to it has to load it.
    Standby,
}

/// How a load can be made to fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RoomPlan {
    /// These give up their memory; none where it fits already.
    Fits(Vec<Candidate>),
    /// Not even then.
    DoesNotFit,
}

/// Who has to give way so that `deployment` can take `needed_bytes`. `candidates` come in the order in which they would be
/// asked; `free_bytes` is what the node has besides the budget.
pub(super) fn plan_room(
    budget: &MemoryBudget,
    holdings: &[Holding],
    deployment: &str,
    needed_bytes: u64,
    free_bytes: u64,
    candidates: &[Candidate],
) -> RoomPlan {
    let (mut left, mut free, mut chosen) = (holdings.to_vec(), free_bytes, Vec::new());
    let fits = |left: &[Holding], free: u64| budget.available_to(deployment, left).min(free) >= needed_bytes;
    for candidate in candidates {
        if fits(&left, free) {
            break;
        }
        let stays: Vec<Holding> = left.iter().filter(|holding| !is_of(holding, candidate)).cloned().collect();
        let given: u64 =
            left.iter().filter(|holding| is_of(holding, candidate)).map(|holding| holding.bytes).sum();
        // What is guaranteed to its deployment stays kept for it, and helps nobody.
        if budget.available_to(deployment, &stays) > budget.available_to(deployment, &left) {
            (left, free) = (stays, free.saturating_add(given));
            chosen.push(candidate.clone());
        }
    }
    if fits(&left, free) { RoomPlan::Fits(chosen) } else { RoomPlan::DoesNotFit }
}

fn is_of(holding: &Holding, candidate: &Candidate) -> bool {
    holding.deployment == candidate.deployment && holding.revision == candidate.holder
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Holding, Loses, MemoryBudget, RoomPlan, plan_room};

    fn holding(deployment: &str, revision: u32, bytes: u64) -> Holding {
        Holding { deployment: deployment.into(), revision, bytes }
    }

    fn candidate(deployment: &str, revision: u32, loses: Loses) -> Candidate {
        Candidate { deployment: deployment.into(), revision, holder: revision, loses }
    }

    #[test]
    fn only_as_many_give_way_as_are_needed_and_guarantees_are_kept() {
        let budget = MemoryBudget::new(100, [("kept".to_owned(), 30)].into());
        let holdings =
            [holding("kept", 1, 30), holding("idle", 1, 20), holding("chat", 1, 20), holding("chat", 2, 20)];
        let candidates = [
            candidate("kept", 1, Loses::Idleness),
            candidate("idle", 1, Loses::Idleness),
            candidate("chat", 1, Loses::Standby),
        ];
        let plan = |needed, free| plan_room(&budget, &holdings, "code", needed, free, &candidates);
        assert_eq!(plan(10, 1_000), RoomPlan::Fits(vec![]));
        assert_eq!(plan(25, 1_000), RoomPlan::Fits(vec![candidates[1].clone()]));
        assert_eq!(plan(50, 1_000), RoomPlan::Fits(candidates[1..].to_vec()));
        assert_eq!(plan(51, 1_000), RoomPlan::DoesNotFit);
        assert_eq!(plan(25, 5), RoomPlan::Fits(vec![candidates[1].clone()]), "what is given up is free then");
    }
}
