use std::io;

use serde_json::Value;

use super::output::print_table;

/// What the checks of a dataset found, a row each (`llmdeck.dataset-report/1`).
pub(super) fn print_report(report: &Value) -> io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows = Vec::new();
    for row in report["rows"].as_array().into_iter().flatten() {
        let count = row["count"].as_u64().unwrap_or(0);
        let outcome = match (count, row["rule"].as_str()) {
            (0, _) => "ok",
            (_, Some("block")) => "BLOCKS",
            _ => "look",
        };
        let mut detail = vec![text(&row["detail"])];
        for part in [text(&row["examples"][0]), text(&row["remedy"])] {
            if !detail[0].contains(&part) {
                detail.push(part);
            }
        }
        detail.retain(|part| !part.is_empty());
        let check = text(&row["check"]).replace('_', " ");
        rows.push(vec![check, outcome.to_owned(), count.to_string(), detail.join("; ")]);
    }
    print_table(&["CHECK", "", "FOUND", ""], &rows)
}
