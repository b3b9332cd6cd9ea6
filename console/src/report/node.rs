use serde_json::Value;

use super::{Figure, Table};

/// A node's limits, and a table for each model that was held against them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTables {
    /// In order.
    pub limits: Vec<Figure>,
    /// One a model.
    pub models: Vec<Table>,
}

impl NodeTables {
    /// Of a report with the schema `llmdeck.node-bench/1`; what it lacks is a dash.
    pub fn of(bench: &Value) -> Self {
        let limits = &bench["limits"];
        let scaled = |value: &Value, unit: f64, name: &str| {
            value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{:.2} {name}", value / unit))
        };
        let instructions = limits["instructions"].as_str().unwrap_or("?");
        let mut figures = vec![
            ("processor", format!("{} threads, {instructions}", limits["threads"])),
            ("memory read", scaled(&limits["memory_read_bytes_per_s"], 1e9, "GB/s")),
            ("int8 arithmetic", scaled(&limits["int8_operations_per_s"], 1e12, "Tops/s")),
            ("bf16 arithmetic", scaled(&limits["bf16_operations_per_s"], 1e12, "Tflop/s")),
            ("f32 arithmetic", scaled(&limits["f32_operations_per_s"], 1e12, "Tflop/s")),
            ("disk read", scaled(&bench["disk_read_bytes_per_s"], 1e9, "GB/s")),
        ];
        for gpu in bench["gpus"].as_array().into_iter().flatten() {
            let text = |key: &str| gpu[key].as_str().unwrap_or("?").to_owned();
            figures.push(("GPU", format!("{}, {}", text("device"), text("name"))));
            figures.push(("  memory copy", scaled(&gpu["copy_bytes_per_s"], 1e9, "GB/s")));
            figures.push(("  bf16 arithmetic", scaled(&gpu["bf16_operations_per_s"], 1e12, "Tflop/s")));
        }
        Self {
            limits: figures,
            models: bench["models"].as_array().into_iter().flatten().map(model).collect(),
        }
    }
}

fn model(model: &Value) -> Table {
    let text = |key: &str| model[key].as_str().unwrap_or("?");
    let weights = model["weights_bytes"].as_f64().unwrap_or(0.0) / 1e6;
    let device = model["device"].as_str().filter(|device| *device != "cpu");
    let on = device.map(|device| format!(" on {device}")).unwrap_or_default();
    Table {
        title: format!("{} ({}), {weights:.1} MB of weights{on}", text("revision"), text("model")),
        columns: vec!["", "TOKENS/S", "OF MEMORY", "OF ARITHMETIC", "HELD UP BY"],
        rows: model["rates"].as_array().into_iter().flatten().map(rate).collect(),
    }
}

fn rate(rate: &Value) -> Vec<String> {
    let name = match rate["phase"].as_str() {
        Some("decode") => format!("decode, {} at once", rate["sequences"]),
        phase => format!("{}, one prompt", phase.unwrap_or("?")),
    };
    let share = |value: &Value| {
        value.as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0))
    };
    vec![
        name,
        format!("{:.0}", rate["tokens_per_s"].as_f64().unwrap_or(0.0)),
        share(&rate["memory_share"]),
        share(&rate["arithmetic_share"]),
        rate["bound"].as_str().unwrap_or("?").to_owned(),
    ]
}
