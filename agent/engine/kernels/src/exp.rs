//! The exponential function, without branches so that the compiler makes vectors of it.

/// `e^x` within 2 units in the last place; 0 below -87.3, so that minus infinity gives 0, and exactly 1 at 0.
/// Method: `x = n ln 2 + r`, a polynomial in `r` (coefficients of Cephes' `expf`), and `2^n` by its bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // In few bits, so that its multiples by whole numbers are exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.3);
    // Adding and taking off 1.5 * 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2_HIGH - n * LN_2_LOW;
    let mut polynomial = 1.987_569_2e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * r + coefficient;
    }
    let whole = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let power = f32::from_bits((whole.wrapping_add(127) as u32) << 23);
    let value = (polynomial * r * r + r + 1.0) * power;
    // A comparison with NaN is false: NaN comes out as it went in.
    if x < -87.3 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn it_is_the_exponential() {
        for step in -8_700..=8_800 {
            let x = step as f32 / 100.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / exact - 1.0).abs() < 3e-7, "{x}: {ours} {exact}");
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-1e30)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
