//! The record of who did what, as its reader proves it.

use std::path::Path;
use std::process::{Command, Output};

use llmdeck::app::{Action, RevisionParts, RolloutChoice};
use llmdeck_tests::{ASSISTANT, AgentProcess, SmallDisk, binaries, change, fill};
use serde_json::Value;

fn llmdeck(arguments: &[&str]) -> Output {
    Command::new(&binaries().console).args(arguments).output().unwrap()
}

fn verify(folder: &Path, more: &[&str]) -> (bool, String) {
    let mut arguments = vec!["audit", "verify", folder.to_str().unwrap()];
    arguments.extend(more);
    let output = llmdeck(&arguments);
    let text = String::from_utf8(output.stdout).unwrap() + std::str::from_utf8(&output.stderr).unwrap();
    (output.status.success(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_exported_and_proved_and_what_was_changed_is_found() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let how = RolloutChoice::default();
    let deploy = Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model("assistant-worse"),
        force: false,
        how,
    };
    change(&agent.channel(), deploy, "a longer context").await.unwrap();
    let back = Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false };
    change(&agent.channel(), back, "it is worse").await.unwrap();

    let target = agent.target().to_string();
    let exported = llmdeck(&["audit", "export", "--target", &target]).stdout;
    let records: Vec<Value> = String::from_utf8(exported)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let actions: Vec<&str> = records.iter().map(|record| record["action"].as_str().unwrap()).collect();
    assert!(actions.starts_with(&["deploy", "outcome", "rollback"]), "{actions:?}");
    assert_eq!(records[0]["reason"], "a longer context");

    let data = agent.folder().join("data");
    let key = std::fs::read_to_string(data.join("audit.pub")).unwrap();
    let (whole, text) = verify(&data, &["--key", key.trim()]);
    assert!(whole && text.contains(&format!("whole: {} records", records.len())), "{text}");

    // A crash in between is no flaw.
    agent.kill();
    agent.restart();
    agent.ready().await;
    assert!(verify(&data, &[]).0);
    agent.kill();

    let path = data.join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("a longer context", "a faster context", 1)).unwrap();
    let (whole, words) = verify(&data, &[]);
    assert!(!whole && words.contains("audit.jsonl, line 2: record 2 does not follow"), "{words}");
    let shortened: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, shortened).unwrap();
    let (whole, words) = verify(&data, &[]);
    assert!(!whole && words.contains("the last ones were removed"), "{words}");
    let (_, words) = verify(Path::new("/nonesuch"), &[]);
    assert!(words.contains("data directory"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_the_action_and_room_lets_it_happen() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(_disk) = SmallDisk::mount(&data, 24) else {
        eprintln!("only who may mount can fill a disk");
        return;
    };
    // No frames in between: they would take what is left, and give it back.
    let config = ASSISTANT.replace("interval_ms = 200", "interval_ms = 60000");
    let agent = AgentProcess::start_as(folder, &config, &[], &[]);
    agent.ready().await;
    let deploy = || Action::Deploy {
        deployment: "assistant".into(),
        parts: RevisionParts::model("assistant-worse"),
        force: false,
        how: RolloutChoice::default(),
    };
    let whole = |records: usize| {
        let (whole, text) = verify(&data, &[]);
        assert!(whole && text.contains(&format!("whole: {records} records")), "{text}");
    };
    change(&agent.channel(), deploy(), "while there is room").await.unwrap();
    whole(2);
    let filler = data.join("filler");
    fill(&filler);
    let refused = change(&agent.channel(), deploy(), "on a full disk").await.unwrap_err().to_string();
    assert!(refused.contains("audit") && refused.contains("space"), "{refused}");
    assert_eq!(agent.ready().await, "assistant@2", "what serves goes on serving");
    std::fs::remove_file(&filler).unwrap();
    whole(2);
    let back = Action::Rollback { deployment: "assistant".into(), to_revision: 0, cut: false };
    change(&agent.channel(), back, "there is room again").await.unwrap();
    whole(4);
}
