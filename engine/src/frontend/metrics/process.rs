//! What this process has used, under the names that Prometheus's own clients give it.

use crate::metrics::text::Page;

pub fn write(page: &mut Page) {
    const CPU: &str = "process_cpu_seconds_total";
    page.declare(CPU, "counter", Some("User and system time of all threads."));
    page.sample(CPU, &[], cpu_seconds());
    // Where there is no /proc, what comes from it is left out.
    if let Some(pages) = resident_pages() {
        const RESIDENT: &str = "process_resident_memory_bytes";
        page.declare(RESIDENT, "gauge", Some("Memory that is not swapped out."));
        page.sample(RESIDENT, &[], pages * page_size());
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        const OPEN: &str = "process_open_fds";
        page.declare(OPEN, "gauge", Some("Open file descriptors."));
        page.sample(OPEN, &[], descriptors.count());
    }
}

#[allow(clippy::cast_precision_loss)]
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives on.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_pages() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn page_size() -> u64 {
    // SAFETY: takes and returns numbers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_something() {
        assert!(cpu_seconds() > 0.0);
        if let Some(pages) = resident_pages() {
            assert!(pages * page_size() > 1 << 20);
        }
    }
}
