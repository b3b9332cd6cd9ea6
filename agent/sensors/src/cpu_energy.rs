use std::path::{Path, PathBuf};

/// The energy meters of the CPU packages: RAPL by the kernel's power capping framework
/// (Documentation/power/powercap/powercap.rst).
pub(super) struct CpuEnergy {
    packages: Vec<Package>,
}

/// One package's meter, in microjoules. It wraps at `range_uj`.
struct Package {
    meter: PathBuf,
    range_uj: u64,
    before_uj: Option<u64>,
}

impl CpuEnergy {
    /// The meters under `/sys/class/powercap`; none where the machine has none.
    pub(super) fn find(powercap: &Path) -> Self {
        let zones = std::fs::read_dir(powercap).into_iter().flatten().flatten();
        let packages = zones.map(|zone| zone.path()).filter(|path| is_package(path)).filter_map(Package::at);
        Self { packages: packages.collect() }
    }

    /// What all packages spent since the last call. Absent at the first call, without a meter, and where the meters
    /// may not be read (most distributions keep them for root).
    pub(super) fn spent_mj(&mut self) -> Option<u64> {
        let spent = self.packages.iter_mut().filter_map(Package::spent_uj);
        spent.reduce(|sum, package| sum + package).map(|energy_uj| energy_uj / 1_000)
    }
}

/// `intel-rapl:N` are packages; `intel-rapl:N:M` are parts of them, already counted.
fn is_package(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().matches(':').count() == 1)
}

impl Package {
    fn at(path: PathBuf) -> Option<Self> {
        let range_uj = read_number(&path.join("max_energy_range_uj"))?;
        Some(Self { meter: path.join("energy_uj"), range_uj, before_uj: None })
    }

    fn spent_uj(&mut self) -> Option<u64> {
        let now = read_number(&self.meter);
        let before = std::mem::replace(&mut self.before_uj, now)?;
        let now = now?;
        Some(if now >= before { now - before } else { now.saturating_add(self.range_uj) - before })
    }
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::CpuEnergy;

    fn zone(powercap: &Path, name: &str, energy_uj: u64) {
        let zone = powercap.join(name);
        std::fs::create_dir_all(&zone).unwrap();
        std::fs::write(zone.join("max_energy_range_uj"), "262143328850\n").unwrap();
        std::fs::write(zone.join("energy_uj"), format!("{energy_uj}\n")).unwrap();
    }

    #[test]
    fn packages_add_up_and_a_meter_that_wraps_goes_on() {
        let powercap = tempfile::tempdir().unwrap();
        std::fs::create_dir(powercap.path().join("intel-rapl")).unwrap();
        zone(powercap.path(), "intel-rapl:0", 1_000_000);
        zone(powercap.path(), "intel-rapl:0:0", 500_000);
        zone(powercap.path(), "intel-rapl:1", 262_143_000_000);
        let mut energy = CpuEnergy::find(powercap.path());
        assert_eq!(energy.spent_mj(), None);
        zone(powercap.path(), "intel-rapl:0", 8_000_000);
        zone(powercap.path(), "intel-rapl:0:0", 7_500_000);
        zone(powercap.path(), "intel-rapl:1", 671_150);
        assert_eq!(energy.spent_mj(), Some(8_000));
    }

    #[test]
    fn without_a_meter_or_the_right_to_read_it_energy_is_absent() {
        assert_eq!(CpuEnergy::find(Path::new("/nonexistent")).spent_mj(), None);
        let powercap = tempfile::tempdir().unwrap();
        zone(powercap.path(), "intel-rapl:0", 1);
        let mut energy = CpuEnergy::find(powercap.path());
        energy.spent_mj();
        std::fs::remove_file(powercap.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(energy.spent_mj(), None);
        zone(powercap.path(), "intel-rapl:0", 5_000_000);
        assert_eq!(energy.spent_mj(), None, "a reading without one before it is no energy");
    }
}
