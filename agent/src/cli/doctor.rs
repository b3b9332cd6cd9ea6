use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use color_eyre::eyre::{Result, bail};
use llmdeck_engine::Isa;
use llmdeck_engine::device::gpu_count;
use llmdeck_proto::v1::gpu_driver::State;
use llmdeck_sensors::HostSampler;
use llmdeck_sensors::gpu::{GpuReadings, GpuSampler};

use super::doctor_models;
use crate::agent::AgentOptions;
use crate::doors::Doors;
use crate::placement::free_bytes;
use crate::security::tls::{ClientCertificates, Tls};

const LEAST_FREE_DISK_BYTES: u64 = 2 << 30;
const LEAST_FREE_MEMORY_BYTES: u64 = 512 << 20;
const DRIVER_PATIENCE: Duration = Duration::from_secs(10);

pub(super) enum Finding {
    Well(String),
    Note(String),
    Wrong(String),
}

/// Prints one line a check; fails when something would keep the agent from running.
pub(super) fn check(options: &AgentOptions) -> Result<()> {
    let mut findings = vec![
        ("GPU", gpu(options)?),
        ("CPU", cpu(options)),
        ("memory", memory(options)),
        ("disk", disk(options)),
        ("data directory", data_dir(&options.data_dir)),
        ("socket", socket(&options.socket)),
        ("HTTP", http(options)),
    ];
    findings.extend(doctor_models::findings(options).into_iter().map(|finding| ("models", finding)));
    let mut out = std::io::stdout().lock();
    let mut wrong = 0;
    for (what, finding) in &findings {
        let (mark, text) = match finding {
            Finding::Well(text) => ("ok  ", text),
            Finding::Note(text) => ("note", text),
            Finding::Wrong(text) => {
                wrong += 1;
                ("BAD ", text)
            }
        };
        writeln!(out, "{mark}  {what}: {text}")?;
    }
    if wrong > 0 {
        bail!("{wrong} of {} checks failed", findings.len());
    }
    Ok(())
}

fn gpu(options: &AgentOptions) -> Result<Finding> {
    let sampler = GpuSampler::start(options.nvml_library.clone(), Duration::from_secs(1))?;
    let started = Instant::now();
    let mut readings = sampler.latest();
    while readings.driver.state() == State::Unspecified && started.elapsed() < DRIVER_PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        readings = sampler.latest();
    }
    let GpuReadings { driver, gpus, .. } = readings;
    Ok(match driver.state() {
        State::Ok => {
            let names: Vec<&str> = gpus.iter().map(|gpu| gpu.name.as_str()).collect();
            let text = format!("{} ({}), driver {}", gpus.len(), names.join(", "), driver.driver_version);
            match gpu_count() {
                0 => Finding::Note(format!(
                    "{text}; models of its own run on the CPU, since this agent cannot use CUDA (build it with `--features cuda`)"
                )),
                _ => Finding::Well(text),
            }
        }
        State::Absent => Finding::Note(format!("{}; models run on the CPU", driver.detail)),
        State::Unspecified => Finding::Wrong("the driver does not answer; look into the kernel's log".into()),
        State::VersionMismatch | State::NoPermission | State::Failed => Finding::Wrong(driver.detail),
    })
}

fn cpu(options: &AgentOptions) -> Finding {
    let threads = options.config.compute_threads();
    let text = format!("{threads} threads, {}", Isa::widest().as_str());
    match Isa::widest() {
        Isa::Plain => Finding::Note(format!(
            "{text}; models run slowly without AVX2, AVX-512 VNNI or Armv8.2's dot products"
        )),
        Isa::Neon | Isa::Avx2 | Isa::Avx512Vnni | Isa::Amx => Finding::Well(text),
    }
}

fn memory(options: &AgentOptions) -> Finding {
    let host = HostSampler::new(&options.data_dir).sample();
    let free = free_bytes();
    let text = format!("{} MiB free of {} MiB", free >> 20, host.memory_total_bytes >> 20);
    if free < LEAST_FREE_MEMORY_BYTES {
        return Finding::Wrong(format!("{text}; stop something else"));
    }
    Finding::Well(text)
}

fn disk(options: &AgentOptions) -> Finding {
    let existing = options.data_dir.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let host = HostSampler::new(existing).sample();
    let free = host.disk_total_bytes.saturating_sub(host.disk_used_bytes);
    let text = format!("{} MiB free at {}", free >> 20, existing.display());
    if free < LEAST_FREE_DISK_BYTES {
        return Finding::Note(format!(
            "{text}; history is kept up to {} MiB",
            options.config.history_bytes >> 20
        ));
    }
    Finding::Well(text)
}

fn data_dir(path: &Path) -> Finding {
    match crate::data_dir::DataDir::lock(path) {
        Ok(_) => Finding::Well(path.display().to_string()),
        Err(error @ crate::data_dir::DataDirError::InUse { .. }) => Finding::Note(error.to_string()),
        Err(error) => Finding::Wrong(error.to_string()),
    }
}

fn socket(path: &Path) -> Finding {
    match UnixStream::connect(path) {
        Ok(_) => Finding::Well(format!("an agent answers on {}", path.display())),
        Err(_) => Finding::Note(format!("no agent answers on {} yet", path.display())),
    }
}

fn http(options: &AgentOptions) -> Finding {
    let address = options.http;
    if let Err(error) = Doors::check(&options.config, address, options.grpc) {
        return Finding::Wrong(error.to_string());
    }
    if let Some(files) = &options.config.tls
        && let Err(error) = Tls::new(files.clone(), ClientCertificates::Checked, &[])
    {
        return Finding::Wrong(error.to_string());
    }
    match TcpListener::bind(address) {
        Ok(_) => Finding::Well(format!("{address} is free")),
        Err(error) => {
            Finding::Note(format!("{address} is taken ({error}); by this agent, or choose another --http"))
        }
    }
}
