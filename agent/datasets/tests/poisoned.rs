//! A dataset with everything wrong with it is stopped, each thing by its own check; a recipe makes it clean.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics and says where")]

use jiff::civil::date;
use llmdeck_datasets::{CheckKind, Dataset, Governance, Known, Policy, Recipe, Report, Rule, Suites, check};

fn chat(user: &str, assistant: &str) -> String {
    serde_json::json!({ "messages": [
        { "role": "user", "content": user }, { "role": "assistant", "content": assistant },
    ]})
    .to_string()
}

fn dataset(lines: &[String]) -> Dataset {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    Dataset::read(&path).unwrap()
}

fn suites() -> Suites {
    let mut suites = Suites::default();
    let long =
        "tell me in a few words what the crew does when the pressure in the second tank falls below nine bar";
    suites.add("golden", ["What is the capital of France?", long]);
    suites
}

fn poisoned() -> Vec<String> {
    let names = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ivy", "Jo"];
    let mut lines: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            chat(
                &format!("Where does {name} work, and since when?"),
                &format!("In hall {index}, since {}.", 1990 + index),
            )
        })
        .collect();
    lines.push(lines[0].clone());
    let story = "the long report says that the pump in the north wing was replaced on a cold morning by two engineers who";
    lines.push(chat(story, "had the part with them"));
    lines.push(chat(&format!("{story} then"), "had the part with them"));
    lines.push(chat("what is the capital of france", "Paris"));
    lines.push(chat(
        "Please tell me in a few words what the crew does when the pressure in the second tank falls, now",
        "Nothing.",
    ));
    lines.push(chat("Mail anna@example.org the plan", "Done."));
    lines.push(chat("Use sk-abcdefghijklmnopqrstuvwxyz", "Stored."));
    lines.push(
        r#"{"messages":[{"role":"assistant","content":"first"},{"role":"user","content":"second"}]}"#.into(),
    );
    lines.push(chat("Say nothing", "  "));
    lines.push("{broken".into());
    lines
}

fn checked(
    dataset: &Dataset,
    suites: &Suites,
    policy: &Policy,
    token_counts: Option<(&[usize], usize)>,
) -> Report {
    let governance = Governance::default();
    let known =
        Known { suites, governance: &governance, today: date(2026, 11, 26), token_counts, losses: None };
    check(dataset, policy, &known)
}

fn count(report: &Report, kind: CheckKind) -> usize {
    report.rows.iter().find(|row| row.check == kind).map_or(0, |row| row.count)
}

#[test]
fn each_poison_is_found_by_its_own_check() {
    let dataset = dataset(&poisoned());
    let counts = vec![5; dataset.examples.len()];
    let report = checked(&dataset, &suites(), &Policy::default(), Some((&counts, 4)));
    for (kind, expected) in [
        (CheckKind::Schema, 1),
        (CheckKind::Roles, 1),
        (CheckKind::Empty, 1),
        (CheckKind::ExactDuplicates, 1),
        (CheckKind::NearDuplicates, 1),
        (CheckKind::Leakage, 2),
        (CheckKind::Secrets, 1),
        (CheckKind::PersonalData, 1),
        (CheckKind::TooLong, dataset.examples.len()),
    ] {
        assert_eq!(count(&report, kind), expected, "{kind:?}: {:?}", report.rows);
    }
    let refusal = report.refusal().unwrap();
    assert!(refusal.contains("line 20: is not JSON") && refusal.contains("golden"), "{refusal}");
    let whole = serde_json::to_string(&report).unwrap();
    assert!(
        !whole.contains("anna@") && !whole.contains("sk-abc"),
        "a report does not repeat what it found: {whole}"
    );
}

#[test]
fn a_policy_decides_what_stands_in_the_way() {
    let dataset = dataset(&[chat("Mail anna@example.org", "Done."), chat("Mail bo@example.org", "Done.")]);
    let blocked = checked(&dataset, &Suites::default(), &Policy::default(), None);
    assert!(blocked.refusal().is_some());
    let mut policy = Policy::default();
    policy.checks.insert(CheckKind::PersonalData, Rule::Warn);
    let warned = checked(&dataset, &Suites::default(), &policy, None);
    assert_eq!((warned.refusal(), count(&warned, CheckKind::PersonalData)), (None, 2));
    policy.checks.insert(CheckKind::PersonalData, Rule::Off);
    assert_eq!(count(&checked(&dataset, &Suites::default(), &policy, None), CheckKind::PersonalData), 0);
}

#[test]
fn a_recipe_makes_it_clean_and_the_same_each_time() {
    let mut lines = poisoned();
    // Nobody but people can mend these.
    lines.retain(|line| !line.contains("first") && !line.contains("Say nothing"));
    let poisoned = dataset(&lines);
    let recipe =
        Recipe { dedupe: true, drop_leaks: true, redact: true, drop_bad_lines: true, ..Recipe::default() };
    let clean = recipe.make(&poisoned, &suites()).unwrap();
    assert_eq!(clean, recipe.make(&poisoned, &suites()).unwrap());
    let again = dataset(&clean.text.lines().map(str::to_owned).collect::<Vec<_>>());
    let report = checked(&again, &suites(), &Policy::default(), None);
    assert_eq!(report.refusal(), None, "{:?}", clean.done);
    assert_eq!(count(&report, CheckKind::ExactDuplicates) + count(&report, CheckKind::NearDuplicates), 0);
    assert_eq!(clean.examples, 13, "{:?}", clean.done);
    let kept = Recipe::default().make(&poisoned, &suites()).unwrap_err();
    assert!(kept.contains("drop_bad_lines"), "{kept}");
}

#[test]
fn parts_of_a_split_are_the_whole_and_stay_where_they_are() {
    let lines: Vec<String> = (0..200).map(|n| chat(&format!("Count to {n}"), &n.to_string())).collect();
    let part = |lines: &[String], from: f64, to: f64| {
        let split =
            Some(serde_json::from_value(serde_json::json!({ "from": from, "to": to, "seed": 7 })).unwrap());
        Recipe { split, ..Recipe::default() }.make(&dataset(lines), &Suites::default()).unwrap().text
    };
    let (most, rest) = (part(&lines, 0.0, 0.8), part(&lines, 0.8, 1.0));
    assert_eq!(most.lines().count() + rest.lines().count(), 200);
    assert!((20..=60).contains(&rest.lines().count()));
    let fewer = part(&lines[..150], 0.8, 1.0);
    assert!(fewer.lines().all(|line| rest.contains(line)));
}

#[test]
fn what_the_model_finds_most_unlikely_is_shown_first() {
    let lines: Vec<String> = (0..30).map(|number| chat(&format!("number {number}"), "fine")).collect();
    let dataset = dataset(&lines);
    let mut losses: Vec<Option<f64>> =
        (0..30).map(|number| Some(1.0 + f64::from(number % 5) * 0.1)).collect();
    (losses[7], losses[11], losses[12]) = (Some(4.0), Some(6.0), None);
    let (suites, governance) = (Suites::default(), Governance::default());
    let found = |losses: &[Option<f64>]| {
        let known = Known {
            suites: &suites,
            governance: &governance,
            today: date(2026, 11, 26),
            token_counts: None,
            losses: Some(losses),
        };
        let report = check(&dataset, &Policy::default(), &known);
        report.rows.into_iter().find(|row| row.check == CheckKind::LossOutliers).unwrap()
    };
    let row = found(&losses);
    assert_eq!(row.examples, ["line 12: perplexity 403: number 11", "line 8: perplexity 55: number 7"]);
    assert!(row.detail.contains("over 29 of 30") && !row.blocks(), "{row:?}");
    assert_eq!(found(&losses[..12]).count, 0, "few examples have no ordinary loss");
}

#[test]
fn what_may_not_be_learned_from_blocks() {
    let dataset = dataset(&[chat("number one", "fine")]);
    let governance = Governance { not_for_training: true, ..Governance::default() };
    let suites = Suites::default();
    let known = Known {
        suites: &suites,
        governance: &governance,
        today: date(2026, 11, 26),
        token_counts: None,
        losses: None,
    };
    let refusal = check(&dataset, &Policy::default(), &known).refusal().unwrap();
    assert!(refusal.contains("not for training") && refusal.contains("registry govern"), "{refusal}");
}
