//! What goes with an adapter: a card for people, and its curves.

use std::fmt::Write;

use llmdeck_proto::v1::TrainingPoint;
use plotters::prelude::{BLACK, BLUE, ChartBuilder, IntoDrawingArea, LineSeries, RED, SVGBackend, WHITE};
use serde_json::Value;

use super::spec::Spec;

const MILLIJOULES_PER_WH: f64 = 3.6e6;
const SIZE: (u32, u32) = (720, 320);

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
    row("steps", format!("{}, best at {}", training["steps"], training["best_step"]));
    row("tokens", training["tokens"].to_string());
    row("trained numbers", training["trained_parameters"].to_string());
    row(
        "time",
        format!("{:.1} s on {} threads", training["took_s"].as_f64().unwrap_or(0.0), training["threads"]),
    );
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

/// Losses by step.
pub(super) fn curves(points: &[TrainingPoint]) -> Result<String, String> {
    let mut svg = String::new();
    draw(points, &mut svg).map_err(|error| format!("the curves could not be drawn: {error}"))?;
    Ok(svg)
}

fn draw(points: &[TrainingPoint], svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let losses = |point: &TrainingPoint| std::iter::once(point.loss).chain(point.held_out_loss);
    let most = points.iter().flat_map(losses).filter(|loss| loss.is_finite()).fold(0.1, f64::max);
    let steps = points.last().map_or(1, |point| point.step).max(1) as f64;
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..steps, 0.0..most * 1.05)?;
    chart.configure_mesh().x_desc("step").y_desc("loss, nats a token").axis_style(BLACK).draw()?;
    chart.draw_series(LineSeries::new(points.iter().map(|point| (point.step as f64, point.loss)), &BLUE))?;
    let held_out = points.iter().filter_map(|point| Some((point.step as f64, point.held_out_loss?)));
    chart.draw_series(LineSeries::new(held_out, &RED))?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(())
}
