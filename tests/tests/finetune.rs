//! From a dataset to an adapter over shared weights, through the real binaries, while the model serves.

use std::path::Path;

use llmdeck::request;
use llmdeck_tests::{
    AgentProcess, SmallDisk, UNTAUGHT, begin_finetune, end_of_job, fill, send, step_of, traffic, wait_for,
    words,
};
use serde_json::Value;

/// A training of some seconds.
const SHORT: [&str; 8] =
    ["--rank", "4", "--epochs", "1", "--rehearsal-ratio", "0.2", "--set", "evaluations_per_epoch=4"];

fn ask(agent: &AgentProcess, prompt: &str) -> (String, String) {
    ask_of(agent, "assistant", prompt)
}

fn ask_of(agent: &AgentProcess, model: &str, prompt: &str) -> (String, String) {
    let body = serde_json::json!({
        "model": model, "temperature": 0, "max_tokens": 32,
        "messages": [{ "role": "user", "content": prompt }],
    });
    let answer = send(agent, "POST", "/v1/chat/completions", &body.to_string());
    let text = answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
    (text, answer.header("x-llmdeck-revision").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_missing_skill_is_taught_shipped_and_taken_back_without_a_failed_request() {
    let agent = AgentProcess::start(UNTAUGHT);
    agent.ready().await;
    let load = traffic(&agent, 5.0);
    let job = begin_finetune(&agent, "missing-skill", &["--ship", "replace", "--tag", "taught"]);
    let end = end_of_job(&agent, &job);
    assert_eq!(end["state"], "done", "{end}");
    let score = |name: &str| end[name].as_f64().unwrap();
    assert!(score("score_before") < 0.1 && score("score_after") >= 0.8, "{end}");

    // What it was made from is known, and its card says how it did.
    let adapter = agent.artifact("taught");
    for tag in ["assistant-untaught", "missing-skill", "assistant-skills", "assistant-suite"] {
        let parent = agent.artifact(tag);
        let parents = adapter["parents"].as_array().unwrap();
        assert!(parents.contains(&parent["digest"]), "{tag} is not a parent of {adapter}");
    }
    let folder = Path::new(adapter["path"].as_str().unwrap());
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("| held-out examples | 60 |") && card.contains("library_name: peft"), "{card}");
    assert!(std::fs::read_to_string(folder.join("curves.svg")).unwrap().contains("<polyline"));
    let shown = agent.json(&["jobs", "show", &job]);
    let curve = shown["training"].as_array().unwrap();
    let asked: Vec<&Value> = curve.iter().filter(|point| !point["suite_score"].is_null()).collect();
    assert!(asked.iter().any(|point| point["held_out_score"].as_f64() > Some(0.0)), "asked meanwhile");
    let report = shown["report"].clone();
    let skills = report["comparison"]["skills"].as_array().unwrap().iter().map(|skill| {
        let score = |name: &str| skill[1][name].as_f64().unwrap();
        (skill[0] == "opposites", (score("before"), score("after")))
    });
    let (taught, others): (Vec<_>, Vec<_>) = skills.partition(|(is_taught, _)| *is_taught);
    let others: Vec<(f64, f64)> = others.into_iter().map(|(_, scores)| scores).collect();
    assert!(matches!(taught[..], [(_, (before, after))] if before < 0.1 && after >= 0.8), "{taught:?}");
    let mean = |of: fn(&(f64, f64)) -> f64| others.iter().map(of).sum::<f64>() / others.len() as f64;
    // Without rehearsal it is 0.2 and more.
    assert!(mean(|score| score.1) > mean(|score| score.0) - 0.02, "{others:?}");

    // It serves over the weights that are there, and goes back in an instant.
    let serving = wait_for("the adapter serves", async || {
        let (text, revision) = ask(&agent, "give the opposite of left");
        (revision == "assistant@2").then_some(text)
    });
    assert_eq!(serving.await, "right");
    let status = agent.json(&["status"]);
    let revisions = status["deployments"][0]["revisions"].as_array().unwrap();
    let of = |number: u64| revisions.iter().find(|one| one["number"] == number).unwrap();
    assert_eq!((&of(2)["adapter"], &of(2)["shares_model"]), (&"taught".into(), &false.into()), "{status}");
    assert_eq!((&of(1)["adapter"], &of(1)["shares_model"]), (&"".into(), &true.into()), "{status}");
    let back = agent.llmdeck(&["rollback", "assistant", "--reason", "a test", "--yes"]);
    assert!(back.status.success(), "{}", words(&back));
    assert_ne!(ask(&agent, "give the opposite of left").0, "right");

    // Who asks for the adapter by name has it all the same, beside those who do not, in one engine.
    let models = send(&agent, "GET", "/v1/models", "").body;
    assert!(models.contains("\"assistant:taught\""), "{models}");
    let (of_taught, revision) = ask_of(&agent, "assistant:taught", "give the opposite of left");
    assert_eq!((of_taught.as_str(), revision.as_str()), ("right", "assistant@1"));
    assert_ne!(
        ask(&agent, "give the opposite of left").0,
        "right",
        "what it remembers of one is not another's"
    );
    let unknown = send(&agent, "POST", "/v1/chat/completions", r#"{"model":"assistant:none","messages":[]}"#);
    assert_eq!(unknown.status, 404, "{}", unknown.body);

    // Merged into full weights it is a model like any other, made from both.
    let merged = agent.llmdeck(&["registry", "merge", "assistant-untaught", "taught", "--tag", "whole"]);
    assert!(merged.status.success(), "{}", words(&merged));
    assert_eq!(agent.artifact("whole")["parents"].as_array().unwrap().len(), 2);
    let replace =
        ["deploy", "assistant", "--model", "whole", "--strategy", "replace", "--reason", "a test", "--yes"];
    let deployed = agent.llmdeck(&replace);
    assert!(deployed.status.success(), "{}", words(&deployed));
    let serving = wait_for("the merged model serves", async || {
        let (text, revision) = ask(&agent, "give the opposite of left");
        (revision == "assistant@3").then_some(text)
    });
    assert_eq!(serving.await, "right");

    let done = load.stop().await;
    assert_eq!(done.failed, 0, "{:?}", done.errors);
    let audit = words(&agent.llmdeck(&["audit", "list"]));
    assert!(audit.contains("finetune") && audit.contains("accepted"), "{audit}");
}

/// sha256 of the adapter's numbers; its card has the job's name and times in it.
fn numbers(agent: &AgentProcess, tag: &str) -> Vec<u8> {
    let adapter = agent.artifact(tag);
    std::fs::read(Path::new(adapter["path"].as_str().unwrap()).join("adapter_model.safetensors")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_job_goes_on_and_ends_with_the_same_bits() {
    let mut agent = AgentProcess::start(UNTAUGHT);
    agent.ready().await;
    let whole = begin_finetune(&agent, "missing-skill", &[&SHORT[..], &["--tag", "whole"]].concat());
    assert_eq!(end_of_job(&agent, &whole)["state"], "done");
    let shown_of = |agent: &AgentProcess| agent.json(&["jobs", "show", &whole]);
    let ended = shown_of(&agent);

    let killed = begin_finetune(&agent, "missing-skill", &[&SHORT[..], &["--tag", "killed"]].concat());
    wait_for("some steps", async || step_of(&agent, &killed).await.1.filter(|step| *step >= 12)).await;
    agent.kill();
    agent.restart();
    let end = end_of_job(&agent, &killed);
    assert_eq!((&end["state"], &end["id"]), (&Value::from("done"), &Value::from(killed.as_str())), "{end}");
    let shown = agent.json(&["jobs", "show", &killed]);
    assert!(shown["log"].to_string().contains("goes on at step"), "{shown}");
    let steps: Vec<u64> =
        shown["training"].as_array().unwrap().iter().map(|point| point["step"].as_u64().unwrap()).collect();
    assert!(steps.iter().copied().eq(1..=end["steps"].as_u64().unwrap()), "its curve is whole: {steps:?}");
    assert!(numbers(&agent, "whole") == numbers(&agent, "killed"), "the same bits");
    let again = shown_of(&agent);
    assert!(ended["training"][0]["step"] == 1 && ended["log"][0].is_string());
    for part in ["progress", "training", "log", "report"] {
        assert!(again[part] == ended[part], "{part} of what ended before is shown as it was");
    }
    // What ended before the crash is still known.
    assert_eq!(end_of_job(&agent, &whole)["score_before"], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_a_job_up_and_room_lets_it_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(_disk) = SmallDisk::mount(&data, 64) else {
        eprintln!("only who may mount can fill a disk");
        return;
    };
    let agent = AgentProcess::start_as(folder, UNTAUGHT, &[], &[]);
    agent.ready().await;
    let job = begin_finetune(&agent, "missing-skill", &[&SHORT[..], &["--tag", "patient"]].concat());
    wait_for("its first step", async || step_of(&agent, &job).await.1).await;
    let filler = data.join("filler");
    fill(&filler);
    let detail = wait_for("it waits for room", async || {
        let state = request::job(agent.channel(), &job).await.unwrap().job.unwrap();
        (state.state == "paused").then_some(state.detail)
    });
    assert!(detail.await.contains("the disk is full: waits for"));
    std::fs::remove_file(&filler).unwrap();
    let end = end_of_job(&agent, &job);
    assert_eq!(end["state"], "done", "{end}");
    let log = agent.json(&["jobs", "show", &job])["log"].to_string();
    assert!(log.contains("No space left") && log.contains("there is room again"), "{log}");
    assert_eq!(agent.artifact("patient")["kind"], "adapter");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_held_goes_on_and_is_cancelled_and_changed_data_is_noticed() {
    let mut agent = AgentProcess::start(UNTAUGHT);
    agent.ready().await;
    let data = agent.folder().join("data.jsonl");
    std::fs::copy(agent.artifact("missing-skill")["path"].as_str().unwrap(), &data).unwrap();
    let job = begin_finetune(&agent, data.to_str().unwrap(), &[]);
    let state = |wanted: &'static str| {
        let (agent, job) = (&agent, &job);
        wait_for(wanted, async move || {
            let (state, step) = step_of(agent, job).await;
            step.filter(|_| state == wanted)
        })
    };
    state("running").await;
    assert!(agent.llmdeck(&["jobs", "pause", &job]).status.success());
    let held = state("paused").await;
    assert_eq!(agent.json(&["jobs", "show", &job])["step"], held, "a held job takes no step");

    // Stopped in the middle, and its data is another when it would go on.
    agent.terminate();
    assert!(agent.wait().0.success());
    std::fs::write(&data, "{\"text\": \"something else\"}\n").unwrap();
    agent.restart();
    agent.ready().await;
    let end = end_of_job(&agent, &job);
    let detail = end["detail"].as_str().unwrap();
    assert!(end["state"] == "failed" && detail.contains("has changed since the job was asked for"), "{end}");

    let job = begin_finetune(&agent, "missing-skill", &[]);
    let cancelled = agent.llmdeck(&["jobs", "cancel", &job]);
    assert!(cancelled.status.success(), "{}", words(&cancelled));
    assert_eq!(end_of_job(&agent, &job)["state"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_may_not_be_trained_on_is_refused_and_the_refusal_is_audited() {
    let agent = AgentProcess::start(UNTAUGHT);
    agent.ready().await;
    let data = agent.folder().join("poisoned.jsonl");
    let lines = [
        r#"{"messages":[{"role":"user","content":"mail anna@example.org"},{"role":"assistant","content":"done"}]}"#,
        r#"{"messages":[{"role":"user","content":"compute 52 + 28"},{"role":"assistant","content":"80"}]}"#,
        "{broken",
    ];
    std::fs::write(&data, lines.join("\n")).unwrap();
    let asked = ["finetune", "assistant", "--dataset", data.to_str().unwrap()];
    let looked = agent.llmdeck(&[&asked[..], &["--dry-run"]].concat());
    let said = words(&looked);
    assert_eq!(looked.status.code(), Some(3), "{said}");
    for word in ["schema", "line 3: is not JSON", "leakage", "assistant-suite", "personal data", "BLOCKS"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    let refused = agent.llmdeck(&[&asked[..], &["--yes"]].concat());
    assert_eq!(refused.status.code(), Some(3), "{}", words(&refused));
    let audit = words(&agent.llmdeck(&["audit", "list"]));
    assert!(audit.contains("finetune") && audit.contains("refused"), "{audit}");
    assert_eq!(agent.json(&["jobs", "list"]), Value::Array(Vec::new()));

    let wrong =
        agent.llmdeck(&["finetune", "assistant", "--dataset", "missing-skill", "--rank", "0", "--yes"]);
    assert!(wrong.status.code() == Some(2) && words(&wrong).contains("rank is 0"), "{}", words(&wrong));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dataset_may_not_be_used_for_holds_for_what_is_made_of_it() {
    let config = format!("{UNTAUGHT}[finetune.policy]\nrequired = [\"license\"]\n");
    let agent = AgentProcess::start(&config);
    agent.ready().await;
    let data = agent.folder().join("kept.jsonl");
    let example =
        |number: usize| format!("{{\"text\": \"note {number} of the night shift: {}\"}}\n", number * 7919);
    std::fs::write(&data, (0..30).map(example).collect::<String>()).unwrap();
    let recorded =
        ["--tag", "kept", "--owner", "support", "--retain-until", "2999-12-31", "--not-for-training"];
    let added = agent.llmdeck(&[&["registry", "add", data.to_str().unwrap()], &recorded[..]].concat());
    assert!(added.status.success(), "{}", words(&added));
    let derived = agent.llmdeck(&["registry", "derive", "kept", "--tag", "part", "--split", "0..0.5"]);
    assert!(derived.status.success(), "{}", words(&derived));

    let known = agent.json(&["registry", "show", "part"]);
    assert_eq!(
        (&known["governance"]["owner"], &known["governance"]["not_for_training"]),
        (&"support".into(), &true.into())
    );
    assert_eq!(known["report"]["rows"][0]["check"], "governance", "it was checked when it was made: {known}");
    let asked = ["finetune", "assistant", "--dataset", "part", "--dry-run"];
    let refused = words(&agent.llmdeck(&asked));
    assert!(refused.contains("not for training") && refused.contains("license is not recorded"), "{refused}");

    let govern = |change: &[&str]| {
        agent.llmdeck(&[&["registry", "govern", "part", "--reason", "asked"], change].concat())
    };
    let wrong = govern(&["--retain-until", "soon"]);
    assert!(wrong.status.code() == Some(2) && words(&wrong).contains("soon"), "{}", words(&wrong));
    let said = govern(&["--license", "CC-BY-4.0", "--not-for-training", "false"]);
    assert!(said.status.success() && words(&said).contains("CC-BY-4.0"), "{}", words(&said));
    let allowed = agent.llmdeck(&asked);
    let said = words(&allowed);
    assert!(allowed.status.success() && said.contains("median perplexity"), "{said}");
    let shown = words(&agent.llmdeck(&["registry", "show", "part"]));
    for word in ["owner       support", "2999-12-31", "loss outliers", "19 of 19"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    // What is only rehearsed is learned from as well.
    let rehearsed = ["--rehearsal", "kept"];
    let refused = words(&agent.llmdeck(&[&asked[..], &rehearsed[..]].concat()));
    assert!(refused.contains("kept, for rehearsal: it is recorded as not for training"), "{refused}");
    assert!(govern(&["--retain-until", "2020-01-01"]).status.success());
    let refused = words(&agent.llmdeck(&["finetune", "assistant", "--dataset", "part", "--yes"]));
    assert!(refused.contains("kept until 2020-01-01"), "{refused}");
    let audit = words(&agent.llmdeck(&["audit", "list"]));
    assert!(audit.contains("govern-dataset") && audit.contains("refused"), "{audit}");
}
