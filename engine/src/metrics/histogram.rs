//! Histograms that many threads add to at once, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::LazyLock;
use std::time::Duration;

use super::sharded::Sharded;
use super::text;

/// The buckets of a kind of histogram: upper limits, and how they are written.
pub struct Limits {
    /// In the unit that is recorded: nanoseconds, or things.
    bounds: Vec<u64>,
    names: Vec<String>,
    /// How many of the recorded unit make one of the unit that is shown.
    unit: f64,
}

impl Limits {
    /// `count` limits in the unit that is shown, each `factor` times the one before.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]
    fn geometric(first: f64, factor: f64, count: usize, unit: f64) -> Self {
        let limits = (0..count).map(|at| first * factor.powi(at as i32));
        Self {
            bounds: limits.clone().map(|limit| (limit * unit).round() as u64).collect(),
            names: limits.map(text::significant).collect(),
            unit,
        }
    }

    /// Every decade from ten microseconds to a hundred seconds divided at `steps`, hundredths.
    #[allow(clippy::cast_precision_loss)]
    fn seconds(steps: &[u64]) -> Self {
        const NANOSECONDS: f64 = 1e9;
        let decades = (2..9).map(|exponent| 10_u64.pow(exponent));
        let mut bounds: Vec<u64> =
            decades.flat_map(|decade| steps.iter().map(move |step| step * decade)).collect();
        bounds.push(100_000_000_000);
        let names = bounds.iter().map(|&bound| (bound as f64 / NANOSECONDS).to_string()).collect();
        Self { bounds, names, unit: NANOSECONDS }
    }

    fn powers_of_two(count: usize) -> Self {
        Self::geometric(1.0, 2.0, count, 1.0)
    }
}

/// Nanoseconds in a microsecond, the unit in which TensorFlow Serving shows times.
const MICROSECONDS: f64 = 1e3;

/// TensorFlow Serving's limits of latencies.
pub static LATENCY: LazyLock<Limits> =
    LazyLock::new(|| Limits::geometric(10.0, 1.8, 33, MICROSECONDS));
/// TensorFlow Serving's limits of the time a task waits for its batch.
pub static QUEUING: LazyLock<Limits> =
    LazyLock::new(|| Limits::geometric(100.0, 1.2, 52, MICROSECONDS));
/// TensorFlow Serving's limits of numbers of examples.
pub static EXAMPLES: LazyLock<Limits> = LazyLock::new(|| Limits::powers_of_two(15));
/// TensorFlow Serving's limits of sizes of batches.
pub static BATCH_SIZES: LazyLock<Limits> = LazyLock::new(|| Limits::powers_of_two(14));
/// Ten limits a decade: a percentile read from them is at most an eighth off.
pub static DURATION: LazyLock<Limits> =
    LazyLock::new(|| Limits::seconds(&[100, 125, 160, 200, 250, 315, 400, 500, 630, 800]));
/// Three limits a decade, for the parts of a request.
pub static STAGE: LazyLock<Limits> = LazyLock::new(|| Limits::seconds(&[100, 200, 500]));

/// How often what was recorded lay between which limits, and the sum of it all.
pub struct Histogram {
    limits: &'static Limits,
    shards: Sharded<Shard>,
}

struct Shard {
    /// One for each limit, and one for what is above the last.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Shard {
    fn new(limits: &Limits) -> Self {
        let buckets = (0..=limits.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { buckets, sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn new(limits: &'static Limits) -> Self {
        Self { limits, shards: Sharded::default() }
    }

    /// Count a value, in the unit of the limits. One that equals a limit is below it.
    pub fn record(&self, value: u64) {
        let at = self.limits.bounds.partition_point(|&bound| bound < value);
        let shard = self.shards.here(|| Shard::new(self.limits));
        shard.buckets[at].fetch_add(1, Ordering::Relaxed);
        shard.sum.fetch_add(value, Ordering::Relaxed);
    }

    pub fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn is_empty(&self) -> bool {
        self.shards.all().next().is_none()
    }

    /// The name of each limit, and how many values are at most that; the last is everything.
    pub fn cumulative(&self) -> impl Iterator<Item = (&str, u64)> {
        let names = self.limits.names.iter().map(String::as_str).chain(["+Inf"]);
        let mut total = 0;
        names.enumerate().map(move |(at, name)| {
            let shards = self.shards.all();
            total += shards.map(|shard| shard.buckets[at].load(Ordering::Relaxed)).sum::<u64>();
            (name, total)
        })
    }

    /// In the unit that is shown.
    #[allow(clippy::cast_precision_loss)]
    pub fn sum(&self) -> f64 {
        let sums = self.shards.all().map(|shard| shard.sum.load(Ordering::Relaxed));
        sums.sum::<u64>() as f64 / self.limits.unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_recorded() {
        let names: Vec<&str> = LATENCY.names.iter().map(String::as_str).collect();

        assert_eq!(
            names,
            [
                "10",
                "18",
                "32.4",
                "58.32",
                "104.976",
                "188.957",
                "340.122",
                "612.22",
                "1102",
                "1983.59",
                "3570.47",
                "6426.84",
                "11568.3",
                "20823",
                "37481.3",
                "67466.4",
                "121440",
                "218591",
                "393464",
                "708235",
                "1.27482e+06",
                "2.29468e+06",
                "4.13043e+06",
                "7.43477e+06",
                "1.33826e+07",
                "2.40887e+07",
                "4.33596e+07",
                "7.80473e+07",
                "1.40485e+08",
                "2.52873e+08",
                "4.55172e+08",
                "8.19309e+08",
                "1.47476e+09"
            ]
        );
        assert_eq!(EXAMPLES.names.last().unwrap(), "16384");
        assert_eq!(BATCH_SIZES.names.last().unwrap(), "8192");
        assert_eq!(QUEUING.names.len(), 52);
        assert_eq!(STAGE.names[..4], ["0.00001", "0.00002", "0.00005", "0.0001"]);
        assert_eq!(DURATION.names.last().unwrap(), "100");
    }

    #[test]
    fn a_value_counts_for_its_own_limit_and_all_above() {
        let histogram = Histogram::new(&EXAMPLES);
        for value in [0, 1, 2, 3, 16_384, 16_385] {
            histogram.record(value);
        }

        let counted: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counted[..3], [2, 3, 4]);
        assert_eq!(counted[14..], [5, 6]);
        assert!((histogram.sum() - 32_775.0).abs() < f64::EPSILON);
    }

    #[test]
    fn times_are_shown_in_the_unit_of_their_limits() {
        let histogram = Histogram::new(&LATENCY);
        histogram.record_time(Duration::from_micros(18));

        let at = histogram.cumulative().find(|(_, count)| *count == 1);
        assert_eq!(at, Some(("18", 1)));
        assert!((histogram.sum() - 18.0).abs() < 1e-9);
    }
}
