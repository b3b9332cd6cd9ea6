//! GPUs through the real nvml-wrapper and a fake driver library.

use llmdeck_proto::v1::gpu_driver::State;
use llmdeck_tests::{ASSISTANT, Console, GpuNode};
use serde_json::{Value, json};

fn card() -> Value {
    json!({
        "uuid": "GPU-a", "name": "NVIDIA H100 80GB HBM3", "utilization": 93,
        "memory_used_bytes": 64_u64 << 30, "memory_total_bytes": 80_u64 << 30,
        "temperature_c": 71, "power_mw": 612_000, "power_limit_mw": 700_000, "energy_mj": 1_000_000,
        "clock_mhz": 1_755, "throttle_reasons": 1, "pcie_kb_per_s": 250_000, "pcie_replays": 3,
        "ecc_errors": 0, "retired_pages": 2, "remapped_rows": 4,
        "nvlinks": [{ "active": true, "errors": 7, "sent_bytes": 500 }, { "active": false, "errors": 0, "sent_bytes": 0 }],
        "processes": [{ "pid": 4242, "name": "vllm", "memory_bytes": 1000, "utilization": 40 }, { "pid": 4243, "name": "x", "memory_bytes": null }],
        "mig": [{ "uuid": "MIG-1", "name": "1g.10gb", "memory_used_bytes": 5, "memory_total_bytes": 10 }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_a_card_tells_is_in_the_frame() {
    let node = GpuNode::start(ASSISTANT, &json!({ "gpus": [card()] }));
    let frame = node.frame("a GPU", |frame| !frame.gpus.is_empty()).await;
    let driver = frame.gpu_driver.unwrap();
    assert_eq!((driver.state(), driver.driver_version.as_str()), (State::Ok, "570.86.15"));
    let gpu = &frame.gpus[0];
    assert_eq!((gpu.uuid.as_str(), gpu.name.as_str()), ("GPU-a", "NVIDIA H100 80GB HBM3"));
    assert_eq!((gpu.utilization, gpu.memory_used_bytes), (Some(0.93), Some(64 << 30)));
    assert_eq!(
        (gpu.temperature_c, gpu.power_mw, gpu.power_limit_mw),
        (Some(71), Some(612_000), Some(700_000))
    );
    assert_eq!((gpu.clock_sm_mhz, gpu.pcie_replays), (Some(1_755), Some(3)));
    assert_eq!(gpu.pcie_received_bytes_per_s, Some(250_000_000));
    assert_eq!((gpu.ecc_uncorrected, gpu.retired_pages, gpu.remapped_rows), (Some(0), Some(2), Some(4)));
    assert_eq!(gpu.fan, None, "what a card does not tell is absent");
    assert_eq!(gpu.throttle_reasons, Vec::<String>::new(), "idling is no trouble");
    assert_eq!(
        (gpu.nvlinks.len(), gpu.nvlinks[0].errors, gpu.nvlinks[0].received_bytes),
        (2, Some(7), Some(1_000))
    );
    assert_eq!((gpu.processes[0].name.as_str(), gpu.processes[0].memory_used_bytes), ("vllm", Some(1_000)));
    assert_eq!(gpu.processes[1].memory_used_bytes, None);
    let utilization = |index: usize| gpu.processes[index].utilization;
    assert_eq!((utilization(0), utilization(1)), (Some(0.4), Some(0.0)), "whoever has no sample was idle");
    assert_eq!(
        (gpu.mig_slices[0].name.as_str(), gpu.mig_slices[0].memory_total_bytes),
        ("1g.10gb", Some(10))
    );
    assert_eq!(gpu.last_xid, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn energy_is_measured_from_the_cards_counter() {
    let node = GpuNode::start(ASSISTANT, &json!({ "gpus": [card()] }));
    node.frame("a GPU", |frame| !frame.gpus.is_empty()).await;
    let mut more = card();
    more["energy_mj"] = json!(1_000_900);
    node.change(&json!({ "gpus": [more] }));
    let frame =
        node.frame("spent energy", |frame| frame.gpus[0].energy_mj.is_some_and(|spent| spent > 0)).await;
    assert_eq!(frame.gpus[0].energy_total_mj, Some(1_000_900));
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_becomes_an_alert_in_words() {
    let mut hot = card();
    hot["uuid"] = json!("GPU-b");
    hot["throttle_reasons"] = json!(0x44);
    hot["xids"] = json!([79]);
    hot["ecc_errors"] = json!(5);
    let node = GpuNode::start(ASSISTANT, &json!({ "gpus": [card(), hot] }));
    let frame =
        node.frame("the Xid", |frame| frame.gpus.get(1).is_some_and(|gpu| gpu.last_xid.is_some())).await;
    assert_eq!((frame.gpus[0].last_xid, frame.gpus[1].last_xid), (None, Some(79)));
    let alerts: Vec<&str> = frame
        .alerts
        .iter()
        .filter(|alert| alert.subject == "GPU 1")
        .map(|alert| alert.text.as_str())
        .collect();
    for words in
        ["slowed by its power limit", "slowed by half or more, too hot", "Xid error 79", "5 uncorrected"]
    {
        assert!(alerts.iter().any(|text| text.contains(words)), "{words}: {alerts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_falls_off_the_bus_is_lost_and_the_others_go_on() {
    let mut other = card();
    other["uuid"] = json!("GPU-b");
    let node = GpuNode::start(ASSISTANT, &json!({ "gpus": [card(), other] }));
    node.frame("both cards", |frame| frame.gpus.len() == 2).await;
    let mut lost = other.clone();
    lost["lost"] = json!(true);
    node.change(&json!({ "gpus": [card(), lost] }));
    let frame = node.frame("the loss", |frame| !frame.gpus[1].lost.is_empty()).await;
    assert!(frame.gpus[1].lost.contains("fallen off the bus"), "{}", frame.gpus[1].lost);
    assert_eq!((frame.gpus[1].utilization, frame.gpus[1].name.as_str()), (None, "NVIDIA H100 80GB HBM3"));
    assert_eq!(frame.gpus[0].utilization, Some(0.93));
    tokio::task::block_in_place(|| {
        let mut console = Console::start(&[&node.agent.target().to_string()], 80, 24);
        console.wait_for("the GPU has fallen off");
        console.send(":node\r");
        console.wait_for("drain the node and reset");
        console.send("q");
    });
    assert_eq!(node.agent.ready().await, "assistant@1");
    node.change(&json!({ "gpus": [card(), other] }));
    node.frame("both cards again", |frame| frame.gpus[1].lost.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_does_not_work_says_what_mends_it() {
    for (code, state, words) in [
        (18, State::VersionMismatch, "reboot"),
        (4, State::NoPermission, "/dev/nvidia"),
        (9, State::Absent, "modprobe"),
        (999, State::Failed, "NVML"),
    ] {
        let node = GpuNode::start(ASSISTANT, &json!({ "init": code }));
        let frame = node.frame("the driver's state", |frame| {
            frame.gpu_driver.as_ref().is_some_and(|driver| driver.state() != State::Unspecified)
        });
        let driver = frame.await.gpu_driver.unwrap();
        assert_eq!(driver.state(), state);
        assert!(driver.detail.contains(words), "{}", driver.detail);
        assert_eq!(node.agent.ready().await, "assistant@1");
    }
}
