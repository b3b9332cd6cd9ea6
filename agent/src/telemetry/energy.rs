use llmdeck_proto::v1::{Deployment, Frame};
use serde::Deserialize;

/// What a node costs.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// ISO 4217 code.
    pub currency: String,
    /// Of a kilowatt hour, in the currency.
    #[serde(default)]
    pub kilowatt_hour: f64,
    /// Of the whole node for an hour, in the currency.
    #[serde(default)]
    pub node_hour: f64,
}

impl Prices {
    /// What an interval of the whole node costs, in millionths of the currency.
    pub(super) fn micros(&self, energy_mj: Option<u64>, interval_ms: u32) -> f64 {
        let energy = energy_mj.unwrap_or(0) as f64 / MILLIJOULES_PER_KWH * self.kilowatt_hour;
        (energy + self.node_hour * f64::from(interval_ms) / MS_PER_HOUR) * MICROS
    }
}

const MILLIJOULES_PER_KWH: f64 = 3.6e9;
const MS_PER_HOUR: f64 = 3.6e6;
const MICROS: f64 = 1e6;

/// Puts the interval's measured energy, and the cost that follows from the prices, down to the deployments by their
/// share of generated tokens. Without a token in the interval nobody is charged; without a measurement the energy is
/// absent, and only the node's price counts.
pub fn attribute_energy(frame: &mut Frame, prices: Option<&Prices>) {
    let energy_mj = measured_mj(frame);
    let tokens: Vec<u64> = frame.deployments.iter().map(tokens_out).collect();
    let total: u64 = tokens.iter().sum();
    for (deployment, tokens) in frame.deployments.iter_mut().zip(tokens) {
        let share = if total == 0 { 0.0 } else { tokens as f64 / total as f64 };
        deployment.energy_mj = energy_mj.map(|energy| (energy as f64 * share) as u64);
        if let Some(prices) = prices {
            deployment.cost_micros = Some((prices.micros(energy_mj, frame.interval_ms) * share) as u64);
            deployment.currency.clone_from(&prices.currency);
        }
    }
}

/// Energy of the node in the interval, in millijoules; `None` where nothing is measured.
pub(super) fn measured_mj(frame: &Frame) -> Option<u64> {
    let gpus = frame.gpus.iter().filter_map(|gpu| gpu.energy_mj);
    let cpu = frame.host.as_ref().and_then(|host| host.cpu_energy_mj);
    gpus.chain(cpu).reduce(|sum, energy| sum + energy)
}

fn tokens_out(deployment: &Deployment) -> u64 {
    deployment.revisions.iter().filter_map(|revision| revision.counters.as_ref()).map(|c| c.tokens_out).sum()
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::{Counters, Deployment, Frame, Gpu, Revision};

    use super::{Prices, attribute_energy};

    fn deployment(tokens_out: u64) -> Deployment {
        let counters = Some(Counters { tokens_out, ..Counters::default() });
        Deployment { revisions: vec![Revision { counters, ..Revision::default() }], ..Deployment::default() }
    }

    #[test]
    fn tokens_share_energy_and_cost() {
        let mut frame = Frame {
            interval_ms: 3_600_000,
            gpus: vec![Gpu { energy_mj: Some(3_600_000_000), ..Gpu::default() }],
            deployments: vec![deployment(300), deployment(100)],
            ..Frame::default()
        };
        let prices = Prices { currency: "EUR".into(), kilowatt_hour: 0.20, node_hour: 2.0 };
        attribute_energy(&mut frame, Some(&prices));
        assert_eq!(frame.deployments[0].energy_mj, Some(2_700_000_000));
        assert_eq!(frame.deployments[0].cost_micros, Some(1_650_000));
        assert_eq!(frame.deployments[1].cost_micros, Some(550_000));
    }

    #[test]
    fn without_a_meter_energy_is_absent() {
        let mut frame = Frame { deployments: vec![deployment(1)], ..Frame::default() };
        attribute_energy(&mut frame, None);
        assert_eq!((frame.deployments[0].energy_mj, frame.deployments[0].cost_micros), (None, None));
    }
}
