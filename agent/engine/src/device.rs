//! Where a model computes.

use std::fmt;
use std::str::FromStr;

use llmdeck_kernels::gpu::OpenDevice;
pub use llmdeck_kernels::gpu::gpu_count;
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// Where a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The node's processor.
    #[default]
    Cpu,
    /// One of NVIDIA's GPUs, by CUDA's number. Weights, keys and values are in its memory.
    Cuda(usize),
}

impl Device {
    /// Whether a model could compute here.
    ///
    /// # Errors
    /// Why not, and what would help.
    pub fn check(self) -> Result<(), String> {
        let Self::Cuda(index) = self else { return Ok(()) };
        if !cfg!(feature = "cuda") {
            return Err(format!(
                "{self} is asked for, and this program was built without CUDA; build it with `--features cuda`, or use the device cpu"
            ));
        }
        match gpu_count() {
            0 => Err(format!(
                "{self} is asked for, and CUDA finds no GPU; `nvidia-smi` shows what the driver has"
            )),
            count if index < count => Ok(()),
            count => Err(format!("{self} is not there: the last of {count} is cuda:{}", count - 1)),
        }
    }

    /// As candle has it, for one model.
    ///
    /// # Errors
    /// When there is no such GPU, or this build knows none.
    pub(crate) fn open(self) -> Result<OpenDevice, EngineError> {
        let Self::Cuda(index) = self else { return Ok(OpenDevice::cpu()) };
        self.check().map_err(EngineError::Gpu)?;
        let failed = |error| EngineError::Gpu(format!("{self} cannot be used: {error}"));
        OpenDevice::gpu(index).map_err(failed)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|index| index.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| format!("{text:?} is no device; there are cpu, cuda and cuda:N")),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, device) in [("cpu", Device::Cpu), ("cuda:0", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
        {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(text.parse::<Device>().unwrap_err().contains("there are cpu, cuda and cuda:N"));
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_what_would_help() {
        let refused = Device::Cuda(1).check().unwrap_err();
        assert!(refused.contains("cuda:1") && refused.contains("--features cuda"), "{refused}");
    }
}
