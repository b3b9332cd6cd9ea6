use llmdeck_proto::v1::{Frame, Gpu};
use nix::unistd::{Pid, getpgid};
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

/// Puts the interval's measured energy down to revisions, and to their deployments with the cost that follows from the prices. Energy of
/// the CPU goes by the CPU time of those that had requests, that of a GPU by the time that its processes computed there, where the driver tells; what
/// cannot be told so goes by generated tokens. Without any of these in the interval nobody is charged; without a measurement the energy is
/// absent, and only the node's price counts. `groups` are the processes of each deployment's revisions.
pub fn attribute_energy(frame: &mut Frame, groups: &[Vec<(u32, Pid)>], prices: Option<&Prices>) {
    let shares = Shares::of(frame, groups);
    let by_tokens = Shares::normal(&shares.tokens);
    let mut energy_mj = vec![0.0; shares.tokens.len()];
    let mut charge = |spent_mj: Option<u64>, parts: &[f64]| {
        for (energy_mj, part) in energy_mj.iter_mut().zip(parts) {
            *energy_mj += spent_mj.unwrap_or(0) as f64 * part;
        }
    };
    let cpu_mj = frame.host.as_ref().and_then(|host| host.cpu_energy_mj);
    charge(cpu_mj, Shares::normal(&shares.cpu_us).as_ref().or(by_tokens.as_ref()).unwrap_or(&Vec::new()));
    for gpu in &frame.gpus {
        let own = shares.of_gpu(gpu);
        charge(gpu.energy_mj, own.as_ref().or(by_tokens.as_ref()).unwrap_or(&Vec::new()));
    }
    let is_measured = measured_mj(frame).is_some();
    let mut energy_mj = energy_mj.into_iter();
    let mut by_tokens = by_tokens.unwrap_or_default().into_iter();
    for deployment in &mut frame.deployments {
        let (mut all_mj, mut tokens) = (0.0, 0.0);
        for revision in &mut deployment.revisions {
            let own_mj = energy_mj.next().unwrap_or(0.0);
            revision.energy_mj = is_measured.then_some(own_mj.round() as u64);
            all_mj += own_mj;
            tokens += by_tokens.next().unwrap_or(0.0);
        }
        deployment.energy_mj = is_measured.then_some(all_mj.round() as u64);
        if let Some(prices) = prices {
            let node = prices.micros(None, frame.interval_ms) * tokens;
            deployment.cost_micros = Some((prices.micros(deployment.energy_mj, 0) + node).round() as u64);
            deployment.currency.clone_from(&prices.currency);
        }
    }
}

/// What every revision did in an interval, in the order of the frame.
struct Shares {
    tokens: Vec<f64>,
    cpu_us: Vec<f64>,
    groups: Vec<Option<Pid>>,
}

impl Shares {
    fn of(frame: &Frame, groups: &[Vec<(u32, Pid)>]) -> Self {
        let mut shares = Self { tokens: Vec::new(), cpu_us: Vec::new(), groups: Vec::new() };
        for (index, deployment) in frame.deployments.iter().enumerate() {
            for revision in &deployment.revisions {
                let counters = revision.counters.unwrap_or_default();
                shares.tokens.push(counters.tokens_out as f64);
                // A server that nobody asks polls, too.
                let works = counters.tokens_out > 0 || revision.in_flight > 0;
                shares.cpu_us.push(if works { counters.cpu_us as f64 } else { 0.0 });
                let own =
                    groups.get(index).into_iter().flatten().find(|(number, _)| *number == revision.number);
                shares.groups.push(own.map(|(_, group)| *group));
            }
        }
        shares
    }

    /// Parts of the whole; `None` where there is none.
    fn normal(of: &[f64]) -> Option<Vec<f64>> {
        let sum: f64 = of.iter().sum();
        (sum > 0.0).then(|| of.iter().map(|one| one / sum).collect())
    }

    /// Parts of the time that all processes together computed on a card; `None` where none of a revision's did, or it is not told.
    fn of_gpu(&self, gpu: &Gpu) -> Option<Vec<f64>> {
        let all: f64 = gpu.processes.iter().filter_map(|process| process.utilization).sum();
        let mut parts = vec![0.0; self.groups.len()];
        for process in &gpu.processes {
            let pid = i32::try_from(process.pid).ok().map(Pid::from_raw);
            let group = pid.and_then(|pid| getpgid(Some(pid)).ok());
            let ours = self.groups.iter().position(|known| known.is_some() && *known == group);
            if let (Some(ours), Some(utilization)) = (ours, process.utilization.filter(|_| all > 0.0)) {
                parts[ours] += utilization / all;
            }
        }
        parts.iter().any(|part| *part > 0.0).then_some(parts)
    }
}

/// Energy of the node in the interval, in millijoules; `None` where nothing is measured.
pub(super) fn measured_mj(frame: &Frame) -> Option<u64> {
    let gpus = frame.gpus.iter().filter_map(|gpu| gpu.energy_mj);
    let cpu = frame.host.as_ref().and_then(|host| host.cpu_energy_mj);
    gpus.chain(cpu).reduce(|sum, energy| sum + energy)
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::{Counters, Deployment, Frame, Gpu, GpuProcess, Host, Revision};
    use nix::unistd::{Pid, getpgid};

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
        attribute_energy(&mut frame, &[], Some(&prices));
        assert_eq!(frame.deployments[0].energy_mj, Some(2_700_000_000));
        assert_eq!(frame.deployments[0].cost_micros, Some(1_650_000));
        assert_eq!(frame.deployments[1].cost_micros, Some(550_000));
    }

    #[test]
    fn without_a_meter_energy_is_absent() {
        let mut frame = Frame { deployments: vec![deployment(1)], ..Frame::default() };
        attribute_energy(&mut frame, &[], None);
        assert_eq!((frame.deployments[0].energy_mj, frame.deployments[0].cost_micros), (None, None));
    }

    #[test]
    fn energy_goes_to_whoever_computed() {
        let revision = |number, cpu_us| Revision {
            number,
            counters: Some(Counters { tokens_out: 10, cpu_us, ..Counters::default() }),
            ..Revision::default()
        };
        let process = |pid, utilization| GpuProcess { pid, utilization, ..GpuProcess::default() };
        let (ours, group) = (std::process::id(), getpgid(None).unwrap());
        let mut frame = Frame {
            host: Some(Host { cpu_energy_mj: Some(100), ..Host::default() }),
            gpus: vec![Gpu {
                energy_mj: Some(1_000),
                processes: vec![process(ours, Some(0.6)), process(u32::MAX, Some(0.2))],
                ..Gpu::default()
            }],
            deployments: vec![Deployment {
                revisions: vec![revision(1, 30), revision(2, 10)],
                ..Deployment::default()
            }],
            ..Frame::default()
        };
        let mut of_revisions = |groups: &[Vec<(u32, Pid)>]| {
            attribute_energy(&mut frame, groups, None);
            let deployment = &frame.deployments[0];
            (deployment.revisions[0].energy_mj, deployment.revisions[1].energy_mj, deployment.energy_mj)
        };
        // The rest of the GPU is someone else's.
        assert_eq!(of_revisions(&[vec![(2, group)]]), (Some(75), Some(775), Some(850)));
        // Where nobody is known to have computed there, tokens say.
        assert_eq!(of_revisions(&[]), (Some(575), Some(525), Some(1_100)));
        frame.gpus.clear();
        for revision in &mut frame.deployments[0].revisions {
            revision.counters.as_mut().unwrap().tokens_out = 0;
        }
        attribute_energy(&mut frame, &[], None);
        assert_eq!(frame.deployments[0].energy_mj, Some(0), "polling for requests is nobody's");
        frame.deployments[0].revisions[1].in_flight = 1;
        attribute_energy(&mut frame, &[], None);
        assert_eq!(frame.deployments[0].revisions[1].energy_mj, Some(100), "reading a prompt is");
    }
}
