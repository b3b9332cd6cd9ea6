//! The buckets of a histogram of the contract's range: HdrHistogram's, lowest 1, three significant digits.

use crate::histogram::{HIGHEST_US, SIGNIFICANT_DIGITS};

/// Values below this have a bucket each: twice ten to the digits, rounded up to a power of two (HdrHistogram's
/// `sub_bucket_count`).
const SUB_BUCKETS: u64 = (2 * 10u64.pow(SIGNIFICANT_DIGITS as u32)).next_power_of_two();
const HALF: u64 = SUB_BUCKETS / 2;
const HALF_BITS: u32 = HALF.trailing_zeros();

/// How many buckets the range needs.
pub const BUCKETS: usize = index_of(HIGHEST_US) + 1;

/// The bucket of a value.
pub const fn index_of(value: u64) -> usize {
    let shift = (u64::BITS - (value | (SUB_BUCKETS - 1)).leading_zeros()) - (HALF_BITS + 1);
    (((shift as u64) << HALF_BITS) + (value >> shift)) as usize
}

/// The lowest value of a bucket.
pub const fn lowest_of(index: usize) -> u64 {
    let shift = shift_of(index);
    if shift == 0 { index as u64 } else { ((index as u64 & (HALF - 1)) + HALF) << shift }
}

/// The highest value of a bucket.
pub const fn highest_of(index: usize) -> u64 {
    lowest_of(index) + (1 << shift_of(index)) - 1
}

const fn shift_of(index: usize) -> u64 {
    (index as u64 >> HALF_BITS).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BUCKETS, HIGHEST_US, highest_of, index_of, lowest_of};
    use crate::histogram::empty;

    proptest! {
        #[test]
        fn buckets_are_hdrhistograms(value in 1..=HIGHEST_US) {
            let index = index_of(value);
            prop_assert!(index < BUCKETS);
            prop_assert_eq!(lowest_of(index), empty().lowest_equivalent(value));
            prop_assert_eq!(highest_of(index), empty().highest_equivalent(value));
        }
    }
}
