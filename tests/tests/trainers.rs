//! A training handed to an external trainer, and what it may take.

use llmdeck_tests::{
    AgentProcess, GpuNode, UNTAUGHT, begin_finetune, end_of_job, processes, send, step_of, wait_for, words,
};
use serde_json::{Value, json};

const TRAINER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/trainer.py");

fn with_trainer(more: &str) -> String {
    format!("{UNTAUGHT}[finetune]\ntrainer = [\"python3\", \"{TRAINER}\"]\n{more}")
}

/// How many of them are stopped.
fn stopped(word: &str) -> usize {
    processes(word).iter().filter(|(_, state)| state.starts_with('T')).count()
}

fn log_of(agent: &AgentProcess, job: &str) -> String {
    agent.json(&["jobs", "show", job])["log"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_trainer_gets_the_job_and_its_adapter_goes_through_the_same_gates() {
    let agent = AgentProcess::start(&with_trainer(""));
    agent.ready().await;
    let job = begin_finetune(&agent, "missing-skill", &["--outside", "--tag", "outside"]);
    let end = end_of_job(&agent, &job);
    assert_eq!((&end["state"], &end["step"]), (&"done".into(), &3.into()), "{end}");
    // It has learned nothing, and is kept as what it is.
    assert_eq!((&end["score_before"], &end["score_after"]), (&0.0.into(), &0.0.into()), "{end}");
    assert_eq!(agent.artifact("outside")["kind"], "adapter");
    let log = log_of(&agent, &job);
    assert!(log.contains("a trainer's banner"), "{log}");
    assert!(log.contains("loading: 100 %") && !log.contains("loading: 50 %"), "{log}");

    let failed = begin_finetune(&agent, "missing-skill", &["--outside", "--seed", "2"]);
    let end = end_of_job(&agent, &failed);
    assert!(end["state"] == "failed" && end["detail"].as_str().unwrap().contains("exit status: 1"), "{end}");
    let log = log_of(&agent, &failed);
    assert!(log.contains("out of memory"), "{log}");
    assert!(processes(&failed).is_empty(), "its worker is gone");

    let endless = begin_finetune(&agent, "missing-skill", &["--outside", "--seed", "1"]);
    wait_for("its last step", async || step_of(&agent, &endless).await.1.filter(|step| *step == 3)).await;
    // The trainer and its worker.
    assert!(agent.llmdeck(&["jobs", "pause", &endless]).status.success());
    wait_for("both are held", async || (stopped(&endless) == 2).then_some(())).await;
    assert!(agent.llmdeck(&["jobs", "resume", &endless]).status.success());
    wait_for("both go on", async || (stopped(&endless) == 0).then_some(())).await;
    assert!(agent.llmdeck(&["jobs", "cancel", &endless]).status.success());
    let end = end_of_job(&agent, &endless);
    assert_eq!(end["state"], "cancelled", "{end}");
    assert!(processes(&endless).is_empty(), "its processes are gone");
}

/// A card with 16 GiB free, and what the processes on it use: a percentage of its time, and MiB each.
fn card(processes: &[u32], percent: u32, mib: u64) -> Value {
    let process = |pid: &u32| json!({ "pid": pid, "name": "python3", "memory_bytes": mib << 20, "utilization": percent });
    json!({ "gpus": [{
        "uuid": "GPU-a", "name": "NVIDIA H100 80GB HBM3", "utilization": 93,
        "memory_used_bytes": 64_u64 << 30, "memory_total_bytes": 80_u64 << 30,
        "processes": processes.iter().map(process).collect::<Vec<_>>(),
    }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_is_held_to_its_share_of_the_gpu_and_ended_where_it_takes_too_much_memory() {
    let config = with_trainer("threads = 1\ngpus = [0]\ngpu_share = 0.5\ngpu_memory_mib = 1000\n");
    let node = GpuNode::start(&config, &card(&[], 0, 0));
    let agent = &node.agent;
    agent.ready().await;
    let asked = ["finetune", "assistant", "--dataset", "missing-skill", "--outside", "--dry-run"];
    let plan = words(&agent.llmdeck(&asked));
    assert!(plan.contains("1 core, GPU 0, 1000 MiB of each GPU, 50 % of the time of each GPU"), "{plan}");

    let job = begin_finetune(agent, "missing-skill", &["--outside", "--seed", "1"]);
    wait_for("its last step", async || step_of(agent, &job).await.1.filter(|step| *step == 3)).await;
    let pids: Vec<u32> = processes(&job).into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(pids.len(), 2, "the trainer and its worker");
    node.change(&card(&pids, 50, 100));
    wait_for("it has had its share", async || (stopped(&job) == 2).then_some(())).await;
    node.change(&card(&pids, 0, 100));
    wait_for("its share has grown", async || (stopped(&job) == 0).then_some(())).await;
    let log = log_of(agent, &job);
    assert!(log.contains("held to 50 % of the time of GPU 0"), "{log}");
    assert!(log.contains("sees GPUs 0 and 1 cores"), "{log}");

    node.change(&card(&pids, 0, 600));
    let end = end_of_job(agent, &job);
    let said = end["detail"].as_str().unwrap();
    assert!(end["state"] == "failed" && said.contains("took 1200 MiB of GPU 0's memory"), "{end}");
    assert!(said.contains("gpu_memory_mib of [finetune] allows 1000"), "{end}");
    wait_for("its processes are gone", async || processes(&job).is_empty().then_some(())).await;

    let mut full = card(&[], 0, 0);
    full["gpus"][0]["memory_used_bytes"] = json!((80_u64 << 30) - (500 << 20));
    node.change(&full);
    node.frame("it is full", |frame| frame.gpus[0].memory_used_bytes > Some(79 << 30)).await;
    let asked = ["finetune", "assistant", "--dataset", "missing-skill", "--outside", "--yes"];
    let refused = words(&agent.llmdeck(&asked));
    assert!(
        refused.contains("sets 1000 MiB aside") && refused.contains("GPU 0 has 500 MiB free"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_waits_for_users_and_is_ended_where_it_takes_too_much_of_the_nodes_memory() {
    let agent = AgentProcess::start(&with_trainer("memory_mib = 200\nmax_ttft_p95_ms = 0.001\n"));
    agent.ready().await;
    let job = begin_finetune(&agent, "missing-skill", &["--outside", "--seed", "4"]);
    wait_for("its last step", async || step_of(&agent, &job).await.1.filter(|step| *step == 3)).await;
    let body =
        json!({ "model": "assistant", "max_tokens": 1, "messages": [{ "role": "user", "content": "Hi" }] });
    for _ in 0..25 {
        assert_eq!(send(&agent, "POST", "/v1/chat/completions", &body.to_string()).status, 200);
    }
    wait_for("it is held for users", async || (stopped(&job) == 1).then_some(())).await;
    wait_for("it goes on slowly", async || (stopped(&job) == 0).then_some(())).await;
    let log = log_of(&agent, &job);
    assert!(log.contains("held: TTFT p95 is") && log.contains("allowed 0"), "{log}");
    assert!(agent.llmdeck(&["jobs", "cancel", &job]).status.success());

    let greedy = begin_finetune(&agent, "missing-skill", &["--outside", "--seed", "3"]);
    let end = end_of_job(&agent, &greedy);
    let said = end["detail"].as_str().unwrap();
    assert!(
        end["state"] == "failed" && said.contains("MiB of memory, and memory_mib of [finetune] allows 200"),
        "{end}"
    );
    wait_for("its processes are gone", async || processes(&greedy).is_empty().then_some(())).await;
}
