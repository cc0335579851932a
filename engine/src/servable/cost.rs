//! How long runs take, and whether they are so short that they may happen where they were asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long runs take.
#[derive(Default)]
pub struct Cost {
    /// Moving average in nanoseconds; 0 before the first run.
    average: AtomicU64,
    /// The longest of late, in nanoseconds: it fades by a quarter with every run.
    peak: AtomicU64,
}

impl Cost {
    /// Runs below this gain nothing from being spread over threads: handing them over costs about
    /// 30 µs, and is what makes a small model slow.
    const SHORT: Duration = Duration::from_micros(500);
    /// Runs below this cost less than waking another thread for them and being woken by it.
    const QUICK: Duration = Duration::from_micros(30);
    /// A run that took longer than this of late keeps those after it off the I/O threads.
    const QUICK_AT_WORST: Duration = Duration::from_micros(300);
    /// Most bytes fed for a run to be quick: even an outer product of so little is over soon.
    pub const SMALL: usize = 4 << 10;

    pub fn record(&self, took: Duration) {
        let took = nanoseconds(took).max(1);
        let average = self.average.load(Ordering::Relaxed);
        let average = if average == 0 { took } else { average - average / 4 + took / 4 };
        self.average.store(average.max(1), Ordering::Relaxed);
        let peak = self.peak.load(Ordering::Relaxed);
        self.peak.store(took.max(peak - peak / 4), Ordering::Relaxed);
    }

    /// Whether runs are known to be short. One that was never seen is not: only on the runtime's
    /// own threads can it be told to stop at a deadline.
    pub fn is_short(&self) -> bool {
        let average = self.average.load(Ordering::Relaxed);
        average > 0 && average < nanoseconds(Self::SHORT)
    }

    /// Whether runs are so short that they may happen on an I/O thread.
    pub fn is_quick(&self) -> bool {
        let average = self.average.load(Ordering::Relaxed);
        let peak = self.peak.load(Ordering::Relaxed);
        average > 0
            && average < nanoseconds(Self::QUICK)
            && peak < nanoseconds(Self::QUICK_AT_WORST)
    }
}

/// Measures a run.
///
/// A compute thread that loses its core in the middle of a run has not made the run longer, and if
/// it counted so, a busy machine would never find out that a model is quick. There the thread's
/// CPU time bounds what counts. Reading that clock is a system call, which quick runs are spared.
pub struct Stopwatch {
    began: Instant,
    /// CPU time of the thread at the start, where it is looked at.
    cpu: Option<Duration>,
}

impl Stopwatch {
    /// How much longer than its CPU time a run may count: it may wait for other threads' work.
    const WAITING: u32 = 4;

    pub fn start(is_quick: bool) -> Self {
        let cpu = if is_quick { None } else { thread_cpu_time() };
        Self { began: Instant::now(), cpu }
    }

    pub fn took(&self) -> Duration {
        let wall = self.began.elapsed();
        match (self.cpu, self.cpu.and_then(|_| thread_cpu_time())) {
            (Some(before), Some(after)) => {
                wall.min(after.saturating_sub(before).saturating_mul(Self::WAITING))
            }
            _ => wall,
        }
    }
}

/// CPU time of the calling thread, where the system tells it.
fn thread_cpu_time() -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    match (result, seconds, nanos) {
        (0, Ok(seconds), Ok(nanos)) => Some(Duration::new(seconds, nanos)),
        _ => None,
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(runs: &[u64]) -> Cost {
        let cost = Cost::default();
        for &micros in runs {
            cost.record(Duration::from_micros(micros));
        }
        cost
    }

    #[test]
    fn runs_are_quick_only_while_none_of_late_took_long() {
        for (runs, is_short, is_quick) in [
            (&[][..], false, false),
            (&[10], true, true),
            (&[100], true, false),
            (&[1000], false, false),
            // One slow run: back on the compute threads until it is forgotten.
            (&[10, 10, 10, 400], true, false),
            (&[10, 10, 10, 5000, 10], false, false),
        ] {
            let cost = after(runs);
            assert_eq!((cost.is_short(), cost.is_quick()), (is_short, is_quick), "{runs:?}");
        }
        let recovered = [&[5000][..], &[10; 30]].concat();
        assert!(after(&recovered).is_quick());
    }

    #[test]
    fn a_thread_that_does_not_run_makes_no_run_longer() {
        let (sleeping, watched) = (Stopwatch::start(false), Stopwatch::start(true));
        std::thread::sleep(Duration::from_millis(20));

        assert!(sleeping.took() < Duration::from_millis(10), "{:?}", sleeping.took());
        assert!(watched.took() >= Duration::from_millis(20));
    }
}
