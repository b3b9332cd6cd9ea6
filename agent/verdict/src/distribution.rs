/// Counted values, in buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    buckets: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    lowest: f64,
    highest: f64,
    /// Values in this bucket and those before.
    up_to: u64,
}

impl Distribution {
    /// Of lowest value, highest value and count of each bucket, by value, without overlaps.
    pub fn new(buckets: impl IntoIterator<Item = (f64, f64, u64)>) -> Self {
        let mut up_to = 0;
        let buckets = buckets.into_iter().filter(|(_, _, count)| *count > 0);
        let buckets = buckets.map(|(lowest, highest, count)| {
            up_to += count;
            Bucket { lowest, highest, up_to }
        });
        Self { buckets: buckets.collect() }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |bucket| bucket.up_to)
    }

    /// The value that a share of all does not exceed: the highest of its bucket.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        self.buckets.get(self.bucket_of_quantile(share)).map(|bucket| bucket.highest)
    }

    pub(crate) fn bucket_of_quantile(&self, share: f64) -> usize {
        let wanted = (share * self.count() as f64).ceil().max(1.0) as u64;
        self.buckets.partition_point(|bucket| bucket.up_to < wanted)
    }

    /// How many buckets hold values.
    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    pub(crate) fn lowest(&self, bucket: usize) -> f64 {
        self.buckets.get(bucket).map_or(f64::INFINITY, |bucket| bucket.lowest)
    }

    pub(crate) fn highest(&self, bucket: usize) -> f64 {
        self.buckets.get(bucket).map_or(f64::INFINITY, |bucket| bucket.highest)
    }

    /// Values in the buckets before this one.
    pub(crate) fn before(&self, bucket: usize) -> u64 {
        bucket.checked_sub(1).and_then(|last| self.buckets.get(last)).map_or(0, |bucket| bucket.up_to)
    }

    /// Most values that may be at most `value`: all of the bucket that it lies in.
    pub(crate) fn at_most(&self, value: f64) -> u64 {
        self.before(self.buckets.partition_point(|bucket| bucket.lowest <= value))
    }

    /// Fewest values that are below `value`: none of the bucket that it lies in.
    pub(crate) fn below(&self, value: f64) -> u64 {
        self.before(self.buckets.partition_point(|bucket| bucket.highest < value))
    }
}

#[cfg(test)]
mod tests {
    use super::Distribution;

    #[test]
    fn a_bucket_counts_whole_or_not_at_all_whichever_claims_less() {
        let distribution = Distribution::new([(1.0, 1.0, 2), (10.0, 11.0, 0), (20.0, 29.0, 3)]);
        assert_eq!((distribution.count(), distribution.buckets()), (5, 2));
        assert_eq!((distribution.at_most(25.0), distribution.below(25.0)), (5, 2));
        assert_eq!((distribution.at_most(19.0), distribution.below(30.0)), (2, 5));
        assert_eq!((distribution.quantile(0.4), distribution.quantile(0.41)), (Some(1.0), Some(29.0)));
        assert_eq!(Distribution::default().quantile(0.5), None);
    }
}
