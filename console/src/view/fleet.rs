use llmdeck_proto::v1::{Deployment, Frame};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::format::{age, bytes, milliseconds, model_name, percent, rate, time_of_day, watts};
use super::pen::{Cell, Column, Pen};
use super::{View, WINDOW};
use crate::app::{Health, Hits, Row, deployment_health, deployment_rows, event_rows, node_health, node_rows};
use crate::model::{DeploymentKey, LinkState, Percentiles};
use crate::theme::{Symbols, Tone};
use crate::widget::{bar, sparkline};

/// Wide enough for node, ITL, queue and cost columns.
const WIDE: u16 = 120;
const LEAST_EVENTS: u16 = 3;
/// Least and most room for a node's name.
const NAME_WIDTHS: (u16, u16) = (11, 20);
/// Mark, name and number of GPUs.
const LOST_COLUMNS: usize = 3;

pub(super) fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let filter = view.app.filter.text();
    let deployments = deployment_rows(view.model, filter);
    let nodes = node_rows(view.model, filter);
    let (deployment_lines, node_lines) = share(area.height, deployments.len(), nodes.len());
    let mut pen = Pen { theme: view.theme, area, buffer };
    draw_deployments(view, &deployments, &mut pen.lines(0, deployment_lines), hits);
    draw_nodes(view, &nodes, &mut pen.lines(deployment_lines, node_lines), hits);
    let from = deployment_lines + node_lines;
    draw_events(view, &mut pen.lines(from, area.height - from));
}

/// Lines for deployments and nodes, each with two of titles; events have what is left, and a few in any case.
fn share(height: u16, deployments: usize, nodes: usize) -> (u16, u16) {
    let wanted = |rows: usize| u16::try_from(rows.max(1)).unwrap_or(u16::MAX).saturating_add(2);
    let room = height.saturating_sub(LEAST_EVENTS);
    let nodes = wanted(nodes).min((room / 3).max(3));
    let deployments = wanted(deployments).min(room.saturating_sub(nodes));
    (deployments, nodes)
}

/// The rows that fit, so that the selected one is among them.
fn in_sight<T>(rows: &[T], lines: u16, selected: Option<usize>) -> impl Iterator<Item = (u16, &T)> {
    let lines = usize::from(lines);
    let from = selected.map_or(0, |selected| (selected + 1).saturating_sub(lines));
    (0..).zip(rows.iter().skip(from).take(lines))
}

pub(super) fn mark(health: Health, symbols: &Symbols) -> Cell {
    match health {
        Health::Bad => (format!(" {}", symbols.bad), Tone::Bad),
        Health::Warning => (format!(" {}", symbols.warning), Tone::Warning),
        Health::Well => (format!(" {}", symbols.well), Tone::Quiet),
    }
}

fn draw_deployments(view: &View<'_>, keys: &[DeploymentKey], pen: &mut Pen<'_>, hits: &mut Hits) {
    let wide = pen.area.width >= WIDE;
    let mut columns = vec![
        Column::left("", 3),
        Column::left("NAME", if wide { 20 } else { 12 }),
        Column::left("REV", 8),
        Column::right("REQ/S", 7),
        Column::right("TTFT p50/p99 ms", 17),
        Column::right("TOK/S", 7),
        Column::right("ERR", 7),
        Column::left("QUALITY", 9),
    ];
    if wide {
        columns.extend([
            Column::left("NODE", 14),
            Column::right("ITL p50/p99 ms", 16),
            Column::right("QUEUE", 10),
        ]);
    }
    let used: u16 = columns.iter().map(|column| column.width).sum();
    let room = pen.area.width.saturating_sub(used).min(60);
    pen.rule(0, "Deployments");
    pen.titles(1, &columns);
    if keys.is_empty() {
        let (text, tone) = nothing(view);
        pen.put(3, 2, &text, tone);
    }
    let selected = keys.iter().position(|key| view.app.selected == Some(Row::Deployment(key.clone())));
    let lines = pen.area.height.saturating_sub(2);
    for (line, key) in in_sight(keys, lines, selected) {
        let y = line + 2;
        let cells = deployment_cells(view, key, wide);
        pen.row(y, &columns, &cells);
        if let Some(series) = view.model.series(key) {
            let latencies: Vec<Option<f64>> =
                series.last(room.into()).map(|point| point.ttft().map(|ttft| ttft.p99 as f64)).collect();
            let text = sparkline(&latencies, room.into(), None, &view.theme.symbols);
            pen.put(used, y, &text, Tone::Plain);
        }
        if view.app.selected == Some(Row::Deployment(key.clone())) {
            pen.select(y);
        }
        hits.0.push((Rect { y: pen.area.y + y, height: 1, ..pen.area }, Row::Deployment(key.clone())));
    }
}

/// Why there is no deployment to show.
fn nothing(view: &View<'_>) -> Cell {
    if !view.app.filter.text().is_empty() {
        return ("nothing matches the filter".into(), Tone::Quiet);
    }
    let lost = view.model.nodes.iter().find_map(|node| match &node.link {
        LinkState::Lost { reason } => Some(reason),
        LinkState::Connecting | LinkState::Live => None,
    });
    lost.map_or_else(|| ("none yet".into(), Tone::Quiet), |reason| (reason.clone(), Tone::Bad))
}

fn deployment_cells(view: &View<'_>, key: &DeploymentKey, wide: bool) -> Vec<Cell> {
    let symbols = &view.theme.symbols;
    let missing = || symbols.missing.to_owned();
    let (health, _) = deployment_health(view.model, key);
    let window = view.model.series(key).map(|series| series.window(WINDOW, None)).unwrap_or_default();
    let error_share = window.error_share();
    let deployment = view.model.deployment(key);
    let objective = deployment.and_then(|deployment| deployment.objective_ttft_p99_us);
    let ttft = window.total.ttft_percentiles();
    let slow = ttft.zip(objective).is_some_and(|(ttft, objective)| ttft.p99 > objective);
    let plain = |text: Option<String>| (text.unwrap_or_else(missing), Tone::Plain);
    let mut cells = vec![
        mark(health, symbols),
        (key.name.clone(), Tone::Plain),
        revision_cell(view, key),
        plain(window.requests_per_s().map(rate)),
        (pair(ttft, symbols), if slow { Tone::Warning } else { Tone::Plain }),
        plain(window.tokens_per_s().map(rate)),
        (
            error_share.map_or_else(missing, percent),
            if error_share.is_some_and(|share| share > 0.0) { Tone::Bad } else { Tone::Plain },
        ),
        quality_cell(view, key),
    ];
    if wide {
        let node = view.model.nodes.get(key.node).map_or("", |node| node.name());
        cells.extend([
            (node.to_owned(), Tone::Plain),
            (pair(window.total.itl_percentiles(), symbols), Tone::Plain),
            plain(deployment.map(queue)),
        ]);
    }
    cells
}

/// `3/256`; what has no limit that is known has none.
pub(super) fn queue(deployment: &Deployment) -> String {
    match deployment.queue_limit {
        0 => deployment.queue_depth.to_string(),
        limit => format!("{}/{limit}", deployment.queue_depth),
    }
}

/// `84 / 2310`
pub(super) fn pair(percentiles: Option<Percentiles>, symbols: &Symbols) -> String {
    match percentiles {
        Some(percentiles) => {
            let about = if percentiles.buckets.is_some() { symbols.about } else { "" };
            let (p50, p99) = (milliseconds(percentiles.p50), milliseconds(percentiles.p99));
            format!("{about}{p50} / {:>5}", format!("{about}{p99}"))
        }
        None => symbols.missing.to_owned(),
    }
}

/// The stable revision, and where a rollout leads it.
fn revision_cell(view: &View<'_>, key: &DeploymentKey) -> Cell {
    let symbols = &view.theme.symbols;
    let stable = view.model.deployment(key).map_or(0, |deployment| deployment.stable_revision);
    let stable = if stable == 0 { symbols.missing.to_owned() } else { stable.to_string() };
    match view.model.rollout(key).filter(|rollout| rollout.ended_unix_ms.is_none()) {
        Some(rollout) if rollout.to_revision.to_string() != stable => {
            (format!("{stable} {} {}", symbols.arrow, rollout.to_revision), Tone::Information)
        }
        _ => (stable, Tone::Plain),
    }
}

/// The golden score, with an arrow where another loaded revision's is surely different.
fn quality_cell(view: &View<'_>, key: &DeploymentKey) -> Cell {
    let symbols = &view.theme.symbols;
    let Some(deployment) = view.model.deployment(key) else {
        return (symbols.missing.to_owned(), Tone::Plain);
    };
    let quality = |number: u32| {
        let revision = deployment.revisions.iter().find(|revision| revision.number == number)?;
        revision.quality.filter(|quality| quality.golden_score.is_some())
    };
    let Some(stable) = quality(deployment.stable_revision) else {
        return (symbols.missing.to_owned(), Tone::Plain);
    };
    let score = stable.golden_score.unwrap_or_default();
    let others = deployment.revisions.iter().filter(|revision| revision.number != deployment.stable_revision);
    let other = others.filter_map(|revision| quality(revision.number)).next();
    match other {
        Some(other) if stable.golden_high < other.golden_low => {
            (format!("{score:.2} {}", symbols.down), Tone::Bad)
        }
        Some(other) if stable.golden_low > other.golden_high => {
            (format!("{score:.2} {}", symbols.up), Tone::Plain)
        }
        _ => (format!("{score:.2}"), Tone::Plain),
    }
}

fn draw_nodes(view: &View<'_>, nodes: &[usize], pen: &mut Pen<'_>, hits: &mut Hits) {
    let wide = pen.area.width >= WIDE;
    let names = nodes.iter().filter_map(|node| view.model.nodes.get(*node));
    let longest = names.map(|node| node.name().chars().count() + 1).max().unwrap_or(0);
    let name_width = u16::try_from(longest).unwrap_or(u16::MAX).clamp(NAME_WIDTHS.0, NAME_WIDTHS.1);
    let columns = [
        Column::left("", 3),
        Column::left("NODE", if wide { NAME_WIDTHS.1 } else { name_width }),
        Column::right("GPUS", 5),
        Column::left(" BUSY", if wide { 18 } else { 11 }),
        Column::left("MEMORY", 15),
        Column::right("POWER", 8),
        Column::right("TEMP", 7),
        Column::right("CPU", 6),
    ];
    let used: u16 = columns.iter().map(|column| column.width).sum();
    pen.rule(0, "Nodes");
    pen.titles(1, &columns);
    pen.put(used + 1, 1, "STATE", Tone::Quiet);
    let selected = nodes.iter().position(|node| view.app.selected == Some(Row::Node(*node)));
    let lines = pen.area.height.saturating_sub(2);
    for (line, node) in in_sight(nodes, lines, selected) {
        let y = line + 2;
        let cells = node_cells(view, *node, columns[3].width);
        let (text, tone) = node_state(view, *node);
        // Readings of a node that is lost are old; why it is lost is not.
        let lost =
            view.model.nodes.get(*node).is_some_and(|node| matches!(node.link, LinkState::Lost { .. }));
        let shown = if lost { LOST_COLUMNS } else { columns.len() };
        pen.row(y, &columns[..shown], &cells[..shown]);
        let before: u16 = columns[..shown].iter().map(|column| column.width).sum();
        pen.put(before + 1, y, &text, tone);
        if view.app.selected == Some(Row::Node(*node)) {
            pen.select(y);
        }
        hits.0.push((Rect { y: pen.area.y + y, height: 1, ..pen.area }, Row::Node(*node)));
    }
}

fn node_state(view: &View<'_>, index: usize) -> Cell {
    let Some(node) = view.model.nodes.get(index) else { return (String::new(), Tone::Plain) };
    let (health, text) = node_health(node);
    match (&node.link, health) {
        (LinkState::Lost { reason }, _) => match node.age_ms(view.now_unix_ms) {
            Some(age_ms) => (format!("lost, data {} old: {reason}", age(age_ms)), Tone::Bad),
            None => (reason.clone(), Tone::Bad),
        },
        (LinkState::Connecting, _) => ("connecting".into(), Tone::Warning),
        (LinkState::Live, Health::Bad) => (text.unwrap_or_default(), Tone::Bad),
        (LinkState::Live, Health::Warning) => (text.unwrap_or_default(), Tone::Warning),
        (LinkState::Live, Health::Well) => ("ok".into(), Tone::Quiet),
    }
}

fn node_cells(view: &View<'_>, index: usize, busy_width: u16) -> Vec<Cell> {
    let symbols = &view.theme.symbols;
    let missing = || (symbols.missing.to_owned(), Tone::Plain);
    let Some(node) = view.model.nodes.get(index) else { return Vec::new() };
    let mut cells = vec![mark(node_health(node).0, symbols), (node.name().to_owned(), Tone::Plain)];
    let Some(frame) = &node.frame else {
        cells.extend(std::iter::repeat_with(missing).take(6));
        return cells;
    };
    let plain = |text: Option<String>| text.map_or_else(missing, |text| (text, Tone::Plain));
    let gpus = &frame.gpus;
    let power: Option<u64> =
        gpus.iter().filter_map(|gpu| gpu.power_mw).map(u64::from).reduce(|sum, mw| sum + mw);
    let hottest = gpus.iter().filter_map(|gpu| gpu.temperature_c).max();
    let cpu = frame.host.as_ref().and_then(|host| host.cpu_utilization);
    cells.extend([
        plain((!gpus.is_empty()).then(|| gpus.len().to_string())),
        busy_cell(frame, busy_width, symbols),
        plain(memory(frame)),
        plain(power.map(watts)),
        plain(hottest.map(|celsius| format!("{celsius} °C"))),
        plain(cpu.map(percent)),
    ]);
    cells
}

/// A level for each GPU and their mean; the CPU's where there is no GPU.
fn busy_cell(frame: &Frame, width: u16, symbols: &Symbols) -> Cell {
    let busy: Vec<Option<f64>> = frame.gpus.iter().map(|gpu| gpu.utilization).collect();
    let known: Vec<f64> = busy.iter().flatten().copied().collect();
    if known.is_empty() {
        let cpu = frame.host.as_ref().and_then(|host| host.cpu_utilization);
        let cells = usize::from(width.saturating_sub(4));
        let text = cpu.map_or_else(|| symbols.missing.to_owned(), |cpu| bar(cpu, cells, symbols));
        return (format!(" {text}"), Tone::Plain);
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let levels = sparkline(&busy, busy.len().min(usize::from(width) - 5), Some(1.0), symbols);
    (format!(" {levels} {:.0}", mean * 100.0), Tone::Plain)
}

/// Of the GPUs together, or of the host where there is none.
fn memory(frame: &Frame) -> Option<String> {
    const GIB: u64 = 1 << 30;
    let gpus = frame.gpus.iter().filter_map(|gpu| gpu.memory_used_bytes.zip(gpu.memory_total_bytes));
    let (used, total) = match gpus.reduce(|(used, total), (more, of)| (used + more, total + of)) {
        Some(sums) => sums,
        None => frame.host.as_ref().map(|host| (host.memory_used_bytes, host.memory_total_bytes))?,
    };
    if total >= 10 * GIB {
        let used = used as f64 / GIB as f64;
        let used = if used < 10.0 { format!("{used:.1}") } else { format!("{used:.0}") };
        return Some(format!("{used}/{} GiB", total / GIB));
    }
    Some(format!("{}/{}", bytes(used), bytes(total)))
}

fn draw_events(view: &View<'_>, pen: &mut Pen<'_>) {
    pen.rule(0, "Events");
    let lines = pen.area.height.saturating_sub(1);
    for (y, row) in (1..=lines).zip(event_rows(view.model, view.app.filter.text())) {
        super::events::line(view, row, y, pen);
    }
}

/// `assistant@3  assistant-worse`
pub(super) fn revision_name(deployment: &str, number: u32, model: &str) -> String {
    format!("{deployment}@{number}  {}", model_name(model))
}

/// The time of day of an event.
pub(super) fn event_time(view: &View<'_>, unix_ms: i64) -> String {
    time_of_day(unix_ms, view.zone)
}
