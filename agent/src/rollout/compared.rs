//! One metric of both revisions: on the wire, and in words.

use llmdeck_proto::v1;
use llmdeck_verdict::{Effect, Finding, Scale, Verdict};

use super::metric::Metric;

/// A metric of both, and how they differ.
pub(super) struct Compared {
    pub(super) finding: Finding,
    pub(super) stable: Option<f64>,
    pub(super) candidate: Option<f64>,
    pub(super) margin: f64,
}

impl Compared {
    pub(super) fn wire(&self, metric: Metric, judged: bool) -> v1::Finding {
        let Finding { verdict, effect, scale } = self.finding;
        let (least, most) = unbounded(scale);
        let scale_wire = match scale {
            Scale::Difference => v1::finding::Scale::Difference,
            Scale::Ratio => v1::finding::Scale::Ratio,
        };
        v1::Finding {
            metric: metric.name().into(),
            verdict: wire_verdict(verdict).into(),
            judged,
            stable: self.stable,
            candidate: self.candidate,
            effect: effect.estimate,
            low: (effect.low > least).then_some(effect.low),
            high: (effect.high < most).then_some(effect.high),
            scale: scale_wire.into(),
            margin: self.margin,
        }
    }
}

/// What every effect lies between.
fn unbounded(scale: Scale) -> (f64, f64) {
    match scale {
        Scale::Difference => (-1.0, 1.0),
        Scale::Ratio => (0.0, f64::INFINITY),
    }
}

pub(super) fn wire_verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Worse => v1::Verdict::Worse,
        Verdict::Undecided => v1::Verdict::Undecided,
        Verdict::NoWorse => v1::Verdict::NoWorse,
        Verdict::Better => v1::Verdict::Better,
    }
}

/// The verdict with what decides it, or what holds it up.
pub(super) fn sentence<'a>(
    verdict: Verdict,
    judged: impl Iterator<Item = &'a (Metric, Compared)>,
    requests: u64,
) -> String {
    let deciding: Vec<&(Metric, Compared)> =
        judged.filter(|(_, compared)| compared.finding.verdict == verdict).collect();
    let Some((metric, compared)) = deciding.first() else {
        return format!("undecided after {requests} requests");
    };
    let effect = in_words(compared.finding.effect, compared.finding.scale);
    let allowed = margin_in_words(compared);
    let name = metric.name();
    match verdict {
        Verdict::Worse => format!("worse: {name} is {effect}; {allowed} is allowed"),
        Verdict::Undecided => {
            let others = match deciding.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            format!("undecided after {requests} requests: {name} is {effect}{others}")
        }
        Verdict::NoWorse => {
            format!("no worse after {requests} requests: everything judged is within its margin")
        }
        Verdict::Better => format!("better after {requests} requests: {name} is {effect}"),
    }
}

fn in_words(effect: Effect, scale: Scale) -> String {
    let word = |value: f64| match scale {
        Scale::Difference => format!("{:+.1} points", value * 100.0),
        Scale::Ratio if value.is_finite() => format!("{:+.0} %", (value - 1.0) * 100.0),
        Scale::Ratio => "any".into(),
    };
    let Some(estimate) = effect.estimate else { return "not measured yet".into() };
    let (least, most) = unbounded(scale);
    if (effect.low, effect.high) == (least, most) {
        return format!("{}, of too few to say more", word(estimate));
    }
    format!("{} ({} to {})", word(estimate), word(effect.low), word(effect.high))
}

fn margin_in_words(compared: &Compared) -> String {
    match compared.finding.scale {
        Scale::Difference => format!("{:.1} points", compared.margin * 100.0),
        Scale::Ratio => format!("{:.0} %", compared.margin * 100.0),
    }
}
