//! What happens to rows between products: norms, rotations and gates.

use crate::exp::exp;
use crate::isa::compiled_for_each_isa;

/// Sums run in this many lanes, so that the compiler may use vectors.
const LANES: usize = 16;

compiled_for_each_isa! {
    /// `out = x / sqrt(mean(x²) + eps) * weight`, RMS norm (Zhang and Sennrich 2019). All of one length.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) => rms_norm_plain
}

#[inline(always)]
fn rms_norm_plain(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = inverse_rms(x, eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

compiled_for_each_isa! {
    /// RMS norm in place.
    pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) => rms_norm_in_place_plain
}

#[inline(always)]
fn rms_norm_in_place_plain(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = inverse_rms(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut squares = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    for chunk in chunks {
        for (square, x) in squares.iter_mut().zip(chunk) {
            *square += x * x;
        }
    }
    let mean = (squares.iter().sum::<f32>() + rest) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

compiled_for_each_isa! {
    /// `x += y`
    pub fn add(x: &mut [f32], y: &[f32]) => add_plain
}

#[inline(always)]
fn add_plain(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

compiled_for_each_isa! {
    /// `x *= factor`
    pub fn scale(x: &mut [f32], factor: f32) => scale_plain
}

#[inline(always)]
fn scale_plain(x: &mut [f32], factor: f32) {
    x.iter_mut().for_each(|x| *x *= factor);
}

compiled_for_each_isa! {
    /// `out = silu(gate) * up`
    pub fn silu_gate(gate: &[f32], up: &[f32], out: &mut [f32]) => silu_gate_plain
}

#[inline(always)]
fn silu_gate_plain(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

compiled_for_each_isa! {
    /// `out = gelu(gate) * up`, GELU by its tanh approximation (Hendrycks and Gimpel 2016).
    pub fn gelu_gate(gate: &[f32], up: &[f32], out: &mut [f32]) => gelu_gate_plain
}

#[inline(always)]
fn gelu_gate_plain(gate: &[f32], up: &[f32], out: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        let inner = SQRT_2_OVER_PI * gate * (1.0 + 0.044_715 * gate * gate);
        // (1 + tanh x) / 2 is the logistic function of 2x.
        *out = gate / (1.0 + exp(-2.0 * inner)) * up;
    }
}

compiled_for_each_isa! {
    /// Turns the pairs `(i, i + n/2)` of a head of `n` numbers by angles whose cosines and sines are given (Su et al.
    /// 2021).
    pub fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) => rotate_halves_plain
}

#[inline(always)]
fn rotate_halves_plain(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

compiled_for_each_isa! {
    /// Turns the pairs `(2i, 2i + 1)`.
    pub fn rotate_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32]) => rotate_neighbours_plain
}

#[inline(always)]
fn rotate_neighbours_plain(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for (pair, (cos, sin)) in head.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::{gelu_gate, rms_norm, rotate_halves, rotate_neighbours, silu_gate};
    use crate::exactness::{assert_close, numbers};

    #[test]
    fn norms_and_gates_are_their_formulas() {
        for count in [1, 16, 37, 640] {
            let (x, y) = (numbers(count), numbers(count + 5)[5..].to_vec());
            let mut out = vec![0.0; count];
            rms_norm(&x, &y, 1e-6, &mut out);
            let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / count as f64;
            for index in 0..count {
                assert_close(out[index], f64::from(x[index]) / (mean + 1e-6).sqrt() * f64::from(y[index]));
            }
            silu_gate(&x, &y, &mut out);
            for index in 0..count {
                let x = f64::from(x[index]);
                assert_close(out[index], x / (1.0 + (-x).exp()) * f64::from(y[index]));
            }
            gelu_gate(&x, &y, &mut out);
            for index in 0..count {
                let x = f64::from(x[index]);
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                assert_close(out[index], 0.5 * x * (1.0 + inner.tanh()) * f64::from(y[index]));
            }
        }
    }

    #[test]
    fn rotations_turn_their_pairs() {
        let angles: Vec<f32> = (0..8).map(|index| index as f32 / 3.0).collect();
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
        let head = numbers(16);
        let (mut halves, mut neighbours) = (head.clone(), head.clone());
        rotate_halves(&mut halves, &cos, &sin);
        rotate_neighbours(&mut neighbours, &cos, &sin);
        for pair in 0..8 {
            let turned = |a: f32, b: f32| (a * cos[pair] - b * sin[pair], b * cos[pair] + a * sin[pair]);
            assert_eq!((halves[pair], halves[pair + 8]), turned(head[pair], head[pair + 8]));
            assert_eq!(
                (neighbours[2 * pair], neighbours[2 * pair + 1]),
                turned(head[2 * pair], head[2 * pair + 1])
            );
        }
    }
}
