/// Learning rate at a step: linear from zero over `warmup` steps, then half a cosine down to a tenth of the peak.
pub fn cosine_with_warmup(step: usize, warmup: usize, steps: usize, peak: f64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
    peak * (0.1 + 0.9 * cosine)
}

#[cfg(test)]
mod tests {
    use super::cosine_with_warmup;

    #[test]
    fn rises_then_falls_to_a_tenth() {
        assert!(cosine_with_warmup(0, 10, 100, 1.0) < cosine_with_warmup(9, 10, 100, 1.0));
        assert!((cosine_with_warmup(10, 10, 100, 1.0) - 1.0).abs() < 1e-9);
        assert!((cosine_with_warmup(100, 10, 100, 1.0) - 0.1).abs() < 1e-9);
        assert!((cosine_with_warmup(500, 10, 100, 1.0) - 0.1).abs() < 1e-9);
    }
}
