//! The registry and the file of deployments, as scripts use them.

use std::path::Path;

use llmdeck_tests::{ASSISTANT, AgentProcess, words};
use serde_json::Value;

/// A copy of the worse built-in model, as someone would bring one along.
fn someones_model(agent: &AgentProcess) -> std::path::PathBuf {
    let listed = agent.json(&["registry", "list", "--kind", "model"]);
    let worse =
        listed.as_array().unwrap().iter().find(|model| model["tags"][0] == "assistant-worse").unwrap();
    let path = agent.folder().join("someones.gguf");
    std::fs::copy(worse["path"].as_str().unwrap(), &path).unwrap();
    // A byte behind the tensors makes it another file.
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, &[0]).unwrap();
    path
}

fn blocks(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.ino(), metadata.nlink())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_added_deployed_and_kept_as_long_as_it_is_needed() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let path = someones_model(&agent);
    let path_text = path.to_str().unwrap();
    let added = agent.json(&["registry", "add", path_text, "--tag", "mine", "--from", "missing-skill"]);
    let digest = added["digest"].as_str().unwrap().to_owned();
    assert_eq!((&added["kind"], &added["tags"][0]), (&Value::from("model"), &Value::from("mine")));
    if added["means"] == "linked" {
        let kept = Path::new(added["path"].as_str().unwrap());
        assert_eq!(blocks(&path), blocks(kept), "no second copy");
    }
    let lineage = words(&agent.llmdeck(&["registry", "lineage", "mine"]));
    assert!(lineage.contains("missing-skill  dataset") && lineage.contains("mine  model"), "{lineage}");

    // What was brought along may go; the registry has its own name for the bytes.
    std::fs::remove_file(&path).unwrap();
    let deployed = agent.json(&["deploy", "assistant", "--model", "mine", "--force", "--yes"]);
    assert_eq!(deployed["state"], "done");
    assert_eq!(agent.llmdeck(&["registry", "remove", "mine"]).status.code(), Some(2), "asks for the name");
    let removed = agent.json(&["registry", "remove", "mine", "--yes"]);
    assert_eq!((&removed["removed"], &removed["needed_by"][0]), (&false.into(), &"assistant@2".into()));
    assert!(agent.json(&["registry", "gc"]).as_array().unwrap().is_empty());

    agent.kill();
    agent.restart();
    assert_eq!(agent.ready().await, "assistant@2", "after a crash the bytes are still there");
    assert!(words(&agent.llmdeck(&["registry", "verify"])).contains("0 changed"));
    let kept = agent.folder().join("data/artifacts").join(format!("{digest}.gguf"));
    let mut bytes = std::fs::read(&kept).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    let verified = agent.llmdeck(&["registry", "verify", &digest[..12]]);
    assert_eq!(verified.status.code(), Some(1));
    assert!(words(&verified).contains("its bytes have changed"), "{}", words(&verified));
    let audit = std::fs::read_to_string(agent.folder().join("data/audit.jsonl")).unwrap();
    assert!(audit.contains("add-artifact") && audit.contains("remove-artifact"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_come_in_stays_out() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let write = |name: &str, bytes: &[u8]| {
        let path = agent.folder().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (path, reason) in [
        (write("pytorch_model.bin", b"\x80\x02}q"), "pickle"),
        (write("cut.gguf", b"GGUF\x03\0\0\0"), "cut.gguf"),
        (write("lies.safetensors", &u64::MAX.to_le_bytes()), "lies.safetensors"),
        (write("what.jsonl", b"{}\n"), "--kind"),
        (agent.folder().join("nonesuch.gguf").to_str().unwrap().to_owned(), "nonesuch.gguf"),
    ] {
        let refused = agent.llmdeck(&["registry", "add", &path]);
        assert_eq!(refused.status.code(), Some(2), "{path}");
        assert!(words(&refused).contains(reason), "{path}: {}", words(&refused));
    }
    let left = std::fs::read_dir(agent.folder().join("data/artifacts")).unwrap();
    let parts = left.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().contains("part"));
    assert_eq!(parts.count(), 0, "nothing half done is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_deployments_is_compared_and_carried_out() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let file = agent.folder().join("deployments.toml");
    let declare = |model: &str| {
        let text = format!("[[deployment]]\nname = \"assistant\"\nmodel = \"{model}\"\nforce = true\n");
        std::fs::write(&file, text).unwrap();
    };
    let file_text = file.to_str().unwrap();
    declare("assistant");
    assert!(words(&agent.llmdeck(&["diff", file_text])).contains("nothing differs"));
    assert_eq!(agent.llmdeck(&["diff", file_text, "--exit-code"]).status.code(), Some(0));
    declare("assistant-worse");
    let diff = agent.llmdeck(&["diff", file_text, "--exit-code"]);
    assert_eq!(diff.status.code(), Some(1));
    assert!(
        words(&diff).contains("- assistant  ") && words(&diff).contains("+ assistant-worse  "),
        "{}",
        words(&diff)
    );
    let planned = agent.json(&["deploy", "--file", file_text, "--dry-run"]);
    assert_eq!(planned[0]["to_model"], "assistant-worse");
    let deployed = agent.llmdeck(&["deploy", "--file", file_text, "--yes", "--reason", "as declared"]);
    assert!(deployed.status.success(), "{}", words(&deployed));
    assert!(words(&agent.llmdeck(&["diff", file_text])).contains("nothing differs"));
    let again = agent.llmdeck(&["deploy", "--file", file_text, "--yes"]);
    assert!(again.status.success() && words(&again).contains("nothing differs"), "{}", words(&again));
    std::fs::write(&file, "[[deployment]]\nname = \"assistant\"\nmodell = \"x\"\n").unwrap();
    let wrong = agent.llmdeck(&["diff", file_text]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(words(&wrong).contains("modell") && words(&wrong).contains("line 3"), "{}", words(&wrong));
}
