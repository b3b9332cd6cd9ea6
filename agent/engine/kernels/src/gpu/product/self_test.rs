use candle_core::{Device, Result, Tensor, bail};

use super::{Activations, Panels};
use crate::{Matrix, Pool, WeightFormat};

const OUTPUTS: usize = 24;
const COLUMNS: usize = 768;
/// So that each kernel has its turn, with rows that do not fill its tiles.
const ROWS: [usize; 4] = [1, 9, 20, 35];

/// Computes some products on a device and on the CPU.
///
/// # Errors
/// When they differ in a bit, or the device fails or cannot compute so.
pub fn require_right_products(device: &Device) -> Result<()> {
    for format in WeightFormat::ALL {
        let bytes: Vec<u8> = (0..format.file_row_bytes(COLUMNS).unwrap_or(0) * OUTPUTS).map(byte).collect();
        let Some(matrix) = Matrix::from_bytes(&Pool::new(1)?, format, OUTPUTS, COLUMNS, &bytes) else {
            bail!("{format:?} has no rows of {COLUMNS} numbers");
        };
        for rows in ROWS {
            let numbers: Vec<f32> = (0..rows * COLUMNS).map(|index| (index as f32 * 0.37).sin()).collect();
            let product = |device: &Device| {
                let rows = Tensor::from_slice(&numbers, (rows, COLUMNS), device)?;
                Panels::new(&matrix, device)?
                    .product(&Activations::new(&rows))?
                    .flatten_all()?
                    .to_vec1::<f32>()
            };
            let (here, there) = (product(&Device::Cpu)?, product(device)?);
            if here.iter().zip(&there).any(|(one, other)| one.to_bits() != other.to_bits()) {
                bail!("its products of {format:?} differ from the CPU's");
            }
        }
    }
    Ok(())
}

/// Of any quants, and of scales that are numbers: two bytes of these are never infinite.
fn byte(index: usize) -> u8 {
    (index * index * 7 + index * 3) as u8 & 0x3f
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::require_right_products;

    #[test]
    fn a_device_that_computes_as_the_cpu_passes() {
        require_right_products(&Device::Cpu).unwrap();
    }
}
