use candle_core::{Device, Result, Tensor, bail};

use super::tiles::Tiles;
use super::{Activations, Panels};
use crate::{Matrix, Pool, WeightFormat};

const OUTPUTS: usize = 72;
const COLUMNS: usize = 768;
/// So that each kernel has its turn, with rows that do not fill its tiles.
const ROWS: [usize; 5] = [1, 9, 20, 35, 67];
/// Most that a product of floats may be from the CPU's, as a share of the sum of its terms' sizes: both of a term's numbers have 16 bits,
/// and sums of bfloat16 are not rounded to the nearest.
pub(super) const MOST_APART: f32 = 1.0 / 32768.0;

/// Computes some products on a device and on the CPU.
///
/// # Errors
/// When they differ, in a bit where weights are quantized; when a row's depend on the rows beside it; or the device fails or
/// cannot compute so.
pub fn require_right_products(device: &Device) -> Result<()> {
    for format in WeightFormat::ALL {
        let bytes: Vec<u8> = (0..format.file_row_bytes(COLUMNS).unwrap_or(0) * OUTPUTS).map(byte).collect();
        let Some(matrix) = Matrix::from_bytes(&Pool::new(1)?, format, OUTPUTS, COLUMNS, &bytes) else {
            bail!("{format:?} has no rows of {COLUMNS} numbers");
        };
        let mut of_fewer = Vec::new();
        for rows in ROWS {
            let numbers: Vec<f32> = (0..rows * COLUMNS).map(|index| (index as f32 * 0.37).sin()).collect();
            let product = |device: &Device| {
                let rows = Tensor::from_slice(&numbers, (rows, COLUMNS), device)?;
                let panels = Panels::new(&matrix, device)?;
                panels.product(&Activations::new(&rows))?.flatten_all()?.to_vec1::<f32>()
            };
            let (here, there) = (product(&Device::Cpu)?, product(device)?);
            let right = match Tiles::of(format) {
                Tiles::Rounded => same(&here, &there),
                Tiles::Split => near(&matrix, &numbers, &here, &there),
            };
            if !right {
                bail!("its products of {format:?} differ from the CPU's");
            }
            if !same(&of_fewer, &there[..of_fewer.len()]) {
                bail!("its products of {format:?} for a row depend on the rows beside it");
            }
            of_fewer = there;
        }
    }
    Ok(())
}

fn same(ones: &[f32], others: &[f32]) -> bool {
    ones.iter().zip(others).all(|(one, other)| one.to_bits() == other.to_bits())
}

/// Whether products are as near to each other as [`MOST_APART`] has it.
pub(super) fn near(matrix: &Matrix, rows: &[f32], expected: &[f32], products: &[f32]) -> bool {
    let columns = matrix.columns();
    let mut weights = vec![0.0; columns];
    (0..matrix.rows()).all(|output| {
        matrix.row(output, &mut weights);
        rows.chunks_exact(columns.max(1)).enumerate().all(|(row, numbers)| {
            let sizes: f32 =
                weights.iter().zip(numbers).map(|(weight, number)| (weight * number).abs()).sum();
            let at = row * matrix.rows() + output;
            (expected[at] - products[at]).abs() <= sizes * MOST_APART
        })
    })
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
