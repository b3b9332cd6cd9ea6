use llmdeck_proto::v1::GpuDriver;
use llmdeck_proto::v1::gpu_driver::State;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// A library that answers.
pub(super) fn of_library(nvml: &Nvml) -> GpuDriver {
    GpuDriver {
        state: State::Ok.into(),
        detail: String::new(),
        driver_version: nvml.sys_driver_version().unwrap_or_default(),
        nvml_version: nvml.sys_nvml_version().unwrap_or_default(),
    }
}

/// A library that does not, with what mends it.
pub(super) fn of_error(error: &NvmlError) -> GpuDriver {
    let state = match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded => {
            State::Absent
        }
        NvmlError::LibRmVersionMismatch => State::VersionMismatch,
        NvmlError::NoPermission => State::NoPermission,
        _ => State::Failed,
    };
    GpuDriver { state: state.into(), detail: words(error), ..GpuDriver::default() }
}

/// What an error means, in an operator's words, with the remedy.
pub(super) fn words(error: &NvmlError) -> String {
    match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            "no NVIDIA driver is installed (libnvidia-ml.so was not found)".into()
        }
        NvmlError::DriverNotLoaded => "the NVIDIA kernel module is not loaded; try modprobe nvidia".into(),
        NvmlError::LibRmVersionMismatch => {
            "the NVIDIA driver and its library are of different versions; reboot, or reload the kernel module"
                .into()
        }
        NvmlError::NoPermission => {
            "the agent may not ask the driver; run it as a user who may read /dev/nvidia*".into()
        }
        NvmlError::GpuLost => "the GPU has fallen off the bus; drain the node and reset or reboot it".into(),
        NvmlError::ResetRequired => "the GPU needs a reset before it can be used again".into(),
        other => format!("NVML: {other}"),
    }
}
