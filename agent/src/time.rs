//! The wall clock, for records only; durations come from the monotonic one.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds, UTC.
pub fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|time| i64::try_from(time.as_millis()).ok())
        .unwrap_or(0)
}
