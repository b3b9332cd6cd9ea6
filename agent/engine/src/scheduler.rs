//! What to run next, as a pure function: which waiting sequences start, and how many tokens of each run in this step.

/// Who is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A user waits.
    Interactive,
    /// Golden suites and other work that may wait.
    Background,
}

/// What a plan keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most sequences that run at once.
    pub max_sequences: usize,
    /// Most tokens in one step, over all sequences; bounds how long running answers wait for a new prompt.
    pub max_step_tokens: usize,
    /// Tokens that the key and value cache holds, over all sequences.
    pub cache_tokens: usize,
}

/// A sequence that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Tokens not yet run: the rest of the prompt, or the one sampled last.
    pub pending_tokens: usize,
    /// Tokens of cache set aside for it: prompt and longest answer.
    pub reserved_tokens: usize,
}

/// A sequence that waits, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who is served first.
    pub priority: Priority,
    /// Tokens of its prompt, at least one.
    pub prompt_tokens: usize,
    /// Tokens of cache that it needs in all.
    pub reserved_tokens: usize,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Indices into the waiting list that start now, in the order in which they join the running ones.
    pub start: Vec<usize>,
    /// For each running sequence, then each that starts: tokens to run, zero to sit this step out.
    pub tokens: Vec<usize>,
}

/// Plans a step. Sequences that generate come first, one token each; prompts share what is left of the step. The first
/// in line starts before anyone behind it, so nobody starves; a sequence that could never fit must not be submitted.
pub fn plan(running: &[Running], waiting: &[Waiting], limits: SchedulerLimits) -> Plan {
    let start = starting(running, waiting, limits);
    let pending: Vec<usize> = running
        .iter()
        .map(|sequence| sequence.pending_tokens)
        .chain(start.iter().map(|index| waiting[*index].prompt_tokens))
        .collect();
    let mut left = limits.max_step_tokens;
    let mut tokens = vec![0; pending.len()];
    for generating in [true, false] {
        for (granted, pending) in tokens.iter_mut().zip(&pending) {
            if (*pending == 1) == generating {
                *granted = (*pending).min(left);
                left -= *granted;
            }
        }
    }
    Plan { start, tokens }
}

fn starting(running: &[Running], waiting: &[Waiting], limits: SchedulerLimits) -> Vec<usize> {
    let mut line: Vec<usize> = (0..waiting.len()).collect();
    line.sort_by_key(|index| waiting[*index].priority);
    let mut reserved: usize = running.iter().map(|sequence| sequence.reserved_tokens).sum();
    let mut free_places = limits.max_sequences.saturating_sub(running.len());
    line.into_iter()
        .take_while(|index| {
            let needed = waiting[*index].reserved_tokens;
            let fits = free_places > 0 && reserved + needed <= limits.cache_tokens;
            free_places = free_places.saturating_sub(1);
            reserved += needed;
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Priority, Running, SchedulerLimits, Waiting, plan};

    fn running() -> impl Strategy<Value = Vec<Running>> {
        let one = (1usize..50, 0usize..50).prop_map(|(pending_tokens, more)| Running {
            pending_tokens,
            reserved_tokens: pending_tokens + more,
        });
        prop::collection::vec(one, 0..6)
    }

    fn waiting() -> impl Strategy<Value = Vec<Waiting>> {
        let one =
            (any::<bool>(), 1usize..50, 0usize..50).prop_map(|(background, prompt_tokens, more)| Waiting {
                priority: if background { Priority::Background } else { Priority::Interactive },
                prompt_tokens,
                reserved_tokens: prompt_tokens + more,
            });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn keeps_every_limit(running in running(), waiting in waiting(), places in 6usize..12, step in 6usize..64) {
            let held: usize = running.iter().map(|sequence| sequence.reserved_tokens).sum();
            let limits = SchedulerLimits { max_sequences: places, max_step_tokens: step, cache_tokens: held + 60 };
            let plan = plan(&running, &waiting, limits);
            prop_assert!(running.len() + plan.start.len() <= places);
            prop_assert!(plan.tokens.iter().sum::<usize>() <= step);
            let started: usize = plan.start.iter().map(|index| waiting[*index].reserved_tokens).sum();
            prop_assert!(started <= 60);
            prop_assert_eq!(plan.tokens.len(), running.len() + plan.start.len());
        }

        /// Whatever arrives, a step moves something, and generating sequences always move.
        #[test]
        fn always_moves(running in running(), waiting in waiting()) {
            let limits = SchedulerLimits { max_sequences: 8, max_step_tokens: 16, cache_tokens: 10_000 };
            let plan = plan(&running, &waiting, limits);
            prop_assert!(running.is_empty() && waiting.is_empty() || plan.tokens.iter().any(|tokens| *tokens > 0));
            for (sequence, tokens) in running.iter().zip(&plan.tokens) {
                prop_assert!(sequence.pending_tokens != 1 || *tokens == 1);
            }
        }

        #[test]
        fn nobody_overtakes_within_a_priority(waiting in waiting()) {
            let limits = SchedulerLimits { max_sequences: 3, max_step_tokens: 16, cache_tokens: 120 };
            let plan = plan(&[], &waiting, limits);
            for index in 0..waiting.len() {
                if !plan.start.contains(&index) {
                    let overtaken = plan.start.iter().any(|started| {
                        waiting[*started].priority > waiting[index].priority
                            || (waiting[*started].priority == waiting[index].priority && *started > index)
                    });
                    prop_assert!(!overtaken);
                }
            }
        }
    }
}
