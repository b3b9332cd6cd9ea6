use llmdeck_proto::v1::Frame;
use prost::Message;
use rusqlite::params;

use super::{Store, StoreError};

/// A resolution in which frames are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Length of a frame's interval.
    pub resolution_ms: i64,
    /// How long frames are kept.
    pub kept_ms: i64,
}

impl Tier {
    /// Finest first.
    pub const ALL: [Self; 3] = [
        Self { resolution_ms: 1_000, kept_ms: 3_600_000 },
        Self { resolution_ms: 10_000, kept_ms: 24 * 3_600_000 },
        Self { resolution_ms: 60_000, kept_ms: 30 * 24 * 3_600_000 },
    ];
}

impl Store {
    /// Writes frames and drops what is too old, or beyond `most_bytes` in all: the oldest of the coarsest tier goes
    /// last, since it tells the most for its size.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_frames(
        &self,
        frames: &[(Tier, Frame)],
        now_unix_ms: i64,
        most_bytes: i64,
    ) -> Result<(), StoreError> {
        let mut connection = self.connection();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            for (tier, frame) in frames {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO frame (tier_ms, time_unix_ms, message) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![tier.resolution_ms, frame.time_unix_ms, frame.encode_to_vec()])?;
            }
            for tier in Tier::ALL {
                transaction
                    .prepare_cached("DELETE FROM frame WHERE tier_ms = ?1 AND time_unix_ms < ?2")?
                    .execute(params![tier.resolution_ms, now_unix_ms - tier.kept_ms])?;
            }
            let bytes: i64 = transaction.query_row(
                "SELECT (page_count - freelist_count) * page_size
                 FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
                [],
                |row| row.get(0),
            )?;
            if bytes > most_bytes {
                for tier in Tier::ALL {
                    let dropped = transaction.execute(
                        "DELETE FROM frame WHERE tier_ms = ?1 AND time_unix_ms <= (
                             SELECT time_unix_ms FROM frame WHERE tier_ms = ?1
                             ORDER BY time_unix_ms LIMIT 1 OFFSET (SELECT COUNT(*) / 10 FROM frame WHERE tier_ms = ?1))",
                        [tier.resolution_ms],
                    )?;
                    if dropped > 0 {
                        break;
                    }
                }
            }
            transaction.commit()
        };
        write().map_err(|error| self.fail(error))
    }

    /// Frames of a tier between two moments, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn frames(&self, tier: Tier, from_unix_ms: i64, to_unix_ms: i64) -> Result<Vec<Frame>, StoreError> {
        let connection = self.reader();
        let read = || -> rusqlite::Result<Vec<Frame>> {
            let rows = connection
                .prepare_cached(
                    "SELECT message FROM frame WHERE tier_ms = ?1 AND time_unix_ms BETWEEN ?2 AND ?3
                     ORDER BY time_unix_ms",
                )?
                .query_map(params![tier.resolution_ms, from_unix_ms, to_unix_ms], |row| {
                    row.get::<_, Vec<u8>>(0)
                })?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(rows.iter().filter_map(|bytes| Frame::decode(&bytes[..]).ok()).collect())
        };
        read().map_err(|error| self.fail(error))
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Tier};

    fn frame(time_unix_ms: i64) -> Frame {
        Frame { time_unix_ms, node: "n".repeat(500), ..Frame::default() }
    }

    #[test]
    fn old_frames_go_and_the_size_is_bounded() {
        let (_folder, store) = super::super::temporary();
        let now = 10_000_000;
        let second = Tier::ALL[0];
        let frames: Vec<(Tier, Frame)> = (0..5_000).map(|step| (second, frame(now - step * 1_000))).collect();
        store.put_frames(&frames, now, i64::MAX).unwrap();
        let kept = store.frames(second, 0, now).unwrap();
        assert_eq!(kept.len(), 3_601);
        assert!(kept.is_sorted_by_key(|frame| frame.time_unix_ms));
        for step in 1..=40 {
            store.put_frames(&[(second, frame(now + step))], now + step, 500_000).unwrap();
        }
        let left = store.frames(second, 0, now + 100).unwrap();
        assert!(left.len() < 1_200 && left.last().unwrap().time_unix_ms == now + 40, "{}", left.len());
    }
}
