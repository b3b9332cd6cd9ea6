use llmdeck_proto::histogram;
use llmdeck_proto::v1::Histogram;

/// Counted values in microseconds, sparse: an interval's histogram has few of its thousands of buckets in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Value and count, by value.
    counts: Vec<(u32, u32)>,
}

impl Distribution {
    /// Reads an encoded histogram; one that is malformed counts as empty.
    pub fn decode(message: Option<&Histogram>) -> Self {
        if message.is_none_or(|message| message.hdr_v2_deflate.is_empty()) {
            return Self::default();
        }
        let Ok(decoded) = histogram::decode(message) else { return Self::default() };
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let counts = decoded
            .iter_recorded()
            .map(|value| (narrow(value.value_iterated_to()), narrow(value.count_at_value())))
            .collect();
        Self { counts }
    }

    /// All of these together.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut counts: Vec<(u32, u32)> =
            parts.into_iter().flat_map(|part| part.counts.iter().copied()).collect();
        counts.sort_unstable_by_key(|(value, _)| *value);
        counts.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = earlier.1.saturating_add(later.1);
            }
            same
        });
        Self { counts }
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// The value that a share of all values does not exceed, in microseconds. `None` when there is none.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total = self.count();
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        self.counts.iter().find_map(|(value, count)| {
            seen += u64::from(*count);
            (seen >= rank).then_some(u64::from(*value))
        })
    }

    /// Value in microseconds and count, by value.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(value, count)| (u64::from(*value), u64::from(*count)))
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::histogram;
    use proptest::prelude::*;

    use super::Distribution;

    proptest! {
        /// What the console computes of merged intervals is what one histogram of all values says.
        #[test]
        fn quantiles_are_those_of_one_histogram(
            parts in prop::collection::vec(prop::collection::vec(1u64..3_600_000_000, 1..40), 1..6),
        ) {
            let mut whole = histogram::empty();
            let mut decoded = Vec::new();
            for part in &parts {
                let mut interval = histogram::empty();
                for value in part {
                    interval.record(*value).unwrap();
                    whole.record(*value).unwrap();
                }
                decoded.push(Distribution::decode(Some(&histogram::encode(&interval).unwrap())));
            }
            let merged = Distribution::merged(&decoded);
            prop_assert_eq!(merged.count(), whole.len());
            for share in [0.5, 0.95, 0.99, 1.0] {
                let (ours, theirs) = (merged.quantile(share).unwrap(), whole.value_at_quantile(share));
                prop_assert!(whole.equivalent(ours, theirs), "{share}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(Distribution::default().quantile(0.5), None);
    }
}
