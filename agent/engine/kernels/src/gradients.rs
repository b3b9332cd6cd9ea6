//! What training needs beside products: the backward passes of norms and gates, softmax, cross entropy. Each adds nothing up
//! across rows, so that rows may go to any thread.

use crate::exp::exp;
use crate::isa::compiled_for_each_isa;
use crate::logits::summarize_logits;

const LANES: usize = 16;
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

#[inline(always)]
fn dot_plain(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}

compiled_for_each_isa! {
    /// `Σ a b`, summed in lanes.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 => dot_plain
}

compiled_for_each_isa! {
    /// Backward of RMS norm with a fixed weight: adds to `dx` what `dy` says of `y = x / rms(x) * weight`.
    pub fn rms_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) => rms_norm_backward_plain
}

#[inline(always)]
fn rms_norm_backward_plain(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let count = x.len() as f32;
    let inverse = 1.0 / (dot_plain(x, x) / count + eps).sqrt();
    let mut products = [0.0f32; LANES];
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            products[lane] += x[at + lane] * weight[at + lane] * dy[at + lane];
        }
    }
    let rest: f32 = (whole..x.len()).map(|at| x[at] * weight[at] * dy[at]).sum();
    let along = (products.iter().sum::<f32>() + rest) * inverse * inverse * inverse / count;
    for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
        *dx += inverse * weight * dy - along * x;
    }
}

compiled_for_each_isa! {
    /// Backward of `silu(gate) * up`: writes the gradients of both.
    pub fn silu_gate_backward(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32])
        => silu_gate_backward_plain
}

#[inline(always)]
fn silu_gate_backward_plain(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    let inputs = gate.iter().zip(up).zip(dy);
    for (((gate, up), dy), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
        let logistic = 1.0 / (1.0 + exp(-gate));
        *d_up = dy * gate * logistic;
        *d_gate = dy * up * logistic * (1.0 + gate * (1.0 - logistic));
    }
}

compiled_for_each_isa! {
    /// Backward of `gelu(gate) * up` with GELU by its tanh approximation: writes the gradients of both.
    pub fn gelu_gate_backward(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32])
        => gelu_gate_backward_plain
}

#[inline(always)]
fn gelu_gate_backward_plain(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
    let inputs = gate.iter().zip(up).zip(dy);
    for (((gate, up), dy), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
        let inner = SQRT_2_OVER_PI * gate * (1.0 + 0.044_715 * gate * gate);
        // (1 + tanh x) / 2 is the logistic function of 2x, whose slope is 2 s (1 - s).
        let logistic = 1.0 / (1.0 + exp(-2.0 * inner));
        let slope = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * gate * gate);
        *d_up = dy * gate * logistic;
        *d_gate = dy * up * logistic * (1.0 + 2.0 * gate * (1.0 - logistic) * slope);
    }
}

compiled_for_each_isa! {
    /// A row of scores as probabilities, in place. At least one is finite.
    pub fn softmax(row: &mut [f32]) => softmax_plain
}

#[inline(always)]
fn softmax_plain(row: &mut [f32]) {
    let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (number, sum) in chunk.iter_mut().zip(&mut sums) {
            *number = exp(*number - peak);
            *sum += *number;
        }
    }
    let mut rest = 0.0;
    for number in chunks.into_remainder() {
        *number = exp(*number - peak);
        rest += *number;
    }
    let scale = 1.0 / (sums.iter().sum::<f32>() + rest);
    row.iter_mut().for_each(|number| *number *= scale);
}

compiled_for_each_isa! {
    /// Backward of softmax, in place: `gradients` of the probabilities become those of the scores.
    pub fn softmax_backward(probabilities: &[f32], gradients: &mut [f32]) => softmax_backward_plain
}

#[inline(always)]
fn softmax_backward_plain(probabilities: &[f32], gradients: &mut [f32]) {
    let mean = dot_plain(probabilities, gradients);
    for (gradient, probability) in gradients.iter_mut().zip(probabilities) {
        *gradient = probability * (*gradient - mean);
    }
}

/// Cross entropy of a row of logits against the token that should follow, in nats; the logits become the gradient of `weight`
/// times it.
///
/// # Panics
/// When the target is beyond the row: that is a bug of the caller.
pub fn cross_entropy(logits: &mut [f32], target: usize, weight: f32) -> f32 {
    let summary = summarize_logits(logits);
    let loss = summary.log_normalizer - logits[target];
    to_gradient(logits, summary.log_normalizer, weight);
    logits[target] -= weight;
    loss
}

/// How far logits are from a model's that is to be kept, as the divergence of its distribution from theirs (Kullback and Leibler
/// 1951), in nats; the logits become the gradient of `weight` times it, the model's its probabilities (Hinton, Vinyals and Dean
/// 2015).
pub fn divergence(logits: &mut [f32], of_the_model: &mut [f32], weight: f32) -> f32 {
    let entropy = summarize_logits(of_the_model).entropy;
    softmax(of_the_model);
    let normalizer = summarize_logits(logits).log_normalizer;
    // The probabilities add up to one. Rounding may leave what is nothing a little below it.
    let divergence = (normalizer - dot(logits, of_the_model) - entropy).max(0.0);
    to_gradient(logits, normalizer, weight);
    subtract_scaled(logits, of_the_model, weight);
    divergence
}

compiled_for_each_isa! {
    fn subtract_scaled(x: &mut [f32], y: &[f32], factor: f32) => subtract_scaled_plain
}

#[inline(always)]
fn subtract_scaled_plain(x: &mut [f32], y: &[f32], factor: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x -= factor * y);
}

compiled_for_each_isa! {
    fn to_gradient(logits: &mut [f32], log_normalizer: f32, weight: f32) => to_gradient_plain
}

#[inline(always)]
fn to_gradient_plain(logits: &mut [f32], log_normalizer: f32, weight: f32) {
    logits.iter_mut().for_each(|logit| *logit = exp(*logit - log_normalizer) * weight);
}

#[cfg(test)]
mod tests {
    use super::{
        cross_entropy, divergence, gelu_gate_backward, rms_norm_backward, silu_gate_backward, softmax,
        softmax_backward,
    };
    use crate::elementwise::{gelu_gate, rms_norm, silu_gate};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 37 + seed * 11) % 41) as f32 / 20.0 - 1.0).collect()
    }

    /// The slope of `f` at `x` along one of its numbers, by central differences.
    fn slope(f: &dyn Fn(&[f32]) -> f64, x: &[f32], at: usize) -> f64 {
        const STEP: f32 = 1e-2;
        let moved = |step: f32| {
            let mut x = x.to_vec();
            x[at] += step;
            f(&x)
        };
        (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP)
    }

    fn agree(name: &str, gradient: &[f32], f: &dyn Fn(&[f32]) -> f64, x: &[f32]) {
        for (at, ours) in gradient.iter().enumerate() {
            let (ours, exact) = (f64::from(*ours), slope(f, x, at));
            assert!((ours - exact).abs() < 2e-3 * (1.0 + exact.abs()), "{name}[{at}]: {ours} {exact}");
        }
    }

    fn weighed(y: &[f32], dy: &[f32]) -> f64 {
        y.iter().zip(dy).map(|(y, dy)| f64::from(y * dy)).sum()
    }

    #[test]
    fn gradients_are_slopes() {
        for count in [3, 16, 37] {
            let (x, weight, dy) = (numbers(count, 1), numbers(count, 2), numbers(count, 3));
            let mut dx = vec![0.0; count];
            rms_norm_backward(&x, &weight, 1e-5, &dy, &mut dx);
            let norm = |x: &[f32]| {
                let mut y = vec![0.0; count];
                rms_norm(x, &weight, 1e-5, &mut y);
                weighed(&y, &dy)
            };
            agree("rms_norm", &dx, &norm, &x);
            type Gate = fn(&[f32], &[f32], &mut [f32]);
            type Backward = fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32]);
            for (name, gate, backward) in [
                ("silu", silu_gate as Gate, silu_gate_backward as Backward),
                ("gelu", gelu_gate, gelu_gate_backward),
            ] {
                let (mut d_gate, mut d_up) = (vec![0.0; count], vec![0.0; count]);
                backward(&x, &weight, &dy, &mut d_gate, &mut d_up);
                let of = |x: &[f32], up: &[f32]| {
                    let mut y = vec![0.0; count];
                    gate(x, up, &mut y);
                    weighed(&y, &dy)
                };
                agree(name, &d_gate, &|x| of(x, &weight), &x);
                agree(name, &d_up, &|up| of(&x, up), &weight);
            }
            let scores = |x: &[f32]| {
                let mut y = x.to_vec();
                softmax(&mut y);
                weighed(&y, &dy)
            };
            let (mut probabilities, mut gradients) = (x.clone(), dy.clone());
            softmax(&mut probabilities);
            assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            softmax_backward(&probabilities, &mut gradients);
            agree("softmax", &gradients, &scores, &x);
            let entropy = |x: &[f32]| f64::from(cross_entropy(&mut x.to_vec(), 1, 1.0)) * 0.25;
            let mut gradient = x.clone();
            cross_entropy(&mut gradient, 1, 0.25);
            agree("cross entropy", &gradient, &entropy, &x);
            let kept = weight.clone();
            let apart = |x: &[f32]| f64::from(divergence(&mut x.to_vec(), &mut kept.clone(), 1.0)) * 0.25;
            let mut gradient = dy.clone();
            divergence(&mut gradient, &mut kept.clone(), 0.25);
            agree("divergence", &gradient, &apart, &dy);
            assert!(divergence(&mut kept.clone(), &mut kept.clone(), 1.0) < 1e-5, "from itself");
        }
    }
}
