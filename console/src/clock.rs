//! The wall clock, for ages and times of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds, UTC.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    since.and_then(|time| i64::try_from(time.as_millis()).ok()).unwrap_or(0)
}
