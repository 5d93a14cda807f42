//! How much memory this machine can still give.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::arena;

/// Bytes that new tensors may take: what the system calls available and what the process's control groups leave, less
/// what this process has been promised and has not touched yet. `None` where the system does not say (not Linux).
pub fn free_bytes() -> Option<usize> {
    let root = Path::new("/");
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    let resident = resident.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok()).unwrap_or(0) * PAGE;
    let promised = arena::HELD.load(Ordering::Relaxed).saturating_sub(resident);
    available(root).map(|bytes| bytes.saturating_sub(promised))
}

/// The smallest page; where pages are larger, less counts as touched, and less as free.
const PAGE: usize = 4096;

/// Bytes available under the file system at `root`.
fn available(root: &Path) -> Option<usize> {
    let info = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let machine = line.split_whitespace().next()?.parse::<usize>().ok()?.saturating_mul(1024);
    Some(groups(root).iter().filter_map(|group| room(group)).fold(machine, usize::min))
}

/// Directories of the memory control groups of this process, innermost first; those that are not there do not count.
fn groups(root: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut groups = vec![];
    for line in text.lines() {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let mount = root.join("sys/fs/cgroup");
        let mount = match controllers {
            "" => mount,
            _ if controllers.split(',').any(|name| name == "memory") => mount.join("memory"),
            _ => continue,
        };
        let innermost = mount.join(path.trim_start_matches('/'));
        groups.extend(innermost.ancestors().take_while(|group| group.starts_with(&mount)).map(Path::to_owned));
    }
    groups
}

/// What a control group leaves: its limit less its use, where cached files that can be dropped are no use.
fn room(group: &Path) -> Option<usize> {
    let number = |names: [&str; 2]| {
        names.iter().find_map(|name| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<usize>().ok())
    };
    // The second name is that of version 1; a version 2 group without limit says "max", which is no number.
    let limit = number(["memory.max", "memory.limit_in_bytes"])?;
    let used = number(["memory.current", "memory.usage_in_bytes"])?;
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let value = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
    let cached = value("total_inactive_file ").or_else(|| value("inactive_file ")).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }
    const INFO: (&str, &str) = ("proc/meminfo", "MemTotal:  4096 kB\nMemFree: 1 kB\nMemAvailable:  2048 kB\n");

    #[test]
    fn the_machine_alone() {
        assert_eq!(available(machine(&[INFO]).path()), Some(2 << 20));
        assert_eq!(available(machine(&[]).path()), None);
        assert_eq!(available(machine(&[("proc/meminfo", "MemAvailable: many kB\n")]).path()), None);
    }

    #[test]
    fn control_groups_of_both_versions() {
        let two = [
            INFO,
            ("proc/self/cgroup", "0::/job/step\n"),
            ("sys/fs/cgroup/job/memory.max", "1000000\n"),
            ("sys/fs/cgroup/job/memory.current", "700000\n"),
            ("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 200000\nactive_file 9\n"),
            ("sys/fs/cgroup/job/step/memory.max", "max\n"),
            ("sys/fs/cgroup/job/step/memory.current", "5\n"),
        ];
        assert_eq!(available(machine(&two).path()), Some(500_000));
        let one = [
            INFO,
            ("proc/self/cgroup", "4:cpu,cpuacct:/x\n3:memory:/container\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "800000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900000\n"),
        ];
        assert_eq!(available(machine(&one).path()), Some(0));
    }

    #[test]
    fn what_is_promised_is_not_free() {
        if let Some(free) = free_bytes() {
            let bytes = free / 2;
            let before = arena::HELD.fetch_add(bytes, Ordering::Relaxed);
            let after = free_bytes().unwrap();
            arena::HELD.fetch_sub(bytes, Ordering::Relaxed);
            assert!(after < free, "{before} held, {bytes} more: {free} and then {after} bytes free");
        }
    }
}
