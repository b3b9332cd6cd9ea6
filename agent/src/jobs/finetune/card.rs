//! What goes with an adapter: a card for people, and its curves.

use std::fmt::Write;

use llmdeck_proto::v1::TrainingPoint;
use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, BLUE, ChartBuilder, DrawingArea, GREEN, IntoDrawingArea, LineSeries, PathElement, RED, RGBColor,
    SVGBackend, WHITE,
};
use serde_json::Value;

use super::spec::Spec;

const MILLIJOULES_PER_WH: f64 = 3.6e6;
const WIDTH: u32 = 720;
/// Of one chart.
const HEIGHT: u32 = 320;

/// As Hugging Face shows it, with its front matter.
pub(super) fn card(spec: &Spec, report: &Value) -> String {
    let mut card = String::new();
    let (training, comparison) = (&report["training"], &report["comparison"]);
    // Writing to a string does not fail.
    let _ = write!(
        card,
        "---\nlibrary_name: peft\nbase_model: {}\ntags: [lora, llmdeck]\n---\n\n# {}\n\nAn adapter for `{}`, trained on `{}`.\n\n",
        spec.base.reference, spec.tag, spec.base.reference, spec.dataset.reference
    );
    let _ = writeln!(card, "| | |\n| --- | --- |");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(card, "| {name} | {value} |");
    };
    row("base", format!("`{}`", spec.base.digest));
    row("data", format!("`{}`, {} examples", spec.dataset.digest, report["examples"]));
    for part in &spec.rehearsal {
        row("rehearsal", format!("`{}` ({}), {} examples", part.digest, part.reference, report["rehearsed"]));
    }
    let best = training["best_step"].as_u64().map(|step| format!(", best at {step}")).unwrap_or_default();
    row("steps", format!("{}{best}", training["steps"]));
    row("tokens", training["tokens"].to_string());
    row("trained numbers", training["trained_parameters"].to_string());
    let threads =
        training["threads"].as_u64().map(|threads| format!(" on {threads} threads")).unwrap_or_default();
    row("time", format!("{:.1} s{threads}", training["took_s"].as_f64().unwrap_or(0.0)));
    for (name, of) in [("held for users", "held_s"), ("held to its share of the GPUs", "held_to_gpu_share_s")]
    {
        if let Some(held_s) = training[of].as_f64().filter(|held_s| *held_s >= 0.05) {
            row(name, format!("{held_s:.1} s"));
        }
    }
    let node = &training["node"];
    if let Some(energy_mj) = node["energy_mj"].as_f64() {
        row("energy", format!("{:.1} Wh, of the whole node meanwhile", energy_mj / MILLIJOULES_PER_WH));
    }
    if let Some(cost) = node["cost_micros"].as_f64() {
        let currency = node["currency"].as_str().unwrap_or_default();
        row("cost", format!("{:.4} {currency}, of the whole node meanwhile", cost / 1e6));
    }
    row("seed", report["settings"]["seed"].to_string());
    row(
        "made by",
        format!(
            "llmdeck {}, asked by {}",
            report["agent_version"].as_str().unwrap_or_default(),
            spec.operator
        ),
    );
    let _ = writeln!(
        card,
        "\n## Scores\n\nGreedy, the same prompts before and after; differences with 95 % intervals.\n"
    );
    let _ = writeln!(card, "| | prompts | before | after | difference |\n| --- | --- | --- | --- | --- |");
    let mut score = |name: &str, paired: &Value| {
        if let Some(prompts) = paired["prompts"].as_u64() {
            let number = |key: &str| paired[key].as_f64().unwrap_or(0.0);
            let _ = writeln!(
                card,
                "| {name} | {prompts} | {:.2} | {:.2} | {:+.2} to {:+.2} |",
                number("before"),
                number("after"),
                number("difference_low"),
                number("difference_high")
            );
        }
    };
    score("held-out examples", &comparison["task"]);
    score("suite", &comparison["suite"]);
    for skill in comparison["skills"].as_array().into_iter().flatten() {
        score(skill[0].as_str().unwrap_or_default(), &skill[1]);
    }
    let settings = serde_json::to_string_pretty(&report["settings"]).unwrap_or_default();
    let _ = writeln!(card, "\n![loss](curves.svg)\n\n## Settings\n\n```json\n{settings}\n```");
    card
}

/// Losses by step, and below them what was answered right, where that was asked.
pub(super) fn curves(points: &[TrainingPoint]) -> Result<String, String> {
    let mut svg = String::new();
    draw(points, &mut svg).map_err(|error| format!("the curves could not be drawn: {error}"))?;
    Ok(svg)
}

fn draw(points: &[TrainingPoint], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let losses = |point: &TrainingPoint| std::iter::once(point.loss).chain(point.held_out_loss);
    let most = points.iter().flat_map(losses).filter(|loss| loss.is_finite()).fold(0.1, f64::max);
    let steps = points.last().map_or(1, |point| point.step).max(1) as f64;
    let series = |of: fn(&TrainingPoint) -> Option<f64>| -> Vec<(f64, f64)> {
        points.iter().filter_map(|point| Some((point.step as f64, of(point)?))).collect()
    };
    let losses = [
        ("training", BLUE, series(|point| Some(point.loss))),
        ("held out", RED, series(|point| point.held_out_loss)),
    ];
    let scores = [
        ("held-out examples", RED, series(|point| point.held_out_score)),
        ("suite", GREEN, series(|point| point.suite_score)),
    ];
    let has_scores = scores.iter().any(|(_, _, score)| !score.is_empty());
    let height = if has_scores { 2 * HEIGHT } else { HEIGHT };
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.split_vertically(HEIGHT);
    draw_series(&above, "loss, nats a token", (steps, most * 1.05), &losses)?;
    if has_scores {
        draw_series(&below, "answered right", (steps, 1.0), &scores)?;
    }
    Ok(root.present()?)
}

/// Its name, its color, and steps with their values.
type Series<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_series(
    area: &Area<'_>,
    title: &str,
    (most_x, most_y): (f64, f64),
    series: &[Series<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..most_x, 0.0..most_y)?;
    chart.configure_mesh().x_desc("step").y_desc(title).axis_style(BLACK).draw()?;
    for (name, color, points) in series.iter().filter(|(_, _, points)| !points.is_empty()) {
        let line =
            LineSeries::new(points.iter().copied(), color).point_size(if points.len() > 50 { 0 } else { 2 });
        let color = *color;
        chart
            .draw_series(line)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(())
}
