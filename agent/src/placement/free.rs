//! Memory that this process may still take: what the system has, and what its control groups leave.

use std::path::Path;

use procfs::Current;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes that are free for models now.
pub fn free_bytes() -> u64 {
    let system = procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available);
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    system.into_iter().chain(left_by_cgroups(Path::new(CGROUPS), &own)).min().unwrap_or(u64::MAX)
}

/// The least that any group from ours up leaves; `own` is the text of `/proc/self/cgroup` (version 2).
fn left_by_cgroups(root: &Path, own: &str) -> Option<u64> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = root.join(group);
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(root));
    folders.filter_map(left_by).min()
}

/// Memory of files that were read once can be taken back, and counts as free as it does in the system's own figure.
fn left_by(folder: &Path) -> Option<u64> {
    let number =
        |name: &str| -> Option<u64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let (most, used) = (number("memory.max")?, number("memory.current")?);
    let statistics = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let reclaimable = statistics
        .lines()
        .find_map(|line| line.strip_prefix("inactive_file "))
        .and_then(|bytes| bytes.parse::<u64>().ok())
        .unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(reclaimable)))
}

#[cfg(test)]
mod tests {
    use super::left_by_cgroups;

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, name: &str, text: &str| {
            let folder = root.path().join(group);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), text).unwrap();
        };
        for (group, most, used) in
            [("pod", "1000\n", "700\n"), ("pod/agent", "max\n", "600\n"), ("other", "10\n", "9\n")]
        {
            write(group, "memory.max", most);
            write(group, "memory.current", used);
        }
        write("pod", "memory.stat", "anon 500\ninactive_file 150\n");
        assert_eq!(left_by_cgroups(root.path(), "0::/pod/agent\n"), Some(450));
        assert_eq!(left_by_cgroups(root.path(), "0::/\n"), None);
        assert_eq!(left_by_cgroups(root.path(), "3:memory:/pod\n"), None);
    }
}
