//! What may be in flight at one time: bytes of requests, requests, and connections.
//!
//! Counters and their limits, and nothing else: who asks, waits or answers is decided elsewhere.
//! A request's part is a [`Permit`] and a connection's a [`Seat`]; dropping them gives back what
//! they hold, however the request or the connection ends.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::memory::{self, Tide};
use crate::promptness;
use crate::status::{Result, Status};

/// What was refused, by the limit that it met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Bytes,
    Requests,
    /// Requests of one model that wait for a compute thread.
    Queue,
    /// Runs that nobody waits for any more.
    AbandonedRuns,
    Connections,
    PeerConnections,
}

impl Limit {
    pub const ALL: [Self; 6] = [
        Self::Bytes,
        Self::Requests,
        Self::Queue,
        Self::AbandonedRuns,
        Self::Connections,
        Self::PeerConnections,
    ];

    /// The limit's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "in_flight_bytes",
            Self::Requests => "concurrent_requests",
            Self::Queue => "queued_requests",
            Self::AbandonedRuns => "abandoned_runs",
            Self::Connections => "connections",
            Self::PeerConnections => "connections_per_peer",
        }
    }
}

/// How much may be in flight; 0 of requests or connections: no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: usize,
    pub requests: usize,
    pub connections: usize,
    pub connections_per_peer: usize,
}

impl Limits {
    pub const NONE: Self =
        Self { bytes: usize::MAX, requests: 0, connections: 0, connections_per_peer: 0 };
}

/// What is in flight.
pub struct Admission {
    limits: Limits,
    bytes: AtomicUsize,
    requests: AtomicUsize,
    connections: AtomicUsize,
    tide: Tide,
    /// Connections by who is at the other end.
    peers: Mutex<HashMap<IpAddr, usize>>,
    refused: [AtomicU64; Limit::ALL.len()],
}

impl Admission {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            bytes: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            tide: Tide::default(),
            peers: Mutex::default(),
            refused: Default::default(),
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Count something that was refused because of `limit`.
    pub fn count_refused(&self, limit: Limit) {
        self.refused[limit as usize].fetch_add(1, Ordering::Relaxed);
        promptness::refused();
    }

    pub fn refused(&self, limit: Limit) -> u64 {
        self.refused[limit as usize].load(Ordering::Relaxed)
    }

    /// What a request holds that is about to arrive: nothing yet.
    pub fn permit(self: &Arc<Self>) -> Permit {
        Permit { admission: self.clone(), bytes: AtomicUsize::new(0), counts: AtomicUsize::new(0) }
    }

    /// A place for a connection from `peer`, an address or, for a Unix socket, none; `None` when
    /// there are too many.
    pub fn seat(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Seat> {
        let Limits { connections, connections_per_peer, .. } = self.limits;
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        if connections > 0 && before >= connections {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            self.count_refused(Limit::Connections);
            return None;
        }
        self.tide.came(before + 1);
        let peer = peer.map(|address| address.to_canonical()).filter(|_| connections_per_peer > 0);
        // Whatever happens now, dropping the seat gives back what it has.
        let mut seat = Seat { admission: self.clone(), peer: None };
        if let Some(address) = peer {
            let mut peers = self.peers.lock();
            let count = peers.entry(address).or_default();
            if *count >= connections_per_peer {
                drop(peers);
                self.count_refused(Limit::PeerConnections);
                return None;
            }
            *count += 1;
            seat.peer = peer;
        }
        Some(seat)
    }
}

/// What a request holds.
pub struct Permit {
    admission: Arc<Admission>,
    bytes: AtomicUsize,
    /// 1 once the request counts as one, 0 before.
    counts: AtomicUsize,
}

impl Permit {
    /// Take room for so many bytes more, before they are there.
    ///
    /// A request that is alone may take what it likes: limits on single messages hold anyway, and
    /// what one of them allows must not depend on the memory of the machine.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the bytes of all requests would be too many.
    pub fn charge(&self, bytes: usize) -> Result<()> {
        let Admission { limits, bytes: all, .. } = &*self.admission;
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let own = self.bytes.load(Ordering::Relaxed);
        if before.saturating_add(bytes) > limits.bytes && before > own {
            all.fetch_sub(bytes, Ordering::Relaxed);
            self.admission.count_refused(Limit::Bytes);
            return Err(Status::resource_exhausted(format!(
                "Requests in flight hold {before} bytes and this one needs {bytes} more; \
                 --max_in_flight_bytes allows {} together. Try again later",
                limits.bytes
            )));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Count so many bytes more that are there already, however many there are: others are refused
    /// while they are too many.
    pub fn hold(&self, bytes: usize) {
        self.admission.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Count as a request that is to be run.
    ///
    /// # Errors
    /// UNAVAILABLE when there are too many.
    pub fn enter(&self) -> Result<()> {
        let Admission { limits, requests, .. } = &*self.admission;
        let before = requests.fetch_add(1, Ordering::Relaxed);
        if limits.requests > 0 && before >= limits.requests {
            requests.fetch_sub(1, Ordering::Relaxed);
            self.admission.count_refused(Limit::Requests);
            return Err(Status::unavailable(format!(
                "{before} requests are being answered, and --max_concurrent_requests allows no \
                 more. Try again later"
            )));
        }
        self.counts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if bytes > 0 {
            self.admission.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        let counts = *self.counts.get_mut();
        if counts > 0 {
            self.admission.requests.fetch_sub(counts, Ordering::Relaxed);
        }
    }
}

/// A connection's place.
pub struct Seat {
    admission: Arc<Admission>,
    peer: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = self.admission.connections.fetch_sub(1, Ordering::Relaxed) - 1;
        if self.admission.tide.went(left) {
            memory::give_back_soon();
        }
        let Some(peer) = self.peer else { return };
        let mut peers = self.admission.peers.lock();
        if let Some(count) = peers.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    fn of(limits: Limits) -> Arc<Admission> {
        Admission::new(limits)
    }

    #[test]
    fn bytes_are_taken_up_to_the_limit_and_given_back() {
        let admission = of(Limits { bytes: 100, ..Limits::NONE });
        let (one, other) = (admission.permit(), admission.permit());

        one.charge(40).unwrap();
        other.charge(60).unwrap();
        let refused = one.charge(1).unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
        assert!(refused.message.contains("--max_in_flight_bytes allows 100"), "{refused}");
        assert_eq!((admission.bytes(), admission.refused(Limit::Bytes)), (100, 1));

        drop(other);
        one.charge(1).unwrap();
        assert_eq!(admission.bytes(), 41);
        drop(one);
        assert_eq!(admission.bytes(), 0);
    }

    #[test]
    fn a_request_that_is_alone_may_be_larger_than_all_together() {
        let admission = of(Limits { bytes: 100, ..Limits::NONE });
        let alone = admission.permit();
        alone.charge(60).unwrap();
        alone.charge(600).unwrap();

        let other = admission.permit();
        assert_eq!(other.charge(1).unwrap_err().code, Code::ResourceExhausted);
        drop(alone);
        other.charge(1).unwrap();
    }

    #[test]
    fn what_is_held_in_any_case_keeps_others_out() {
        let admission = of(Limits { bytes: 100, ..Limits::NONE });
        let (one, other) = (admission.permit(), admission.permit());
        one.hold(150);

        assert_eq!(other.charge(1).unwrap_err().code, Code::ResourceExhausted);
        drop(one);
        other.charge(1).unwrap();
        assert_eq!(admission.bytes(), 1);
    }

    #[test]
    fn requests_are_let_in_up_to_the_limit_and_0_is_none() {
        let admission = of(Limits { requests: 2, ..Limits::NONE });
        let permits: Vec<Permit> = (0..3).map(|_| admission.permit()).collect();
        permits[0].enter().unwrap();
        permits[1].enter().unwrap();
        let refused = permits[2].enter().unwrap_err();
        assert_eq!(refused.code, Code::Unavailable);
        assert!(refused.message.contains("--max_concurrent_requests"), "{refused}");

        drop(permits);
        assert_eq!((admission.requests(), admission.refused(Limit::Requests)), (0, 1));
        let unlimited = of(Limits::NONE);
        let permit = unlimited.permit();
        (0..1000).for_each(|_| permit.enter().unwrap());
        assert_eq!(unlimited.requests(), 1000);
        drop(permit);
        assert_eq!(unlimited.requests(), 0);
    }

    #[test]
    fn connections_are_limited_together_and_for_each_peer() {
        let admission = of(Limits { connections: 3, connections_per_peer: 2, ..Limits::NONE });
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        // As a listener of both families sees it.
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();

        let first = admission.seat(Some(one)).unwrap();
        let second = admission.seat(Some(mapped)).unwrap();
        assert!(admission.seat(Some(one)).is_none());
        let third = admission.seat(Some(other)).unwrap();
        assert!(admission.seat(None).is_none());
        let refused = [Limit::PeerConnections, Limit::Connections].map(|of| admission.refused(of));
        assert_eq!((admission.connections(), refused), (3, [1, 1]));

        drop(first);
        let again = admission.seat(Some(one)).unwrap();
        drop((second, third, again));
        assert_eq!(admission.connections(), 0);
        assert!(admission.peers.lock().is_empty());
    }
}
