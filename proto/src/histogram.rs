//! Distributions on the wire: HdrHistogram V2, deflated, the format that HdrHistogram's own tools read.

use hdrhistogram::Histogram as Hdr;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::v1;

/// Longest latency told apart, in microseconds: one hour.
pub const HIGHEST_US: u64 = 3_600_000_000;
/// Significant digits kept.
pub const SIGNIFICANT_DIGITS: u8 = 3;
/// Largest encoded histogram that is decoded; the format above needs far less.
pub(crate) const MAX_ENCODED_BYTES: usize = 1 << 20;

/// Why a histogram could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// More bytes than a histogram of this range can need.
    #[error("histogram of {0} bytes is larger than {MAX_ENCODED_BYTES}; it is not one of ours")]
    TooLarge(usize),
    /// The bytes are not HdrHistogram V2.
    #[error("histogram is not HdrHistogram V2, deflated: {0}")]
    Malformed(String),
    /// Its range is not the contract's.
    #[error(
        "histogram has range {low}..{high} with {digits} digits; the contract says 1..{HIGHEST_US} with {SIGNIFICANT_DIGITS}"
    )]
    Range {
        /// Lowest value told apart.
        low: u64,
        /// Highest value told apart.
        high: u64,
        /// Significant digits.
        digits: u8,
    },
}

/// An empty histogram of the contract's range. The bounds are constants that the library accepts.
pub fn empty() -> Hdr<u64> {
    Hdr::new_with_bounds(1, HIGHEST_US, SIGNIFICANT_DIGITS)
        .unwrap_or_else(|_| unreachable!("the contract's bounds are valid"))
}

/// Encodes; no sample makes no bytes.
///
/// # Errors
/// When the library cannot serialize, which the contract's range rules out.
pub fn encode(histogram: &Hdr<u64>) -> Result<v1::Histogram, HistogramError> {
    let mut bytes = Vec::new();
    if !histogram.is_empty() {
        V2DeflateSerializer::new()
            .serialize(histogram, &mut bytes)
            .map_err(|error| HistogramError::Malformed(error.to_string()))?;
    }
    Ok(v1::Histogram { hdr_v2_deflate: bytes })
}

/// Decodes; an absent or empty message is an empty histogram.
///
/// # Errors
/// When the bytes are too many, malformed or of another range.
pub fn decode(message: Option<&v1::Histogram>) -> Result<Hdr<u64>, HistogramError> {
    let bytes = message.map_or(&[][..], |message| &message.hdr_v2_deflate);
    if bytes.is_empty() {
        return Ok(empty());
    }
    if bytes.len() > MAX_ENCODED_BYTES {
        return Err(HistogramError::TooLarge(bytes.len()));
    }
    let histogram: Hdr<u64> = Deserializer::new()
        .deserialize(&mut &bytes[..])
        .map_err(|error| HistogramError::Malformed(error.to_string()))?;
    let (low, high, digits) = (histogram.low(), histogram.high(), histogram.sigfig());
    if (low, high, digits) != (1, HIGHEST_US, SIGNIFICANT_DIGITS) {
        return Err(HistogramError::Range { low, high, digits });
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HIGHEST_US, HistogramError, decode, empty, encode};
    use crate::v1;

    proptest! {
        #[test]
        fn survives_the_wire(values in prop::collection::vec(1..HIGHEST_US, 0..200)) {
            let mut histogram = empty();
            values.iter().for_each(|value| histogram.record(*value).unwrap());
            prop_assert_eq!(decode(Some(&encode(&histogram).unwrap())).unwrap(), histogram);
        }

        #[test]
        fn rejects_garbage_without_panicking(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
            let _ = decode(Some(&v1::Histogram { hdr_v2_deflate: bytes }));
        }
    }

    #[test]
    fn another_range_is_refused_by_name() {
        let mut other = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 1_000, 2).unwrap();
        other.record(5).unwrap();
        let encoded = encode(&other).unwrap();
        assert!(matches!(decode(Some(&encoded)), Err(HistogramError::Range { high: 1_000, .. })));
    }
}
