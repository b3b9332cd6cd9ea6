use serde_json::Value;

/// Of [`score_rows`].
pub const SCORE_TITLES: [&str; 5] = ["", "PROMPTS", "BEFORE", "AFTER", "DIFFERENCE"];

/// How a model did before and after a training, on what it learned, on its suite, and by skill.
pub fn score_rows(report: &Value) -> Vec<Vec<String>> {
    let comparison = &report["comparison"];
    let row = |name: &str, paired: &Value| -> Option<Vec<String>> {
        let number = |key: &str| paired[key].as_f64();
        let (low, high) = (number("difference_low")?, number("difference_high")?);
        Some(vec![
            name.to_owned(),
            paired["prompts"].as_u64()?.to_string(),
            format!("{:.2}", number("before")?),
            format!("{:.2}", number("after")?),
            format!("{low:+.2} to {high:+.2}"),
        ])
    };
    let skills = comparison["skills"].as_array().into_iter().flatten();
    let skills = skills.filter_map(|skill| row(&format!("  {}", skill[0].as_str()?), &skill[1]));
    let whole = [("held-out examples", &comparison["task"]), ("suite", &comparison["suite"])];
    whole.into_iter().filter_map(|(name, paired)| row(name, paired)).chain(skills).collect()
}

/// What was found in the data, a line for each check, and whether it is worth a look.
pub fn check_rows(report: &Value) -> Vec<(String, bool)> {
    let rows = report["data"]["rows"].as_array().into_iter().flatten();
    rows.map(|row| {
        let count = row["count"].as_u64().unwrap_or(0);
        let check = row["check"].as_str().unwrap_or_default().replace('_', " ");
        let detail = row["detail"].as_str().unwrap_or_default();
        (format!("{check:<17} {count:>6}  {detail}").trim_end().to_owned(), count > 0)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{check_rows, score_rows};

    #[test]
    fn what_is_not_there_has_no_row() {
        let paired = json!({ "prompts": 60, "before": 0.0, "after": 0.85, "difference_low": 0.76, "difference_high": 0.94 });
        let report = json!({
            "comparison": { "task": paired, "suite": null, "skills": [["sums", paired]] },
            "data": { "rows": [{ "check": "near_duplicates", "count": 3, "detail": "by MinHash" }] },
        });
        let rows = score_rows(&report);
        assert_eq!(rows[0], ["held-out examples", "60", "0.00", "0.85", "+0.76 to +0.94"]);
        assert_eq!((rows.len(), rows[1][0].as_str()), (2, "  sums"));
        assert_eq!(check_rows(&report), [("near duplicates        3  by MinHash".to_owned(), true)]);
        assert!(score_rows(&json!({})).is_empty());
    }
}
