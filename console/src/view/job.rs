//! One job: how far it is, what it sees while it runs, and what it came to.

use llmdeck_proto::v1::{BenchPoint, JobReport, TrainingPoint};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::View;
use super::format::{age, percent};
use super::jobs::{subject, tone_of};
use super::pen::{Pen, width};
use crate::app::{JobKey, JobResult, OpenJob};
use crate::report::{
    LATENCY_TITLES, NodeTables, SCORE_TITLES, Table, check_rows, figures, latency_rows, score_rows,
};
use crate::theme::Tone;
use crate::widget::sparkline;

/// Columns of the progress bar.
const BAR: usize = 30;
const LABEL: u16 = 3;
const TEXT: u16 = 20;
const MOST_PAST: usize = 120;
const MILLIJOULES_PER_WH: f64 = 3.6e6;

type OfPoint = fn(&TrainingPoint) -> Option<f64>;
/// What is asked now and then, from 0 to 1.
const SCORES: [(&str, OfPoint); 2] =
    [("answered", |point| point.held_out_score), ("suite", |point| point.suite_score)];

/// A line of what scrolls.
enum Line {
    Blank,
    Rule(String),
    Figure(String, String),
    Past(&'static str, Vec<Option<f64>>, String),
    /// From the beginning on, however long that is; with what a full column stands for, where that is not the highest.
    Curve(&'static str, Vec<Option<f64>>, String, Option<f64>),
    Cells(Vec<(u16, String)>, Tone),
    Text(String, Tone),
}

pub(super) fn draw(view: &View<'_>, key: &JobKey, area: Rect, buffer: &mut Buffer) {
    let mut pen = Pen { theme: view.theme, area, buffer };
    let Some(open) = view.app.jobs.open.as_ref().filter(|open| open.key == *key) else { return };
    head(view, open, &mut pen);
    let lines: Vec<Line> = why(open, area.width).into_iter().chain(lines(open)).collect();
    let room = usize::from(area.height.saturating_sub(3));
    let from = view.app.scroll.min(lines.len().saturating_sub(room));
    for (y, line) in (3..).zip(lines.into_iter().skip(from).take(room)) {
        draw_line(view, &line, y, &mut pen);
    }
}

fn head(view: &View<'_>, open: &OpenJob, pen: &mut Pen<'_>) {
    let Some(job) = &open.report.job else {
        let text = open.error.as_deref().unwrap_or("asking the agent");
        pen.put(1, 0, text, if open.error.is_some() { Tone::Bad } else { Tone::Quiet });
        return;
    };
    let mut x = pen.put(1, 0, &job.kind, Tone::Strong);
    x = pen.put(x + 2, 0, &subject(view, &open.key, job), Tone::Strong);
    x = pen.put(x + 2, 0, &job.state, tone_of(job));
    let since = match open.report.ended_unix_ms {
        Some(ended) => format!("took {}", age(ended - job.created_unix_ms)),
        None => format!("for {}", age(view.now_unix_ms - job.created_unix_ms)),
    };
    pen.put(x + 2, 0, &since, Tone::Quiet);
    let mut x = 1;
    if let Some(share) = open.report.progress.filter(|_| open.report.ended_unix_ms.is_none()) {
        let symbols = &view.theme.symbols;
        let full = (share * BAR as f64).round() as usize;
        let whole = symbols.levels.last().copied().unwrap_or_default();
        x = pen.put(x, 1, &whole.repeat(full.min(BAR)), Tone::Plain);
        x = pen.put(x, 1, &symbols.rule.repeat(BAR - full.min(BAR)), Tone::Quiet);
        x = pen.put(x + 1, 1, &percent(share), Tone::Plain) + 2;
    }
    match &open.error {
        Some(error) => pen.put(x, 1, error, Tone::Bad),
        None => pen.put(x, 1, &job.detail, Tone::Plain),
    };
}

/// How it ended, whole, where the head has no room for it: the remedy comes last.
fn why(open: &OpenJob, columns: u16) -> Vec<Line> {
    let room = usize::from(columns.saturating_sub(2 * LABEL));
    let Some(job) = open.report.job.as_ref().filter(|job| job.state == "failed") else { return Vec::new() };
    if job.detail.chars().count() <= room {
        return Vec::new();
    }
    let mut lines = vec![String::new()];
    for word in job.detail.split(' ') {
        let last = lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= room);
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line = format!("{line} {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    let text = lines.into_iter().map(|line| Line::Text(line, Tone::Bad));
    std::iter::once(Line::Rule("Why it failed".into())).chain(text).chain([Line::Blank]).collect()
}

fn lines(open: &OpenJob) -> Vec<Line> {
    let mut lines = past(&open.report.points);
    lines.extend(training(&open.report));
    match &open.result {
        JobResult::None => {}
        JobResult::Bench(outcome) => {
            lines.push(Line::Rule("Outcome, with 95 % intervals".into()));
            lines.extend(figures(outcome).into_iter().map(|(label, text)| Line::Figure(label.into(), text)));
            lines.push(Line::Blank);
            lines.extend(table(&LATENCY_TITLES, &latency_rows(outcome)));
            if outcome.generator.may_limit {
                let text = "the generator, not the server, may be what these figures show: lower the rate";
                lines.push(Line::Text(text.into(), Tone::Warning));
            }
        }
        JobResult::Node(report) => {
            let NodeTables { limits, models } = NodeTables::of(report);
            lines.push(Line::Rule("What the node can do".into()));
            lines.extend(limits.into_iter().map(|(label, text)| Line::Figure(label.into(), text)));
            for Table { title, columns, rows } in models {
                lines.extend([Line::Blank, Line::Rule(title)]);
                lines.extend(table(&columns, &rows));
            }
        }
        JobResult::Finetune(report) => {
            lines.push(Line::Rule("Scores, the same prompts before and after".into()));
            lines.extend(table(&SCORE_TITLES, &score_rows(report)));
            lines.extend([Line::Blank, Line::Rule("The data".into())]);
            for (row, is_bad) in check_rows(report) {
                lines.push(Line::Text(row, if is_bad { Tone::Warning } else { Tone::Plain }));
            }
            lines.push(Line::Blank);
        }
        JobResult::Unreadable(why) => {
            let text = format!("the report cannot be read ({why}); is the agent newer than this console?");
            lines.push(Line::Text(text, Tone::Bad));
        }
    }
    if !open.report.log.is_empty() {
        lines.push(Line::Rule("Log, newest first".into()));
        lines.extend(open.report.log.iter().rev().map(|line| Line::Text(line.clone(), Tone::Quiet)));
    }
    lines
}

/// How a training goes: its losses from the first step on, and how long it may still take.
fn training(report: &JobReport) -> Vec<Line> {
    let points = &report.training;
    let Some(last) = points.last() else { return Vec::new() };
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
    let series = |of: fn(&TrainingPoint) -> Option<f64>| -> (Vec<Option<f64>>, String) {
        let values: Vec<Option<f64>> = points.iter().map(of).collect();
        let last = values.iter().rev().find_map(|value| *value);
        (values, number(last))
    };
    let curve = |label, of, top| {
        let (values, last) = series(of);
        Line::Curve(label, values, last, top)
    };
    let is_known = |of: fn(&TrainingPoint) -> Option<f64>| points.iter().any(|point| of(point).is_some());
    let before = |index: usize| {
        if index == 0 { (0.0, 0) } else { (points[index - 1].elapsed_s, points[index - 1].tokens) }
    };
    let speeds: Vec<Option<f64>> = points
        .iter()
        .enumerate()
        .map(|(index, point)| {
            let (elapsed_s, tokens) = before(index);
            let tokens = point.tokens.saturating_sub(tokens) as f64;
            (point.elapsed_s > elapsed_s).then(|| tokens / (point.elapsed_s - elapsed_s))
        })
        .collect();
    let speed = last.tokens as f64 / last.elapsed_s.max(1e-9);
    let mut lines = vec![
        Line::Rule(format!("Training, step {} of {}", last.step, last.steps)),
        curve("loss", |point| Some(point.loss), None),
        curve("held out", |point| point.held_out_loss, None),
    ];
    for (label, of) in SCORES.into_iter().filter(|(_, of)| is_known(*of)) {
        lines.push(curve(label, of, Some(1.0)));
    }
    lines.push(Line::Curve("tokens/s", speeds, format!("{speed:.0}"), None));
    if let Some(energy_mj) = last.energy_mj {
        let text = format!("{:.1} Wh, of the whole node meanwhile", energy_mj as f64 / MILLIJOULES_PER_WH);
        lines.push(Line::Figure("energy".into(), text));
    }
    if let (Some(least), Some(most)) = (report.remaining_least_s, report.remaining_most_s) {
        lines.push(Line::Figure("to go".into(), format!("{least:.0} to {most:.0} s, 95 % of the time")));
    }
    lines.push(Line::Blank);
    lines
}

/// As many values as there is room for, each the mean of its share.
fn resampled(values: &[Option<f64>], room: usize) -> Vec<Option<f64>> {
    if values.len() <= room {
        // What is known now and then is drawn through.
        let mut last = None;
        return values
            .iter()
            .map(|value| {
                last = value.or(last);
                last
            })
            .collect();
    }
    let mut last = None;
    (0..room)
        .map(|index| {
            let share = &values[index * values.len() / room..(index + 1) * values.len() / room];
            let known: Vec<f64> = share.iter().flatten().copied().collect();
            if !known.is_empty() {
                last = Some(known.iter().sum::<f64>() / known.len() as f64);
            }
            last
        })
        .collect()
}

/// What a bench sees, second by second.
fn past(points: &[BenchPoint]) -> Vec<Line> {
    if points.is_empty() {
        return Vec::new();
    }
    let starts = std::iter::once(0.0).chain(points.iter().map(|point| point.elapsed_s));
    let spans: Vec<f64> =
        points.iter().zip(starts).map(|(point, start)| (point.elapsed_s - start).max(1e-3)).collect();
    let per_s = |of: fn(&BenchPoint) -> u64| -> Vec<Option<f64>> {
        points.iter().zip(&spans).map(|(point, span)| Some(of(point) as f64 / span)).collect()
    };
    let line = |label, values: Vec<Option<f64>>| {
        let last = values.last().copied().flatten().unwrap_or(0.0);
        Line::Past(label, values, format!("{last:.1}"))
    };
    let in_flight = points.iter().map(|point| Some(point.in_flight as f64)).collect();
    vec![
        Line::Rule("Under load".into()),
        line("tokens/s", per_s(|point| point.completion_tokens)),
        line("answers/s", per_s(|point| point.ok)),
        line("failed/s", per_s(|point| point.failed)),
        line("under way", in_flight),
        Line::Blank,
    ]
}

fn table(titles: &[&str], rows: &[Vec<String>]) -> Vec<Line> {
    let widths: Vec<u16> = (0..titles.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
            cells.chain([width(titles[column])]).max().unwrap_or(0)
        })
        .collect();
    let place = |cells: Vec<String>| {
        let mut x = LABEL;
        let placed = cells.into_iter().zip(&widths).map(|(cell, width)| {
            let at = x;
            x += width + 2;
            (at, cell)
        });
        placed.collect::<Vec<_>>()
    };
    let titles = titles.iter().map(|title| (*title).to_owned()).collect();
    let head = Line::Cells(place(titles), Tone::Quiet);
    std::iter::once(head).chain(rows.iter().map(|row| Line::Cells(place(row.clone()), Tone::Plain))).collect()
}

fn draw_line(view: &View<'_>, line: &Line, y: u16, pen: &mut Pen<'_>) {
    match line {
        Line::Blank => {}
        Line::Rule(title) => pen.rule(y, title),
        Line::Figure(label, text) => {
            pen.put(LABEL, y, label, Tone::Quiet);
            pen.put(TEXT, y, text, Tone::Plain);
        }
        Line::Past(label, values, last) => {
            pen.put(LABEL, y, label, Tone::Quiet);
            pen.put_right(TEXT, y, last, Tone::Plain);
            let room = usize::from(pen.area.width.saturating_sub(TEXT + 3)).min(MOST_PAST);
            let shown = &values[values.len().saturating_sub(room)..];
            pen.put(TEXT + 2, y, &sparkline(shown, room, None, &view.theme.symbols), Tone::Plain);
        }
        Line::Curve(label, values, last, top) => {
            pen.put(LABEL, y, label, Tone::Quiet);
            pen.put_right(TEXT, y, last, Tone::Plain);
            let room = usize::from(pen.area.width.saturating_sub(TEXT + 3)).min(MOST_PAST);
            let shown = resampled(values, room);
            pen.put(TEXT + 2, y, &sparkline(&shown, shown.len(), *top, &view.theme.symbols), Tone::Plain);
        }
        Line::Cells(cells, tone) => {
            for (x, text) in cells {
                pen.put(*x, y, text, *tone);
            }
        }
        Line::Text(text, tone) => {
            pen.put(LABEL, y, text, *tone);
        }
    }
}
