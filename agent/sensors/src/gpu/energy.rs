use std::collections::HashMap;

use llmdeck_proto::v1::Gpu;

/// What each card spent between two frames.
#[derive(Debug, Default)]
pub struct GpuEnergy {
    totals_mj: HashMap<String, u64>,
}

impl GpuEnergy {
    /// Fills `energy_mj`: from the card's counter where it has one, else from its power over the interval.
    pub fn fill(&mut self, gpus: &mut [Gpu], interval_ms: u32) {
        for gpu in gpus {
            gpu.energy_mj = match (gpu.energy_total_mj, gpu.power_mw) {
                (Some(total), _) => {
                    let before = self.totals_mj.insert(gpu.uuid.clone(), total);
                    // A driver that was loaded again counts from zero.
                    before.map(|before| total.checked_sub(before).unwrap_or(total))
                }
                (None, Some(power_mw)) => Some(u64::from(power_mw) * u64::from(interval_ms) / 1_000),
                (None, None) => None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::Gpu;

    use super::GpuEnergy;

    #[test]
    fn the_counter_is_preferred_and_power_fills_in() {
        let mut energy = GpuEnergy::default();
        let card =
            |total| Gpu { uuid: "a".into(), energy_total_mj: total, power_mw: Some(2_000), ..Gpu::default() };
        let spent = |energy: &mut GpuEnergy, gpu: Gpu| {
            let mut gpus = [gpu];
            energy.fill(&mut gpus, 500);
            gpus[0].energy_mj
        };
        assert_eq!(spent(&mut energy, card(Some(100))), None);
        assert_eq!(spent(&mut energy, card(Some(140))), Some(40));
        assert_eq!(spent(&mut energy, card(Some(15))), Some(15));
        assert_eq!(spent(&mut energy, card(None)), Some(1_000));
    }
}
