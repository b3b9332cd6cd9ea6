//! A training's points, kept beside its state.

use std::path::{Path, PathBuf};

use llmdeck_proto::v1::{JobReport, TrainingPoint};
use prost::Message;

use super::super::handle::thin;

const FILE: &str = "curve.pb";
/// Larger files are none of ours.
const MOST_BYTES: u64 = 16 << 20;

/// From the first step on, wherever a run was taken up again.
pub(super) struct Curve {
    points: Vec<TrainingPoint>,
    path: PathBuf,
}

impl Curve {
    /// What was kept in a folder up to a step; nothing where there is nothing that can be read, since a run goes on without it.
    pub(super) fn up_to(folder: &Path, step: usize) -> Self {
        let path = folder.join(FILE);
        let is_ours = std::fs::metadata(&path).is_ok_and(|known| known.len() <= MOST_BYTES);
        let kept = is_ours.then(|| std::fs::read(&path).ok()).flatten().unwrap_or_default();
        let points = JobReport::decode(kept.as_slice()).unwrap_or_default().training;
        let mut curve = Self { points, path };
        curve.go_back_to(step);
        curve
    }

    pub(super) fn push(&mut self, point: TrainingPoint) {
        self.points.push(point);
        thin(&mut self.points);
    }

    pub(super) fn go_back_to(&mut self, step: usize) {
        self.points.retain(|point| point.step <= step as u64);
    }

    /// Writes it beside, then renames.
    pub(super) fn save(&self) -> std::io::Result<()> {
        let report = JobReport { training: self.points.clone(), ..JobReport::default() };
        let beside = self.path.with_extension("part");
        std::fs::write(&beside, report.encode_to_vec())?;
        std::fs::rename(beside, &self.path)
    }

    pub(super) fn points(&self) -> &[TrainingPoint] {
        &self.points
    }
}

#[cfg(test)]
mod tests {
    use llmdeck_proto::v1::TrainingPoint;

    use super::{Curve, FILE};

    #[test]
    fn what_was_kept_is_there_up_to_the_step_that_a_run_goes_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let mut curve = Curve::up_to(folder.path(), 0);
        assert!(curve.points().is_empty());
        for step in 1..=30 {
            curve.push(TrainingPoint { step, loss: 1.0 / step as f64, ..TrainingPoint::default() });
        }
        curve.save().unwrap();
        let again = Curve::up_to(folder.path(), 20);
        assert_eq!(again.points(), &curve.points()[..20]);
        std::fs::write(folder.path().join(FILE), "no curve").unwrap();
        assert!(Curve::up_to(folder.path(), 20).points().is_empty());
    }
}
