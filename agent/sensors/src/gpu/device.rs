use std::collections::HashMap;

use llmdeck_proto::v1::{Gpu, GpuProcess, MigSlice, NvLink};
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, RetirementCause, TemperatureSensor,
};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::enums::nv_link::Counter;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{NVML_FI_DEV_REMAPPED_COR, NVML_FI_DEV_REMAPPED_UNC};
use nvml_wrapper::{Device, EventSet, Nvml};

use super::driver;

const MOST_LINKS: u32 = 18;
/// NVML reports PCIe throughput in units of this many bytes a second.
const PCIE_UNIT_BYTES: u64 = 1_000;
/// What the driver reports where no XID value is known.
const UNKNOWN_XID: u64 = 999;

/// Reads everything that the card tells. A card that is lost on the way is reported as lost.
pub(super) fn read(card: &Device<'_>, index: u32, before: Option<&Gpu>, processes: Vec<GpuProcess>) -> Gpu {
    let utilization = match card.utilization_rates() {
        Err(error @ (NvmlError::GpuLost | NvmlError::ResetRequired)) => {
            return unreachable(index, before, driver::words(&error));
        }
        other => other.ok(),
    };
    let memory = card.memory_info().ok();
    let pcie = |counter| card.pcie_throughput(counter).ok().map(|units| u64::from(units) * PCIE_UNIT_BYTES);
    let ecc = |error| card.total_ecc_errors(error, EccCounter::Volatile).ok();
    Gpu {
        index,
        uuid: card.uuid().unwrap_or_else(|_| fallback_uuid(index)),
        name: card.name().unwrap_or_default(),
        lost: String::new(),
        utilization: utilization.as_ref().map(|rates| f64::from(rates.gpu) / 100.0),
        memory_utilization: utilization.as_ref().map(|rates| f64::from(rates.memory) / 100.0),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        memory_total_bytes: memory.as_ref().map(|memory| memory.total),
        temperature_c: card.temperature(TemperatureSensor::Gpu).ok(),
        fan: card.fan_speed(0).ok().map(|percent| f64::from(percent) / 100.0),
        power_mw: card.power_usage().ok(),
        power_limit_mw: card.enforced_power_limit().ok(),
        energy_total_mj: card.total_energy_consumption().ok(),
        energy_mj: None,
        clock_sm_mhz: card.clock_info(Clock::SM).ok(),
        clock_memory_mhz: card.clock_info(Clock::Memory).ok(),
        throttle_reasons: card.current_throttle_reasons().map(throttle_words).unwrap_or_default(),
        pcie_received_bytes_per_s: pcie(PcieUtilCounter::Receive),
        pcie_sent_bytes_per_s: pcie(PcieUtilCounter::Send),
        pcie_replays: card.pcie_replay_counter().ok(),
        ecc_uncorrected: ecc(MemoryError::Uncorrected),
        ecc_corrected: ecc(MemoryError::Corrected),
        retired_pages: retired_pages(card),
        remapped_rows: remapped_rows(card),
        nvlinks: links(card),
        last_xid: before.and_then(|gpu| gpu.last_xid),
        processes,
        mig_slices: slices(card),
    }
}

/// A card that no longer answers keeps what names it and loses its readings.
pub(super) fn lost(before: &Gpu, why: String) -> Gpu {
    Gpu {
        index: before.index,
        uuid: before.uuid.clone(),
        name: before.name.clone(),
        memory_total_bytes: before.memory_total_bytes,
        last_xid: before.last_xid,
        lost: why,
        ..Gpu::default()
    }
}

/// A card that does not answer and may never have.
pub(super) fn unreachable(index: u32, before: Option<&Gpu>, why: String) -> Gpu {
    match before {
        Some(before) => lost(before, why),
        None => Gpu { index, uuid: fallback_uuid(index), lost: why, ..Gpu::default() },
    }
}

fn fallback_uuid(index: u32) -> String {
    format!("index-{index}")
}

/// Why the clocks are held down. Idling and a limit that the operator has set are no trouble.
fn throttle_words(reasons: ThrottleReasons) -> Vec<String> {
    const WORDS: [(ThrottleReasons, &str); 6] = [
        (ThrottleReasons::SW_POWER_CAP, "slowed by its power limit"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "slowed by the power supply's brake"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "slowed by half or more, too hot"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "slowed, too hot"),
        (ThrottleReasons::HW_SLOWDOWN, "slowed by half or more by the hardware"),
        (ThrottleReasons::SYNC_BOOST, "held back by another GPU of its boost group"),
    ];
    WORDS
        .iter()
        .filter(|(reason, _)| reasons.contains(*reason))
        .map(|(_, words)| (*words).to_owned())
        .collect()
}

fn retired_pages(card: &Device<'_>) -> Option<u32> {
    let count = |cause| card.retired_pages(cause).map(|pages| pages.len() as u32);
    let single = count(RetirementCause::MultipleSingleBitEccErrors).ok();
    let double = count(RetirementCause::DoubleBitEccError).ok();
    single.into_iter().chain(double).reduce(|sum, pages| sum + pages)
}

fn remapped_rows(card: &Device<'_>) -> Option<u32> {
    let fields = [FieldId(NVML_FI_DEV_REMAPPED_COR), FieldId(NVML_FI_DEV_REMAPPED_UNC)];
    let samples = card.field_values_for(&fields).ok()?;
    let rows = samples.into_iter().flatten().filter_map(|sample| match sample.value {
        Ok(SampleValue::U32(rows)) => Some(rows),
        Ok(SampleValue::U64(rows)) => u32::try_from(rows).ok(),
        _ => None,
    });
    rows.reduce(|sum, rows| sum + rows)
}

fn links(card: &Device<'_>) -> Vec<NvLink> {
    (0..MOST_LINKS)
        .map_while(|number| {
            let link = card.link_wrapper_for(number);
            let active = link.is_active().ok()?;
            let errors = [ErrorCounter::DlReplay, ErrorCounter::DlRecovery, ErrorCounter::DlCrcFlit]
                .into_iter()
                .filter_map(|counter| link.error_counter(counter).ok())
                .reduce(|sum, errors| sum + errors);
            let bytes = link.utilization_counter(Counter::Zero).ok();
            Some(NvLink {
                link: number,
                active,
                errors,
                sent_bytes: bytes.as_ref().map(|bytes| bytes.send),
                received_bytes: bytes.as_ref().map(|bytes| bytes.receive),
            })
        })
        .collect()
}

fn slices(card: &Device<'_>) -> Vec<MigSlice> {
    let most = card.mig_device_count().unwrap_or(0);
    (0..most)
        .filter_map(|index| {
            let slice = card.mig_device_by_index(index).ok()?;
            let memory = slice.memory_info().ok();
            Some(MigSlice {
                index,
                uuid: slice.uuid().unwrap_or_default(),
                name: slice.name().unwrap_or_default(),
                memory_used_bytes: memory.as_ref().map(|memory| memory.used),
                memory_total_bytes: memory.as_ref().map(|memory| memory.total),
            })
        })
        .collect()
}

/// Listens for Xid errors of every card that can tell.
pub(super) struct XidWatch<'nvml> {
    set: Option<EventSet<'nvml>>,
    latest: HashMap<String, u64>,
}

impl<'nvml> XidWatch<'nvml> {
    pub(super) fn new(nvml: &'nvml Nvml) -> Self {
        let cards = nvml.device_count().unwrap_or(0);
        let set = nvml.create_event_set().ok().and_then(|set| {
            let cards = (0..cards).filter_map(|index| nvml.device_by_index(index).ok());
            // Registering hands the set back only where it succeeds; a card that cannot is asked about first.
            cards
                .filter(|card| {
                    card.supported_event_types()
                        .is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR))
                })
                .try_fold(set, |set, card| card.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok())
        });
        Self { set, latest: HashMap::new() }
    }

    /// Takes what came and writes it to the cards.
    pub(super) fn note(&mut self, gpus: &mut [Gpu]) {
        const MOST_AT_ONCE: usize = 100;
        if let Some(set) = &self.set {
            for _ in 0..MOST_AT_ONCE {
                let Ok(event) = set.wait(0) else { break };
                let number = match event.event_data {
                    Some(XidError::Value(number)) => number,
                    Some(XidError::Unknown) => UNKNOWN_XID,
                    None => continue,
                };
                if let Ok(uuid) = event.device.uuid() {
                    self.latest.insert(uuid, number);
                }
            }
        }
        for gpu in gpus {
            gpu.last_xid = self.latest.get(&gpu.uuid).copied().or(gpu.last_xid);
        }
    }
}
