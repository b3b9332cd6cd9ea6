use llmdeck_proto::v1::gpu_driver::State as DriverState;
use llmdeck_proto::v1::{Frame, Gpu, Host};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::fleet::mark;
use super::format::{age, bytes, percent, rate, watts};
use super::model_memory;
use super::pen::{Cell, Column, Pen};
use crate::app::node_health;
use crate::model::{LinkState, NodeModel};
use crate::theme::Tone;
use crate::widget::sparkline;

pub(super) fn draw(view: &View<'_>, index: usize, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let Some(node) = view.model.nodes.get(index) else { return };
    title(view, node, &mut pen);
    let Some(frame) = &node.frame else {
        pen.put(3, 1, &format!("nothing has come from {} yet", node.address), Tone::Quiet);
        return;
    };
    let mut lines = 2;
    if let Some(host) = &frame.host {
        lines += host_lines(view, node, host, &mut pen.lines(lines, area.height - lines));
    }
    let mut below = gpus(view, frame);
    below.extend(model_memory::lines(view, frame));
    draw_lines(view, node, below, &mut pen.lines(lines, area.height.saturating_sub(lines)));
}

fn title(view: &View<'_>, node: &NodeModel, pen: &mut Pen<'_>) {
    let (health, text) = node_health(node);
    let (sign, tone) = mark(health, &view.theme.symbols);
    pen.put(0, 0, &sign, tone);
    let mut x = pen.put(3, 0, node.name(), Tone::Strong);
    x = pen.put(x + 2, 0, &node.address, Tone::Quiet);
    if let Some(frame) = &node.frame {
        x = pen.put(x + 2, 0, &format!("agent {}", frame.agent_version), Tone::Quiet);
    }
    let data_age = match (&node.link, node.age_ms(view.now_unix_ms)) {
        (LinkState::Lost { .. }, Some(age_ms)) => format!("lost, data {} old: ", age(age_ms)),
        _ => String::new(),
    };
    pen.put(x + 2, 0, &format!("{data_age}{}", text.unwrap_or_default()), tone);
}

/// One reading a line, with its past; returns how many lines.
fn host_lines(view: &View<'_>, node: &NodeModel, host: &Host, pen: &mut Pen<'_>) -> u16 {
    const LABEL: u16 = 3;
    const FIGURES: u16 = 13;
    const PAST: u16 = 46;
    let missing = view.theme.symbols.missing;
    let seconds = node.frame.as_ref().map_or(1.0, |frame| f64::from(frame.interval_ms.max(1)) / 1_000.0);
    let per_s = |count: u64| format!("{}/s", bytes((count as f64 / seconds) as u64));
    let cpu_power =
        host.cpu_energy_mj.map(|mj| format!("   {} measured", watts((mj as f64 / seconds) as u64)));
    let cpu = host.cpu_utilization.map_or_else(|| missing.to_owned(), percent);
    let share = |used: u64, total: u64| percent(used as f64 / total.max(1) as f64);
    let readings = [
        (
            "CPU",
            format!(
                "{cpu} of {} cores   load {:.1}{}",
                host.cpu_count,
                host.load_1m,
                cpu_power.unwrap_or_default()
            ),
        ),
        (
            "memory",
            format!(
                "{} of {} ({})",
                bytes(host.memory_used_bytes),
                bytes(host.memory_total_bytes),
                share(host.memory_used_bytes, host.memory_total_bytes)
            ),
        ),
        (
            "disk",
            format!(
                "{} of {} ({})",
                bytes(host.disk_used_bytes),
                bytes(host.disk_total_bytes),
                share(host.disk_used_bytes, host.disk_total_bytes)
            ),
        ),
        (
            "network",
            format!("in {}   out {}", per_s(host.network_received_bytes), per_s(host.network_sent_bytes)),
        ),
        (
            "agent",
            format!(
                "{} of a core   {}   host up {}",
                host.agent_cpu_cores.map_or_else(|| missing.to_owned(), percent),
                bytes(host.agent_memory_bytes),
                age(i64::try_from(host.uptime_s).unwrap_or(i64::MAX / 1_000) * 1_000)
            ),
        ),
    ];
    pen.rule(0, "Host");
    for (y, (label, text)) in (1..).zip(&readings) {
        pen.put(LABEL, y, label, Tone::Quiet);
        pen.put(FIGURES, y, text, Tone::Plain);
    }
    let past = FIGURES + PAST;
    if pen.area.width > past + 10 {
        let room = usize::from(pen.area.width - past - 1).min(120);
        let cpu: Vec<Option<f64>> = node.host.last(room).map(|point| point.cpu).collect();
        let memory: Vec<Option<f64>> = node.host.last(room).map(|point| Some(point.memory)).collect();
        let network: Vec<Option<f64>> =
            node.host.last(room).map(|point| Some(point.received_per_s + point.sent_per_s)).collect();
        let symbols = &view.theme.symbols;
        pen.put(past, 1, &sparkline(&cpu, room, Some(1.0), symbols), Tone::Plain);
        pen.put(past, 2, &sparkline(&memory, room, Some(1.0), symbols), Tone::Plain);
        pen.put(past, 4, &sparkline(&network, room, None, symbols), Tone::Plain);
    }
    u16::try_from(readings.len()).unwrap_or(0) + 2
}

/// A line of what scrolls below the host.
pub(super) enum Line {
    Blank,
    Rule(String),
    Text(Cell),
    Titles(&'static [Column]),
    Row(&'static [Column], Vec<Cell>),
    /// A row with the past of the card of that uuid.
    Gpu(Vec<Cell>, String),
}

const GPU_COLUMNS: [Column; 7] = [
    Column::right("GPU", 6),
    Column::left(" NAME", 21),
    Column::right("BUSY", 7),
    Column::right("MEMORY", 16),
    Column::right("POWER/LIMIT", 15),
    Column::right("TEMP", 7),
    Column::right("SM MHz", 8),
];

fn draw_lines(view: &View<'_>, node: &NodeModel, lines: Vec<Line>, pen: &mut Pen<'_>) {
    let room = usize::from(pen.area.height);
    let from = view.app.scroll.min(lines.len().saturating_sub(room));
    for (y, line) in (0..).zip(lines.into_iter().skip(from).take(room)) {
        match line {
            Line::Blank => {}
            Line::Rule(title) => pen.rule(y, &title),
            Line::Text((text, tone)) => {
                pen.put(7, y, &text, tone);
            }
            Line::Titles(columns) => pen.titles(y, columns),
            Line::Row(columns, cells) => pen.row(y, columns, &cells),
            Line::Gpu(cells, uuid) => {
                pen.row(y, &GPU_COLUMNS, &cells);
                let used: u16 = GPU_COLUMNS.iter().map(|column| column.width).sum();
                let past = usize::from(pen.area.width.saturating_sub(used + 1)).min(120);
                if let Some(series) = node.gpus.get(&uuid).filter(|_| past > 4) {
                    let busy: Vec<Option<f64>> = series.last(past).map(|point| point.utilization).collect();
                    let line = sparkline(&busy, past, Some(1.0), &view.theme.symbols);
                    pen.put(used + 1, y, &line, Tone::Plain);
                }
            }
        }
    }
}

fn gpus(view: &View<'_>, frame: &Frame) -> Vec<Line> {
    let driver = frame.gpu_driver.clone().unwrap_or_default();
    let version = if driver.driver_version.is_empty() {
        String::new()
    } else {
        format!(", driver {}", driver.driver_version)
    };
    let mut lines = vec![Line::Rule(format!("GPUs{version}"))];
    if !driver.detail.is_empty() {
        let tone = if driver.state() == DriverState::Absent { Tone::Quiet } else { Tone::Bad };
        lines.push(Line::Text((driver.detail, tone)));
    }
    if !frame.gpus.is_empty() {
        lines.push(Line::Titles(&GPU_COLUMNS));
    }
    for gpu in &frame.gpus {
        lines.push(Line::Gpu(gpu_cells(view, gpu), gpu.uuid.clone()));
        lines.extend(gpu_details(gpu).into_iter().map(Line::Text));
    }
    lines
}

fn gpu_cells(view: &View<'_>, gpu: &Gpu) -> Vec<Cell> {
    let missing = || view.theme.symbols.missing.to_owned();
    let plain = |text: Option<String>| (text.unwrap_or_else(missing), Tone::Plain);
    let memory = gpu.memory_used_bytes.zip(gpu.memory_total_bytes);
    let power = gpu.power_mw.map(|power| {
        let limit = gpu.power_limit_mw.map_or_else(missing, |limit| watts(limit.into()));
        format!("{}/{limit}", watts(power.into()))
    });
    vec![
        (gpu.index.to_string(), Tone::Plain),
        (format!(" {}", gpu.name.trim_start_matches("NVIDIA ")), Tone::Plain),
        plain(gpu.utilization.map(percent)),
        plain(memory.map(|(used, total)| format!("{}/{}", bytes(used), bytes(total)))),
        plain(power),
        plain(gpu.temperature_c.map(|celsius| format!("{celsius} °C"))),
        plain(gpu.clock_sm_mhz.map(|mhz| mhz.to_string())),
    ]
}

/// What else the card tells, the worst first.
fn gpu_details(gpu: &Gpu) -> Vec<Cell> {
    let mut details = Vec::new();
    if !gpu.lost.is_empty() {
        details.push((gpu.lost.clone(), Tone::Bad));
    }
    details.extend(gpu.throttle_reasons.iter().map(|reason| (reason.clone(), Tone::Warning)));
    let mut errors = Vec::new();
    let mut count = |what: &str, number: Option<u64>| {
        if let Some(number) = number.filter(|number| *number > 0) {
            errors.push(format!("{what} {number}"));
        }
    };
    count("uncorrected ECC", gpu.ecc_uncorrected);
    count("corrected ECC", gpu.ecc_corrected);
    count("retired pages", gpu.retired_pages.map(u64::from));
    count("remapped rows", gpu.remapped_rows.map(u64::from));
    count("PCIe replays", gpu.pcie_replays.map(u64::from));
    count("last Xid", gpu.last_xid);
    count(
        "NVLink errors",
        gpu.nvlinks.iter().filter_map(|link| link.errors).reduce(|sum, errors| sum + errors),
    );
    if !errors.is_empty() {
        let tone = if gpu.ecc_uncorrected.is_some_and(|count| count > 0) { Tone::Bad } else { Tone::Warning };
        details.push((errors.join("   "), tone));
    }
    let mut facts = Vec::new();
    if let Some((received, sent)) = gpu.pcie_received_bytes_per_s.zip(gpu.pcie_sent_bytes_per_s) {
        facts.push(format!("PCIe in {}/s out {}/s", bytes(received), bytes(sent)));
    }
    if !gpu.nvlinks.is_empty() {
        let active = gpu.nvlinks.iter().filter(|link| link.active).count();
        facts.push(format!("NVLink {active} of {} active", gpu.nvlinks.len()));
    }
    if let Some(fan) = gpu.fan {
        facts.push(format!("fan {}", percent(fan)));
    }
    if let Some(mhz) = gpu.clock_memory_mhz {
        facts.push(format!("memory {} MHz", rate(f64::from(mhz))));
    }
    if !facts.is_empty() {
        details.push((facts.join("   "), Tone::Quiet));
    }
    for slice in &gpu.mig_slices {
        let memory = slice.memory_used_bytes.zip(slice.memory_total_bytes);
        let memory = memory.map(|(used, total)| format!("  {} of {}", bytes(used), bytes(total)));
        details.push((
            format!("MIG {}  {}{}", slice.index, slice.name, memory.unwrap_or_default()),
            Tone::Plain,
        ));
    }
    for process in &gpu.processes {
        let memory = process.memory_used_bytes.map(|used| format!("  {}", bytes(used))).unwrap_or_default();
        let busy =
            process.utilization.map(|used| format!("  computes {}", percent(used))).unwrap_or_default();
        details.push((format!("pid {}  {}{memory}{busy}", process.pid, process.name), Tone::Plain));
    }
    details
}
