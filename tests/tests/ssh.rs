//! Agents on other machines: the system's `ssh`, here a script that does what it would do.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use llmdeck_tests::{ASSISTANT, AgentProcess, binaries};

/// A folder with an `ssh` in it.
fn ssh(script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ssh");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn status(ssh: &Path) -> Output {
    Command::new(&binaries().console)
        .args(["status", "--json", "--target", "ssh://me@gpu-01"])
        .env("PATH", format!("{}:/usr/bin:/bin", ssh.display()))
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_reached_through_ssh_and_its_stdio() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let script = format!(
        "echo \"$@\" > \"$(dirname \"$0\")/asked\"\nexec {} stdio --socket {}",
        binaries().agent.display(),
        agent.socket().display()
    );
    let ssh = ssh(&script);
    let output = status(ssh.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["node"], &status["deployments"][0]["name"]), (&"node-a".into(), &"assistant".into()));
    let asked = std::fs::read_to_string(ssh.path().join("asked")).unwrap();
    assert!(
        asked.contains("BatchMode=yes") && asked.trim_end().ends_with("-- me@gpu-01 llmdeck-agent stdio"),
        "{asked}"
    );
}

#[test]
fn what_ssh_complains_of_is_what_the_operator_reads() {
    let ssh = ssh("echo 'me@gpu-01: Permission denied (publickey).' >&2\nexit 255");
    let output = status(ssh.path());
    assert_eq!(output.status.code(), Some(4));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("Permission denied (publickey)"), "{words}");
}

#[test]
fn a_node_without_an_agent_says_so_over_ssh() {
    let script = format!("exec {} stdio --socket /nonexistent/agent.sock", binaries().agent.display());
    let output = status(ssh(&script).path());
    assert_eq!(output.status.code(), Some(4));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("is llmdeck-agent running here?"), "{words}");
}
