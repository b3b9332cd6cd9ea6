//! Which step follows which. Pure: the controller stores the step before it runs the effect that belongs to it.

use llmdeck_proto::v1::rollout::State;

/// What kind of move a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To a new revision: it is scored before it serves.
    Deploy,
    /// Back to one that has served before: nothing holds it up.
    Rollback,
}

/// What does not change while a rollout runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// Where it leads.
    pub kind: Move,
    /// How many stages the candidate is compared in before it takes over; none of a replacement.
    pub stages: usize,
    /// Whether it takes over by itself when the stages are over and nothing is worse.
    pub auto_promote: bool,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The wire's word for it.
    pub state: State,
    /// In words.
    pub detail: String,
    /// Which stage of a canary runs, from 0; as many as there are when all are over and it waits for a decision.
    pub stage: usize,
    /// An operator holds it at its stage.
    pub paused: bool,
}

/// What the effect of a step came to, or what an operator asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// The candidate is in memory.
    Loaded,
    /// It has answered once.
    Warmed,
    /// It was scored; `None` without a suite.
    Scored {
        /// 0 to 1.
        score: Option<f64>,
        /// The deployment's least score.
        floor: Option<f64>,
        /// Swap even below the floor.
        force: bool,
    },
    /// New requests go to the candidate.
    Swapped,
    /// The old revision has nothing left to do.
    Drained {
        /// Requests that finished on it.
        finished: u32,
        /// Requests that still ran when the patience was over; they go on.
        still_running: u32,
    },
    /// The effect failed; in words.
    Failed(String),
    /// The present stage has had its time and its requests, and nothing is worse yet.
    StageOver {
        /// Whether everything judged is surely within its margin.
        no_worse: bool,
        /// In words.
        sentence: String,
    },
    /// The candidate is worse, or has broken; in words.
    Worse(String),
    /// Nobody decided in time; in words.
    TimeOver(String),
    /// An operator holds it at its stage.
    Paused {
        /// Who.
        operator: String,
    },
    /// An operator lets it go on.
    Resumed {
        /// Who.
        operator: String,
    },
    /// An operator decided for the candidate.
    Promoted {
        /// Who.
        operator: String,
    },
    /// An operator ended it.
    Aborted {
        /// Who.
        operator: String,
    },
}

/// What the controller does in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bring the candidate into memory.
    Load,
    /// Let it answer once.
    Warm,
    /// Run the golden suite on it.
    Score,
    /// Give it its part of the requests, and compare.
    Compare,
    /// Make the promise durable, then swap the route.
    Swap,
    /// Wait for the old revision's requests.
    Drain,
    /// Forget the candidate.
    Discard,
}

impl Step {
    /// The first step of a move. A candidate that is ready needs only the swap.
    pub fn first(ready: bool) -> Self {
        if ready { Self::new(State::Swapping, "") } else { Self::new(State::Loading, "loading the model") }
    }

    fn new(state: State, detail: impl Into<String>) -> Self {
        Self { state, detail: detail.into(), stage: 0, paused: false }
    }

    fn comparing(stage: usize, detail: impl Into<String>) -> Self {
        Self { stage, ..Self::new(State::Canary, detail) }
    }

    fn saying(&self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self.clone() }
    }

    /// Whether nothing follows.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Done | State::Failed | State::Aborted | State::RolledBack)
    }

    /// What runs in this step.
    pub fn effect(&self) -> Option<Effect> {
        match self.state {
            State::Loading => Some(Effect::Load),
            State::Warming => Some(Effect::Warm),
            State::Evaluating => Some(Effect::Score),
            State::Canary => Some(Effect::Compare),
            State::Swapping => Some(Effect::Swap),
            State::Draining => Some(Effect::Drain),
            State::Failed | State::Aborted | State::RolledBack => Some(Effect::Discard),
            State::Done | State::Unspecified => None,
        }
    }
}

/// The step that follows. What does not belong to the present step changes nothing: an abort that came too late, for
/// instance.
pub fn step(now: &Step, course: Course, happening: &Happening) -> Step {
    let before_swap =
        matches!(now.state, State::Loading | State::Warming | State::Evaluating | State::Canary);
    match (now.state, happening) {
        (State::Loading, Happening::Loaded) => Step::new(State::Warming, "warming up"),
        (State::Warming, Happening::Warmed) => match course.kind {
            Move::Deploy => Step::new(State::Evaluating, "running the golden suite"),
            Move::Rollback => Step::new(State::Swapping, ""),
        },
        (State::Evaluating, Happening::Scored { score, floor, force }) => {
            let scored = scored(*score, *floor, *force);
            if scored.state == State::Swapping && course.stages > 0 {
                return Step::comparing(0, scored.detail);
            }
            scored
        }
        (State::Canary, happening) => compared(now, course, happening),
        (State::Swapping, Happening::Swapped) => {
            Step::new(State::Draining, "new requests go to it; the old revision finishes its own")
        }
        (State::Draining, Happening::Drained { finished, still_running: 0 }) => {
            Step::new(State::Done, format!("serves all new requests; {finished} finished on the old"))
        }
        (State::Draining, Happening::Drained { finished, still_running }) => Step::new(
            State::Done,
            format!(
                "serves all new requests; {finished} finished on the old, {still_running} still run there"
            ),
        ),
        (_, Happening::Failed(reason)) if before_swap || now.state == State::Swapping => {
            Step::new(State::Failed, reason.clone())
        }
        (_, Happening::Aborted { operator }) if before_swap => {
            Step::new(State::Aborted, format!("ended by {operator}"))
        }
        _ => now.clone(),
    }
}

fn compared(now: &Step, course: Course, happening: &Happening) -> Step {
    match happening {
        Happening::Worse(reason) => Step::new(State::RolledBack, reason.clone()),
        Happening::Failed(reason) => Step::new(State::Failed, reason.clone()),
        Happening::TimeOver(reason) => Step::new(State::Aborted, reason.clone()),
        Happening::Aborted { operator } => Step::new(State::Aborted, format!("ended by {operator}")),
        Happening::Promoted { operator } => Step::new(State::Swapping, format!("promoted by {operator}")),
        Happening::Paused { operator } => Step { paused: true, ..now.saying(format!("held by {operator}")) },
        Happening::Resumed { operator } => {
            Step { paused: false, ..now.saying(format!("resumed by {operator}")) }
        }
        // What is held stays where it is.
        Happening::StageOver { .. } if now.paused => now.clone(),
        Happening::StageOver { sentence, .. } if now.stage + 1 < course.stages => {
            Step::comparing(now.stage + 1, sentence.clone())
        }
        Happening::StageOver { no_worse: true, sentence } if course.auto_promote => {
            Step::new(State::Swapping, sentence.clone())
        }
        Happening::StageOver { sentence, .. } => Step::comparing(course.stages, sentence.clone()),
        _ => now.clone(),
    }
}

fn scored(score: Option<f64>, floor: Option<f64>, force: bool) -> Step {
    match (score, floor) {
        (Some(score), Some(floor)) if score < floor && !force => Step::new(
            State::Failed,
            format!("golden score {score:.2} is below the floor of {floor:.2}; force it if that is wanted"),
        ),
        (Some(score), Some(floor)) if score < floor => Step::new(
            State::Swapping,
            format!("golden score {score:.2}, forced past the floor of {floor:.2}"),
        ),
        (Some(score), _) => Step::new(State::Swapping, format!("golden score {score:.2}")),
        (None, _) => Step::new(State::Swapping, "no golden suite"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Course, Effect, Happening, Move, State, Step, step};

    const AT_ONCE: Course = Course { kind: Move::Deploy, stages: 0, auto_promote: true };

    fn happening() -> impl Strategy<Value = Happening> {
        let share = || prop::option::of(0.0..=1.0f64);
        prop_oneof![
            Just(Happening::Loaded),
            Just(Happening::Warmed),
            (share(), share(), any::<bool>()).prop_map(|(score, floor, force)| Happening::Scored {
                score,
                floor,
                force
            }),
            Just(Happening::Swapped),
            (0u32..9, 0u32..3)
                .prop_map(|(finished, still_running)| Happening::Drained { finished, still_running }),
            Just(Happening::Failed("disk".into())),
            any::<bool>().prop_map(|no_worse| Happening::StageOver { no_worse, sentence: String::new() }),
            Just(Happening::Worse("slower".into())),
            Just(Happening::TimeOver("nobody decided".into())),
            Just(Happening::Paused { operator: "alice".into() }),
            Just(Happening::Resumed { operator: "alice".into() }),
            Just(Happening::Promoted { operator: "alice".into() }),
            Just(Happening::Aborted { operator: "alice".into() }),
        ]
    }

    fn rank(state: State) -> u32 {
        match state {
            State::Unspecified => 0,
            State::Loading => 1,
            State::Warming => 2,
            State::Evaluating => 3,
            State::Canary => 4,
            State::Swapping => 5,
            State::Draining => 6,
            State::Done | State::Failed | State::Aborted | State::RolledBack => 7,
        }
    }

    proptest! {
        /// Whatever happens in whatever order: steps and stages go forward only, an end is final, nobody swaps below the
        /// floor unforced, what has swapped never counts as failed, aborted or taken back, what is held stays at its
        /// stage, and only a verdict or an operator leads from a comparison to the swap.
        #[test]
        fn order_never_breaks_the_promise(
            ready in any::<bool>(),
            back in any::<bool>(),
            stages in 0usize..4,
            auto_promote in any::<bool>(),
            happenings in prop::collection::vec(happening(), 0..24),
        ) {
            let kind = if back { Move::Rollback } else { Move::Deploy };
            let course = Course { kind, stages, auto_promote };
            let mut now = Step::first(ready);
            let mut swapped = false;
            for happening in &happenings {
                let next = step(&now, course, happening);
                prop_assert!(rank(next.state) >= rank(now.state));
                if now.is_over() {
                    prop_assert_eq!(&next, &now);
                }
                if let (State::Evaluating, State::Swapping | State::Canary, Happening::Scored { score: Some(score), floor: Some(floor), force }) =
                    (now.state, next.state, happening)
                {
                    prop_assert!(*force || score >= floor);
                }
                if now.state == State::Canary {
                    let onward = matches!(happening, Happening::Promoted { .. })
                        || matches!(happening, Happening::StageOver { no_worse: true, .. })
                            && auto_promote && !now.paused && now.stage + 1 >= stages;
                    prop_assert_eq!(next.state == State::Swapping, onward);
                    if next.state == State::Canary {
                        prop_assert!(next.stage >= now.stage && next.stage <= stages);
                        prop_assert!(!now.paused || next.stage == now.stage);
                    }
                }
                prop_assert!(next.state != State::Canary || (stages > 0 && kind == Move::Deploy));
                swapped |= now.state == State::Swapping && next.state == State::Draining;
                let undone = matches!(next.state, State::Failed | State::Aborted | State::RolledBack);
                prop_assert!(!(swapped && undone));
                prop_assert_eq!(next.effect() == Some(Effect::Discard), undone);
                now = next;
            }
        }
    }

    #[test]
    fn a_deploy_walks_through_every_step_and_a_ready_rollback_only_swaps() {
        let mut now = Step::first(false);
        let mut seen = vec![now.state];
        for happening in [
            Happening::Loaded,
            Happening::Warmed,
            Happening::Scored { score: Some(0.5), floor: None, force: false },
            Happening::Swapped,
            Happening::Drained { finished: 3, still_running: 0 },
        ] {
            now = step(&now, AT_ONCE, &happening);
            seen.push(now.state);
        }
        use State::{Done, Draining, Evaluating, Loading, Swapping, Warming};
        assert_eq!(seen, [Loading, Warming, Evaluating, Swapping, Draining, Done]);
        assert_eq!(Step::first(true).effect(), Some(Effect::Swap));
    }

    #[test]
    fn a_canary_that_is_not_promoted_by_itself_waits_for_a_decision() {
        let course = Course { kind: Move::Deploy, stages: 2, auto_promote: false };
        let over = Happening::StageOver { no_worse: true, sentence: "no worse".into() };
        let first = Step::comparing(0, "");
        let second = step(&first, course, &over);
        let waits = step(&second, course, &over);
        assert_eq!((second.stage, waits.stage, waits.state), (1, 2, State::Canary));
        let promoted = step(&waits, course, &Happening::Promoted { operator: "alice".into() });
        assert_eq!(promoted.effect(), Some(Effect::Swap));
    }

    #[test]
    fn an_abort_after_the_swap_comes_too_late() {
        let now = Step::new(State::Draining, "");
        assert_eq!(step(&now, AT_ONCE, &Happening::Aborted { operator: "bob".into() }), now);
    }
}
