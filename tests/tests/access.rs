//! Who may do what, as callers of other users meet it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use llmdeck_tests::{ASSISTANT, AgentProcess, binaries};

/// `nobody`, on every system that the tests run on.
const NOBODY: u32 = 65_534;

fn agent(access: &str) -> AgentProcess {
    let agent = AgentProcess::start(&ASSISTANT.replace("[[deployment]]", &format!("{access}[[deployment]]")));
    std::fs::set_permissions(agent.folder(), std::fs::Permissions::from_mode(0o755)).unwrap();
    agent
}

/// Runs the console as another user, which only root can.
fn as_nobody(agent: &AgentProcess, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // Where the tests are built, others may not look.
    let console = folder.path().join("llmdeck");
    std::fs::copy(&binaries().console, &console).unwrap();
    let target = agent.target().to_string();
    Command::new(console)
        .args(arguments)
        .args(["--target", &target])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn others_look_act_or_are_refused_as_the_configuration_says() {
    if !nix::unistd::Uid::current().is_root() {
        eprintln!("only root can call as another user");
        return;
    }
    let deploy = ["deploy", "assistant", "--model", "assistant-worse", "--dry-run"];

    let lookers = agent("");
    lookers.ready().await;
    assert!(as_nobody(&lookers, &["status"]).status.success());
    let refused = as_nobody(&lookers, &deploy);
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        words(&refused).contains("nobody may not do this; ask root, whose agent this is"),
        "{}",
        words(&refused)
    );
    let audit = std::fs::read_to_string(lookers.folder().join("data/audit.jsonl")).unwrap();
    assert!(audit.contains("\"action\":\"deploy\"") && audit.contains("\"operator\":\"nobody\""), "{audit}");

    let granted =
        agent("[[access]]\nrole = \"operator\"\nusers = [\"nobody\"]\ndeployments = [\"assistant\"]\n");
    granted.ready().await;
    let planned = as_nobody(&granted, &deploy);
    assert!(planned.status.success() && words(&planned).contains("assistant@2"), "{}", words(&planned));
    let node = as_nobody(&granted, &["bench", "node"]);
    assert_eq!(node.status.code(), Some(3), "its role is for one deployment: {}", words(&node));

    let strangers = agent("[[access]]\nrole = \"operator\"\nusers = [\"alice\"]\n");
    strangers.ready().await;
    for arguments in [&deploy[..], &["status"], &["audit", "list"], &["jobs", "list"]] {
        let refused = as_nobody(&strangers, arguments);
        assert_eq!(refused.status.code(), Some(3), "{arguments:?}: {}", words(&refused));
        assert!(!words(&refused).contains("assistant@"), "{}", words(&refused));
    }
}
