//! The file that says what the cards do. It is read again at every call, so that a test changes it under the agent.

use serde::Deserialize;

/// Where the file is.
const VARIABLE: &str = "FAKE_NVML_SCENARIO";

#[derive(Deserialize)]
pub struct Scenario {
    /// What `nvmlInit_v2` returns, by NVML's number; 0 is success.
    #[serde(default)]
    pub init: u32,
    #[serde(default)]
    pub gpus: Vec<Card>,
}

/// A reading that is absent is not supported by the card.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Card {
    pub uuid: String,
    pub name: String,
    /// Off the bus: every call says so.
    pub lost: bool,
    pub utilization: Option<u32>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub temperature_c: Option<u32>,
    pub fan_percent: Option<u32>,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    pub energy_mj: Option<u64>,
    pub clock_mhz: Option<u32>,
    /// NVML's bits.
    pub throttle_reasons: Option<u64>,
    /// In thousands of bytes a second.
    pub pcie_kb_per_s: Option<u32>,
    pub pcie_replays: Option<u32>,
    pub ecc_errors: Option<u64>,
    pub retired_pages: Option<u32>,
    pub remapped_rows: Option<u32>,
    pub nvlinks: Vec<Link>,
    /// Told once each, in order.
    pub xids: Vec<u64>,
    pub processes: Vec<Process>,
    pub mig: Vec<Card>,
}

#[derive(Clone, Deserialize)]
pub struct Link {
    pub active: bool,
    pub errors: u64,
    pub sent_bytes: u64,
}

#[derive(Clone, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub name: String,
    /// Absent where the driver does not tell.
    pub memory_bytes: Option<u64>,
    /// Percent of the card's time; absent where the driver does not tell.
    #[serde(default)]
    pub utilization: Option<u32>,
}

/// What the file says now; no cards where it cannot be read.
pub fn now() -> Scenario {
    std::env::var(VARIABLE)
        .ok()
        .and_then(|path| std::fs::read(path).ok())
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or(Scenario { init: 0, gpus: Vec::new() })
}
