//! What is known of a candidate, as text and as JSON.

use std::io::{self, Write};

use llmdeck_proto::v1::finding::Scale;
use llmdeck_proto::v1::{Assessment, Finding, Rollout, Verdict};
use serde_json::{Value, json};

use crate::app::finding_rows;

/// One line a metric; nothing where nothing was compared.
pub(super) fn print_findings(rollout: &Rollout, mut out: impl Write) -> io::Result<()> {
    let rows = finding_rows(rollout);
    let Some(assessment) = rollout.assessment.as_ref().filter(|_| !rows.is_empty()) else { return Ok(()) };
    writeln!(
        out,
        "compared over {} requests on {} and {} on {}; intervals hold at every look together",
        assessment.stable_requests, rollout.from_revision, assessment.candidate_requests, rollout.to_revision
    )?;
    for finding in rows {
        let effect = |value: Option<f64>| match (finding.scale(), value) {
            (_, None) => "-".to_owned(),
            (Scale::Ratio, Some(ratio)) => format!("{:+.1} %", (ratio - 1.0) * 100.0),
            (_, Some(difference)) => format!("{:+.2} points", difference * 100.0),
        };
        let word = if finding.judged { verdict_word(finding.verdict()) } else { "shown only" };
        writeln!(
            out,
            "{:18} {:>14}   {:>14} to {:<14} {word}",
            finding.metric,
            effect(finding.effect),
            effect(finding.low),
            effect(finding.high),
        )?;
    }
    Ok(())
}

pub(super) fn assessment_json(assessment: &Assessment) -> Value {
    json!({
        "verdict": verdict_word(assessment.verdict()), "sentence": assessment.sentence,
        "stable_requests": assessment.stable_requests, "candidate_requests": assessment.candidate_requests,
        "findings": assessment.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "time_unix_ms": assessment.time_unix_ms,
    })
}

fn finding_json(finding: &Finding) -> Value {
    let scale = if finding.scale() == Scale::Ratio { "ratio" } else { "difference" };
    json!({
        "metric": finding.metric, "verdict": verdict_word(finding.verdict()), "judged": finding.judged,
        "stable": finding.stable, "candidate": finding.candidate, "effect": finding.effect,
        "low": finding.low, "high": finding.high, "scale": scale, "margin": finding.margin,
    })
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Worse => "worse",
        Verdict::Undecided | Verdict::Unspecified => "undecided",
        Verdict::NoWorse => "no worse",
        Verdict::Better => "better",
    }
}
