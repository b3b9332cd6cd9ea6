//! Jobs on the screen: begun by name, watched, ended, read.

use llmdeck_tests::{ASSISTANT, AgentProcess, Console};

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_is_begun_by_name_watched_ended_and_read() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&agent.target().to_string()], 80, 24);
        console.wait_for("live");
        console.send(":bench ass");
        console.wait_for("bench assistant (8 users for 30 s)");
        console.send("\r");
        let running = console.wait_until("answers are counted", |screen| {
            screen.contains("tokens/s") && screen.contains("under way") && screen.contains("running")
        });
        assert!(running.contains("bench  assistant@1"), "{running}");
        console.send("x");
        let ended = console.wait_until("what was measured until then", |screen| screen.contains("cancelled"));
        assert!(!ended.contains("running"), "{ended}");
        console.wait_until("its outcome", |screen| screen.contains("Outcome, with 95 % intervals"));
        console.send("3");
        let list = console.wait_for("Jobs, newest first (1)");
        assert!(list.contains("assistant@1") && list.contains("tokens/s"), "{list}");
        console.send("\r");
        console.wait_for("Outcome, with 95 % intervals");
        console.send("q");
        assert!(console.wait());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_measured_from_the_screen() {
    let agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&agent.target().to_string()], 120, 40);
        console.wait_for("live");
        console.send(":bench node\r");
        let report = console.wait_for("HELD UP BY");
        assert!(report.contains("memory read") && report.contains("decode, 16 at once"), "{report}");
    });
}
