//! How much memory, and how many files, this process may use: what the system says.

use std::path::Path;

/// Where a container's limit stands, in version 2 and 1 of control groups.
const CGROUPS: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Memory that the process may use: the machine's, or its control group's where that is less.
pub fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let groups = CGROUPS.iter().filter_map(|path| std::fs::read_to_string(Path::new(path)).ok());
    // No limit is `max`, or in version 1 a number beyond any machine.
    let groups = groups.filter_map(|text| text.trim().parse().ok());
    groups.chain(machine.as_deref().and_then(total_of)).min()
}

/// `MemTotal` of /proc/meminfo.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// File descriptors that the process may have open.
pub fn max_files() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit of ours.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (result == 0).then(|| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        assert_eq!(total_of("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 << 10));
        assert_eq!(total_of("MemFree: 1 kB\n"), None);
        assert!(available_bytes().is_none_or(|bytes| bytes > 1 << 20));
        assert!(max_files().is_some_and(|files| files > 3));
    }
}
