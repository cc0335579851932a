//! When a thread looks for what there is to do: as soon as it is woken, or a little later.
//!
//! Since Linux 6.12 a thread that wakes takes a core at once from one that asked for longer slices
//! of time; otherwise it may wait for the end of the other's slice, which is noticed every four
//! milliseconds on most systems.  Threads that load models ask for long ones, so that requests do
//! not wait, and the load generator for short ones, so that it measures the server and not itself.
//!
//! A server that is asked for much more than it can do spends more on being woken for each request
//! than on refusing it, so there requests may gather.

use std::cell::RefCell;
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

/// The shortest slice that the kernel grants, in nanoseconds.
const SHORTEST_NS: u64 = 100_000;
/// One that is longer than any that threads have that ask for none.
const LONG_NS: u64 = 50_000_000;

/// Let the calling thread, and those that it will make, begin before others that have run for no
/// longer; a kernel that cannot changes nothing.
pub fn begin_soon() {
    change(|attributes| attributes.sched_runtime = SHORTEST_NS);
}

/// Let the calling thread, and those that it will make, have less of a core that others want, as
/// little as `nice` says, and let those begin at once when they wake.
///
/// Whether it has less.
pub fn give_way(nice: i32) -> bool {
    let is_changed = change(|attributes| {
        attributes.sched_nice = nice;
        attributes.sched_runtime = LONG_NS;
    });
    // SAFETY: takes numbers only; 0 is the calling thread.
    is_changed || unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } == 0
}

/// Change how the calling thread is scheduled, if that is in the ordinary way; whether it is
/// changed.
fn change(change: impl FnOnce(&mut libc::sched_attr)) -> bool {
    let size = mem::size_of::<libc::sched_attr>();
    // SAFETY: numbers only, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes to a structure of that size.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if read != 0 || attributes.sched_policy != libc::SCHED_OTHER.unsigned_abs() {
        return false;
    }
    change(&mut attributes);
    // SAFETY: the structure is one that the kernel wrote, and says its size itself.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) == 0 }
}

/// When so much is refused that looking for more at once would leave less for what is let in.
struct Flood {
    refused: u32,
    /// When the thread looked for requests last after it had refused some.
    last: Option<Instant>,
}

impl Flood {
    /// Refusals a second from which on it is worth the wait.
    const RATE: f64 = 500.0;

    /// Whether to wait before the next look, `now`.
    fn is_on(&mut self, now: Instant) -> bool {
        let since = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        let refused = f64::from(mem::take(&mut self.refused));
        since.is_some_and(|since| refused >= since.as_secs_f64() * Self::RATE)
    }
}

thread_local! {
    static FLOOD: RefCell<Flood> = const { RefCell::new(Flood { refused: 0, last: None }) };
}

/// Note that the calling thread has refused something for want of room.
pub fn refused() {
    FLOOD.with_borrow_mut(|flood| flood.refused += 1);
}

/// Let requests gather while a flood of them is refused, before the calling thread looks for them.
///
/// To be woken for one refusal costs more than to refuse.
pub fn gather_in_a_flood() {
    let is_on = FLOOD.with_borrow_mut(|flood| flood.refused > 0 && flood.is_on(Instant::now()));
    if is_on {
        thread::sleep(GATHER);
    }
}

/// How long requests gather: answers come so much later at most while there is a flood.
const GATHER: Duration = Duration::from_micros(1250);

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each look waits, of looks that come `every` after `refused` refusals each.
    fn looks(refused: u32, every: Duration) -> Vec<bool> {
        let mut flood = Flood { refused: 0, last: None };
        let mut now = Instant::now();
        let mut look = || {
            now += every;
            flood.refused += refused;
            flood.is_on(now)
        };
        std::iter::repeat_with(&mut look).take(4).collect()
    }

    #[test]
    fn only_a_flood_of_refusals_is_waited_for() {
        let cases = [
            ("the first refusal is none", 1, Duration::from_secs(3600), false),
            ("a refusal every ten milliseconds", 1, Duration::from_millis(10), false),
            ("just too few", 49, Duration::from_millis(100), false),
            ("enough", 50, Duration::from_millis(100), true),
            ("one after the other", 1, Duration::from_micros(300), true),
        ];
        for (case, refused, every, expected) in cases {
            let looks = looks(refused, every);
            assert_eq!(looks, [false, expected, expected, expected], "{case}");
        }
    }

    #[test]
    fn a_thread_gives_way_for_good_and_by_itself() {
        // SAFETY: takes numbers only.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        thread::spawn(move || {
            assert!(give_way(before + 5));
            assert_eq!(nice(), before + 5);
            begin_soon();
            assert_eq!(nice(), before + 5);
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_thread_that_has_refused_nothing_does_not_look_at_the_clock() {
        gather_in_a_flood();
        assert!(FLOOD.with_borrow(|flood| flood.last.is_none()));
        refused();
        gather_in_a_flood();
        assert!(FLOOD.with_borrow(|flood| flood.last.is_some() && flood.refused == 0));
    }

    #[test]
    fn refusals_are_counted_for_the_thread_that_refuses() {
        refused();
        refused();
        assert_eq!(FLOOD.with_borrow(|flood| flood.refused), 2);
        thread::spawn(|| assert_eq!(FLOOD.with_borrow(|flood| flood.refused), 0)).join().unwrap();
    }
}
