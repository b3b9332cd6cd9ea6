use llmdeck_kernels::dense::{Into, View, expand, expanded_blocks, multiply_shared};
use llmdeck_kernels::gradients::dot;
use llmdeck_kernels::{Matrix, Pool};

use super::weights::ThinMatrices;

/// The lengths of a matrix's rows with what an adapter adds to them, `‖W + scale B A‖` row by row (DoRA, Liu et al. 2024).
pub(crate) fn row_norms(
    pool: &Pool,
    matrix: &Matrix,
    thin: &ThinMatrices,
    expanded: &mut Vec<f32>,
) -> Vec<f32> {
    let (columns, rank) = (matrix.columns(), thin.rank);
    let mut norms = vec![0.0; matrix.rows()];
    let a = View::new(&thin.a, rank, columns, columns);
    for (first, count) in expanded_blocks(matrix) {
        expand(pool, matrix, first, count, expanded);
        let b = View::new(&thin.b[first * rank..], count, rank, rank);
        multiply_shared(pool, expanded, 0, columns, Into::Add, thin.scale, b, a);
        let mut rows: Vec<(&mut f32, &[f32])> =
            norms[first..first + count].iter_mut().zip(expanded.chunks_exact(columns)).collect();
        pool.run_each(&mut rows, |(norm, row)| **norm = dot(row, row).sqrt());
    }
    norms
}
