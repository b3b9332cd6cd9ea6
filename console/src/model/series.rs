use std::collections::VecDeque;

/// Points kept of each series: ten minutes at one a second.
const MOST_POINTS: usize = 600;

/// Points in order of time, the newest last.
#[derive(Clone, Debug)]
pub struct Series<T> {
    points: VecDeque<T>,
}

impl<T> Default for Series<T> {
    fn default() -> Self {
        Self { points: VecDeque::new() }
    }
}

/// Something measured at a moment.
pub trait Timed {
    /// Unix time in milliseconds.
    fn time_unix_ms(&self) -> i64;
}

impl<T: Timed> Series<T> {
    /// Takes points of the past that came late; those that are known already are left out.
    pub fn fill_in(&mut self, past: Self) {
        self.points.extend(past.points);
        // Stable, so that of two of the same moment the one that was known stays.
        self.points.make_contiguous().sort_by_key(Timed::time_unix_ms);
        let mut last = None;
        self.points.retain(|point| last.replace(point.time_unix_ms()) != Some(point.time_unix_ms()));
        self.points.drain(..self.points.len().saturating_sub(MOST_POINTS));
    }
}

impl<T> Series<T> {
    /// Adds the newest; the oldest makes room.
    pub fn push(&mut self, point: T) {
        if self.points.len() == MOST_POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// At most `count` points, oldest first.
    pub fn last(&self, count: usize) -> impl ExactSizeIterator<Item = &T> + DoubleEndedIterator {
        self.points.range(self.points.len().saturating_sub(count)..)
    }

    /// The newest.
    pub fn newest(&self) -> Option<&T> {
        self.points.back()
    }
}
