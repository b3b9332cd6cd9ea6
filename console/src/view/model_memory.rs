//! Who holds the node's memory for models.

use llmdeck_proto::v1::revision::State;
use llmdeck_proto::v1::{Deployment, Frame, Revision};

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

/// A line for each holder, the largest first.
pub(super) fn lines(view: &View<'_>, frame: &Frame) -> Vec<Line> {
    let mut holders: Vec<(&Deployment, &Revision)> = frame
        .deployments
        .iter()
        .flat_map(|deployment| deployment.revisions.iter().map(move |revision| (deployment, revision)))
        .filter(|(_, revision)| held(revision) > 0 || revision.state() == State::Unloaded)
        .collect();
    if holders.is_empty() {
        return Vec::new();
    }
    holders.sort_by_key(|(_, revision)| std::cmp::Reverse(held(revision)));
    let total: u64 = holders.iter().map(|(_, revision)| held(revision)).sum();
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
    let rows = holders.into_iter().map(|(deployment, revision)| cells(view, deployment, revision));
    lines.extend(rows.map(|cells| Line::Row(&COLUMNS, cells)));
    lines
}

fn held(revision: &Revision) -> u64 {
    revision.resident_weights_bytes + revision.kv_total_bytes + revision.scratch_bytes
}

fn cells(view: &View<'_>, deployment: &Deployment, revision: &Revision) -> Vec<Cell> {
    let missing = || view.theme.symbols.missing.to_owned();
    let plain = |text: String| (text, Tone::Plain);
    let used = revision.kv_used_bytes as f64 / revision.kv_total_bytes.max(1) as f64;
    let guaranteed = deployment.guaranteed_bytes;
    vec![
        plain(format!("   {}@{}", deployment.name, revision.number)),
        plain(state_word(revision.state()).to_owned()),
        plain(bytes(held(revision))),
        plain(bytes(revision.resident_weights_bytes)),
        plain(format!("{} ({})", bytes(revision.kv_total_bytes), percent(used))),
        plain(bytes(revision.scratch_bytes)),
        plain(if guaranteed > 0 { bytes(guaranteed) } else { missing() }),
    ]
}
