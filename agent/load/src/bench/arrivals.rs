use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// When requests are due, whatever the server does.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// As independent users come: gaps are exponential.
    Poisson,
    /// In bursts: gaps follow a gamma distribution with this coefficient of variation; 1 is Poisson, more is burstier.
    Gamma {
        /// Standard deviation of a gap by its mean, above 0.
        variation: f64,
    },
    /// As recorded: seconds from the start, in order. The rate is that of the trace.
    Trace(Vec<f64>),
}

impl Arrivals {
    /// Times from the start, without end but for a trace.
    pub(super) fn due(&self, rate_per_s: f64, mut rng: StdRng) -> Box<dyn Iterator<Item = Duration> + Send> {
        let from_gaps = |mut gap: Box<dyn FnMut() -> f64 + Send>| {
            let mut at = 0.0;
            std::iter::repeat_with(move || {
                at += gap() / rate_per_s;
                Duration::from_secs_f64(at)
            })
        };
        match self {
            Self::Constant => Box::new(from_gaps(Box::new(|| 1.0))),
            Self::Poisson => Box::new(from_gaps(Box::new(move || exponential(&mut rng)))),
            Self::Gamma { variation } => {
                let shape = 1.0 / (variation * variation);
                Box::new(from_gaps(Box::new(move || gamma(shape, &mut rng) / shape)))
            }
            Self::Trace(seconds) => {
                Box::new(seconds.clone().into_iter().map(|at| Duration::from_secs_f64(at.max(0.0))))
            }
        }
    }
}

fn exponential(rng: &mut StdRng) -> f64 {
    -rng.random_range(f64::EPSILON..1.0f64).ln()
}

/// A gamma variate of scale 1 by Marsaglia and Tsang (2000); below a shape of 1 by their boost.
fn gamma(shape: f64, rng: &mut StdRng) -> f64 {
    if shape < 1.0 {
        let boost = rng.random_range(f64::EPSILON..1.0f64).powf(1.0 / shape);
        return gamma(shape + 1.0, rng) * boost;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        let u = rng.random_range(f64::EPSILON..1.0f64);
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Box and Muller (1958).
pub(super) fn normal(rng: &mut StdRng) -> f64 {
    let radius = (-2.0 * rng.random_range(f64::EPSILON..1.0f64).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::Arrivals;

    fn gaps(arrivals: &Arrivals) -> Vec<f64> {
        let due: Vec<f64> =
            arrivals.due(50.0, StdRng::seed_from_u64(3)).take(40_000).map(|at| at.as_secs_f64()).collect();
        due.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn gaps_have_the_rate_as_their_mean_and_vary_as_asked() {
        for (arrivals, variation) in [
            (Arrivals::Constant, 0.0),
            (Arrivals::Poisson, 1.0),
            (Arrivals::Gamma { variation: 0.5 }, 0.5),
            (Arrivals::Gamma { variation: 2.0 }, 2.0),
        ] {
            let gaps = gaps(&arrivals);
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let deviation =
                (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
            assert!((mean - 0.02).abs() < 0.001, "{arrivals:?}: {mean}");
            assert!((deviation / mean - variation).abs() < 0.1, "{arrivals:?}: {}", deviation / mean);
        }
    }

    #[test]
    fn a_trace_is_followed() {
        let trace = Arrivals::Trace(vec![0.5, 0.75, 2.0]);
        let due: Vec<f64> = trace.due(1.0, StdRng::seed_from_u64(1)).map(|at| at.as_secs_f64()).collect();
        assert_eq!(due, [0.5, 0.75, 2.0]);
    }
}
