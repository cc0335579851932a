//! How slowly a peer may send: what decides when a request that is not all there is given up.

use std::time::Duration;

use tokio::time::Instant;

/// So many bytes have to come within the time below, again and again.
const STEP: usize = 10 << 10;
const STEP_TIME: Duration = Duration::from_secs(10);

/// The pace at which something arrives: a kilobyte a second over any ten seconds. What came fast
/// earns no rest afterwards, so that nobody holds what was sent for long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    since: Instant,
    received: usize,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { since: now, received: 0 }
    }

    /// Take in that bytes came.
    pub fn came(&mut self, bytes: usize, now: Instant) {
        self.received += bytes;
        if self.received >= STEP {
            *self = Self::new(now);
        }
    }

    /// When it is too slow if nothing comes until then.
    pub fn deadline(&self) -> Instant {
        self.since + STEP_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_kilobytes_buy_ten_seconds_and_ten_megabytes_no_more() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(begin);
        assert_eq!(pace.deadline(), begin + 10 * second);

        pace.came(STEP - 1, begin + second);
        assert_eq!(pace.deadline(), begin + 10 * second);
        pace.came(1, begin + 9 * second);
        assert_eq!(pace.deadline(), begin + 19 * second);
        pace.came(STEP << 10, begin + 10 * second);
        assert_eq!(pace.deadline(), begin + 20 * second);
    }
}
