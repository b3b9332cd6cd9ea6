//! Frames as busy nodes send them, for the benches.

use std::time::Duration;

use llmdeck_agent::telemetry::{AnswerQuality, Outcome, Recorder};
use llmdeck_proto::v1::{Deployment, Frame, Gpu, GpuDriver, Host, NvLink, Revision};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Requests of each deployment in an interval.
pub const REQUESTS: u64 = 40;
/// Tokens of each answer.
pub const TOKENS: u64 = 60;

/// A node under load: so many GPUs and deployments, each with a stable revision and a standby.
pub fn busy_frame(node: usize, sequence: u64, gpus: u32, deployments: usize) -> Frame {
    let mut rng = StdRng::seed_from_u64(sequence * 1_000 + node as u64);
    Frame {
        node: format!("gpu-{node:04}"),
        time_unix_ms: 1_700_000_000_000 + sequence as i64 * 1_000,
        sequence,
        interval_ms: 1_000,
        merged_frames: 1,
        agent_instance: "5f3a9c1e77d0b2a4".into(),
        agent_version: "0.1.0".into(),
        host: Some(host(&mut rng)),
        gpu_driver: Some(GpuDriver { state: 1, driver_version: "570.86.15".into(), ..GpuDriver::default() }),
        gpus: (0..gpus).map(|index| gpu(&mut rng, index)).collect(),
        deployments: (0..deployments).map(|index| deployment(&mut rng, index)).collect(),
        ..Frame::default()
    }
}

fn host(rng: &mut StdRng) -> Host {
    Host {
        cpu_utilization: Some(rng.random_range(0.1..0.3)),
        cpu_count: 128,
        load_1m: rng.random_range(8.0..30.0),
        memory_used_bytes: 412 << 30,
        memory_total_bytes: 1_024 << 30,
        disk_used_bytes: 2 << 40,
        disk_total_bytes: 7 << 40,
        network_received_bytes: rng.random_range(1_000_000..9_000_000),
        network_sent_bytes: rng.random_range(1_000_000..9_000_000),
        agent_cpu_cores: Some(0.01),
        agent_memory_bytes: 30 << 20,
        cpu_energy_mj: Some(rng.random_range(300_000..500_000)),
        uptime_s: 1_000_000,
    }
}

fn gpu(rng: &mut StdRng, index: u32) -> Gpu {
    Gpu {
        index,
        uuid: format!("GPU-5f3a9c1e-77d0-b2a4-0000-00000000000{index}"),
        name: "NVIDIA H100 80GB HBM3".into(),
        utilization: Some(rng.random_range(0.7..1.0)),
        memory_utilization: Some(rng.random_range(0.4..0.8)),
        memory_used_bytes: Some(rng.random_range(60_u64 << 30..79 << 30)),
        memory_total_bytes: Some(80 << 30),
        temperature_c: Some(rng.random_range(60..80)),
        power_mw: Some(rng.random_range(400_000..700_000)),
        power_limit_mw: Some(700_000),
        energy_total_mj: Some(rng.random_range(1 << 40..1 << 41)),
        energy_mj: Some(rng.random_range(400_000..700_000)),
        clock_sm_mhz: Some(1_755),
        clock_memory_mhz: Some(2_619),
        pcie_received_bytes_per_s: Some(rng.random_range(1_000_000..90_000_000)),
        pcie_sent_bytes_per_s: Some(rng.random_range(1_000_000..90_000_000)),
        pcie_replays: Some(0),
        ecc_uncorrected: Some(0),
        ecc_corrected: Some(0),
        remapped_rows: Some(0),
        nvlinks: (0..18)
            .map(|link| NvLink {
                link,
                active: true,
                errors: Some(0),
                sent_bytes: None,
                received_bytes: None,
            })
            .collect(),
        ..Gpu::default()
    }
}

fn deployment(rng: &mut StdRng, index: usize) -> Deployment {
    Deployment {
        name: format!("chat-{index}"),
        stable_revision: 7,
        revisions: vec![revision(rng, 7, REQUESTS), revision(rng, 6, 0)],
        queue_limit: 256,
        objective_ttft_p99_us: Some(750_000),
        energy_mj: Some(900_000),
        ..Deployment::default()
    }
}

fn revision(rng: &mut StdRng, number: u32, requests: u64) -> Revision {
    let recorder = Recorder::default();
    for _ in 0..requests {
        record_request(&recorder, rng);
    }
    let interval = recorder.drain();
    Revision {
        number,
        state: if requests > 0 { 4 } else { 6 },
        traffic_share: if requests > 0 { 1.0 } else { 0.0 },
        model: "llama-3.1-8b".into(),
        model_digest: "91ab2c".repeat(10) + "91ab",
        parameters: 8_030_261_248,
        weights_bytes: 16 << 30,
        resident_weights_bytes: 16 << 30,
        kv_remembered_bytes: 1 << 30,
        scratch_bytes: 180 << 20,
        queue_us: Some(interval.queue_us),
        ttft_us: Some(interval.ttft_us),
        itl_us: Some(interval.itl_us),
        tpot_us: Some(interval.tpot_us),
        e2e_us: Some(interval.e2e_us),
        counters: Some(interval.counters),
        in_flight: 12,
        batch_size: 11,
        kv_used_bytes: 3 << 30,
        kv_total_bytes: 40 << 30,
        quality: Some(interval.quality),
        created_unix_ms: 1_700_000_000_000,
        server: None,
        coarse: None,
        ..Revision::default()
    }
}

/// Everything that a request records from its arrival to its last byte.
pub fn record_request(recorder: &Recorder, rng: &mut impl Rng) {
    let jitter = rng.random_range(0.5..2.0);
    let time = |ms: f64| Duration::from_secs_f64(ms * jitter / 1_000.0);
    recorder.queued(time(2.0));
    recorder.first_token(time(90.0));
    for _ in 1..TOKENS {
        recorder.next_token(time(rng.random_range(14.0..22.0)));
    }
    recorder.ended(Outcome::Ok, time(1_200.0), time(1_100.0), 700, TOKENS, TOKENS);
    recorder.judged(AnswerQuality { logprob_sum: -20.0, scored_tokens: TOKENS, ..AnswerQuality::default() });
}
