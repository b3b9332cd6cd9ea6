//! What to run next, as a pure function: who gives its blocks back, who starts, and how many tokens of each run in this
//! step.

use llmdeck_kernels::attention::BLOCK_TOKENS;

use crate::blocks::BlockPool;

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
    /// Steps after which work in the background is served like a user's, so that it ends at last.
    pub patience_steps: u64,
    /// Blocks that 16 tokens take: one of each layer.
    pub layers: usize,
}

/// A sequence that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Who is served first.
    pub priority: Priority,
    /// Order of submission.
    pub arrival: u64,
    /// Tokens whose keys and values are stored.
    pub seen_tokens: usize,
    /// Tokens not yet run: the rest of the prompt; or the one sampled last, with what is guessed to follow it.
    pub pending_tokens: usize,
    /// Whether it generates; guesses for which there is no room are left out.
    pub generating: bool,
    /// Blocks that come back when it is put off.
    pub held_blocks: usize,
}

/// A sequence that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Who is served first.
    pub priority: Priority,
    /// Order of submission; one that was put off keeps its own.
    pub arrival: u64,
    /// Steps since it came.
    pub waited_steps: u64,
    /// Tokens that its key has been served: who had less goes first (Sheng et al. 2024, virtual token counters).
    pub served_tokens: u64,
    /// Tokens to run before it generates, at least one, less those that are remembered.
    pub prompt_tokens: usize,
    /// Tokens at its beginning that are remembered.
    pub remembered_tokens: usize,
    /// Most blocks that it holds until it has begun to generate.
    pub prompt_blocks: usize,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Indices into the running list whose blocks are given back; they wait again and compute anew what they had.
    pub put_off: Vec<usize>,
    /// Indices into the waiting list that start now, in the order in which they join the running ones.
    pub start: Vec<usize>,
    /// For each running sequence, then each that starts: tokens to run, zero to sit this step out.
    pub tokens: Vec<usize>,
}

/// Plans a step with `available` blocks.
///
/// Sequences that generate come first, then prompts share what is left of the step, both in order of priority and
/// arrival. Whoever is first in that order always moves: when blocks run out, the last give theirs back. A sequence
/// that does not fit into an empty cache must not be submitted.
pub fn plan(running: &[Running], waiting: &[Waiting], available: usize, limits: SchedulerLimits) -> Plan {
    let mut step = Step {
        running,
        limits,
        available,
        left: limits.max_step_tokens,
        tokens: vec![0; running.len()],
        put_off: vec![false; running.len()],
    };
    let mut order: Vec<usize> = (0..running.len()).collect();
    order.sort_by_key(|index| (running[*index].priority, running[*index].arrival));
    for generating in [true, false] {
        for (rank, index) in order.iter().enumerate() {
            if running[*index].generating == generating && !step.put_off[*index] {
                step.give(*index, &order[rank + 1..]);
            }
        }
    }
    // What was just put off would only come back to be put off again.
    let put_off: Vec<usize> = (0..running.len()).filter(|index| step.put_off[*index]).collect();
    let start = if put_off.is_empty() { step.start(waiting) } else { Vec::new() };
    Plan { put_off, start, tokens: step.tokens }
}

struct Step<'a> {
    running: &'a [Running],
    limits: SchedulerLimits,
    available: usize,
    left: usize,
    tokens: Vec<usize>,
    put_off: Vec<bool>,
}

impl Step<'_> {
    /// Gives a sequence what it can run; those behind it make room where it could not move at all otherwise.
    fn give(&mut self, index: usize, behind: &[usize]) {
        let sequence = self.running[index];
        let wanted = sequence.pending_tokens.min(self.left);
        if wanted == 0 {
            return;
        }
        while self.fitting(sequence.seen_tokens, 1) == 0 {
            let last = behind
                .iter()
                .rev()
                .find(|index| !self.put_off[**index] && self.running[**index].held_blocks > 0);
            // With nobody behind it, it waits for those before it to end.
            let Some(last) = last else { return };
            self.put_off(*last);
        }
        let tokens = self.fitting(sequence.seen_tokens, wanted);
        self.tokens[index] = tokens;
        self.left -= tokens;
        self.available -= BlockPool::growth(self.limits.layers, sequence.seen_tokens, tokens);
    }

    fn put_off(&mut self, index: usize) {
        self.put_off[index] = true;
        self.left += self.tokens[index];
        let tokens = std::mem::take(&mut self.tokens[index]);
        self.available += self.running[index].held_blocks
            + BlockPool::growth(self.limits.layers, self.running[index].seen_tokens, tokens);
    }

    /// How many of `wanted` more tokens have room.
    fn fitting(&self, seen: usize, wanted: usize) -> usize {
        let in_last_column = seen.next_multiple_of(BLOCK_TOKENS) - seen;
        let columns = self.available / self.limits.layers.max(1);
        wanted.min(in_last_column + columns * BLOCK_TOKENS)
    }

    fn start(&mut self, waiting: &[Waiting]) -> Vec<usize> {
        let mut line: Vec<usize> = (0..waiting.len()).collect();
        line.sort_by_key(|index| {
            let one = &waiting[*index];
            let patient = one.waited_steps < self.limits.patience_steps;
            let priority = if patient { one.priority } else { Priority::Interactive };
            (priority, one.served_tokens, one.arrival)
        });
        let mut places = self.limits.max_sequences.saturating_sub(self.running.len());
        let mut start = Vec::new();
        for index in line {
            let one = &waiting[index];
            // Room for its whole prompt, so that it is not put off at once; an empty engine takes whatever may be submitted.
            let alone = self.running.is_empty() && start.is_empty();
            if places == 0 || one.prompt_blocks > self.available && !alone {
                break;
            }
            let tokens = self.fitting(one.remembered_tokens, one.prompt_tokens.min(self.left));
            places -= 1;
            self.available = self.available.saturating_sub(one.prompt_blocks);
            self.left -= tokens;
            self.tokens.push(tokens);
            start.push(index);
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_kernels::attention::BLOCK_TOKENS;
    use proptest::prelude::*;

    use super::{Plan, Priority, Running, SchedulerLimits, Waiting, plan};
    use crate::blocks::BlockPool;

    const LAYERS: usize = 3;

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![Just(Priority::Interactive), Just(Priority::Background)]
    }

    fn running() -> impl Strategy<Value = Vec<Running>> {
        let one = (priority(), 0usize..80, 1usize..50, any::<bool>()).prop_map(
            |(priority, seen, pending, generating)| Running {
                priority,
                arrival: 0,
                seen_tokens: seen,
                pending_tokens: if generating { 1 + pending % 4 } else { pending },
                generating,
                held_blocks: seen.div_ceil(BLOCK_TOKENS) * LAYERS,
            },
        );
        prop::collection::vec(one, 0..6).prop_map(|mut all| {
            all.iter_mut().enumerate().for_each(|(index, one)| one.arrival = index as u64);
            all
        })
    }

    fn waiting() -> impl Strategy<Value = Vec<Waiting>> {
        let one = (priority(), 1usize..60, 0u64..3, 0u64..300).prop_map(
            |(priority, prompt_tokens, served, waited_steps)| Waiting {
                priority,
                arrival: 0,
                waited_steps,
                served_tokens: served,
                prompt_tokens,
                remembered_tokens: 0,
                prompt_blocks: (prompt_tokens + BLOCK_TOKENS).div_ceil(BLOCK_TOKENS) * LAYERS,
            },
        );
        prop::collection::vec(one, 0..8).prop_map(|mut all| {
            all.iter_mut().enumerate().for_each(|(index, one)| one.arrival = 100 + index as u64);
            all
        })
    }

    fn limits(max_sequences: usize, max_step_tokens: usize) -> SchedulerLimits {
        SchedulerLimits { max_sequences, max_step_tokens, patience_steps: 200, layers: LAYERS }
    }

    /// Blocks that are left when the plan is done.
    fn left(plan: &Plan, running: &[Running], waiting: &[Waiting], available: usize) -> isize {
        let mut left = available as isize;
        for (index, one) in running.iter().enumerate() {
            if plan.put_off.contains(&index) {
                left += one.held_blocks as isize;
            } else {
                left -= BlockPool::growth(LAYERS, one.seen_tokens, plan.tokens[index]) as isize;
            }
        }
        for (place, index) in plan.start.iter().enumerate() {
            let one = &waiting[*index];
            let tokens = plan.tokens[running.len() + place];
            left -= BlockPool::growth(LAYERS, one.remembered_tokens, tokens) as isize;
        }
        left
    }

    proptest! {
        #[test]
        fn keeps_every_limit(
            running in running(), waiting in waiting(), places in 6usize..12, step in 6usize..64, columns in 10usize..40,
        ) {
            let limits = limits(places, step);
            let plan = plan(&running, &waiting, columns * LAYERS, limits);
            prop_assert_eq!(plan.tokens.len(), running.len() + plan.start.len());
            prop_assert!(running.len() + plan.start.len() <= places.max(running.len()));
            prop_assert!(plan.tokens.iter().sum::<usize>() <= step);
            prop_assert!(left(&plan, &running, &waiting, columns * LAYERS) >= 0);
        }

        /// Blocks may have run out: even then the first in line moves, and only those behind it make room.
        #[test]
        fn the_first_in_line_always_moves(running in running(), columns in 0usize..4) {
            let plan = plan(&running, &[], columns * LAYERS, limits(8, 64));
            prop_assert!(left(&plan, &running, &[], columns * LAYERS) >= 0);
            let first = (0..running.len()).min_by_key(|index| (running[*index].priority, running[*index].arrival));
            let held: usize = running.iter().map(|one| one.held_blocks).sum();
            if let Some(first) = first && held + columns * LAYERS >= 8 * LAYERS {
                prop_assert!(plan.tokens[first] > 0, "{plan:?}");
            }
            for index in &plan.put_off {
                prop_assert_eq!(plan.tokens[*index], 0);
            }
        }

        /// With room for all, sequences that generate all move, with all that they have.
        #[test]
        fn generating_sequences_move_in_every_step(running in running()) {
            let plan = plan(&running, &[], 1_000 * LAYERS, limits(8, 64));
            prop_assert!(plan.put_off.is_empty());
            for (one, tokens) in running.iter().zip(&plan.tokens) {
                prop_assert!(!one.generating || *tokens == one.pending_tokens);
            }
        }

        #[test]
        fn who_had_less_goes_first_and_nobody_overtakes_without_cause(waiting in waiting()) {
            let plan = plan(&[], &waiting, 12 * LAYERS, limits(3, 16));
            let rank = |one: &Waiting| {
                let priority = if one.waited_steps < 200 { one.priority } else { Priority::Interactive };
                (priority, one.served_tokens, one.arrival)
            };
            for index in 0..waiting.len() {
                if !plan.start.contains(&index) {
                    prop_assert!(plan.start.iter().all(|started| rank(&waiting[*started]) < rank(&waiting[index])));
                }
            }
            prop_assert!(waiting.is_empty() || !plan.start.is_empty());
        }

        /// Simulated to the end, with too few blocks for all at once, everything finishes.
        #[test]
        fn nobody_starves(
            requests in prop::collection::vec((priority(), 1usize..80, 1usize..40, 0u64..3), 1..12), columns in 8usize..20,
        ) {
            #[derive(Clone, Copy)]
            struct One { priority: Priority, key: u64, prompt: usize, answer: usize, seen: usize, made: usize, arrival: u64, came: u64 }
            let limits = limits(4, 32);
            let total = columns * LAYERS;
            let mut waiting: Vec<One> = requests.iter().enumerate().map(|(arrival, (priority, prompt, answer, key))| One {
                priority: *priority, key: *key, prompt: *prompt, answer: *answer, seen: 0, made: 0, arrival: arrival as u64, came: 0,
            }).collect();
            let mut running: Vec<One> = Vec::new();
            let mut served = [0u64; 3];
            let (mut done, mut step) = (0, 0u64);
            while done < requests.len() {
                step += 1;
                prop_assert!(step < 5_000, "{done} of {} after {step} steps", requests.len());
                let held = |one: &One| one.seen.div_ceil(BLOCK_TOKENS) * LAYERS;
                let available = total - running.iter().map(held).sum::<usize>();
                let of_running: Vec<Running> = running.iter().map(|one| {
                    let pending = one.prompt + one.made - one.seen;
                    Running { priority: one.priority, arrival: one.arrival, seen_tokens: one.seen, pending_tokens: pending,
                        generating: one.made > 0 && pending == 1, held_blocks: held(one) }
                }).collect();
                let of_waiting: Vec<Waiting> = waiting.iter().map(|one| Waiting {
                    priority: one.priority, arrival: one.arrival, waited_steps: step - one.came, served_tokens: served[one.key as usize],
                    prompt_tokens: one.prompt + one.made, remembered_tokens: 0,
                    prompt_blocks: (one.prompt + one.made + BLOCK_TOKENS).div_ceil(BLOCK_TOKENS) * LAYERS,
                }).collect();
                let plan = plan(&of_running, &of_waiting, available, limits);
                prop_assert!(left(&plan, &of_running, &of_waiting, available) >= 0);
                let mut all: Vec<One> = running.clone();
                all.extend(plan.start.iter().map(|index| waiting[*index]));
                let mut started = plan.start.clone();
                started.sort_unstable();
                started.iter().rev().for_each(|index| { waiting.remove(*index); });
                running.clear();
                for (index, mut one) in all.into_iter().enumerate() {
                    if plan.put_off.contains(&index) {
                        waiting.push(One { seen: 0, ..one });
                        continue;
                    }
                    one.seen += plan.tokens[index];
                    served[one.key as usize] += plan.tokens[index] as u64;
                    if one.seen == one.prompt + one.made && plan.tokens[index] > 0 {
                        one.made += 1;
                    }
                    if one.made >= one.answer { done += 1 } else { running.push(one) }
                }
            }
        }
    }
}
