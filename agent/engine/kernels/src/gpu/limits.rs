//! What a device can do at most, measured: how fast it moves memory and multiplies.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

/// Each figure is the best of this many tries.
const TRIES: usize = 5;
/// Times that a try does its work, so that starting it does not count.
const TIMES: usize = 8;

/// Bytes a second that a device moves within its memory, reads and writes together, in copies of so many.
///
/// # Errors
/// When the device has no room, or fails.
pub fn copy_bytes_per_s(device: &Device, bytes: usize) -> Result<f64> {
    let from = Tensor::zeros(bytes, DType::U8, device)?;
    let seconds = best(device, || from.copy().map(|_| ()))?;
    Ok(2.0 * bytes as f64 / seconds)
}

/// Operations a second of products of square matrices of bfloat16, a multiplication and an addition each one.
///
/// # Errors
/// When the device has no room, or fails.
pub fn bf16_operations_per_s(device: &Device, width: usize) -> Result<f64> {
    let matrix = || Tensor::randn(0f32, 1.0, (width, width), device)?.to_dtype(DType::BF16);
    let (left, right) = (matrix()?, matrix()?);
    let seconds = best(device, || left.matmul(&right).map(|_| ()))?;
    Ok(2.0 * (width as f64).powi(3) / seconds)
}

/// Seconds that work takes, at best.
fn best(device: &Device, work: impl Fn() -> Result<()>) -> Result<f64> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        device.synchronize()?;
        let began = Instant::now();
        for _ in 0..TIMES {
            work()?;
        }
        device.synchronize()?;
        best = best.min(began.elapsed().as_secs_f64() / TIMES as f64);
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::{bf16_operations_per_s, copy_bytes_per_s};

    #[test]
    fn figures_are_of_this_world() {
        let bytes = copy_bytes_per_s(&Device::Cpu, 1 << 20).unwrap();
        let operations = bf16_operations_per_s(&Device::Cpu, 64).unwrap();
        assert!((1e6..1e14).contains(&bytes) && (1e5..1e15).contains(&operations), "{bytes} {operations}");
    }
}
