use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

/// Settings of [`AdamW`], by the names of Loshchilov and Hutter 2019.
#[derive(Clone, Copy, Debug)]
pub struct AdamWOptions {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay; matrices only.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub max_gradient_norm: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.98, epsilon: 1e-9, weight_decay: 0.01, max_gradient_norm: 1.0 }
    }
}

/// Adam with decoupled weight decay.
pub struct AdamW {
    options: AdamWOptions,
    variables: Vec<Moments>,
    step: i32,
}

struct Moments {
    variable: Var,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    /// Over the variables given, f32.
    pub fn new(variables: Vec<Var>, options: AdamWOptions) -> Self {
        let variables = variables
            .into_iter()
            .map(|variable| {
                let size = variable.elem_count();
                Moments { variable, first: vec![0.0; size], second: vec![0.0; size] }
            })
            .collect();
        Self { options, variables, step: 0 }
    }

    /// Takes one step against the sum of the gradients and returns their global norm before clipping.
    ///
    /// # Errors
    /// When a gradient has another shape than its variable.
    pub fn step(&mut self, gradients: &[GradStore], learning_rate: f64) -> Result<f64> {
        self.step += 1;
        let summed: Vec<Vec<f32>> =
            self.variables.iter().map(|moments| sum(&moments.variable, gradients)).collect::<Result<_>>()?;
        let norm = summed.iter().flatten().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>().sqrt();
        let factor = clip_factor(norm, self.options.max_gradient_norm);
        for (moments, gradient) in self.variables.iter_mut().zip(summed) {
            let mut values = moments.variable.flatten_all()?.to_vec1::<f32>()?;
            let decays = moments.variable.rank() > 1;
            let weight_decay = if decays { self.options.weight_decay } else { 0.0 };
            let options = AdamWOptions { weight_decay, ..self.options };
            let gradient = gradient.into_iter().map(|gradient| gradient * factor);
            let of_moments = (&mut moments.first[..], &mut moments.second[..]);
            adamw_update(options, self.step, learning_rate, &mut values, gradient, of_moments);
            let shape = moments.variable.shape().clone();
            moments.variable.set(&Tensor::from_vec(values, shape, moments.variable.device())?)?;
        }
        Ok(norm)
    }
}

/// What gradients of this norm are multiplied with.
pub(crate) fn clip_factor(norm: f64, most: f64) -> f32 {
    (most / norm.max(f64::MIN_POSITIVE)).min(1.0) as f32
}

/// The `step`-th update of some values and their first and second moments, counted from 1.
pub(crate) fn adamw_update(
    options: AdamWOptions,
    step: i32,
    learning_rate: f64,
    values: &mut [f32],
    gradients: impl Iterator<Item = f32>,
    (first, second): (&mut [f32], &mut [f32]),
) {
    let AdamWOptions { beta1, beta2, epsilon, weight_decay, .. } = options;
    let rate = (learning_rate / (1.0 - beta1.powi(step))) as f32;
    let correction = (1.0 / (1.0 - beta2.powi(step))).sqrt() as f32;
    let keep = (1.0 - learning_rate * weight_decay) as f32;
    // What is left of one is rounded last: rounded first, it would be off by a hundred-thousandth.
    let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let (beta1, beta2, epsilon) = (beta1 as f32, beta2 as f32, epsilon as f32);
    let moments = first.iter_mut().zip(second);
    for ((value, gradient), (first, second)) in values.iter_mut().zip(gradients).zip(moments) {
        *first = beta1 * *first + rest1 * gradient;
        *second = beta2 * *second + rest2 * gradient * gradient;
        *value = *value * keep - rate * *first / (second.sqrt() * correction + epsilon);
    }
}

fn sum(variable: &Var, gradients: &[GradStore]) -> Result<Vec<f32>> {
    let mut total = vec![0.0; variable.elem_count()];
    for gradient in gradients.iter().filter_map(|store| store.get(variable)) {
        let part = gradient.flatten_all()?.to_vec1::<f32>()?;
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::{AdamW, AdamWOptions, adamw_update, clip_factor};

    /// Three steps of torch 2.15's AdamW with gradients clipped to a norm of 1; `benches/peft/adamw.py` prints the values.
    #[test]
    fn steps_are_torchs() {
        let options = AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_gradient_norm: 1.0,
        };
        let mut values = [0.5f32, -1.25, 3.0, 0.0];
        let (mut first, mut second) = ([0.0; 4], [0.0; 4]);
        let steps = [
            ([0.1f32, -0.2, 0.3, 1e-4], [0.399_500_0f64, -1.148_749_9, 2.897_000_1, -0.099_990_0]),
            ([0.05, 0.4, -0.3, 0.0], [0.305_882_5, -1.184_211_6, 2.899_366_1, -0.166_886_4]),
            ([-0.7, 0.0, 0.2, 2.0], [0.342_891_1, -1.211_327_3, 2.886_614_8, -0.230_606_3]),
        ];
        for (step, (gradient, expected)) in (1..).zip(steps) {
            let norm = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
            let factor = clip_factor(norm, options.max_gradient_norm);
            let gradient = gradient.iter().map(|g| g * factor);
            adamw_update(options, step, 0.1, &mut values, gradient, (&mut first, &mut second));
            for (ours, theirs) in values.iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 1e-6,
                    "step {step}: {values:?}, torch has {expected:?}"
                );
            }
        }
    }

    /// One step from the definition: with bias correction the first step moves by the rate against the sign.
    #[test]
    fn the_first_step_moves_by_the_learning_rate() {
        let variable = Var::new(&[1.0f32, -2.0], &Device::Cpu).unwrap();
        let loss = (variable.as_tensor() * 3.0).unwrap().sum_all().unwrap();
        let mut optimizer = AdamW::new(vec![variable.clone()], AdamWOptions::default());
        let norm = optimizer.step(&[loss.backward().unwrap()], 0.1).unwrap();
        assert!((norm - 18f64.sqrt()).abs() < 1e-5);
        let moved = variable.to_vec1::<f32>().unwrap();
        assert!((moved[0] - 0.9).abs() < 1e-4 && (moved[1] + 2.1).abs() < 1e-4, "{moved:?}");
    }
}
