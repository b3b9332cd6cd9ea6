//! A rollout: how far it is, both revisions side by side, and what is known of how they differ.

use llmdeck_proto::v1::finding::Scale;
use llmdeck_proto::v1::rollout::{State, Strategy};
use llmdeck_proto::v1::{Finding, Rollout, Verdict};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::dialog::progress_line;
use super::format::{age, milliseconds, percent};
use super::pen::{Cell, Column, Pen};
use crate::app::finding_rows;
use crate::model::DeploymentKey;
use crate::theme::Tone;
use crate::widget::{Interval, intervals, linear_row};

const HEAD: u16 = 4;
/// Lines of the chart with its rule; it is left out where the table needs them.
const LEAST_CHART: u16 = 6;
const MOST_CHART: u16 = 14;
const AXIS: u16 = 9;
/// Room for the widest interval from here on.
const WIDE: u16 = 120;
/// Columns of a step in the head.
const STEP_BAR: usize = 8;

pub(super) fn draw(view: &View<'_>, key: &DeploymentKey, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let Some(open) = view.app.rollout.as_ref().filter(|open| open.key == *key) else { return };
    if let Some(error) = &open.error {
        pen.put(1, 0, error, Tone::Bad);
        return;
    }
    let Some(rollout) = &open.rollout else {
        let text = if open.told { "has had no rollout yet; d deploys" } else { "asking the agent" };
        let x = pen.put(1, 0, &key.name, Tone::Strong);
        pen.put(x + 2, 0, text, Tone::Quiet);
        return;
    };
    head(view, rollout, &mut pen.lines(0, HEAD));
    let findings = finding_rows(rollout);
    if findings.is_empty() {
        return;
    }
    let body = area.height.saturating_sub(HEAD);
    let rows = u16::try_from(findings.len()).unwrap_or(u16::MAX);
    let judged = u16::try_from(findings.iter().filter(|finding| finding.judged).count()).unwrap_or(rows);
    // All rows where they fit above a chart; else those that are judged; else whatever there is room for.
    let table = [rows, judged].into_iter().map(|rows| rows + 2).find(|table| table + LEAST_CHART <= body);
    let table = table.unwrap_or(body.min(rows + 2));
    let selected = view.app.scroll.min(findings.len() - 1);
    draw_table(view, rollout, &findings, selected, &mut pen.lines(HEAD, table));
    let chart = (body - table).min(MOST_CHART);
    draw_chart(view, rollout, findings[selected], &mut pen.lines(HEAD + table, chart));
}

fn head(view: &View<'_>, rollout: &Rollout, pen: &mut Pen<'_>) {
    let name = &rollout.deployment;
    let what = match rollout.strategy() {
        Strategy::Canary => "canary",
        Strategy::Shadow => "shadow",
        Strategy::Replace | Strategy::Unspecified => "replacement",
    };
    let arrow = view.theme.symbols.arrow;
    let (from, to) = (rollout.from_revision, rollout.to_revision);
    let mut x = pen.put(1, 0, &format!("{name}@{from} {arrow} {name}@{to}"), Tone::Strong);
    x = pen.put(x + 2, 0, what, Tone::Plain);
    let took = rollout.ended_unix_ms.unwrap_or(view.now_unix_ms) - rollout.started_unix_ms;
    let why = if rollout.reason.is_empty() { String::new() } else { format!(": {}", rollout.reason) };
    let who = format!("{} by {}{why}", age(took), rollout.operator);
    pen.put(x + 2, 0, &who, Tone::Quiet);
    let (sentence, tone) = progress_line(view, rollout);
    let width = pen.area.width.saturating_sub(2);
    pen.columns(1, width).put_wrapped(0, 1, 2, &sentence, tone);
    if !rollout.steps.is_empty() {
        steps(view, rollout, pen);
    }
}

/// The steps in a row: those behind are full, the present one as far as it is.
fn steps(view: &View<'_>, rollout: &Rollout, pen: &mut Pen<'_>) {
    let symbols = &view.theme.symbols;
    let whole = symbols.levels.last().copied().unwrap_or_default();
    let passed = rollout.state() == State::Done || rollout.state() == State::Draining;
    let mut x = 1;
    for (index, step) in (0u32..).zip(&rollout.steps) {
        x = pen.put(x, 3, &percent(step.share), Tone::Plain) + 1;
        let share = match index.cmp(&rollout.step) {
            _ if passed => 1.0,
            std::cmp::Ordering::Less => 1.0,
            std::cmp::Ordering::Equal => rollout.progress.unwrap_or(0.0),
            std::cmp::Ordering::Greater => 0.0,
        };
        let full = (share * STEP_BAR as f64).round() as usize;
        x = pen.put(x, 3, &whole.repeat(full), Tone::Plain);
        x = pen.put(x, 3, &symbols.rule.repeat(STEP_BAR - full.min(STEP_BAR)), Tone::Quiet) + 2;
    }
    let then = match (rollout.auto_promote, rollout.paused) {
        (_, true) => "held; p goes on",
        (true, false) => "takes over when nothing is worse",
        (false, false) => "then waits for P",
    };
    if rollout.ended_unix_ms.is_none() {
        pen.put(x, 3, then, if rollout.paused { Tone::Warning } else { Tone::Quiet });
    }
}

fn draw_table(view: &View<'_>, rollout: &Rollout, findings: &[&Finding], selected: usize, pen: &mut Pen<'_>) {
    let assessment = rollout.assessment.clone().unwrap_or_default();
    let title = format!(
        "Compared over {} requests on {} and {} on {}",
        assessment.stable_requests, rollout.from_revision, assessment.candidate_requests, rollout.to_revision
    );
    pen.rule(0, &title);
    let columns = [
        Column::left(" METRIC", 19),
        Column::right("STABLE", 8),
        Column::right("NEW", 8),
        Column::right("CHANGE", 9),
        Column::right("SURELY WITHIN", if pen.area.width >= WIDE { 19 } else { 15 }),
        Column::right("ALLOWED", 9),
        Column::left("VERDICT", 11),
    ];
    pen.titles(1, &columns);
    let room = usize::from(pen.area.height.saturating_sub(2));
    let from = selected.saturating_sub(room.saturating_sub(1));
    for (y, (index, finding)) in (2..).zip(findings.iter().enumerate().skip(from).take(room)) {
        pen.row(y, &columns, &cells(view, finding));
        if index == selected {
            pen.select(y);
        }
    }
}

fn cells(view: &View<'_>, finding: &Finding) -> Vec<Cell> {
    let missing = view.theme.symbols.missing;
    let value =
        |value: Option<f64>| value.map_or(missing.to_owned(), |value| in_unit(&finding.metric, value));
    let change =
        |value: Option<f64>| value.map_or(missing.to_owned(), |value| effect(finding.scale(), value));
    let within = match (finding.low, finding.high) {
        (None, None) => missing.to_owned(),
        (low, high) => {
            let bound = |value: Option<f64>| {
                value.map_or(missing.to_owned(), |value| without_unit(finding.scale(), value))
            };
            format!("{}..{} {}", bound(low), bound(high), unit(finding.scale()))
        }
    };
    let tone = if finding.judged { Tone::Plain } else { Tone::Quiet };
    let (verdict, verdict_tone) = match (finding.verdict(), finding.judged) {
        (_, false) => ("shown only", Tone::Quiet),
        (Verdict::Worse, _) => ("worse", Tone::Bad),
        (Verdict::Undecided | Verdict::Unspecified, _) => ("undecided", Tone::Warning),
        (Verdict::NoWorse, _) => ("no worse", Tone::Plain),
        (Verdict::Better, _) => ("better", Tone::Information),
    };
    vec![
        (format!(" {}", finding.metric), tone),
        (value(finding.stable), tone),
        (value(finding.candidate), tone),
        (change(finding.effect), tone),
        (within, tone),
        (if finding.judged { allowed(finding) } else { missing.to_owned() }, tone),
        (verdict.to_owned(), verdict_tone),
    ]
}

/// The metric's own unit is in its name: times are milliseconds, shares percent.
fn in_unit(metric: &str, value: f64) -> String {
    if metric.starts_with("output_tokens") {
        format!("{value:.0}")
    } else if metric.starts_with("energy_per_token") {
        format!("{:.2} J", value / 1e6)
    } else if ["ttft", "itl", "tpot", "e2e"].iter().any(|timed| metric.starts_with(timed)) {
        if value < 1e7 {
            format!("{} ms", milliseconds(value as u64))
        } else {
            format!("{:.0} s", value / 1e6)
        }
    } else {
        percent(value)
    }
}

fn effect(scale: Scale, value: f64) -> String {
    format!("{} {}", without_unit(scale, value), unit(scale))
}

fn without_unit(scale: Scale, value: f64) -> String {
    match scale {
        Scale::Ratio => format!("{:+.0}", (value - 1.0) * 100.0),
        Scale::Difference | Scale::Unspecified => format!("{:+.1}", value * 100.0),
    }
}

/// Percent, or points of a hundred.
fn unit(scale: Scale) -> &'static str {
    if scale == Scale::Ratio { "%" } else { "pt" }
}

fn allowed(finding: &Finding) -> String {
    // More of a score is better: what is allowed is a fall.
    let sign = if finding.metric == "quality" { -1.0 } else { 1.0 };
    match finding.scale() {
        Scale::Ratio => effect(Scale::Ratio, 1.0 + sign * finding.margin),
        scale => effect(scale, sign * finding.margin),
    }
}

/// The interval of one metric over time.
fn draw_chart(view: &View<'_>, rollout: &Rollout, finding: &Finding, pen: &mut Pen<'_>) {
    if pen.area.height < 3 {
        return;
    }
    let known = rollout.history.iter().filter_map(|assessment| {
        let of = assessment.findings.iter().find(|other| other.metric == finding.metric)?;
        Some(Interval { low: of.low, estimate: of.effect, high: of.high })
    });
    let values: Vec<Interval> = known.collect();
    pen.rule(0, &format!("{}: change, and where it surely lies, over time", finding.metric));
    let Some((low, high)) = scale(&values, finding) else {
        let why =
            if finding.judged { "nothing is known yet" } else { "only what is judged is kept over time" };
        pen.put(1, 1, why, Tone::Quiet);
        return;
    };
    let height = pen.area.height - 1;
    let width = pen.area.width.saturating_sub(AXIS + 1);
    let area = Rect { x: pen.area.x + AXIS, y: pen.area.y + 1, width, height };
    let none = if finding.scale() == Scale::Ratio { 1.0 } else { 0.0 };
    for (value, tone) in [(none, Tone::Quiet), (limit(finding), Tone::Quiet)] {
        let row = 1 + linear_row(value, low, high, height);
        pen.put(AXIS, row, &view.theme.symbols.rule.repeat(width.into()), tone);
        pen.put_right(AXIS - 1, row, &effect(finding.scale(), value), tone);
    }
    for (row, value) in [(1, high), (height, low)] {
        pen.put_right(AXIS - 1, row, &effect(finding.scale(), value), Tone::Quiet);
    }
    intervals(&values, (low, high), pen.style(Tone::Plain), &view.theme.symbols, area, pen.buffer);
}

/// Where the change is no longer allowed.
fn limit(finding: &Finding) -> f64 {
    match finding.scale() {
        Scale::Ratio => 1.0 + finding.margin,
        _ if finding.metric == "quality" => -finding.margin,
        _ => finding.margin,
    }
}

/// What the latest interval needs, with no change and the limit in it.
fn scale(values: &[Interval], finding: &Finding) -> Option<(f64, f64)> {
    let latest = values.last()?;
    let none = if finding.scale() == Scale::Ratio { 1.0 } else { 0.0 };
    let shown = [Some(none), Some(limit(finding)), latest.low, latest.estimate, latest.high];
    let low = shown.iter().flatten().copied().fold(f64::INFINITY, f64::min);
    let high = shown.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let edge = (high - low) * 0.2;
    let (least, most) = if finding.scale() == Scale::Ratio { (0.0, f64::INFINITY) } else { (-1.0, 1.0) };
    (high > low).then_some(((low - edge).max(least), (high + edge).min(most)))
}
