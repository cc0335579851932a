//! What a process on this machine has used: CPU time and memory, from `/proc`.

use std::io;
use std::time::Duration;

/// Totals since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// User and system time of all threads, living and dead.
    pub cpu: Duration,
    pub user: Duration,
    pub system: Duration,
    pub rss_bytes: u64,
    pub peak_rss_bytes: u64,
}

/// Read the totals of process `pid`.
pub(super) fn usage(pid: u32) -> io::Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let (user, system) = parse_stat(&stat, ticks_per_second())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable stat"))?;
    Ok(Usage {
        cpu: cpu_clock(pid).unwrap_or(user + system),
        user,
        system,
        rss_bytes: parse_status(&status, "VmRSS:").unwrap_or(0),
        peak_rss_bytes: parse_status(&status, "VmHWM:").unwrap_or(0),
    })
}

/// CPU time of the calling thread.
pub(super) fn thread_cpu() -> Duration {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<(Duration, Duration)> {
    // The name in parentheses may hold anything, parentheses too; numbers follow the last one.
    let (_, numbers) = stat.rsplit_once(')')?;
    let mut fields = numbers.split_ascii_whitespace().skip(11);
    let mut ticks = || -> Option<Duration> {
        let ticks: u64 = fields.next()?.parse().ok()?;
        Some(Duration::from_nanos(ticks * (1_000_000_000 / ticks_per_second)))
    };
    Some((ticks()?, ticks()?))
}

fn parse_status(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn ticks_per_second() -> u64 {
    // SAFETY: takes and returns numbers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|t| *t > 0).unwrap_or(100)
}

/// The process's CPU clock: nanoseconds where `stat` has hundredths of a second.
#[cfg(target_os = "linux")]
fn cpu_clock(pid: u32) -> Option<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` outlives the call.
    let found = unsafe { libc::clock_getcpuclockid(pid.try_into().ok()?, &raw mut clock) };
    if found == 0 {
        read_clock(clock)
    } else {
        None
    }
}

#[cfg(not(target_os = "linux"))]
fn cpu_clock(_: u32) -> Option<Duration> {
    None
}

fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_follow_whatever_name_the_process_has() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 900 0 0 0 150 25 0 0 20 0 9 0 100 0 0";

        assert_eq!(
            parse_stat(stat, 100),
            Some((Duration::from_millis(1500), Duration::from_millis(250)))
        );
        assert_eq!(parse_stat("7 (a", 100), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";

        assert_eq!(parse_status(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(parse_status(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse_status(status, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_more_after_it_has_worked() {
        let before = usage(std::process::id()).expect("own process");
        let mut sum = 0_u64;
        for i in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        let after = usage(std::process::id()).expect("own process");

        assert!(after.cpu > before.cpu);
        assert!(after.peak_rss_bytes >= after.rss_bytes && after.rss_bytes > 0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(usage(u32::MAX).is_err());
    }
}
