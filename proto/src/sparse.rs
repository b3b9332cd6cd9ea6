//! A histogram as the buckets that hold something. An interval fills few of the thousands that the range has, so that
//! reading, merging and writing it this way costs a fraction of a whole histogram's.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::buckets::{BUCKETS, highest_of, index_of};
use crate::histogram::{HIGHEST_US, HistogramError, MAX_ENCODED_BYTES, SIGNIFICANT_DIGITS};
use crate::v1;

/// `V2_COMPRESSED` and `V2` of HdrHistogram's encoding, with its word size of 64 bits in nine bytes.
const COMPRESSED_COOKIE: u32 = 0x1c84_9314;
const COOKIE: u32 = 0x1c84_9313;
const OUTER_HEADER_BYTES: usize = 8;
const HEADER_BYTES: usize = 40;
const LONGEST_NUMBER_BYTES: usize = 9;

/// Counted values in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SparseHistogram {
    /// Bucket and count, by bucket, every count above zero.
    counts: Vec<(u32, u64)>,
}

thread_local! {
    /// All zero between two merges.
    static SUMS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    // Both have tens of kilobytes of state, which are made once a thread.
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(true));
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), true));
}

impl SparseHistogram {
    /// One without values.
    pub const EMPTY: Self = Self { counts: Vec::new() };

    /// Of buckets and counts in any order.
    pub fn from_buckets(buckets: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let bounded = buckets.into_iter().filter(|(index, count)| *index < BUCKETS && *count > 0);
        let mut counts: Vec<(u32, u64)> = bounded.map(|(index, count)| (index as u32, count)).collect();
        if !counts.is_sorted_by(|left, right| left.0 < right.0) {
            counts.sort_unstable_by_key(|(index, _)| *index);
            counts.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    earlier.1 = earlier.1.saturating_add(later.1);
                }
                same
            });
        }
        Self { counts }
    }

    /// All of these together.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let parts: Vec<&Self> = parts.into_iter().filter(|part| !part.counts.is_empty()).collect();
        match parts[..] {
            [] => return Self::default(),
            [only] => return only.clone(),
            _ => {}
        }
        // Sums in place and then collects what is above zero, which beats sorting from a few hundred buckets on.
        SUMS.with_borrow_mut(|sums| {
            sums.resize(BUCKETS, 0);
            let (mut first, mut last) = (u32::MAX, 0);
            for (index, count) in parts.iter().flat_map(|part| &part.counts) {
                let sum = &mut sums[*index as usize];
                *sum = sum.saturating_add(*count);
                (first, last) = (first.min(*index), last.max(*index));
            }
            let taken = (first..=last).map(|index| (index, std::mem::take(&mut sums[index as usize])));
            Self { counts: taken.filter(|(_, count)| *count > 0).collect() }
        })
    }

    /// Reads an encoded histogram; an absent or empty message is an empty histogram.
    ///
    /// # Errors
    /// When the bytes are too many, malformed or of another range.
    pub fn decode(message: Option<&v1::Histogram>) -> Result<Self, HistogramError> {
        let bytes = message.map_or(&[][..], |message| &message.hdr_v2_deflate);
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        if bytes.len() > MAX_ENCODED_BYTES {
            return Err(HistogramError::TooLarge(bytes.len()));
        }
        let malformed = |reason: &str| HistogramError::Malformed(reason.to_owned());
        let (outer, deflated) =
            bytes.split_at_checked(OUTER_HEADER_BYTES).ok_or_else(|| malformed("it has no header"))?;
        let length = big_endian(outer, 4) as usize;
        if big_endian(outer, 0) != COMPRESSED_COOKIE || deflated.len() < length {
            return Err(malformed("its header is wrong or it is cut off"));
        }
        let payload = inflate(&deflated[..length]).ok_or_else(|| malformed("it does not inflate"))?;
        let (header, counts) =
            payload.split_at_checked(HEADER_BYTES).ok_or_else(|| malformed("it has no inner header"))?;
        if big_endian(header, 0) != COOKIE || big_endian(header, 8) != 0 {
            return Err(malformed("its inner header is wrong"));
        }
        let wide = |at| u64::from(big_endian(header, at)) << 32 | u64::from(big_endian(header, at + 4));
        let (digits, low, high) = (big_endian(header, 12), wide(16), wide(24));
        if (low, high, digits) != (1, HIGHEST_US, u32::from(SIGNIFICANT_DIGITS)) {
            return Err(HistogramError::Range { low, high, digits: u8::try_from(digits).unwrap_or(u8::MAX) });
        }
        let length = (big_endian(header, 4) as usize).min(counts.len());
        read_counts(&counts[..length]).ok_or_else(|| malformed("its counts are out of range"))
    }

    /// Writes it as HdrHistogram's own tools read it; no sample makes no bytes.
    pub fn encode(&self) -> v1::Histogram {
        if self.counts.is_empty() {
            return v1::Histogram::default();
        }
        let mut counts = Vec::with_capacity(self.counts.len() * 3);
        let mut next = 0;
        for (index, count) in &self.counts {
            let gap = i64::from(*index) - next;
            if gap > 0 {
                write_number(&mut counts, -gap);
            }
            write_number(&mut counts, i64::try_from(*count).unwrap_or(i64::MAX));
            next = i64::from(*index) + 1;
        }
        let mut payload = Vec::with_capacity(HEADER_BYTES + counts.len());
        for word in [COOKIE, counts.len() as u32, 0, u32::from(SIGNIFICANT_DIGITS)] {
            payload.extend(word.to_be_bytes());
        }
        payload.extend(1_u64.to_be_bytes());
        payload.extend(HIGHEST_US.to_be_bytes());
        payload.extend(1.0_f64.to_be_bytes());
        payload.append(&mut counts);
        let deflated = deflate(&payload);
        let mut hdr_v2_deflate = Vec::with_capacity(OUTER_HEADER_BYTES + deflated.len());
        hdr_v2_deflate.extend(COMPRESSED_COOKIE.to_be_bytes());
        hdr_v2_deflate.extend((deflated.len() as u32).to_be_bytes());
        hdr_v2_deflate.extend(deflated);
        v1::Histogram { hdr_v2_deflate }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| *count).sum()
    }

    /// The value that a share of all values does not exceed, in microseconds: the highest of its bucket. `None` when there
    /// is none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total = self.count();
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        self.iter().find_map(|(value, count)| {
            seen += count;
            (seen >= rank).then_some(value)
        })
    }

    /// Highest value of each bucket in microseconds, and its count, by value.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(index, count)| (highest_of(*index as usize), *count))
    }
}

impl FromIterator<u64> for SparseHistogram {
    /// Counts each value, in microseconds; what is out of range counts at the nearest end.
    fn from_iter<T: IntoIterator<Item = u64>>(values: T) -> Self {
        Self::from_buckets(values.into_iter().map(|value| (index_of(value.clamp(1, HIGHEST_US)), 1)))
    }
}

fn big_endian(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// `None` when it is malformed, or larger than any histogram of the range.
fn inflate(deflated: &[u8]) -> Option<Vec<u8>> {
    const MOST_BYTES: usize = HEADER_BYTES + BUCKETS * LONGEST_NUMBER_BYTES;
    INFLATE.with_borrow_mut(|inflater| {
        inflater.reset(true);
        let mut payload = Vec::with_capacity((deflated.len() * 4).clamp(256, MOST_BYTES));
        loop {
            let read = usize::try_from(inflater.total_in()).ok()?;
            let status = inflater.decompress_vec(&deflated[read..], &mut payload, FlushDecompress::Finish);
            match status.ok()? {
                Status::StreamEnd => return Some(payload),
                Status::Ok | Status::BufError
                    if payload.len() == payload.capacity() && payload.len() < MOST_BYTES =>
                {
                    payload.reserve(payload.len());
                }
                Status::Ok | Status::BufError => return None,
            }
        }
    })
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    DEFLATE.with_borrow_mut(|deflater| {
        deflater.reset();
        // Longer than deflate makes anything: five bytes a block of 32 KiB, and the wrapper.
        let mut deflated = Vec::with_capacity(payload.len() + payload.len() / 1_000 + 64);
        while !matches!(
            deflater.compress_vec(
                &payload[deflater.total_in() as usize..],
                &mut deflated,
                FlushCompress::Finish
            ),
            Ok(Status::StreamEnd) | Err(_)
        ) {
            deflated.reserve(payload.len() + 64);
        }
        deflated
    })
}

/// Zigzag LEB128 of at most nine bytes, the ninth of which has eight bits; a negative number is a run of empty buckets.
fn read_counts(mut bytes: &[u8]) -> Option<SparseHistogram> {
    let mut counts = Vec::new();
    let mut index = 0_usize;
    while !bytes.is_empty() {
        let number = read_number(&mut bytes)?;
        if number > 0 {
            counts.push((u32::try_from(index).ok()?, number.unsigned_abs()));
            index += 1;
        } else {
            index = index.checked_add(usize::try_from(number.unsigned_abs().max(1)).ok()?)?;
        }
        if index > BUCKETS {
            return None;
        }
    }
    Some(SparseHistogram { counts })
}

fn read_number(bytes: &mut &[u8]) -> Option<i64> {
    let mut zigzag = 0_u64;
    for position in 0..LONGEST_NUMBER_BYTES {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if position == LONGEST_NUMBER_BYTES - 1 {
            zigzag |= u64::from(*byte) << (7 * position);
            break;
        }
        zigzag |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

fn write_number(bytes: &mut Vec<u8>, number: i64) {
    let mut zigzag = (number << 1 ^ number >> 63).cast_unsigned();
    for _ in 1..LONGEST_NUMBER_BYTES {
        if zigzag < 0x80 {
            break;
        }
        bytes.push(zigzag as u8 & 0x7f | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::SparseHistogram;
    use crate::histogram::{self, HIGHEST_US};
    use crate::v1;

    fn whole(values: &[u64]) -> hdrhistogram::Histogram<u64> {
        let mut histogram = histogram::empty();
        values.iter().for_each(|value| histogram.record(*value).unwrap());
        histogram
    }

    proptest! {
        /// What we write, the library reads; what it writes, we read; and both mean the same.
        #[test]
        fn speaks_as_hdrhistogram_does(values in prop::collection::vec(1..=HIGHEST_US, 0..300)) {
            let (ours, theirs) = (values.iter().copied().collect::<SparseHistogram>(), whole(&values));
            prop_assert_eq!(&histogram::decode(Some(&ours.encode())).unwrap(), &theirs);
            prop_assert_eq!(&SparseHistogram::decode(Some(&histogram::encode(&theirs).unwrap())).unwrap(), &ours);
            prop_assert_eq!(ours.count(), theirs.len());
            for share in [0.5, 0.95, 0.99, 1.0] {
                if let Some(value) = ours.quantile(share) {
                    prop_assert_eq!(value, theirs.value_at_quantile(share));
                }
            }
        }

        #[test]
        fn merging_is_counting_together(parts in prop::collection::vec(prop::collection::vec(1..=HIGHEST_US, 0..60), 0..6)) {
            let sparse: Vec<SparseHistogram> = parts.iter().map(|part| part.iter().copied().collect()).collect();
            prop_assert_eq!(SparseHistogram::merged(&sparse), parts.concat().into_iter().collect());
        }

        #[test]
        fn garbage_is_refused_without_panicking(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
            let _ = SparseHistogram::decode(Some(&v1::Histogram { hdr_v2_deflate: bytes }));
        }

        #[test]
        fn a_damaged_histogram_is_refused_or_read_without_panicking(
            values in prop::collection::vec(1..=HIGHEST_US, 1..60), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut message = values.into_iter().collect::<SparseHistogram>().encode();
            let at = at.index(message.hdr_v2_deflate.len());
            message.hdr_v2_deflate[at] = byte;
            let _ = SparseHistogram::decode(Some(&message));
        }
    }
}
