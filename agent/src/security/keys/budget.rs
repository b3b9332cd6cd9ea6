//! How much a key may use: requests and tokens a minute as buckets that fill steadily, and tokens a UTC day.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
const MINUTE_S: f64 = 60.0;

/// Limits of a key; `None` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute.
    pub requests_per_minute: Option<u32>,
    /// Tokens, in and out, a minute.
    pub tokens_per_minute: Option<u64>,
    /// Tokens, in and out, a day in UTC.
    pub tokens_per_day: Option<u64>,
}

/// Which limit a request met, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key has used its {limit} {what}; try again in {} s", retry_after.as_secs().max(1))]
pub struct OverBudget {
    /// `requests a minute`, `tokens a minute`, `tokens a day`.
    pub what: &'static str,
    /// How many.
    pub limit: u64,
    /// When there is room.
    pub retry_after: Duration,
}

/// What was used on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// UTC days since 1970-01-01.
    pub day: i64,
    /// Requests that were let in.
    pub requests: u64,
    /// Tokens in and out, those of requests under way as they were reserved.
    pub tokens: u64,
}

/// What is left of a limit a minute, as OpenAI's headers have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Left {
    /// The limit.
    pub limit: u64,
    /// How many are left now.
    pub remaining: u64,
    /// When all are there again.
    pub reset: Duration,
}

/// A key's use.
pub struct Budget {
    limits: Limits,
    state: Mutex<State>,
}

struct State {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    today: Day,
}

/// Fills in a minute. It may be in debt: an answer's length is known only at its end.
#[derive(Clone, Copy)]
struct Bucket {
    limit: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(limit: f64, now: Instant) -> Self {
        Self { limit, level: limit, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.limit / MINUTE_S).min(self.limit);
        self.at = self.at.max(now);
    }

    fn until(&self, level: f64) -> Duration {
        Duration::from_secs_f64(((level - self.level) * MINUTE_S / self.limit).max(0.0))
    }

    fn left(&self) -> Left {
        Left {
            limit: self.limit as u64,
            remaining: self.level.max(0.0) as u64,
            reset: self.until(self.limit),
        }
    }
}

impl Budget {
    /// With what was used today already.
    pub fn new(limits: Limits, today: Day, now: Instant) -> Self {
        let bucket = |limit: Option<f64>| limit.map(|limit| Bucket::full(limit, now));
        let requests = bucket(limits.requests_per_minute.map(f64::from));
        let tokens = bucket(limits.tokens_per_minute.map(|limit| limit as f64));
        Self { limits, state: Mutex::new(State { requests, tokens, today }) }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was used today.
    pub fn today(&self, unix_ms: i64) -> Day {
        let mut state = self.state();
        state.turn_to(unix_ms.div_euclid(DAY_MS));
        state.today
    }

    /// What is left of requests and of tokens a minute.
    pub fn left(&self, now: Instant) -> (Option<Left>, Option<Left>) {
        let mut state = self.state();
        state.fill(now);
        (state.requests.map(|bucket| bucket.left()), state.tokens.map(|bucket| bucket.left()))
    }

    /// Takes one request and sets aside the tokens that it may need; what it really used is settled when it
    /// is spent. A limit that is smaller than what one request may generate is taken whole by it.
    ///
    /// # Errors
    /// Which limit stands in the way; nothing is taken then.
    pub fn charge(
        self: &Arc<Self>,
        most_tokens: u64,
        now: Instant,
        unix_ms: i64,
    ) -> Result<Charge, OverBudget> {
        let mut state = self.state();
        state.fill(now);
        state.turn_to(unix_ms.div_euclid(DAY_MS));
        let reserved = [self.limits.tokens_per_minute, self.limits.tokens_per_day];
        let reserved = reserved.into_iter().flatten().fold(most_tokens, u64::min);
        if let Some(limit) = self.limits.tokens_per_day
            && state.today.tokens.saturating_add(reserved) > limit
        {
            let retry_after = Duration::from_millis((DAY_MS - unix_ms.rem_euclid(DAY_MS)).unsigned_abs());
            return Err(OverBudget { what: "tokens a day", limit, retry_after });
        }
        let short = |bucket: &Option<Bucket>, need: f64, what| match bucket {
            Some(bucket) if bucket.level < need => {
                Err(OverBudget { what, limit: bucket.limit as u64, retry_after: bucket.until(need) })
            }
            _ => Ok(()),
        };
        short(&state.requests, 1.0, "requests a minute")?;
        short(&state.tokens, reserved as f64, "tokens a minute")?;
        if let Some(requests) = &mut state.requests {
            requests.level -= 1.0;
        }
        if let Some(tokens) = &mut state.tokens {
            tokens.level -= reserved as f64;
        }
        state.today.requests += 1;
        state.today.tokens += reserved;
        let day = state.today.day;
        drop(state);
        Ok(Charge { budget: Arc::clone(self), reserved, day, settled: AtomicBool::new(false) })
    }

    fn settle(&self, charge: &Charge, spent: u64) {
        let mut state = self.state();
        if let Some(tokens) = &mut state.tokens {
            tokens.level = (tokens.level + charge.reserved as f64 - spent as f64).min(tokens.limit);
        }
        if state.today.day == charge.day {
            state.today.tokens = state.today.tokens.saturating_sub(charge.reserved).saturating_add(spent);
        } else {
            state.today.tokens = state.today.tokens.saturating_add(spent);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fill(&mut self, now: Instant) {
        for bucket in self.requests.iter_mut().chain(&mut self.tokens) {
            bucket.fill(now);
        }
    }

    fn turn_to(&mut self, day: i64) {
        if day > self.today.day {
            self.today = Day { day, ..Day::default() };
        }
    }
}

/// One request's part of a budget.
pub struct Charge {
    budget: Arc<Budget>,
    reserved: u64,
    day: i64,
    settled: AtomicBool,
}

impl Charge {
    /// Tokens that were used, in and out; what was set aside beyond comes back at once. Counts once.
    pub fn spend(&self, tokens: u64) {
        if !self.settled.swap(true, Ordering::SeqCst) {
            self.budget.settle(self, tokens);
        }
    }
}

/// What nothing was spent of comes back whole.
impl Drop for Charge {
    fn drop(&mut self) {
        self.spend(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::{Budget, DAY_MS, Day, Limits};

    fn budget(limits: Limits, now: Instant) -> Arc<Budget> {
        Arc::new(Budget::new(limits, Day::default(), now))
    }

    #[test]
    fn a_request_more_than_allowed_waits_for_its_share_of_a_minute() {
        let start = Instant::now();
        let budget = budget(
            Limits { requests_per_minute: Some(2), tokens_per_minute: Some(100), ..Limits::default() },
            start,
        );
        drop(budget.charge(10, start, 0).unwrap());
        drop(budget.charge(10, start, 0).unwrap());
        let refused = budget.charge(10, start, 0).err().unwrap();
        assert_eq!((refused.what, refused.retry_after), ("requests a minute", Duration::from_secs(30)));
        assert!(budget.charge(10, start + Duration::from_secs(30), 0).is_ok());
    }

    #[test]
    fn what_was_set_aside_and_not_used_comes_back_and_what_was_used_beyond_is_owed() {
        let start = Instant::now();
        let budget = budget(Limits { tokens_per_minute: Some(100), ..Limits::default() }, start);
        let first = budget.charge(60, start, 0).unwrap();
        assert_eq!(budget.charge(60, start, 0).err().unwrap().what, "tokens a minute");
        first.spend(10);
        drop(first);
        let second = budget.charge(60, start, 0).unwrap();
        second.spend(150);
        drop(second);
        assert_eq!(budget.left(start).1.unwrap().remaining, 0);
        let refused = budget.charge(60, start, 0).err().unwrap();
        assert_eq!(
            refused.retry_after,
            Duration::from_secs(72),
            "60 in debt, 60 asked for: 120 of 100 a minute"
        );
    }

    #[test]
    fn a_day_ends_at_midnight_utc() {
        let start = Instant::now();
        let budget = budget(Limits { tokens_per_day: Some(50), ..Limits::default() }, start);
        budget.charge(50, start, DAY_MS - 1_000).unwrap().spend(50);
        let refused = budget.charge(1, start, DAY_MS - 1_000).err().unwrap();
        assert_eq!((refused.what, refused.retry_after), ("tokens a day", Duration::from_secs(1)));
        assert!(budget.charge(50, start, DAY_MS).is_ok());
    }

    proptest! {
        /// However requests come, no minute sees more of them than one bucket and what flowed in.
        #[test]
        fn never_more_requests_than_the_limit(pauses in prop::collection::vec(0u64..20_000, 1..200), limit in 1u32..50) {
            let start = Instant::now();
            let budget = budget(Limits { requests_per_minute: Some(limit), ..Limits::default() }, start);
            let (mut at, mut taken) = (start, Vec::new());
            for pause in pauses {
                at += Duration::from_millis(pause);
                if budget.charge(1, at, 0).is_ok() {
                    taken.push(at);
                }
            }
            for (index, from) in taken.iter().enumerate() {
                let within = taken[index..].iter().filter(|time| **time - *from < Duration::from_secs(60)).count();
                prop_assert!(within as u64 <= u64::from(2 * limit));
            }
        }
    }
}
