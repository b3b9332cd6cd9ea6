//! What a reader receives sums to what the agent counted, however slowly it reads.

use std::time::Duration;

use llmdeck_proto::histogram;
use llmdeck_proto::v1::telemetry_client::TelemetryClient;
use llmdeck_proto::v1::{Frame, HistoryRequest, WatchRequest};
use llmdeck_tests::{ASSISTANT, AgentProcess, traffic, wait_for};

fn counted(frames: &[Frame]) -> (u64, u64, u64) {
    let revisions =
        frames.iter().flat_map(|frame| &frame.deployments).flat_map(|deployment| &deployment.revisions);
    revisions.fold((0, 0, 0), |(ok, tokens, samples), revision| {
        let counters = revision.counters.unwrap();
        let e2e = histogram::decode(revision.e2e_us.as_ref()).unwrap();
        (ok + counters.requests_ok, tokens + counters.tokens_out, samples + e2e.len())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_resolution_and_never_truth() {
    let agent = AgentProcess::start(&ASSISTANT.replace("interval_ms = 200", "interval_ms = 50"));
    agent.ready().await;
    let mut client = TelemetryClient::new(agent.channel());
    let mut slow = client.watch(WatchRequest { interval_ms: 1_500 }).await.unwrap().into_inner();
    let mut quick = client.watch(WatchRequest { interval_ms: 0 }).await.unwrap().into_inner();
    let load = traffic(&agent, 40.0);
    wait_for("traffic", async || (load.report().ok >= 100).then_some(())).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.errors);
    // One answer came before the load: from `ready`, whose interval may or may not have ended when the watch began.
    let enough = |ok| ok >= report.ok;
    let mut seen = [Vec::new(), Vec::new()];
    for (frames, stream) in seen.iter_mut().zip([&mut slow, &mut quick]) {
        while !enough(counted(frames).0) {
            frames.push(stream.message().await.unwrap().unwrap());
        }
    }
    let [slow, quick] = seen;
    for frames in [&slow, &quick] {
        let (ok, _, samples) = counted(frames);
        assert!(ok <= report.ok + 1, "{ok} of {}", report.ok);
        assert_eq!(ok, samples, "every whole answer has its latency");
    }
    assert!(slow.len() * 3 < quick.len(), "{} and {} frames", slow.len(), quick.len());
    assert!(slow.iter().any(|frame| frame.merged_frames > 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_survives_a_restart() {
    let mut agent = AgentProcess::start(ASSISTANT);
    agent.ready().await;
    let load = traffic(&agent, 20.0);
    wait_for("traffic", async || (load.report().ok >= 20).then_some(())).await;
    let report = load.stop().await;
    let all = HistoryRequest { from_unix_ms: 0, to_unix_ms: 0, max_frames: 3_600 };
    let range = HistoryRequest { from_unix_ms: now() - 600_000, ..all };
    let before = wait_for("the frames of the traffic", async || {
        let mut client = TelemetryClient::new(agent.channel());
        let frames = client.history(range).await.unwrap().into_inner().frames;
        (counted(&frames).0 > report.ok).then_some(frames)
    });
    let before = before.await;
    agent.terminate();
    tokio::task::block_in_place(|| agent.wait());
    agent.restart();
    let mut client = TelemetryClient::new(agent.channel());
    let after = client.history(range).await.unwrap().into_inner().frames;
    assert!(counted(&after).0 >= counted(&before).0);
    let merged = client.history(HistoryRequest { max_frames: 5, ..range }).await.unwrap().into_inner();
    assert!(merged.frames.len() <= 5 && merged.resolution_ms > 1_000, "{}", merged.frames.len());
    assert_eq!(counted(&merged.frames).0, counted(&after).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_at_once_and_ends_with_the_agent() {
    let mut agent = AgentProcess::start(&ASSISTANT.replace("interval_ms = 200", "interval_ms = 30000"));
    agent.ready().await;
    let mut client = TelemetryClient::new(agent.channel());
    let mut frames = client.watch(WatchRequest { interval_ms: 0 }).await.unwrap().into_inner();
    let first =
        tokio::time::timeout(Duration::from_secs(5), frames.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.node, "node-a");
    agent.terminate();
    assert!(frames.message().await.unwrap().is_none(), "the stream ends in order");
    tokio::task::block_in_place(|| agent.wait());
}

fn now() -> i64 {
    llmdeck::clock::unix_ms()
}
