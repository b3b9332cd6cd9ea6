use llmdeck_proto::sparse::SparseHistogram;
use llmdeck_proto::v1::alert::Severity;
use llmdeck_proto::v1::gpu_driver::State as DriverState;
use llmdeck_proto::v1::{Deployment, Frame, Gpu, Host, Revision, Rollout};

use crate::serving::{LOADING, STOPPED};

/// Fewer requests than this say nothing about a percentile.
const LEAST_SAMPLES: u64 = 20;
const DISK_FULL: f64 = 0.95;
const MEMORY_FULL: f64 = 0.95;
const QUEUE_LONG: f64 = 0.8;

/// Something that holds at the end of an interval.
pub(super) struct Condition {
    pub(super) severity: Severity,
    pub(super) subject: String,
    /// The same as long as the condition lasts, whatever its figures.
    pub(super) kind: &'static str,
    pub(super) text: String,
}

/// Everything that is wrong in a frame.
pub(super) fn of(frame: &Frame) -> Vec<Condition> {
    let mut found = Vec::new();
    for deployment in &frame.deployments {
        of_deployment(deployment, &mut found);
        of_quality(deployment, &frame.rollouts, &mut found);
    }
    frame.gpus.iter().for_each(|gpu| of_gpu(gpu, &mut found));
    if let Some(driver) = &frame.gpu_driver {
        let text = driver.detail.clone();
        match driver.state() {
            DriverState::VersionMismatch | DriverState::Failed => {
                found.push(condition(Severity::Bad, "GPU driver", "GPU driver", text));
            }
            DriverState::NoPermission => {
                found.push(condition(Severity::Warning, "GPU driver", "GPU driver", text));
            }
            DriverState::Ok | DriverState::Absent | DriverState::Unspecified => {}
        }
    }
    if let Some(host) = &frame.host {
        of_host(host, &mut found);
    }
    found
}

fn condition(
    severity: Severity,
    subject: impl Into<String>,
    kind: &'static str,
    text: impl Into<String>,
) -> Condition {
    Condition { severity, subject: subject.into(), kind, text: text.into() }
}

fn of_deployment(deployment: &Deployment, found: &mut Vec<Condition>) {
    let name = &deployment.name;
    if !deployment.unavailable.is_empty() && deployment.unavailable != LOADING {
        // What an operator wanted so is no fault.
        let severity = if deployment.unavailable == STOPPED { Severity::Warning } else { Severity::Bad };
        let text = format!("cannot serve: {}", deployment.unavailable);
        found.push(condition(severity, name, "unavailable", text));
    }
    let (depth, limit) = (deployment.queue_depth, deployment.queue_limit);
    if limit > 0 && f64::from(depth) >= f64::from(limit) * QUEUE_LONG {
        found.push(condition(
            Severity::Warning,
            name,
            "long queue",
            format!("{depth} of {limit} places in the queue are taken"),
        ));
    }
    for revision in &deployment.revisions {
        let subject = format!("{name}@{}", revision.number);
        if let Some(objective) = deployment.objective_ttft_p99_us {
            of_ttft(&subject, revision, objective, found);
        }
        let counters = revision.counters.unwrap_or_default();
        if counters.requests_server_error > 0 {
            let text = format!("{} requests failed in the last interval", counters.requests_server_error);
            found.push(condition(Severity::Bad, &subject, "failed requests", text));
        }
    }
}

fn of_ttft(subject: &str, revision: &Revision, objective_us: u64, found: &mut Vec<Condition>) {
    let Ok(ttft) = SparseHistogram::decode(revision.ttft_us.as_ref()) else { return };
    let Some(p99) = ttft.quantile(0.99) else { return };
    if ttft.count() >= LEAST_SAMPLES && p99 > objective_us {
        let times = p99 as f64 / objective_us as f64;
        found.push(condition(
            Severity::Warning,
            subject,
            "slow first token",
            format!("TTFT p99 {times:.1}× its objective"),
        ));
    }
}

/// What serves is worse than what stands by: their intervals do not even touch. A candidate that is better is no reason to go back.
fn of_quality(deployment: &Deployment, rollouts: &[Rollout], found: &mut Vec<Condition>) {
    let golden = |revision: &Revision| {
        let quality = revision.quality.unwrap_or_default();
        quality.golden_low.zip(quality.golden_high).zip(quality.golden_score)
    };
    let stable = deployment.revisions.iter().find(|revision| revision.number == deployment.stable_revision);
    let Some(((_, high), score)) = stable.and_then(golden) else { return };
    let rollout = rollouts.iter().find(|rollout| rollout.deployment == deployment.name);
    let candidate = rollout.map(|rollout| rollout.to_revision);
    let others = deployment.revisions.iter().filter(|other| other.number != deployment.stable_revision);
    for other in others.filter(|other| Some(other.number) != candidate) {
        if let Some(((low, _), better)) = golden(other)
            && high < low
        {
            let subject = format!("{}@{}", deployment.name, deployment.stable_revision);
            let text = format!("quality {score:.2}, {} had {better:.2}: roll back?", other.number);
            found.push(condition(Severity::Bad, subject, "worse than before", text));
        }
    }
}

fn of_gpu(gpu: &Gpu, found: &mut Vec<Condition>) {
    let subject = format!("GPU {}", gpu.index);
    if !gpu.lost.is_empty() {
        found.push(condition(Severity::Bad, &subject, "lost", gpu.lost.clone()));
    }
    for reason in &gpu.throttle_reasons {
        found.push(condition(Severity::Warning, &subject, "slowed", reason.clone()));
    }
    if let Some(xid) = gpu.last_xid {
        found.push(condition(
            Severity::Warning,
            &subject,
            "Xid",
            format!("Xid error {xid} since the agent started"),
        ));
    }
    if let Some(errors) = gpu.ecc_uncorrected.filter(|errors| *errors > 0) {
        found.push(condition(
            Severity::Bad,
            &subject,
            "memory errors",
            format!("{errors} uncorrected memory errors"),
        ));
    }
}

fn of_host(host: &Host, found: &mut Vec<Condition>) {
    let share = |used: u64, total: u64| if total == 0 { 0.0 } else { used as f64 / total as f64 };
    let disk = share(host.disk_used_bytes, host.disk_total_bytes);
    if disk > DISK_FULL {
        found.push(condition(
            Severity::Warning,
            "disk",
            "disk full",
            format!("{:.0} % of the data disk is used", disk * 100.0),
        ));
    }
    let memory = share(host.memory_used_bytes, host.memory_total_bytes);
    if memory > MEMORY_FULL {
        found.push(condition(
            Severity::Warning,
            "memory",
            "memory full",
            format!("{:.0} % of memory is used", memory * 100.0),
        ));
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::alert::Severity;
    use llmdeck_proto::v1::{Deployment, Frame, Gpu, Quality, Revision, Rollout};

    use super::of;
    use crate::alerts::Alerts;
    use crate::telemetry::events::Events;

    fn revision(number: u32, score: f64) -> Revision {
        let quality = Quality {
            golden_score: Some(score),
            golden_low: Some(score - 0.05),
            golden_high: Some(score + 0.05),
            ..Quality::default()
        };
        Revision { number, quality: Some(quality), ..Revision::default() }
    }

    #[test]
    fn a_worse_revision_is_told_apart_from_noise() {
        let frame = |stable| Frame {
            deployments: vec![Deployment {
                name: "chat".into(),
                stable_revision: stable,
                revisions: vec![revision(2, 0.5), revision(1, 0.9)],
                ..Deployment::default()
            }],
            ..Frame::default()
        };
        assert_eq!(of(&frame(2)).iter().map(|c| c.subject.as_str()).collect::<Vec<_>>(), ["chat@2"]);
        assert!(of(&frame(1)).is_empty());
        let mut tried = frame(2);
        tried.rollouts = vec![Rollout { deployment: "chat".into(), to_revision: 1, ..Rollout::default() }];
        assert!(of(&tried).is_empty(), "a candidate that is better");
    }

    #[test]
    fn an_alert_keeps_its_beginning_and_says_when_it_is_over() {
        let mut alerts = Alerts::default();
        let events = Events::default();
        let hot = |time_unix_ms| Frame {
            time_unix_ms,
            gpus: vec![Gpu { throttle_reasons: vec!["slowed, too hot".into()], ..Gpu::default() }],
            ..Frame::default()
        };
        alerts.of(&hot(1_000), &events);
        let still = alerts.of(&hot(5_000), &events);
        assert_eq!((still[0].since_unix_ms, still[0].severity()), (1_000, Severity::Warning));
        assert!(alerts.of(&Frame::default(), &events).is_empty());
        let texts: Vec<String> = events.drain().0.into_iter().map(|event| event.text).collect();
        assert_eq!(texts, ["slowed, too hot", "over: slowed"]);
    }
}
