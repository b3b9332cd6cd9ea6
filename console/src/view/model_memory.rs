//! Who holds the node's memory for models.

use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::{Deployment, Frame, ModelOnGpu, Revision};

use super::View;
use super::deployment::state_word;
use super::format::{bytes, percent};
use super::node::Line;
use super::pen::{Cell, Column};
use crate::theme::Tone;

const COLUMNS: [Column; 7] = [
    Column::left("   REVISION", 15),
    Column::left("STATE", 10),
    Column::right("HOLDS", 9),
    Column::right("WEIGHTS", 9),
    Column::right("CACHE (IN USE)", 17),
    Column::right("SCRATCH", 9),
    Column::right("GUARANTEED", 11),
];

const GPU_COLUMNS: [Column; 5] = [
    Column::left("   REVISION", 15),
    Column::left("GPU", 10),
    Column::right("HOLDS", 9),
    Column::right("WEIGHTS", 9),
    Column::right("CACHE (IN USE)", 17),
];

/// A line for each holder, the largest first; of the host's memory, and of its GPUs' where a model computes there.
pub(super) fn lines(view: &View<'_>, frame: &Frame) -> Vec<Line> {
    let mut holders: Vec<(&Deployment, &Revision)> = frame
        .deployments
        .iter()
        .flat_map(|deployment| deployment.revisions.iter().map(move |revision| (deployment, revision)))
        .filter(|(_, revision)| revision.host_memory_bytes() > 0 || revision.state() == State::Unloaded)
        .collect();
    if holders.is_empty() {
        return Vec::new();
    }
    holders.sort_by_key(|(_, revision)| std::cmp::Reverse(revision.host_memory_bytes()));
    let total: u64 = holders.iter().map(|(_, revision)| revision.host_memory_bytes()).sum();
    let budget = frame.model_memory_bytes;
    let of = if budget > 0 {
        format!(" of {} ({})", bytes(budget), percent(total as f64 / budget as f64))
    } else {
        String::new()
    };
    let mut lines = vec![
        Line::Blank,
        Line::Rule(format!("Memory of models: {}{of}", bytes(total))),
        Line::Titles(&COLUMNS),
    ];
    let rows = holders.iter().map(|(deployment, revision)| cells(view, deployment, revision));
    lines.extend(rows.map(|cells| Line::Row(&COLUMNS, cells)));
    lines.extend(gpu_lines(&holders));
    lines
}

fn gpu_lines(holders: &[(&Deployment, &Revision)]) -> Vec<Line> {
    let mut rows: Vec<(u64, Vec<Cell>)> = holders
        .iter()
        .filter_map(|(deployment, revision)| {
            let cells = gpu_cells(deployment, revision, revision.on_gpu.as_ref()?);
            Some((revision.gpu_memory_bytes(), cells))
        })
        .collect();
    if rows.is_empty() {
        return Vec::new();
    }
    rows.sort_by_key(|(held, _)| std::cmp::Reverse(*held));
    let total: u64 = rows.iter().map(|(held, _)| held).sum();
    let title = format!("Memory of models on GPUs: {}", bytes(total));
    let mut lines = vec![Line::Blank, Line::Rule(title), Line::Titles(&GPU_COLUMNS)];
    lines.extend(rows.into_iter().map(|(_, cells)| Line::Row(&GPU_COLUMNS, cells)));
    lines
}

fn gpu_cells(deployment: &Deployment, revision: &Revision, gpu: &ModelOnGpu) -> Vec<Cell> {
    let plain = |text: String| (text, Tone::Plain);
    vec![
        plain(format!("   {}@{}", deployment.name, revision.number)),
        plain(gpu.device.clone()),
        plain(bytes(revision.gpu_memory_bytes())),
        plain(bytes(gpu.weights_bytes)),
        plain(cache_in_use(revision)),
    ]
}

fn cache_in_use(revision: &Revision) -> String {
    let used = revision.kv_used_bytes as f64 / revision.kv_total_bytes.max(1) as f64;
    format!("{} ({})", bytes(revision.kv_total_bytes), percent(used))
}

fn cells(view: &View<'_>, deployment: &Deployment, revision: &Revision) -> Vec<Cell> {
    let missing = || view.theme.symbols.missing.to_owned();
    let plain = |text: String| (text, Tone::Plain);
    let cache = if revision.on_gpu.is_none() { cache_in_use(revision) } else { missing() };
    let guaranteed = deployment.guaranteed_bytes;
    vec![
        plain(format!("   {}@{}", deployment.name, revision.number)),
        plain(state_word(revision.state()).to_owned()),
        plain(bytes(revision.host_memory_bytes())),
        plain(bytes(revision.resident_weights_bytes)),
        plain(cache),
        plain(bytes(revision.scratch_bytes)),
        plain(if guaranteed > 0 { bytes(guaranteed) } else { missing() }),
    ]
}
