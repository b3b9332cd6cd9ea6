//! `llmdeck bench` against a real agent.

use std::process::{Command, Output, Stdio};

use llmdeck_proto::v1::jobs_client::JobsClient;
use llmdeck_proto::v1::{GetJobRequest, ListJobsRequest};
use llmdeck_tests::{ASSISTANT, AgentProcess, binaries, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SHORT: [&str; 6] = ["--warm-up", "0s", "--prompt-tokens", "8", "--output-tokens", "8"];

fn command(agent: &AgentProcess, arguments: &[&str]) -> Command {
    let mut command = Command::new(&binaries().console);
    let target = format!("unix:{}", agent.socket().display());
    command.arg("bench").args(arguments).args(SHORT).args(["--target", &target]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn bench(agent: &AgentProcess, arguments: &[&str]) -> Output {
    tokio::task::block_in_place(|| command(agent, arguments).output().unwrap())
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_measured_kept_and_compared() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let path = |name: &str| agent.folder().join(name).to_str().unwrap().to_owned();
    let (out, html, svg) = (path("out.json"), path("out.html"), path("out.svg"));
    let closed = ["assistant", "--concurrency", "3", "--requests", "40", "--json"];
    let kept = bench(&agent, &[&closed[..], &["--out", &out, "--html", &html, "--svg", &svg]].concat());
    let outcome = &json(&kept)["outcome"];
    assert_eq!(
        (&outcome["due"], &outcome["ok"], &outcome["failed"]),
        (&40.into(), &40.into(), &0.into()),
        "{outcome}"
    );
    assert_eq!(outcome["schema"], "llmdeck.bench/1");
    // Every answer goes to its length.
    let tokens: u64 = outcome["blocks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|block| block["completion_tokens"].as_u64().unwrap())
        .sum();
    assert_eq!(tokens, 40 * 8);
    assert_eq!(outcome["latencies"]["e2e"]["count"], 40);
    for (file, words) in [(&html, "application/json"), (&svg, "<svg")] {
        assert!(std::fs::read_to_string(file).unwrap().contains(words));
    }
    // A thousand times slower than before is worse whatever the noise; a thousand times faster is not.
    let scaled = |factor: f64| {
        let mut outcome: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
        for block in outcome["blocks"].as_array_mut().unwrap() {
            for counts in block["latencies_us"].as_object_mut().unwrap().values_mut() {
                let values = counts.as_object().unwrap().iter().map(|(value, count)| {
                    ((value.parse::<f64>().unwrap() * factor).max(1.0) as u64, count.as_u64().unwrap())
                });
                let mut merged = std::collections::BTreeMap::new();
                values.for_each(|(value, count)| *merged.entry(value.to_string()).or_insert(0) += count);
                *counts = serde_json::to_value(merged).unwrap();
            }
        }
        let path = path("scaled.json");
        std::fs::write(&path, outcome.to_string()).unwrap();
        path
    };
    let same = ["assistant", "--concurrency", "3", "--requests", "40"];
    let slower = bench(&agent, &[&same[..], &["--against", &scaled(0.001)]].concat());
    assert_eq!(slower.status.code(), Some(1), "{}", String::from_utf8_lossy(&slower.stdout));
    assert!(String::from_utf8_lossy(&slower.stdout).contains("worse"));
    let before = scaled(1_000.0);
    let faster = bench(&agent, &[&same[..], &["--against", &before, "--margin", "100"]].concat());
    assert_eq!(faster.status.code(), Some(0), "{}", String::from_utf8_lossy(&faster.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_load_and_prompt_runs() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let dataset = agent.folder().join("prompts.jsonl");
    std::fs::write(&dataset, "{\"prompt\":\"what is 2 + 3?\"}\n{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":3}\n").unwrap();
    let trace = agent.folder().join("trace.txt");
    std::fs::write(&trace, "0\n0.05\n0.1\n").unwrap();
    let traced = format!("trace:{}", trace.display());
    let url = format!("http://{}", agent.http());
    let dataset = dataset.to_str().unwrap();
    for arguments in [
        &["assistant", "--rate", "40", "--requests", "12", "--arrivals", "gamma:2"][..],
        &["assistant", "--arrivals", &traced],
        &[&url, "--api", "completions", "--rate", "40", "--requests", "12", "--arrivals", "constant"],
        &["assistant", "--turns", "2", "--shared-prefix", "2x16", "--requests", "12", "--concurrency", "2"],
    ] {
        let outcome = json(&bench(&agent, &[arguments, &["--json"]].concat()))["outcome"].take();
        assert_eq!(
            (&outcome["failed"], &outcome["ok"]),
            (&0.into(), &outcome["due"]),
            "{arguments:?}: {outcome}"
        );
        assert!(outcome["ok"].as_u64().unwrap() >= 3, "{arguments:?}");
    }
    let target = format!("unix:{}", agent.socket().display());
    let asked = [
        "bench",
        "assistant",
        "--dataset",
        dataset,
        "--requests",
        "6",
        "--concurrency",
        "1",
        "--warm-up",
        "0s",
        "--target",
        &target,
    ];
    let output =
        tokio::task::block_in_place(|| Command::new(&binaries().console).args(asked).output().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let swept = json(&bench(&agent, &["assistant", "--sweep", "20..40:2", "--requests", "6", "--json"]));
    assert_eq!(swept["outcomes"].as_array().unwrap().len(), 2);
    let searched =
        bench(&agent, &["assistant", "--search", "1000", "--objective", "ttft=1ms", "--requests", "4"]);
    assert!(searched.status.success(), "{}", String::from_utf8_lossy(&searched.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_keeps_what_was_measured() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let child =
        command(&agent, &["assistant", "--rate", "50", "--duration", "10m", "--json"]).spawn().unwrap();
    wait_for("traffic", async || {
        let metrics = llmdeck_tests::send(&agent, "GET", "/metrics", "").body;
        let answered = metrics
            .lines()
            .find(|line| line.starts_with("llmdeck_requests_total") && line.contains("\"ok\""));
        answered.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).filter(|count| *count > 30.0)
    })
    .await;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = tokio::task::block_in_place(|| child.wait_with_output().unwrap());
    let outcome = &json(&output)["outcome"];
    assert!(
        outcome["ok"].as_u64().unwrap() > 20 && outcome["seconds"].as_f64().unwrap() < 300.0,
        "{outcome}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_said_with_the_remedy() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    for (arguments, code, words) in [
        (&["nonesuch"][..], 2, "there is assistant"),
        (&["http://127.0.0.1:1"], 1, "refused"),
        (&["https://127.0.0.1:1", "--model", "m"], 1, "refused"),
        (&["ftp://127.0.0.1:1", "--model", "m"], 1, "http://HOST:PORT or https://HOST"),
        (&["assistant", "--rate", "0"], 2, "above 0"),
        (&["assistant", "--search", "5"], 2, "--objective"),
        (&["assistant", "--against", "/nonexistent"], 2, "/nonexistent"),
    ] {
        let output = bench(&agent, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    // Too long for the model: that is the server's refusal, counted by its kind and told in its words.
    let target = format!("unix:{}", agent.socket().display());
    let long = [
        "bench",
        "assistant",
        "--requests",
        "3",
        "--concurrency",
        "1",
        "--warm-up",
        "0s",
        "--prompt-tokens",
        "4000",
        "--target",
        &target,
    ];
    let output =
        tokio::task::block_in_place(|| Command::new(&binaries().console).args(long).output().unwrap());
    let (printed, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("3 x status 400: ") && printed.contains("context_length_exceeded"), "{printed}");
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("none of 3 requests was answered: status 400: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_agent_measures_what_the_command_would_and_says_what_it_cost() {
    let prices = "[prices]\ncurrency = \"EUR\"\nnode_hour = 3.6\n";
    let agent = AgentProcess::start(&format!("{ASSISTANT}{prices}"));
    agent.ready().await;
    let asked = ["assistant", "--job", "--duration", "1s", "--concurrency", "2", "--json"];
    let outcome = json(&bench(&agent, &asked))["outcome"].take();
    assert_eq!(
        (&outcome["failed"], &outcome["plan"]["shape"]["concurrency"]),
        (&0.into(), &2.into()),
        "{outcome}"
    );
    assert!(
        outcome["ok"].as_u64().unwrap() > 0 && outcome["latencies"]["ttft"]["count"].as_u64().unwrap() > 0
    );
    assert!(
        outcome["cost"]["cost"].as_f64().unwrap() > 0.0 && outcome["cost"]["currency"] == "EUR",
        "{outcome}"
    );
    // Asked from here the account is the agent's as well.
    let here = json(&bench(&agent, &["assistant", "--duration", "1s", "--json"]))["outcome"].take();
    assert!(here["cost"]["cost"].as_f64().unwrap() > 0.0, "{here}");
    let unknown = bench(&agent, &["nobody", "--job"]);
    assert!(!unknown.status.success() && String::from_utf8_lossy(&unknown.stderr).contains("nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_measured_and_its_models_are_held_against_it() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let run = |json: bool| {
        let target = format!("unix:{}", agent.socket().display());
        let mut command = Command::new(&binaries().console);
        command.args(["bench", "node", "--target", &target]).args(json.then_some("--json"));
        tokio::task::block_in_place(|| command.output().unwrap())
    };
    let report = json(&run(true));
    assert_eq!(report["schema"], "llmdeck.node-bench/1");
    assert!(report["limits"]["memory_read_bytes_per_s"].as_f64().unwrap() > 1e8, "{report}");
    assert!(report["disk_read_bytes_per_s"].as_f64().unwrap() > 0.0);
    let model = &report["models"][0];
    assert_eq!(model["revision"], "assistant@1");
    for rate in model["rates"].as_array().unwrap() {
        let share = |name: &str| rate[name].as_f64().unwrap();
        assert!(share("tokens_per_s") > 0.0 && share("arithmetic_share") > 0.0, "{rate}");
        assert!(["memory", "arithmetic", "scheduling"].contains(&rate["bound"].as_str().unwrap()));
    }
    let text = String::from_utf8(run(false).stdout).unwrap();
    assert!(text.contains("memory read") && text.contains("decode, 16 at once"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_interrupted_keeps_what_it_measured() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let mut command = command(&agent, &["assistant", "--job", "--duration", "600s", "--json"]);
    let child = command.spawn().unwrap();
    let running = wait_for("answers are counted", async || {
        let mut jobs = JobsClient::new(agent.channel());
        let id = jobs.list_jobs(ListJobsRequest {}).await.ok()?.into_inner().jobs.first()?.id.clone();
        let points = jobs.get_job(GetJobRequest { id: id.clone() }).await.ok()?.into_inner().points;
        points.iter().any(|point| point.ok > 0).then_some(id)
    });
    let id = running.await;
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let output = tokio::task::block_in_place(|| child.wait_with_output().unwrap());
    assert!(json(&output)["outcome"]["ok"].as_u64().unwrap() > 0);
    let report = JobsClient::new(agent.channel()).get_job(GetJobRequest { id }).await.unwrap().into_inner();
    assert_eq!(report.job.unwrap().state, "cancelled");
}
