//! What this process has of the machine beside its threads: files, and memory that it takes with
//! care and gives back.
//!
//! How much memory it may use is said by whoever starts it. Where a peer decides how much is taken
//! at once, that there is none must end its request, and not the process.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::status::{Result, Status};

/// File descriptors that the process may have open.
pub fn max_files() -> Option<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a limit of ours.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    (result == 0).then(|| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Make room for so many bytes more.
///
/// # Errors
/// RESOURCE_EXHAUSTED when there is no memory for them.
pub fn room(bytes: &mut Vec<u8>, more: usize) -> Result<()> {
    bytes.try_reserve(more).map_err(|_| Status::no_memory(more))
}

/// Make room for what is `there` now, and with it for some of what a peer has `promised`, which the
/// former is part of: four times what has come, so that a promise alone costs nothing.
///
/// # Errors
/// As [`room`].
pub fn room_for_promised(bytes: &mut Vec<u8>, there: usize, promised: usize) -> Result<()> {
    if bytes.capacity() - bytes.len() >= there {
        return Ok(());
    }
    let has_come = bytes.len() + there;
    room(bytes, has_come.saturating_mul(4).max(FIRST_ROOM).min(promised).max(there))
}

const FIRST_ROOM: usize = 64 << 10;

/// Look whether there is memory for what will grow bit by bit to `bytes`, unless that is little.
/// Nothing is kept, so somebody else may have taken it when it is needed.
///
/// # Errors
/// As [`room`].
pub fn expect_room(bytes: usize) -> Result<()> {
    let mut room_for = Vec::new();
    if bytes >= MUCH {
        room(&mut room_for, bytes)?;
    }
    // Else the compiler might leave out what nobody uses.
    std::hint::black_box(&mut room_for);
    Ok(())
}

const MUCH: usize = 32 << 20;

/// Return what the allocators keep of freed memory to the system: ours, and that of C.
///
/// What other threads have allocated, only they can give back: see [`give_back_own`].
pub fn give_back() {
    collect();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointers, and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn collect() {
    extern "C" {
        fn mi_collect(force: bool);
    }
    // SAFETY: it is linked with the global allocator, and may be called at any time.
    unsafe { mi_collect(true) };
}

/// How often memory was given back soon.
static EBBS: AtomicUsize = AtomicUsize::new(0);

/// Give back what this thread has allocated if there was an ebb; a look at two numbers otherwise.
pub fn give_back_own() {
    thread_local!(static SEEN: Cell<usize> = const { Cell::new(0) });
    let ebbs = EBBS.load(Ordering::Relaxed);
    if SEEN.replace(ebbs) != ebbs {
        collect();
    }
}

/// Give memory back on a thread of its own, when what goes now has gone.
pub fn give_back_soon() {
    static IS_DUE: AtomicBool = AtomicBool::new(false);
    if IS_DUE.swap(true, Ordering::Relaxed) {
        return;
    }
    let thread = std::thread::Builder::new().name("servable-tidy".to_owned());
    let started = thread.spawn(|| {
        std::thread::sleep(SETTLES);
        IS_DUE.store(false, Ordering::Relaxed);
        EBBS.fetch_add(1, Ordering::Relaxed);
        give_back();
    });
    if started.is_err() {
        IS_DUE.store(false, Ordering::Relaxed);
    }
}

const SETTLES: Duration = Duration::from_secs(1);

/// Knows when so many of some things have gone that their memory is worth giving back.
///
/// The allocator does so by itself only where it is asked for more, which a server that got quiet
/// does not.
#[derive(Default)]
pub struct Tide {
    /// The most there were since the last ebb.
    most: AtomicUsize,
}

/// Fewer are not worth it.
const MANY: usize = 200;

impl Tide {
    /// Take in that one came, and how many there are now.
    pub fn came(&self, count: usize) {
        self.most.fetch_max(count, Ordering::Relaxed);
    }

    /// Take in that one went, and how many are left; whether it is an ebb.
    pub fn went(&self, left: usize) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        if left > most / 2 || most - left < MANY {
            return false;
        }
        // One of those who leave at the same time sees to it.
        self.most.compare_exchange(most, left, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_allows_some_files() {
        assert!(max_files().is_some_and(|files| files > 3));
    }

    #[test]
    fn memory_that_is_not_there_is_refused() {
        let mut bytes = vec![1];
        room(&mut bytes, 10).unwrap();
        assert!(bytes.capacity() >= 11);
        expect_room(MUCH).unwrap();
        expect_room(MUCH - 1).unwrap();

        // More than addresses there are.
        let none = 1 << 60;
        for refused in [room(&mut bytes, none).unwrap_err(), expect_room(none).unwrap_err()] {
            assert_eq!(refused, Status::no_memory(none));
        }
        assert_eq!(bytes, [1]);
    }

    #[test]
    fn a_promise_is_given_room_as_it_is_kept() {
        let room_for = |has_come: usize, there: usize, promised: usize| {
            let mut bytes = vec![0; has_come];
            room_for_promised(&mut bytes, there, promised).unwrap();
            (bytes.capacity() - has_come) >> 10
        };
        let (kib, gib) = (1 << 10, 1 << 30);

        assert_eq!(room_for(0, 1, gib), 64, "little for a first byte");
        assert_eq!(room_for(64 * kib, kib, gib), 260, "more for who has sent more");
        assert_eq!(room_for(0, kib * kib, gib), 4096);
        assert_eq!(room_for(0, 1, 10 * kib), 10, "no more than was promised");
        assert_eq!(room_for(0, 20 * kib, 10 * kib), 20, "and what is there in any case");

        let mut enough = Vec::with_capacity(10);
        room_for_promised(&mut enough, 10, gib).unwrap();
        assert_eq!(enough.capacity(), 10);
    }

    #[test]
    fn it_ebbs_when_half_of_many_have_gone() {
        let ebbs = |counts: &[usize]| {
            let (tide, mut before) = (Tide::default(), 0);
            let mut ebbs = Vec::new();
            for &count in counts {
                if count > before {
                    tide.came(count);
                } else if tide.went(count) {
                    ebbs.push(count);
                }
                before = count;
            }
            ebbs
        };

        assert_eq!(ebbs(&[1000, 501, 500, 499, 301, 300, 299, 0]), [500, 0]);
        assert_eq!(ebbs(&[MANY - 1, 0, MANY, 0]), [0]);
        assert_eq!(ebbs(&[1000, 400, 1000, 500]), [400, 500]);
        assert_eq!(ebbs(&[1000, 900, 1000, 900]), [0_usize; 0]);
    }
}
