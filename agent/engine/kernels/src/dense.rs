//! Products of 32-bit floats, which training is made of: the gemm crate behind an interface that checks its shapes.

use gemm::Parallelism;

use crate::{Matrix, Pool};

/// Rows of an output that one task computes. Fixed, so that a result does not depend on how many threads there are.
const TASK_ROWS: usize = 64;
/// Weights that are expanded at a time, in numbers: what a core's second cache holds.
const MOST_EXPANDED: usize = 1 << 17;
/// Products below which one thread is quicker than several.
const LEAST_SHARED_PRODUCTS: usize = 1 << 18;

/// A matrix in memory of someone else's, for reading.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    numbers: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// `rows` rows of `columns` numbers that begin `stride` numbers apart.
    ///
    /// # Panics
    /// When there are fewer numbers: that is a bug of the caller.
    pub fn new(numbers: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(has_room(numbers.len(), rows, columns, stride), "a view is larger than what it looks at");
        Self { numbers, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix in memory of someone else's, for writing.
#[derive(Debug)]
pub struct ViewMut<'a> {
    numbers: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> ViewMut<'a> {
    /// `rows` rows of `columns` numbers that begin `stride` numbers apart.
    ///
    /// # Panics
    /// When there are fewer numbers: that is a bug of the caller.
    pub fn new(numbers: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(has_room(numbers.len(), rows, columns, stride), "a view is larger than what it looks at");
        Self { numbers, rows, columns, stride }
    }
}

fn has_room(numbers: usize, rows: usize, columns: usize, stride: usize) -> bool {
    let apart = rows <= 1 || columns <= stride;
    apart && (rows == 0 || columns == 0 || (rows - 1) * stride + columns <= numbers)
}

/// What happens to the numbers that an output has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// They are replaced.
    Replace,
    /// The product is added to them.
    Add,
}

/// `out = scale * a b`, or added to it, on this thread.
///
/// # Panics
/// When shapes do not fit: that is a bug of the caller.
pub fn multiply(out: ViewMut<'_>, into: Into, scale: f32, a: View<'_>, b: View<'_>) {
    assert!(
        out.rows == a.rows && out.columns == b.columns && a.columns == b.rows,
        "[{}, {}] is not [{}, {}] times [{}, {}]",
        out.rows,
        out.columns,
        a.rows,
        a.columns,
        b.rows,
        b.columns,
    );
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    // SAFETY: the views have checked that every place of each shape lies within its slice, strides are those of slices and so
    // fit an isize, and the output is borrowed for writing alone.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.numbers.as_mut_ptr(),
            1,
            out.stride as isize,
            into == Into::Add,
            a.numbers.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.numbers.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// The same with the rows of the output shared among the threads of a pool. `out` has rows of `stride` numbers, of which
/// those from `column` on are written.
///
/// # Panics
/// When shapes do not fit: that is a bug of the caller.
#[allow(clippy::too_many_arguments, reason = "what a product is made of")]
pub fn multiply_shared(
    pool: &Pool,
    out: &mut [f32],
    column: usize,
    stride: usize,
    into: Into,
    scale: f32,
    a: View<'_>,
    b: View<'_>,
) {
    if a.rows == 0 {
        return;
    }
    let mut tasks: Vec<(usize, &mut [f32])> = out[..a.rows * stride]
        .chunks_mut(TASK_ROWS * stride)
        .enumerate()
        .map(|(index, rows)| (index * TASK_ROWS, rows))
        .collect();
    let work = |(first, rows): &mut (usize, &mut [f32])| {
        let count = rows.len() / stride;
        let part = View { numbers: &a.numbers[*first * a.row_stride..], rows: count, ..a };
        multiply(ViewMut::new(&mut rows[column..], count, b.columns, stride), into, scale, part, b);
    };
    if a.rows * a.columns * b.columns < LEAST_SHARED_PRODUCTS {
        tasks.iter_mut().for_each(work);
    } else {
        pool.run_each(&mut tasks, work);
    }
}

/// Which way numbers go through a weight matrix `[outputs, inputs]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From inputs to outputs: `rows · weightsᵀ`.
    Forward,
    /// Gradients, from outputs to inputs: `rows · weights`.
    Backward,
}

/// Sends rows through a matrix whose weights stay in their format: a block of them at a time is expanded into `expanded`.
/// `rows` has the matrix's inputs or outputs as columns; `out` has rows of `stride` numbers and gets the others from
/// `column` on.
///
/// # Panics
/// When shapes do not fit: that is a bug of the caller.
#[allow(clippy::too_many_arguments, reason = "what a product is made of")]
pub fn multiply_weights(
    pool: &Pool,
    matrix: &Matrix,
    direction: Direction,
    rows: View<'_>,
    out: &mut [f32],
    column: usize,
    stride: usize,
    into: Into,
    expanded: &mut Vec<f32>,
) {
    let (outputs, inputs) = (matrix.rows(), matrix.columns());
    let mut into = into;
    for (first, count) in expanded_blocks(matrix) {
        expand(pool, matrix, first, count, expanded);
        let weights = View::new(expanded, count, inputs, inputs);
        match direction {
            Direction::Forward => {
                multiply_shared(pool, out, column + first, stride, into, 1.0, rows, weights.transposed());
            }
            Direction::Backward => {
                assert_eq!(rows.columns, outputs, "gradients are not of the matrix's outputs");
                let numbers = &rows.numbers[(first * rows.column_stride).min(rows.numbers.len())..];
                let part = View { numbers, columns: count, ..rows };
                multiply_shared(pool, out, column, stride, into, 1.0, part, weights);
                into = Into::Add;
            }
        }
    }
}

/// Blocks of a matrix's rows that are expanded together: the first of each, and how many they are.
pub fn expanded_blocks(matrix: &Matrix) -> impl Iterator<Item = (usize, usize)> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let count = (MOST_EXPANDED / columns.max(1)).max(16);
    (0..rows).step_by(count).map(move |first| (first, count.min(rows - first)))
}

/// Writes `count` rows of a matrix from `first` on as numbers, `[count, columns]`.
pub fn expand(pool: &Pool, matrix: &Matrix, first: usize, count: usize, expanded: &mut Vec<f32>) {
    let columns = matrix.columns();
    expanded.resize(count * columns, 0.0);
    const ROWS_A_TASK: usize = 16;
    let mut tasks: Vec<(usize, &mut [f32])> = expanded
        .chunks_mut(ROWS_A_TASK * columns)
        .enumerate()
        .map(|(index, rows)| (first + index * ROWS_A_TASK, rows))
        .collect();
    pool.run_each(&mut tasks, |(first, rows)| {
        for (index, row) in rows.chunks_exact_mut(columns).enumerate() {
            matrix.row(*first + index, row);
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::{Direction, Into, View, ViewMut, multiply, multiply_weights};
    use crate::{Matrix, Pool, WeightFormat};

    fn random(rng: &mut StdRng, count: usize) -> Vec<f32> {
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        #[cfg_attr(miri, ignore = "another crate's assembly")]
        fn products_are_their_sums(
            (m, n, k) in (1usize..70, 1usize..40, 1usize..90), add: bool, seed: u64,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let (a, b) = (random(&mut rng, m * k), random(&mut rng, n * k));
            let before = random(&mut rng, m * (n + 3));
            let mut out = before.clone();
            let into = if add { Into::Add } else { Into::Replace };
            let view = ViewMut::new(&mut out[2..], m, n, n + 3);
            multiply(view, into, 0.5, View::new(&a, m, k, k), View::new(&b, n, k, k).transposed());
            for row in 0..m {
                for column in 0..n + 3 {
                    let at = row * (n + 3) + column;
                    let sum: f32 = if (2..n + 2).contains(&column) {
                        (0..k).map(|i| a[row * k + i] * b[(column - 2) * k + i]).sum::<f32>() * 0.5
                    } else {
                        prop_assert_eq!(out[at], before[at], "what is outside stays");
                        continue;
                    };
                    let expected = sum + if add { before[at] } else { 0.0 };
                    prop_assert!((out[at] - expected).abs() < 1e-4, "{} {}", out[at], expected);
                }
            }
        }

        #[test]
        #[cfg_attr(miri, ignore = "another crate's assembly")]
        fn weights_work_both_ways_and_the_same_on_any_number_of_threads(
            (tokens, outputs, blocks) in (1usize..200, 1usize..700, 1usize..8), seed: u64,
        ) {
            let inputs = blocks * 32;
            let mut rng = StdRng::seed_from_u64(seed);
            let bytes: Vec<u8> = (0..outputs * blocks)
                .flat_map(|_| {
                    let mut block = half::f16::from_f32(rng.random_range(0.001..0.02)).to_le_bytes().to_vec();
                    block.extend((0..32).map(|_| rng.random::<u8>()));
                    block
                })
                .collect();
            let one = Pool::new(1).unwrap();
            let matrix = Matrix::from_bytes(&one, WeightFormat::Q8_0, outputs, inputs, &bytes).unwrap();
            let mut weights = vec![0.0; outputs * inputs];
            for (index, row) in weights.chunks_exact_mut(inputs).enumerate() {
                matrix.row(index, row);
            }
            for direction in [Direction::Forward, Direction::Backward] {
                let forward = direction == Direction::Forward;
                let (from, to) = if forward { (inputs, outputs) } else { (outputs, inputs) };
                let rows = random(&mut rng, tokens * from);
                let run = |threads| {
                    let pool = Pool::new(threads).unwrap();
                    let (mut out, mut expanded) = (vec![f32::NAN; tokens * to], Vec::new());
                    let view = View::new(&rows, tokens, from, from);
                    multiply_weights(&pool, &matrix, direction, view, &mut out, 0, to, Into::Replace, &mut expanded);
                    out
                };
                let out = run(1);
                prop_assert_eq!(&out, &run(3));
                for at in [0, tokens * to / 2, tokens * to - 1] {
                    let (token, column) = (at / to, at % to);
                    let weight = |i: usize| if forward { weights[column * inputs + i] } else { weights[i * inputs + column] };
                    let sum: f32 = (0..from).map(|i| rows[token * from + i] * weight(i)).sum();
                    prop_assert!((out[at] - sum).abs() < 2e-3 * (1.0 + sum.abs()), "{} {}", out[at], sum);
                }
            }
        }
    }
}
