use super::beginning;
use crate::example::{Body, Example, Role};
use crate::policy::Policy;
use crate::read::Dataset;
use crate::report::{CheckKind, Report};

pub(super) fn schema(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let rule = policy.rule(CheckKind::Schema);
    let found: Vec<(usize, String)> =
        dataset.bad_lines.iter().map(|bad| (bad.line, bad.reason.clone())).collect();
    let detail = format!("{} of {} lines", dataset.examples.len(), dataset.examples.len() + dataset.bad);
    report.push_counted(CheckKind::Schema, rule, detail, dataset.bad, &found);
}

pub(super) fn roles(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let found: Vec<(usize, String)> = dataset
        .examples
        .iter()
        .filter_map(|example| out_of_order(example).map(|reason| (example.line, reason)))
        .collect();
    report.push(CheckKind::Roles, policy.rule(CheckKind::Roles), "", &found);
}

fn out_of_order(example: &Example) -> Option<String> {
    let Body::Conversation(turns) = &example.body else { return None };
    let spoken = match turns.first() {
        Some(first) if first.role == Role::System => &turns[1..],
        _ => &turns[..],
    };
    for (index, turn) in spoken.iter().enumerate() {
        let expected = if index % 2 == 0 { Role::User } else { Role::Assistant };
        if turn.role != expected {
            return Some(format!("turn {} is the {}'s, not the {expected}'s", index + 1, turn.role));
        }
    }
    match spoken.last() {
        None => Some("nobody says anything".into()),
        Some(last) if last.role != Role::Assistant => {
            Some("the assistant does not answer the last turn".into())
        }
        Some(_) if spoken.iter().all(|turn| turn.role != Role::Assistant || turn.weight == 0.0) => {
            Some("every weight is 0: nothing is learned".into())
        }
        Some(_) => None,
    }
}

pub(super) fn empty(dataset: &Dataset, policy: &Policy, report: &mut Report) {
    let found: Vec<(usize, String)> = dataset
        .examples
        .iter()
        .filter(|example| {
            example.texts().any(|text| text.trim().is_empty()) || example.texts().next().is_none()
        })
        .map(|example| (example.line, beginning(example)))
        .collect();
    report.push(CheckKind::Empty, policy.rule(CheckKind::Empty), "", &found);
}

pub(super) fn too_long(
    dataset: &Dataset,
    policy: &Policy,
    counts: &[usize],
    max_tokens: usize,
    report: &mut Report,
) {
    let found: Vec<(usize, String)> = dataset
        .examples
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > max_tokens)
        .map(|(example, count)| (example.line, format!("{count} tokens: {}", beginning(example))))
        .collect();
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(0);
    let (p50, p95, most) = (at(0.5), at(0.95), at(1.0));
    let total: usize = counts.iter().sum();
    let detail = format!("{total} tokens; p50 {p50}, p95 {p95}, longest {most}, allowed {max_tokens}");
    report.push(CheckKind::TooLong, policy.rule(CheckKind::TooLong), detail, &found);
    report.token_histogram = histogram(&sorted);
}

/// Buckets whose ends double.
fn histogram(sorted: &[usize]) -> Vec<(usize, usize)> {
    let mut buckets: Vec<(usize, usize)> = Vec::new();
    for count in sorted {
        let end = count.next_power_of_two();
        match buckets.last_mut() {
            Some((known, of)) if *known == end => *of += 1,
            _ => buckets.push((end, 1)),
        }
    }
    buckets
}
