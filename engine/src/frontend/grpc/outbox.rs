//! The answers of one connection that wait for its peer to take them.
//!
//! In HTTP/2 a peer says how much may be sent to it. One that leaves no room, and asks on, has its
//! answers held here; so where much waits, and none of it is taken for as long as a peer may take
//! that reads nothing, the connection is given up, whatever signs of life there are. Until then
//! answers that are large count among the bytes in flight.
//!
//! An answer costs three additions to counters of its connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tokio::time::{sleep, Instant};

use super::patient::WRITE_STALL;
use crate::admission::{Admission, Permit};

/// How much may wait for as long as it likes.
const MUCH: usize = 1 << 20;
/// What an answer holds beside its bytes.
const STREAM: usize = 4 << 10;
/// An answer that counts among the bytes in flight.
const LARGE: usize = 64 << 10;
/// How often it is looked whether anything is taken.
const LOOK: Duration = Duration::from_secs(5);

/// What waits on one connection.
#[derive(Default)]
pub struct Outbox {
    /// Bytes of answers so far, and how much of that was taken, or is wanted no more.
    put: AtomicUsize,
    taken: AtomicUsize,
    gone: AtomicUsize,
    has_much: Notify,
}

impl Outbox {
    /// Hold an answer until it is taken.
    pub fn put(self: &Arc<Self>, bytes: Bytes, admission: &Arc<Admission>) -> Waiting {
        let holds = bytes.len() + STREAM;
        let before = self.put.fetch_add(holds, Ordering::Relaxed);
        if before.wrapping_add(holds).wrapping_sub(self.left()) >= MUCH {
            self.has_much.notify_one();
        }
        let held = (bytes.len() >= LARGE).then(|| {
            let held = admission.permit();
            held.hold(bytes.len());
            Box::new(held)
        });
        Waiting { bytes, outbox: Some(self.clone()), _held: held }
    }

    /// Wait until much has waited for too long.
    pub async fn stalls(&self) {
        loop {
            self.has_much.notified().await;
            let (mut taken, mut since) = (self.taken.load(Ordering::Relaxed), Instant::now());
            while self.waiting() >= MUCH {
                sleep(LOOK).await;
                let before = std::mem::replace(&mut taken, self.taken.load(Ordering::Relaxed));
                if taken != before {
                    since = Instant::now();
                } else if since.elapsed() >= WRITE_STALL && self.waiting() >= MUCH {
                    return;
                }
            }
        }
    }

    fn waiting(&self) -> usize {
        self.put.load(Ordering::Relaxed).wrapping_sub(self.left())
    }

    /// What has left, one way or the other.
    fn left(&self) -> usize {
        let taken = self.taken.load(Ordering::Relaxed);
        taken.wrapping_add(self.gone.load(Ordering::Relaxed))
    }
}

/// The bytes of an answer, which wait until they are written to the connection.
pub struct Waiting {
    bytes: Bytes,
    /// `None` where they are not counted.
    outbox: Option<Arc<Outbox>>,
    _held: Option<Box<Permit>>,
}

impl Waiting {
    /// Bytes that nobody counts.
    pub fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, outbox: None, _held: None }
    }

    /// These, and nothing in their place.
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::uncounted(Bytes::new()))
    }
}

impl Buf for Waiting {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(outbox) = &self.outbox {
            outbox.taken.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(outbox) = &self.outbox {
            outbox.gone.fetch_add(self.bytes.len() + STREAM, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Limits;

    const SECOND: Duration = Duration::from_secs(1);

    fn outbox() -> (Arc<Outbox>, Arc<Admission>) {
        (Arc::default(), Admission::new(Limits::NONE))
    }

    fn answer(bytes: usize) -> Bytes {
        vec![0; bytes].into()
    }

    /// Whether a connection is given up within so many seconds.
    async fn stalls_within(outbox: &Outbox, seconds: u32) -> bool {
        tokio::time::timeout(seconds * SECOND, outbox.stalls()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_of_much_is_given_up() {
        let (outbox, admission) = outbox();
        let _much = outbox.put(answer(MUCH), &admission);
        let began = Instant::now();

        outbox.stalls().await;

        let after = began.elapsed();
        assert!(after >= WRITE_STALL && after <= WRITE_STALL + LOOK, "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_ones_are_much_and_little_may_wait() {
        let (outbox, admission) = outbox();
        let mut waiting: Vec<_> =
            (0..MUCH / STREAM).map(|_| outbox.put(answer(0), &admission)).collect();
        assert!(stalls_within(&outbox, 36).await);

        // Who wants them no more has taken nothing, but they are gone.
        outbox.has_much.notify_one();
        waiting.pop();
        assert!(!stalls_within(&outbox, 10_000).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_a_little_now_and_then_is_waited_for() {
        let (outbox, admission) = outbox();
        let mut much = outbox.put(answer(3 * MUCH), &admission);
        let takes = async {
            for _ in 0..100 {
                tokio::time::sleep(WRITE_STALL - SECOND).await;
                much.advance(1);
            }
        };
        let cancels = async {
            // That somebody takes back a call every second is no sign that it reads.
            loop {
                tokio::time::sleep(SECOND).await;
                drop(outbox.put(answer(1), &admission));
            }
        };
        let began = Instant::now();

        tokio::select! {
            () = outbox.stalls() => {}
            () = async { tokio::join!(takes, cancels); } => {}
        }

        let after = began.elapsed() - 100 * (WRITE_STALL - SECOND);
        assert!(after >= WRITE_STALL && after <= WRITE_STALL + 2 * LOOK, "{after:?}");
    }

    #[tokio::test]
    async fn large_ones_count_among_the_bytes_in_flight_until_they_are_taken() {
        let (outbox, admission) = outbox();
        let small = outbox.put(answer(LARGE - 1), &admission);
        let mut taken = outbox.put(answer(LARGE), &admission);
        let gone = outbox.put(answer(LARGE + 1), &admission);
        assert_eq!(admission.bytes(), 2 * LARGE + 1);

        taken.advance(LARGE);
        assert_eq!(outbox.waiting(), 2 * LARGE + 3 * STREAM);
        drop(taken);
        assert_eq!(admission.bytes(), LARGE + 1);
        drop((small, gone));
        assert_eq!((admission.bytes(), outbox.waiting()), (0, 0));
    }
}
