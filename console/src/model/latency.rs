use std::sync::{Arc, OnceLock};

use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::Histogram;

/// A distribution that is read, or added up, when somebody looks at it: most of what nodes send is never on a screen. Clones share what
/// was read.
#[derive(Clone, Debug, Default)]
pub struct Latency(Option<Arc<Unread>>);

#[derive(Debug)]
struct Unread {
    source: Source,
    histogram: OnceLock<SparseHistogram>,
}

#[derive(Debug)]
enum Source {
    Encoded(Histogram),
    Sum(Vec<Latency>),
}

static EMPTY: SparseHistogram = SparseHistogram::EMPTY;

impl Latency {
    /// As a frame has it. One that is malformed counts as empty.
    pub fn of(message: Option<&Histogram>) -> Self {
        let filled = message.filter(|message| !message.hdr_v2_deflate.is_empty());
        filled.map_or_else(Self::default, |message| Self::unread(Source::Encoded(message.clone())))
    }

    /// All of these together.
    pub fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let parts: Vec<Self> = parts.filter(|part| part.0.is_some()).cloned().collect();
        if parts.is_empty() { Self::default() } else { Self::unread(Source::Sum(parts)) }
    }

    fn unread(source: Source) -> Self {
        Self(Some(Arc::new(Unread { source, histogram: OnceLock::new() })))
    }

    /// What it is.
    pub fn histogram(&self) -> &SparseHistogram {
        let Some(unread) = &self.0 else { return &EMPTY };
        unread.histogram.get_or_init(|| match &unread.source {
            Source::Encoded(message) => SparseHistogram::decode(Some(message)).unwrap_or_default(),
            Source::Sum(parts) => SparseHistogram::merged(parts.iter().map(Self::histogram)),
        })
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::sparse::SparseHistogram;
    use llmdeck_proto::v1::Histogram;

    use super::Latency;

    #[test]
    fn sums_are_what_their_parts_are_together() {
        let of = |values: &[u64]| {
            let histogram: SparseHistogram = values.iter().copied().collect();
            Latency::of(Some(&histogram.encode()))
        };
        let malformed = Latency::of(Some(&Histogram { hdr_v2_deflate: vec![1, 2, 3] }));
        let parts = [of(&[1_000, 2_000]), malformed, Latency::of(None), of(&[2_000, 9_000])];
        let sum = Latency::sum(parts.iter());
        assert_eq!(sum.histogram(), &[1_000, 2_000, 2_000, 9_000].into_iter().collect());
        assert_eq!(Latency::sum([Latency::default()].iter()).histogram().count(), 0);
    }
}
