use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::{Deployment, Revision};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::dialog::progress_line;
use super::fleet::{mark, pair, queue};
use super::format::{bytes, milliseconds, percent, rate, revision_name};
use super::pen::{Cell, Column, Pen, width};
use super::{View, WINDOW};
use crate::app::{Health, deployment_health};
use crate::model::{
    Bucket, DeploymentKey, DeploymentPoint, Percentiles, RevisionPoint, SMOOTHED, Series, Window,
};
use crate::theme::Tone;
use crate::widget::{Line, heatmap, log_rows, plot, sparkline};

/// Chart and heatmap stand side by side from here on.
const WIDE: u16 = 120;
/// For the figures left of a chart.
const AXIS: u16 = 8;
const LEAST_SCALE_US: f64 = 100.0;
/// What fits into a line of any terminal.
const LONGEST_LINE: u16 = 80;
/// Of why nothing is served.
const MOST_REASON_LINES: usize = 6;

pub(super) fn draw(view: &View<'_>, key: &DeploymentKey, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let Some(deployment) = view.model.deployment(key) else {
        pen.put(1, 0, &format!("{}: nothing is known of it yet", key.name), Tone::Quiet);
        return;
    };
    summary(view, key, deployment, &mut pen.lines(0, 3));
    let top = 3 + put_reason(view, key, deployment, &mut pen);
    let revisions = u16::try_from(deployment.revisions.len()).unwrap_or(1).clamp(1, 5) + 2;
    let charts = area.height.saturating_sub(top + revisions);
    if let Some(series) = view.model.series(key) {
        let mut pen = pen.lines(top, charts);
        if area.width >= WIDE {
            let half = area.width / 2;
            percentiles(view, deployment, series, &mut pen.columns(0, half));
            latency(view, series, &mut pen.columns(half, area.width - half));
        } else {
            let above = charts / 2 + charts % 2;
            percentiles(view, deployment, series, &mut pen.lines(0, above));
            latency(view, series, &mut pen.lines(above, charts - above));
        }
    }
    table(view, key, deployment, &mut pen.lines(top + charts, revisions));
}

/// What is served, if anything.
fn stable(deployment: &Deployment) -> Option<&Revision> {
    deployment.revisions.iter().find(|revision| revision.number == deployment.stable_revision)
}

/// Why nothing is served, where that is too long to stand beside the name.
fn long_reason<'a>(key: &DeploymentKey, deployment: &'a Deployment) -> Option<&'a str> {
    let reason = deployment.unavailable.as_str();
    let long = width(&format!("   {}  {reason}", key.name)) > LONGEST_LINE;
    (stable(deployment).is_none() && long).then_some(reason)
}

/// That reason, in full; the lines that it takes.
fn put_reason(view: &View<'_>, key: &DeploymentKey, deployment: &Deployment, pen: &mut Pen<'_>) -> u16 {
    let Some(reason) = long_reason(key, deployment) else { return 0 };
    let tone = mark(deployment_health(view.model, key).0, &view.theme.symbols).1;
    pen.put_wrapped(3, 3, MOST_REASON_LINES, reason, tone)
}

fn summary(view: &View<'_>, key: &DeploymentKey, deployment: &Deployment, pen: &mut Pen<'_>) {
    let symbols = &view.theme.symbols;
    let (health, alert) = deployment_health(view.model, key);
    let (sign, tone) = mark(health, symbols);
    pen.put(0, 0, &sign, tone);
    let mut x = pen.put(3, 0, &key.name, Tone::Strong);
    let stable = stable(deployment);
    let what = match stable {
        Some(revision) if view.model.is_without_agent(key.node) => {
            let kind = revision.server.as_ref().map_or("a server", |server| server.kind.as_str());
            format!("  {kind} without an agent, by its own metrics")
        }
        Some(revision) => format!("@{}  {}", revision.number, revision_name(revision)),
        None if long_reason(key, deployment).is_some() => "  cannot serve".to_owned(),
        None => format!("  {}", deployment.unavailable),
    };
    x = pen.put(x, 0, &what, Tone::Plain);
    // Why it does not serve is said already.
    let told = |alert: &String| stable.is_none() && alert.contains(&deployment.unavailable);
    if let Some(alert) = alert.filter(|alert| !told(alert)) {
        pen.put(x + 2, 0, &alert, if health == Health::Bad { Tone::Bad } else { Tone::Warning });
    }
    let window = view.model.series(key).map(|series| series.window(WINDOW, None)).unwrap_or_default();
    pen.put(3, 1, &figures(view, deployment, &window), Tone::Plain);
    trends(view, key, pen);
    if let Some(rollout) = view.model.rollout(key) {
        let (text, tone) = progress_line(view, rollout);
        pen.put(
            3,
            2,
            &text,
            if rollout.ended_unix_ms.is_some() && tone == Tone::Information { Tone::Quiet } else { tone },
        );
    } else {
        pen.put(3, 2, &latencies(view, &window), Tone::Plain);
    }
}

/// The latencies that have no chart, where no rollout takes their line.
fn latencies(view: &View<'_>, window: &Window) -> String {
    let total = &window.total;
    let symbols = &view.theme.symbols;
    let named = [
        ("ITL", total.itl_percentiles()),
        ("E2E", total.e2e_percentiles()),
        ("queue", total.queue_percentiles()),
    ];
    let known = named.into_iter().filter(|(_, percentiles)| percentiles.is_some());
    let mut parts: Vec<String> =
        known.map(|(name, percentiles)| format!("{name} {}", pair(percentiles, symbols))).collect();
    if !parts.is_empty() {
        parts[0] = format!("p50/p99 ms: {}", parts[0]);
    }
    parts.extend(
        window
            .tokens_in_per_s()
            .filter(|rate| *rate > 0.0)
            .map(|tokens| format!("{} tok/s in", rate(tokens))),
    );
    parts.join("   ")
}

/// Wide screens have room for what moved: tokens and failures a second, and the score of what served.
fn trends(view: &View<'_>, key: &DeploymentKey, pen: &mut Pen<'_>) {
    const ROOM: usize = 40;
    const LABEL: u16 = 10;
    let width = ROOM as u16 + LABEL + 1;
    let Some(series) = view.model.series(key).filter(|_| pen.area.width >= WIDE + 40) else { return };
    let per_s = |of: fn(&RevisionPoint) -> u64| -> Vec<Option<f64>> {
        let rate = |point: &DeploymentPoint| {
            let count: u64 = point.revisions.iter().map(of).sum();
            count as f64 * 1_000.0 / f64::from(point.interval_ms.max(1))
        };
        series.last(ROOM).map(|point| Some(rate(point))).collect()
    };
    let lines = [
        ("tok/s", per_s(|revision| revision.tokens_out), None),
        ("failed/s", per_s(|revision| revision.failed), None),
        ("quality", series.last(ROOM).map(|point| point.golden_score).collect(), Some(1.0)),
    ];
    let x = pen.area.width - width;
    for (y, (label, values, most)) in (0..).zip(&lines) {
        pen.put(x, y, label, Tone::Quiet);
        pen.put(x + LABEL, y, &sparkline(values, ROOM, *most, &view.theme.symbols), Tone::Plain);
    }
}

fn figures(view: &View<'_>, deployment: &Deployment, window: &Window) -> String {
    let missing = view.theme.symbols.missing;
    let figure = |value: Option<String>| value.unwrap_or_else(|| missing.to_owned());
    let in_flight: u32 = deployment.revisions.iter().map(|revision| revision.in_flight).sum();
    let mut parts = vec![
        format!("{} req/s", figure(window.requests_per_s().map(rate))),
        format!("{} tok/s", figure(window.tokens_per_s().map(rate))),
        format!("{} errors", figure(window.error_share().map(percent))),
        format!("{in_flight} running"),
        format!("{} queued", queue(deployment)),
    ];
    let servers = deployment.revisions.iter().filter_map(|revision| revision.server.as_ref());
    // What waits with a server behind an agent is in no queue of the agent's.
    for server in servers.filter(|_| deployment.queue_limit > 0) {
        if let (Some(running), Some(waiting)) = (server.running, server.waiting) {
            parts.push(format!("{}: {running} running, {waiting} waiting", server.kind));
        }
    }
    if deployment.rejected_total > 0 {
        parts.push(format!("{} turned away", deployment.rejected_total));
    }
    if let Some(joules) = window.joules_per_token() {
        parts.push(format!("{joules:.2} J/token"));
    }
    if let Some(cost) = window.cost_per_million_tokens() {
        parts.push(format!("{cost:.2} {}/Mtoken", deployment.currency));
    }
    if let Some(us) = window.constraint_us_per_token() {
        parts.push(format!("format {us:.0} us/token"));
    }
    if let Some(logprob) = window.mean_logprob() {
        parts.push(format!("logprob {logprob:.2}"));
    }
    parts.join("   ")
}

/// How much of a cache is used: bytes of ours, a share of another server's.
fn cache(revision: &Revision) -> String {
    let share = revision.server.as_ref().and_then(|server| server.kv_used_share);
    share.map_or_else(|| bytes(revision.kv_used_bytes), percent)
}

/// What is surely known of percentiles that another server counted in buckets.
fn buckets(percentiles: Percentiles) -> Option<String> {
    let text = |Bucket { low, high }: Bucket| match high {
        Some(high) => format!("{}-{}", milliseconds(low), milliseconds(high)),
        None => format!("above {}", milliseconds(low)),
    };
    Some(format!("TTFT p50 p95 p99, ms, in {}", percentiles.buckets?.map(text).join(", ")))
}

/// From a little below the least p50 to a little above the greatest p99 and the objective.
fn scale(points: &[&DeploymentPoint], objective: Option<u64>) -> Option<(f64, f64)> {
    let known = || points.iter().filter_map(|point| point.ttft());
    let low = known().map(|ttft| ttft.p50).min()? as f64;
    let high = known().map(|ttft| ttft.p99).chain(objective).max()? as f64;
    Some(((low * 0.8).max(LEAST_SCALE_US), (high * 1.2).max(LEAST_SCALE_US * 2.0)))
}

fn percentiles(
    view: &View<'_>,
    deployment: &Deployment,
    series: &Series<DeploymentPoint>,
    pen: &mut Pen<'_>,
) {
    let newest = series.last(SMOOTHED).rev().find_map(DeploymentPoint::ttft);
    let exact = || format!("TTFT p50 p95 p99 over {SMOOTHED} intervals, ms");
    pen.rule(0, &newest.and_then(buckets).unwrap_or_else(exact));
    let height = pen.area.height.saturating_sub(2);
    let width = pen.area.width.saturating_sub(AXIS + 1);
    let points: Vec<&DeploymentPoint> = series.last(width.into()).collect();
    let Some((low, high)) = scale(&points, deployment.objective_ttft_p99_us).filter(|_| height > 1) else {
        pen.put(1, 1, "no request yet", Tone::Quiet);
        return;
    };
    let area = Rect { x: pen.area.x + AXIS, y: pen.area.y + 1, width, height };
    if let Some(objective) = deployment.objective_ttft_p99_us {
        let y = 1 + log_rows(objective as f64, low, high, height);
        let rule = view.theme.symbols.rule.repeat(width.into());
        pen.put(AXIS, y, &rule, Tone::Quiet);
    }
    let line = |of: fn(&Percentiles) -> u64, symbol| Line {
        values: points.iter().map(|point| point.ttft().map(|ttft| of(&ttft) as f64)).collect(),
        symbol,
    };
    let lines = [line(|ttft| ttft.p50, 0), line(|ttft| ttft.p95, 1), line(|ttft| ttft.p99, 2)];
    plot(&lines, low, high, pen.style(Tone::Plain), &view.theme.symbols, area, pen.buffer);
    pen.put_right(AXIS - 1, 1, &milliseconds(high as u64), Tone::Quiet);
    pen.put_right(AXIS - 1, height, &milliseconds(low as u64), Tone::Quiet);
    if let Some(last) = points.iter().rev().find_map(|point| point.ttft()) {
        let mut taken = 0;
        for (name, value) in [("p99", last.p99), ("p50", last.p50)] {
            let y = 1 + log_rows(value as f64, low, high, height);
            // Where both are on one row, the worse is said.
            if (2..height).contains(&y) && y != taken {
                pen.put_right(AXIS - 1, y, &format!("{name} {}", milliseconds(value)), Tone::Plain);
                taken = y;
            }
        }
    }
    time_axis(view, &points, height + 1, pen);
}

/// A tick wherever another revision became stable, with its number, or none did.
fn time_axis(view: &View<'_>, points: &[&DeploymentPoint], y: u16, pen: &mut Pen<'_>) {
    let start = pen.area.width.saturating_sub(1 + u16::try_from(points.len()).unwrap_or(0));
    pen.put(AXIS, y, &view.theme.symbols.rule.repeat((pen.area.width - AXIS - 1).into()), Tone::Quiet);
    for (column, pair) in (start + 1..).zip(points.windows(2)) {
        if pair[0].stable_revision != pair[1].stable_revision {
            let symbols = &view.theme.symbols;
            let revision = match pair[1].stable_revision {
                0 => format!("{}{}", symbols.side, symbols.missing),
                number => format!("{}@{number}", symbols.side),
            };
            pen.put(column, y, &revision, Tone::Information);
        }
    }
}

fn latency(view: &View<'_>, series: &Series<DeploymentPoint>, pen: &mut Pen<'_>) {
    let coarse = series.newest().is_some_and(|point| point.revisions.iter().any(|one| one.coarse.is_some()));
    pen.rule(0, if coarse { "TTFT by the server's buckets, ms" } else { "TTFT of each request, ms" });
    let height = pen.area.height.saturating_sub(1);
    let width = pen.area.width.saturating_sub(AXIS + 1);
    let points: Vec<&DeploymentPoint> = series.last(width.into()).collect();
    let values = || points.iter().flat_map(|point| &point.revisions).flat_map(RevisionPoint::ttft_spread);
    let (least, most) = values()
        .fold((f64::INFINITY, 0.0f64), |(least, most), (value, _)| (least.min(value), most.max(value)));
    if most == 0.0 {
        return;
    }
    if height < 2 {
        return;
    }
    let (low, high) = ((least * 0.9).max(LEAST_SCALE_US), (most * 1.1).max(LEAST_SCALE_US * 2.0));
    let area = Rect { x: pen.area.x + AXIS, y: pen.area.y + 1, width, height };
    let columns = points.iter().map(|point| point.revisions.iter().flat_map(RevisionPoint::ttft_spread));
    heatmap(columns, (low, high), pen.style(Tone::Plain), &view.theme.symbols, area, pen.buffer);
    pen.put_right(AXIS - 1, 1, &milliseconds(high as u64), Tone::Quiet);
    pen.put_right(AXIS - 1, height, &milliseconds(low as u64), Tone::Quiet);
}

fn table(view: &View<'_>, key: &DeploymentKey, deployment: &Deployment, pen: &mut Pen<'_>) {
    let wide = pen.area.width >= WIDE;
    let mut columns = vec![
        Column::left(" REV", 5),
        Column::left("MODEL", if wide { 30 } else { 13 }),
        Column::left("STATE", 11),
        Column::right("REQ/S", 7),
        Column::right("TTFT p50/p99 ms", 17),
        Column::right("TOK/S", 7),
        Column::right("ERR", 6),
        Column::left("  QUALITY", if wide { 26 } else { 14 }),
    ];
    if wide {
        columns.extend([
            Column::right("ITL p50/p99 ms", 16),
            Column::right("RUNNING", 9),
            Column::right("BATCH", 7),
            Column::right("CACHE", 10),
            Column::right("PREFIX", 8),
            Column::right("GUESSES", 9),
            Column::right("PUT OFF", 9),
            Column::right("WEIGHTS", 10),
            Column::right("J/TOKEN", 9),
        ]);
    }
    pen.rule(0, "Revisions");
    pen.titles(1, &columns);
    for (y, revision) in (2..pen.area.height).zip(&deployment.revisions) {
        let cells = revision_cells(view, key, revision, wide);
        pen.row(y, &columns, &cells);
    }
}

fn revision_cells(view: &View<'_>, key: &DeploymentKey, revision: &Revision, wide: bool) -> Vec<Cell> {
    let symbols = &view.theme.symbols;
    let missing = || symbols.missing.to_owned();
    let number = Some(revision.number);
    let window = view.model.series(key).map(|series| series.window(WINDOW, number)).unwrap_or_default();
    let share = revision.traffic_share;
    let state = match revision.state() {
        State::Serving if share > 0.0 && share < 1.0 => percent(share),
        state => state_word(state).to_owned(),
    };
    let errors = window.error_share();
    let mut cells = vec![
        (format!(" {}", revision.number), Tone::Plain),
        (revision_name(revision), Tone::Plain),
        (state, if revision.state() == State::Failed { Tone::Bad } else { Tone::Plain }),
        (window.requests_per_s().map_or_else(missing, rate), Tone::Plain),
        (pair(window.total.ttft_percentiles(), symbols), Tone::Plain),
        (window.tokens_per_s().map_or_else(missing, rate), Tone::Plain),
        (
            errors.map_or_else(missing, percent),
            if errors.is_some_and(|share| share > 0.0) { Tone::Bad } else { Tone::Plain },
        ),
        (quality(view, revision, &window, wide), Tone::Plain),
    ];
    if wide {
        cells.extend([
            (pair(window.total.itl_percentiles(), symbols), Tone::Plain),
            (revision.in_flight.to_string(), Tone::Plain),
            (revision.batch_size.to_string(), Tone::Plain),
            (cache(revision), Tone::Plain),
            (window.remembered_share().map_or_else(missing, percent), Tone::Plain),
            (window.guessed_right_share().map_or_else(missing, percent), Tone::Plain),
            (window.total.preemptions.to_string(), Tone::Plain),
            (bytes(revision.weights_bytes), Tone::Plain),
            (window.joules_per_token().map_or_else(missing, |joules| format!("{joules:.2}")), Tone::Plain),
        ]);
    }
    cells
}

/// The golden score with its interval; wide screens add the share of answers that were flawed.
fn quality(view: &View<'_>, revision: &Revision, window: &Window, wide: bool) -> String {
    let quality = revision.quality.unwrap_or_default();
    let golden = quality.golden_score.zip(quality.golden_low).zip(quality.golden_high);
    let flawed = window.flawed_share().filter(|_| wide).map(|flawed| format!("  {} flawed", percent(flawed)));
    let flawed = flawed.unwrap_or_default();
    let Some(((score, low), high)) = golden else {
        return format!("  {}{flawed}", view.theme.symbols.missing);
    };
    let text = format!("  {score:.2} {low:.2}-{high:.2}").replace("0.", ".").replace("1.00", "1.0");
    text + &flawed
}

pub(crate) fn state_word(state: State) -> &'static str {
    match state {
        State::Unspecified => "",
        State::Loading => "loading",
        State::Warming => "warming up",
        State::Evaluating => "scoring",
        State::Serving => "serving",
        State::Draining => "draining",
        State::Standby => "standby",
        State::Stopped => "stopped",
        State::Failed => "failed",
        State::Unloaded => "unloaded",
        State::Shadow => "shadow",
    }
}
