use llmdeck_proto::sparse::SparseHistogram;

/// Percentiles of an interval, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentiles {
    /// Median.
    pub p50: u64,
    /// 95th.
    pub p95: u64,
    /// 99th.
    pub p99: u64,
    /// Where another server counted in buckets: the ones that the three lie in. They are estimates then.
    pub buckets: Option<[Bucket; 3]>,
}

/// What is surely known of a percentile that another server counted, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// It is above this.
    pub low: u64,
    /// And not above this; `None` when the server has no higher bound.
    pub high: Option<u64>,
}

impl Percentiles {
    /// `None` when nothing was counted. `bounds_us` are those of the buckets that it was counted in; none where every
    /// value was measured.
    pub fn of(histogram: &SparseHistogram, bounds_us: &[u64]) -> Option<Self> {
        let (p50, p95, p99) =
            (histogram.quantile(0.5)?, histogram.quantile(0.95)?, histogram.quantile(0.99)?);
        let bucket = |value: u64| {
            // A quantile is its histogram bucket's highest value, a thousandth above what was put in.
            let at = bounds_us.partition_point(|bound| bound + bound / 1_000 < value);
            let low = at.checked_sub(1).and_then(|below| bounds_us.get(below)).copied().unwrap_or(0);
            Bucket { low, high: bounds_us.get(at).copied() }
        };
        let buckets = (!bounds_us.is_empty()).then(|| [p50, p95, p99].map(bucket));
        Some(Self { p50, p95, p99, buckets })
    }
}
