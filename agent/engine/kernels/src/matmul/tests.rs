use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::gated::{GateAndUp, matmul_gated_with};
use super::test_weights::bytes;
use super::{Product, matmul_with};
use crate::elementwise::{gelu_gate, silu_gate};
use crate::format::GROUPS;
use crate::sizes::most;
use crate::{Isa, Matrix, Pool, Rows, WeightFormat};

/// A row for each of `asking`, which says whether it asks for bfloat16.
fn rows(asking: &[bool], columns: usize, rng: &mut StdRng) -> Rows {
    let mut rows = Rows::default();
    rows.reshape(asking.len(), columns);
    let ranges: Vec<_> = (0..asking.len()).filter(|row| asking[*row]).map(|row| row..row + 1).collect();
    rows.ask_for_bfloat16(&ranges);
    for mut row in rows.each() {
        row.floats.iter_mut().for_each(|number| *number = rng.random_range(-2.0..2.0));
        row.round();
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Vector kernels give what the plain one gives, bit for bit, whatever rows are beside a row.
    #[test]
    fn every_instruction_set_gives_the_same_bits(
        format in prop::sample::select(WeightFormat::ALL.to_vec()), outputs in 1..most(70), units in 1..most(4),
        asking in prop::collection::vec(any::<bool>(), 1..most(50)), deep in prop::bool::weighted(0.1), seed in any::<u64>(),
    ) {
        let (numbers, _) = format.file_block();
        let columns = match numbers {
            // More than is unpacked at a time.
            _ if deep && !cfg!(miri) => 8_448,
            1 => units * 37,
            32 => units * 32,
            _ => units * 256,
        };
        let mut rng = StdRng::seed_from_u64(seed);
        let pool = Pool::new(2).unwrap();
        let bytes = bytes(format, outputs, columns, &mut rng);
        let matrix = Matrix::from_bytes(&pool, format, outputs, columns, &bytes).unwrap();
        let rows = rows(&asking, columns, &mut rng);
        let run = |isa, rows: &Rows| {
            let mut out = vec![0.0; rows.count() * (outputs + 1)];
            matmul_with(isa, &pool, rows, &[Product { matrix: &matrix, column: 1 }], &mut out, outputs + 1);
            out
        };
        let plain = run(Isa::Plain, &rows);
        for isa in Isa::available() {
            prop_assert_eq!(&run(isa, &rows), &plain, "{:?} of {:?}", isa, format);
        }
        let last = asking.len() - 1;
        let mut alone = Rows::default();
        alone.reshape(1, columns);
        let own = 0..1;
        alone.ask_for_bfloat16(if asking[last] { std::slice::from_ref(&own) } else { &[] });
        for mut row in alone.each() {
            row.floats.copy_from_slice(&rows.floats()[last * columns..]);
            row.round();
        }
        prop_assert_eq!(&run(Isa::widest(), &alone)[..], &plain[last * (outputs + 1)..]);
    }

    /// The product is that of the numbers that the matrix stands for, as far as eight bits carry.
    #[test]
    fn a_product_is_a_sum_of_products(
        format in prop::sample::select(WeightFormat::ALL.to_vec()), outputs in 1..most(40), asks in any::<bool>(), seed in any::<u64>(),
    ) {
        let columns = 256;
        let mut rng = StdRng::seed_from_u64(seed);
        let pool = Pool::new(1).unwrap();
        let bytes = bytes(format, outputs, columns, &mut rng);
        let matrix = Matrix::from_bytes(&pool, format, outputs, columns, &bytes).unwrap();
        let rows = rows(&[asks; 3], columns, &mut rng);
        let mut out = vec![0.0; 3 * outputs];
        matmul_with(Isa::widest(), &pool, &rows, &[Product { matrix: &matrix, column: 0 }], &mut out, outputs);
        let mut weights = vec![0.0; columns];
        for output in 0..outputs {
            matrix.row(output, &mut weights);
            let size = weights.iter().map(|weight| weight * weight).sum::<f32>().sqrt();
            for row in 0..3 {
                let numbers = &rows.floats()[row * columns..][..columns];
                let exact: f32 = weights.iter().zip(numbers).map(|(weight, number)| weight * number).sum();
                let ours = out[row * outputs + output];
                prop_assert!((ours - exact).abs() <= if asks { 0.02 } else { 0.05 } * size, "{ours} {exact} of {size}");
            }
        }
    }

    /// What is gated at once is what is multiplied, gated and rounded one after the other.
    #[test]
    fn gating_at_once_gives_the_same_bits(
        formats in prop::sample::subsequence(WeightFormat::ALL.to_vec(), 2), outputs in 1..most(140), units in 1..most(3),
        asking in prop::collection::vec(any::<bool>(), 1..most(70)), silu in any::<bool>(), seed in any::<u64>(),
    ) {
        let columns = units * 256;
        let may_ask = formats.iter().all(|format| format.has_bfloat16_products());
        let asking: Vec<bool> = asking.into_iter().map(|asks| asks && may_ask).collect();
        let mut rng = StdRng::seed_from_u64(seed);
        let pool = Pool::new(2).unwrap();
        let mut matrix = |format| {
            let bytes = bytes(format, outputs, columns, &mut rng);
            Matrix::from_bytes(&pool, format, outputs, columns, &bytes).unwrap()
        };
        let matrices = [matrix(formats[0]), matrix(formats[1])];
        let rows = rows(&asking, columns, &mut rng);
        let gate = if silu { silu_gate } else { gelu_gate };
        let shaped = || {
            let mut out = Rows::default();
            out.reshape(asking.len(), outputs);
            out.ask_for_bfloat16(rows.bfloat16.asking());
            out
        };
        let products =
            [Product { matrix: &matrices[0], column: 0 }, Product { matrix: &matrices[1], column: outputs }];
        let mut sums = vec![0.0; asking.len() * 2 * outputs];
        matmul_with(Isa::Plain, &pool, &rows, &products, &mut sums, 2 * outputs);
        let mut expected = shaped();
        for (mut row, sums) in expected.each().into_iter().zip(sums.chunks_exact(2 * outputs)) {
            gate(&sums[..outputs], &sums[outputs..], row.floats);
            row.round();
        }
        for isa in Isa::available() {
            let mut out = shaped();
            let both = GateAndUp { gate: &matrices[0], up: &matrices[1] };
            matmul_gated_with(isa, &pool, &rows, both, gate, &mut out);
            for tile in 0..out.bfloat16.count().div_ceil(16) {
                let depth = 0..outputs.div_ceil(32);
                let (ours, theirs) = (out.bfloat16.tile(tile, depth.clone()), expected.bfloat16.tile(tile, depth));
                prop_assert_eq!(ours, theirs, "{:?} of {:?}", isa, &formats);
            }
            for row in (0..asking.len()).filter(|row| !asking[*row]) {
                let floats = row * outputs..(row + 1) * outputs;
                prop_assert_eq!(&out.floats()[floats.clone()], &expected.floats()[floats], "{:?} of {:?}", isa, &formats);
                let words = row * out.blocks() * GROUPS..(row + 1) * out.blocks() * GROUPS;
                prop_assert_eq!(&out.words[words.clone()], &expected.words[words]);
            }
        }
    }
}
