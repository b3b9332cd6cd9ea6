//! Whose turn it is: one at a time, the highest priority first, and among equals who came first.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// A line of jobs.
#[derive(Clone, Default)]
pub(super) struct Line(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    busy: bool,
    arrivals: u64,
    waiting: BTreeMap<(Reverse<i32>, u64), oneshot::Sender<Turn>>,
}

/// The right to run, given on when it is dropped.
pub(super) struct Turn(Option<Line>);

impl Line {
    /// Waits for the turn. Who is dropped meanwhile is passed over.
    pub(super) async fn turn(&self, priority: i32) -> Turn {
        let waiting = {
            let mut state = self.lock();
            if !state.busy {
                state.busy = true;
                return Turn(Some(self.clone()));
            }
            let (sender, receiver) = oneshot::channel();
            state.arrivals += 1;
            let place = (Reverse(priority), state.arrivals);
            state.waiting.insert(place, sender);
            receiver
        };
        // The sender lives in the line until it is the turn of this one.
        waiting.await.unwrap_or(Turn(None))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(line) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = line.lock();
                let next = state.waiting.pop_first();
                state.busy = next.is_some();
                next
            };
            let Some((_, sender)) = next else { return };
            match sender.send(Turn(Some(line.clone()))) {
                Ok(()) => return,
                // It has gone: the turn that comes back must not be given on from within.
                Err(mut turn) => drop(turn.0.take()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::Line;

    #[tokio::test]
    async fn the_highest_priority_is_next_and_who_left_is_passed_over() {
        let line = Line::default();
        let first = line.turn(0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for (name, priority) in [("a", 0), ("left", 9), ("b", 5), ("c", 0)] {
            let (line, order) = (line.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = line.turn(priority).await;
                order.lock().unwrap().push(name);
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        tasks.remove(1).abort();
        tokio::task::yield_now().await;
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["b", "a", "c"]);
        drop(line.turn(0).await);
    }
}
