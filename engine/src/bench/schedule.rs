//! When the requests of an open loop are due.
//!
//! Nothing here looks at a clock: a schedule is a function of its rate and seed, counted from the start
//! of the run, whatever the server does meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// One request every `1 / rate` seconds.
    Constant,
    /// Independent of each other: gaps are exponential with mean `1 / rate`.
    Poisson,
}

/// The endless, non-decreasing sequence of times at which requests are due, from the start of the run.
#[derive(Debug, Clone)]
pub struct Schedule {
    rate: f64,
    arrival: Arrival,
    random: SplitMix64,
    count: u64,
    elapsed_s: f64,
}

impl Schedule {
    /// `rate` is in requests per second and positive.
    #[must_use]
    pub fn new(rate: f64, arrival: Arrival, seed: u64) -> Self {
        Self { rate, arrival, random: SplitMix64(seed), count: 0, elapsed_s: 0.0 }
    }

    /// The part of the schedule that is thread `index`'s of `threads` that share it.
    pub fn share(self, index: usize, threads: usize) -> impl Iterator<Item = Duration> {
        self.skip(index).step_by(threads)
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match self.arrival {
            // From the count, not from the previous one: a sum of rounded gaps would drift.
            #[allow(clippy::cast_precision_loss)] // 2^53 requests are years
            Arrival::Constant => self.elapsed_s = self.count as f64 / self.rate,
            Arrival::Poisson => self.elapsed_s += -self.random.next_open_unit().ln() / self.rate,
        }
        self.count += 1;
        Some(Duration::from_secs_f64(self.elapsed_s))
    }
}

/// Steele, Lea and Flood's generator: small, and good enough to space requests.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1]: never zero, whose logarithm is infinite.
    #[allow(clippy::cast_precision_loss)] // 53 bits fit
    fn next_open_unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_do_not_drift() {
        let mut schedule = Schedule::new(3000.0, Arrival::Constant, 0);

        assert_eq!(schedule.next(), Some(Duration::ZERO));
        assert_eq!(
            schedule.nth(2_999_999 - 1),
            Some(Duration::from_secs_f64(2_999_999.0 / 3000.0))
        );
        assert_eq!(schedule.next(), Some(Duration::from_secs(1000)));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_like_a_poisson_process() {
        let rate = 500.0;
        let due: Vec<f64> = Schedule::new(rate, Arrival::Poisson, 7)
            .take(100_000)
            .map(|t| t.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = due.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;

        assert!(gaps.iter().all(|g| *g >= 0.0));
        assert!((mean * rate - 1.0).abs() < 0.02, "mean gap {mean}");
        // The coefficient of variation of an exponential distribution is one.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "deviation {}", variance.sqrt());
    }

    #[test]
    fn a_seed_makes_the_schedule_repeatable() {
        let take = |seed| Schedule::new(10.0, Arrival::Poisson, seed).take(5).collect::<Vec<_>>();

        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
    }

    #[test]
    fn the_shares_of_threads_are_the_schedule() {
        let schedule = Schedule::new(100.0, Arrival::Poisson, 3);
        let mut shared: Vec<Duration> =
            (0..3).flat_map(|index| schedule.clone().share(index, 3).take(10)).collect();
        shared.sort();

        assert_eq!(shared, schedule.take(30).collect::<Vec<_>>());
    }
}
