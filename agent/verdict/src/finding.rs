use std::fmt;

/// What is known of a candidate in one respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Surely past the margin.
    Worse,
    /// It may be either; more requests will tell.
    Undecided,
    /// Surely within the margin.
    NoWorse,
    /// Surely better.
    Better,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Worse => "worse",
            Self::Undecided => "undecided",
            Self::NoWorse => "no worse",
            Self::Better => "better",
        })
    }
}

/// How the candidate differs, with an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// Best guess; `None` while either has nothing.
    pub estimate: Option<f64>,
    /// Surely not less.
    pub low: f64,
    /// Surely not more.
    pub high: f64,
}

/// What an effect is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The candidate's value less the stable one's.
    Difference,
    /// The candidate's value by the stable one's.
    Ratio,
}

impl Scale {
    /// What no effect is.
    pub fn none(self) -> f64 {
        match self {
            Self::Difference => 0.0,
            Self::Ratio => 1.0,
        }
    }
}

/// One respect in which two revisions were compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// In a word.
    pub verdict: Verdict,
    /// By how much.
    pub effect: Effect,
    /// What the effect is measured in.
    pub scale: Scale,
}

impl Finding {
    /// Judges an effect where less is better. `margin` is how much more is still no worse: 0.1 on a ratio is ten
    /// percent.
    pub fn where_less_is_better(effect: Effect, scale: Scale, margin: f64) -> Self {
        let none = scale.none();
        let verdict = if effect.low > none + margin {
            Verdict::Worse
        } else if effect.high < none {
            Verdict::Better
        } else if effect.high <= none + margin {
            Verdict::NoWorse
        } else {
            Verdict::Undecided
        };
        Self { verdict, effect, scale }
    }

    /// Judges an effect where more is better. `margin` is how much less is still no worse.
    pub fn where_more_is_better(effect: Effect, scale: Scale, margin: f64) -> Self {
        let none = scale.none();
        let verdict = if effect.high < none - margin {
            Verdict::Worse
        } else if effect.low > none {
            Verdict::Better
        } else if effect.low >= none - margin {
            Verdict::NoWorse
        } else {
            Verdict::Undecided
        };
        Self { verdict, effect, scale }
    }
}

/// One word for all findings: worse as soon as one is; else undecided as long as one is; better when one is and none is
/// worse. Undecided where there are none.
pub fn overall(findings: impl IntoIterator<Item = Verdict>) -> Verdict {
    let (mut least, mut most) = (None, None);
    for verdict in findings {
        least = Some(least.map_or(verdict, |least: Verdict| least.min(verdict)));
        most = Some(most.map_or(verdict, |most: Verdict| most.max(verdict)));
    }
    match (least, most) {
        (Some(Verdict::NoWorse | Verdict::Better), Some(most)) => most,
        (Some(least), _) => least,
        (None, _) => Verdict::Undecided,
    }
}

#[cfg(test)]
mod tests {
    use super::{Effect, Finding, Scale, Verdict, overall};

    #[test]
    fn an_interval_is_worse_only_when_it_is_whole_past_the_margin() {
        let ratio = |low, high| Effect { estimate: None, low, high };
        let word = |effect| Finding::where_less_is_better(effect, Scale::Ratio, 0.1).verdict;
        assert_eq!(word(ratio(1.11, 1.5)), Verdict::Worse);
        assert_eq!(word(ratio(1.05, 1.5)), Verdict::Undecided);
        assert_eq!(word(ratio(0.9, 1.1)), Verdict::NoWorse);
        assert_eq!(word(ratio(1.01, 1.09)), Verdict::NoWorse);
        assert_eq!(word(ratio(0.5, 0.99)), Verdict::Better);
        let score = |low, high| Effect { estimate: None, low, high };
        let word = |effect| Finding::where_more_is_better(effect, Scale::Difference, 0.02).verdict;
        assert_eq!(word(score(-0.2, -0.03)), Verdict::Worse);
        assert_eq!(word(score(-0.02, 0.3)), Verdict::NoWorse);
        assert_eq!(word(score(0.01, 0.3)), Verdict::Better);
        assert_eq!(word(score(-1.0, 1.0)), Verdict::Undecided);
    }

    #[test]
    fn one_that_is_worse_decides_and_one_that_is_undecided_holds_up() {
        use Verdict::{Better, NoWorse, Undecided, Worse};
        assert_eq!(overall([Better, Undecided, Worse]), Worse);
        assert_eq!(overall([Better, Undecided]), Undecided);
        assert_eq!(overall([NoWorse, Better]), Better);
        assert_eq!(overall([NoWorse, NoWorse]), NoWorse);
        assert_eq!(overall([]), Undecided);
    }
}
