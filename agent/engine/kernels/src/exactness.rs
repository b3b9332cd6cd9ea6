//! How tests compare what a kernel computes with its formula.

/// So many numbers from -5 to 5, without order.
pub(crate) fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * 37 % 101) as f32 - 50.0) / 10.0).collect()
}

/// Holds a result to what the formula gives in double precision.
pub(crate) fn assert_close(ours: f32, exact: f64) {
    assert!((f64::from(ours) - exact).abs() <= 1e-5 * (1.0 + exact.abs()), "{ours} {exact}");
}
