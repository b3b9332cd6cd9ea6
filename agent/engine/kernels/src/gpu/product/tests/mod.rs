#[cfg(feature = "cuda-on-host")]
mod on_host;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::self_test::near;
use super::tiles::Tiles;
use super::{Activations, Panels};
use crate::matmul::test_weights::bytes;
use crate::{Matrix, Pool, Product, Rows, WeightFormat, matmul};

/// Weights, rows, and what the CPU gives for them.
struct Case {
    matrix: Matrix,
    rows: Vec<f32>,
    expected: Vec<f32>,
}

impl Case {
    fn new(format: WeightFormat, outputs: usize, units: usize, count: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let columns = match format.file_block().0 {
            1 => units * 37,
            32 => units * 32,
            _ => units * 256,
        };
        let pool = Pool::new(2).unwrap();
        let bytes = bytes(format, outputs, columns, &mut rng);
        let matrix = Matrix::from_bytes(&pool, format, outputs, columns, &bytes).unwrap();
        let rows: Vec<f32> = (0..count * columns).map(|_| rng.random_range(-2.0..2.0)).collect();
        let mut expected = vec![0.0; count * outputs];
        let product = Product { matrix: &matrix, column: 0 };
        matmul(&pool, &Rows::rounded(columns, &rows), &[product], &mut expected, outputs);
        Self { matrix, rows, expected }
    }

    /// Whether products are the CPU's: to the bit, or as near as numbers of bfloat16 have them.
    fn expects(&self, products: &[f32]) -> bool {
        match Tiles::of(self.matrix.format()) {
            Tiles::Rounded => products == self.expected,
            Tiles::Split => near(&self.matrix, &self.rows, &self.expected, products),
        }
    }

    fn on(&self, device: &Device) -> Vec<f32> {
        let columns = self.matrix.columns();
        let rows = Tensor::from_slice(&self.rows, (self.rows.len() / columns, columns), device).unwrap();
        let panels = Panels::new(&self.matrix, device).unwrap();
        let product = panels.product(&Activations::new(&rows)).unwrap();
        product.flatten_all().unwrap().to_vec1().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_device_gives_what_the_cpu_does(
        format in prop::sample::select(WeightFormat::ALL.to_vec()), outputs in 1usize..70, units in 1usize..5,
        count in 1usize..70, seed in any::<u64>(),
    ) {
        let case = Case::new(format, outputs, units, count, seed);
        prop_assert!(case.expects(&case.on(&Device::Cpu)));
        #[cfg(feature = "cuda")]
        prop_assert!(case.expects(&case.on(&Device::new_cuda(0).unwrap())));
    }
}

#[test]
fn floats_row_by_row_are_a_matrix() {
    let floats: Vec<f32> = (0..20 * 3).map(|index| index as f32).collect();
    let panels = Panels::from_floats(&floats, (20, 3), &Device::Cpu).unwrap();
    let rows = Tensor::from_slice(&[1f32, 0.0, 0.0, 1.0, 1.0, 1.0], (2, 3), &Device::Cpu).unwrap();
    let product = panels.product(&Activations::new(&rows)).unwrap().to_vec2::<f32>().unwrap();
    let expected = |weigh: fn(&[f32]) -> f32| floats.chunks_exact(3).map(weigh).collect::<Vec<f32>>();
    assert_eq!(product, [expected(|row| row[0]), expected(|row| row.iter().sum())]);
    assert_eq!(panels.size_bytes(), 2 * 3 * 64);
}

#[test]
fn rows_of_another_width_are_refused() {
    let panels = Panels::from_floats(&[1.0; 6], (2, 3), &Device::Cpu).unwrap();
    let rows = Tensor::zeros((1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let refused = panels.product(&Activations::new(&rows)).unwrap_err().to_string();
    assert!(refused.contains("rows of 4 numbers by a matrix of 3"), "{refused}");
}
