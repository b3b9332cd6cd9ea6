use llmdeck_proto::v1::JobSummary;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::fleet::event_time;
use super::pen::{Column, Pen};
use crate::app::{Hits, JobKey, Row};
use crate::theme::Tone;

const COLUMNS: [Column; 5] = [
    Column::left(" TIME", 10),
    Column::left("KIND", 12),
    Column::left("SUBJECT", 16),
    Column::left("STATE", 11),
    Column::left("", 200),
];

pub(super) fn draw(view: &View<'_>, area: Rect, buffer: &mut Buffer, hits: &mut Hits) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let rows = view.app.jobs.rows();
    pen.rule(0, &format!("Jobs, newest first ({})", rows.len()));
    if rows.is_empty() {
        pen.put(1, 1, "no job yet; : and bench, evaluate or finetune begins one", Tone::Quiet);
        return;
    }
    pen.titles(1, &COLUMNS);
    let room = usize::from(area.height.saturating_sub(2));
    let chosen = |key: &JobKey| view.app.selected.as_ref() == Some(&Row::Job(key.clone()));
    let selected = rows.iter().position(|(key, _)| chosen(key)).unwrap_or(0);
    let from = (selected + 1).saturating_sub(room);
    for (y, (index, (key, job))) in (2..).zip(rows.iter().enumerate().skip(from).take(room)) {
        let tone = tone_of(job);
        let cells = [
            (format!(" {}", event_time(view, job.created_unix_ms)), Tone::Quiet),
            (job.kind.clone(), Tone::Plain),
            (subject(view, key, job), Tone::Plain),
            (job.state.clone(), tone),
            (job.detail.clone(), Tone::Plain),
        ];
        pen.row(y, &COLUMNS, &cells);
        if index == selected {
            pen.select(y);
        }
        hits.0.push((Rect { y: area.y + y, height: 1, ..area }, Row::Job(key.clone())));
    }
}

/// What it is about, with the node where there are several.
pub(super) fn subject(view: &View<'_>, key: &JobKey, job: &JobSummary) -> String {
    let node = view.model.nodes.get(key.node).map_or("", |node| node.name());
    match job.kind.as_str() {
        "bench-node" => node.to_owned(),
        _ if view.model.nodes.len() > 1 => format!("{} on {node}", job.subject),
        _ => job.subject.clone(),
    }
}

pub(super) fn tone_of(job: &JobSummary) -> Tone {
    match job.state.as_str() {
        "failed" => Tone::Bad,
        "cancelled" | "paused" => Tone::Warning,
        "running" => Tone::Information,
        _ => Tone::Plain,
    }
}
