//! The functions of NVML that the agent calls, as a scenario file answers them.

mod scenario;

use std::ffi::{c_char, c_int, c_uint, c_ulonglong};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nvml_wrapper_sys::bindings::*;
use scenario::{Card, now};

const OK: nvmlReturn_t = nvmlReturn_enum_NVML_SUCCESS;
const NOT_SUPPORTED: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED;
const LOST: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST;
const INVALID: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT;
const TOO_SMALL: nvmlReturn_t = nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE;
/// A handle is the card's index plus one; a slice's has its own in the upper digits.
const SLICE: usize = 1_000;

/// How many Xid errors of each card have been told.
static TOLD: Mutex<[usize; 16]> = Mutex::new([0; 16]);

fn handle(number: usize) -> nvmlDevice_t {
    std::ptr::without_provenance_mut(number)
}

fn card(device: nvmlDevice_t) -> Result<Card, nvmlReturn_t> {
    let number = device.addr();
    let card = now().gpus.into_iter().nth((number % SLICE).wrapping_sub(1)).ok_or(INVALID)?;
    if card.lost {
        return Err(LOST);
    }
    match number / SLICE {
        0 => Ok(card),
        slice => card.mig.into_iter().nth(slice - 1).ok_or(INVALID),
    }
}

unsafe fn tell<T>(out: *mut T, value: Result<Option<T>, nvmlReturn_t>) -> nvmlReturn_t {
    match value {
        Ok(Some(value)) => {
            unsafe { out.write(value) };
            OK
        }
        Ok(None) => NOT_SUPPORTED,
        Err(code) => code,
    }
}

unsafe fn tell_text(out: *mut c_char, length: c_uint, text: &str) -> nvmlReturn_t {
    if text.len() + 1 > length as usize {
        return TOO_SMALL;
    }
    unsafe {
        out.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        out.add(text.len()).write(0);
    }
    OK
}

/// A function that tells one reading of a card.
macro_rules! readings {
    ($($function:ident($($argument:ident: $kind:ty),*) -> $out:ty = $of:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(device: nvmlDevice_t, $($argument: $kind,)* out: *mut $out) -> nvmlReturn_t {
            let of: fn(Card) -> Option<$out> = $of;
            unsafe { tell(out, card(device).map(of)) }
        }
    )*};
}

readings! {
    nvmlDeviceGetUtilizationRates() -> nvmlUtilization_t =
        |card| card.utilization.map(|gpu| nvmlUtilization_t { gpu, memory: gpu / 2 });
    nvmlDeviceGetTemperature(_sensor: nvmlTemperatureSensors_t) -> c_uint = |card| card.temperature_c;
    nvmlDeviceGetFanSpeed_v2(_fan: c_uint) -> c_uint = |card| card.fan_percent;
    nvmlDeviceGetPowerUsage() -> c_uint = |card| card.power_mw;
    nvmlDeviceGetEnforcedPowerLimit() -> c_uint = |card| card.power_limit_mw;
    nvmlDeviceGetTotalEnergyConsumption() -> c_ulonglong = |card| card.energy_mj;
    nvmlDeviceGetClockInfo(_clock: nvmlClockType_t) -> c_uint = |card| card.clock_mhz;
    nvmlDeviceGetCurrentClocksThrottleReasons() -> c_ulonglong = |card| card.throttle_reasons;
    nvmlDeviceGetPcieThroughput(_counter: nvmlPcieUtilCounter_t) -> c_uint = |card| card.pcie_kb_per_s;
    nvmlDeviceGetPcieReplayCounter() -> c_uint = |card| card.pcie_replays;
    nvmlDeviceGetTotalEccErrors(_kind: nvmlMemoryErrorType_t, _counter: nvmlEccCounterType_t) -> c_ulonglong =
        |card| card.ecc_errors;
    nvmlDeviceGetMaxMigDeviceCount() -> c_uint = |card| Some(card.mig.len() as c_uint);
    nvmlDeviceGetSupportedEventTypes() -> c_ulonglong = |_| Some(u64::from(nvmlEventTypeXidCriticalError));
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    now().init
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(out: *mut c_char, length: c_uint) -> nvmlReturn_t {
    unsafe { tell_text(out, length, "570.86.15") }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetNVMLVersion(out: *mut c_char, length: c_uint) -> nvmlReturn_t {
    unsafe { tell_text(out, length, "12.570.86.15") }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(out: *mut c_uint) -> nvmlReturn_t {
    unsafe { tell(out, Ok(Some(now().gpus.len() as c_uint))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(
    index: c_uint,
    out: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let device = handle(index as usize + 1);
    unsafe { tell(out, card(device).map(|_| Some(device))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: nvmlDevice_t,
    index: c_uint,
    out: *mut nvmlDevice_t,
) -> nvmlReturn_t {
    let slice = handle(device.addr() + SLICE * (index as usize + 1));
    unsafe { tell(out, card(slice).map(|_| Some(slice))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(
    device: nvmlDevice_t,
    out: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    match card(device) {
        Ok(card) => unsafe { tell_text(out, length, &card.uuid) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(
    device: nvmlDevice_t,
    out: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    match card(device) {
        Ok(card) => unsafe { tell_text(out, length, &card.name) },
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    device: nvmlDevice_t,
    out: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    let memory = card(device).map(|card| {
        let (used, total) = (card.memory_used_bytes?, card.memory_total_bytes?);
        Some(nvmlMemory_v2_t {
            version: unsafe { (*out).version },
            total,
            reserved: 0,
            free: total - used,
            used,
        })
    });
    unsafe { tell(out, memory) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRetiredPages_v2(
    device: nvmlDevice_t,
    cause: nvmlPageRetirementCause_t,
    count: *mut c_uint,
    addresses: *mut c_ulonglong,
    timestamps: *mut c_ulonglong,
) -> nvmlReturn_t {
    let pages = match card(device).map(|card| card.retired_pages) {
        Ok(Some(pages))
            if cause == nvmlPageRetirementCause_enum_NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR =>
        {
            pages
        }
        Ok(Some(_)) => 0,
        Ok(None) => return NOT_SUPPORTED,
        Err(code) => return code,
    };
    let room = unsafe { count.read() };
    unsafe { count.write(pages) };
    if room < pages {
        return TOO_SMALL;
    }
    for page in 0..pages as usize {
        unsafe {
            addresses.add(page).write(0x1000 * page as u64);
            timestamps.add(page).write(1);
        }
    }
    OK
}

/// The older function is how nvml-wrapper asks for the count alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRetiredPages(
    device: nvmlDevice_t,
    cause: nvmlPageRetirementCause_t,
    count: *mut c_uint,
    addresses: *mut c_ulonglong,
) -> nvmlReturn_t {
    unsafe { nvmlDeviceGetRetiredPages_v2(device, cause, count, addresses, std::ptr::null_mut()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetFieldValues(
    device: nvmlDevice_t,
    count: c_int,
    values: *mut nvmlFieldValue_t,
) -> nvmlReturn_t {
    let card = match card(device) {
        Ok(card) => card,
        Err(code) => return code,
    };
    for index in 0..count as usize {
        let value = unsafe { &mut *values.add(index) };
        value.valueType = nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT;
        value.nvmlReturn = NOT_SUPPORTED;
        if let (Some(rows), field_id::NVML_FI_DEV_REMAPPED_UNC) = (card.remapped_rows, value.fieldId) {
            value.nvmlReturn = OK;
            value.value.uiVal = rows;
        }
    }
    OK
}

fn link(device: nvmlDevice_t, number: c_uint) -> Result<scenario::Link, nvmlReturn_t> {
    card(device)?.nvlinks.into_iter().nth(number as usize).ok_or(INVALID)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: nvmlDevice_t,
    number: c_uint,
    out: *mut nvmlEnableState_t,
) -> nvmlReturn_t {
    unsafe { tell(out, link(device, number).map(|link| Some(u32::from(link.active)))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkErrorCounter(
    device: nvmlDevice_t,
    number: c_uint,
    counter: nvmlNvLinkErrorCounter_t,
    out: *mut c_ulonglong,
) -> nvmlReturn_t {
    let crc = counter == nvmlNvLinkErrorCounter_enum_NVML_NVLINK_ERROR_DL_CRC_FLIT;
    unsafe { tell(out, link(device, number).map(|link| Some(if crc { link.errors } else { 0 }))) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkUtilizationCounter(
    device: nvmlDevice_t,
    number: c_uint,
    _counter: c_uint,
    received: *mut c_ulonglong,
    sent: *mut c_ulonglong,
) -> nvmlReturn_t {
    match link(device, number) {
        Ok(link) => {
            unsafe {
                received.write(link.sent_bytes * 2);
                sent.write(link.sent_bytes);
            }
            OK
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: nvmlDevice_t,
    count: *mut c_uint,
    out: *mut nvmlProcessInfo_t,
) -> nvmlReturn_t {
    let processes = match card(device) {
        Ok(card) => card.processes,
        Err(code) => return code,
    };
    let room = unsafe { count.read() } as usize;
    unsafe { count.write(processes.len() as c_uint) };
    if room < processes.len() {
        return TOO_SMALL;
    }
    for (index, process) in processes.iter().enumerate() {
        let info = nvmlProcessInfo_t {
            pid: process.pid,
            // NVML_VALUE_NOT_AVAILABLE.
            usedGpuMemory: process.memory_bytes.unwrap_or(u64::MAX),
            gpuInstanceId: u32::MAX,
            computeInstanceId: u32::MAX,
        };
        unsafe { out.add(index).write(info) };
    }
    OK
}

/// Each call is a sample, later than the one before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: nvmlDevice_t,
    out: *mut nvmlProcessUtilizationSample_t,
    count: *mut c_uint,
    _last_seen_us: c_ulonglong,
) -> nvmlReturn_t {
    static NOW_US: AtomicU64 = AtomicU64::new(0);
    let processes = match card(device) {
        Ok(card) => card.processes,
        Err(code) => return code,
    };
    let told: Vec<(u32, u32)> =
        processes.iter().filter_map(|process| Some((process.pid, process.utilization?))).collect();
    if told.is_empty() {
        return NOT_SUPPORTED;
    }
    let room = unsafe { count.read() } as usize;
    unsafe { count.write(told.len() as c_uint) };
    if room < told.len() {
        return TOO_SMALL;
    }
    let now_us = NOW_US.fetch_add(5_000_000, Ordering::Relaxed) + 5_000_000;
    for (index, (pid, utilization)) in told.into_iter().enumerate() {
        let sample = nvmlProcessUtilizationSample_t {
            pid,
            timeStamp: now_us,
            smUtil: utilization,
            memUtil: 0,
            encUtil: 0,
            decUtil: 0,
        };
        unsafe { out.add(index).write(sample) };
    }
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetProcessName(
    pid: c_uint,
    out: *mut c_char,
    length: c_uint,
) -> nvmlReturn_t {
    let processes = now().gpus.into_iter().flat_map(|card| card.processes);
    match processes.into_iter().find(|process| process.pid == pid) {
        Some(process) => unsafe { tell_text(out, length, &process.name) },
        None => nvmlReturn_enum_NVML_ERROR_NOT_FOUND,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(out: *mut nvmlEventSet_t) -> nvmlReturn_t {
    unsafe { tell(out, Ok(Some(std::ptr::without_provenance_mut(1)))) }
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(
    device: nvmlDevice_t,
    _types: c_ulonglong,
    _set: nvmlEventSet_t,
) -> nvmlReturn_t {
    card(device).map_or_else(|code| code, |_| OK)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    _set: nvmlEventSet_t,
    out: *mut nvmlEventData_t,
    _timeout_ms: c_uint,
) -> nvmlReturn_t {
    let Ok(mut told) = TOLD.lock() else { return INVALID };
    for (index, card) in now().gpus.into_iter().enumerate().take(told.len()) {
        if let Some(xid) = card.xids.get(told[index]) {
            told[index] += 1;
            let event = nvmlEventData_t {
                device: handle(index + 1),
                eventType: u64::from(nvmlEventTypeXidCriticalError),
                eventData: *xid,
                gpuInstanceId: u32::MAX,
                computeInstanceId: u32::MAX,
            };
            return unsafe { tell(out, Ok(Some(event))) };
        }
    }
    nvmlReturn_enum_NVML_ERROR_TIMEOUT
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(_set: nvmlEventSet_t) -> nvmlReturn_t {
    OK
}
