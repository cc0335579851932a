//! Runs that go on although nobody waits for them any more.
//!
//! A kernel cannot be interrupted: a request whose time is up, or whose client has left, is
//! answered or forgotten, and its run goes on. Most end soon after. Those that go on for longer are
//! stuck: they are counted here, and once they hold half of the threads of a pool, the model that
//! holds most of them is not run there any more, so that the others are. Nothing here waits: when
//! it is, is an argument, but for the task that tells of what got stuck.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::status::{Result, Status};

/// Lives for as long as a run, or the wait for it, may go on.
#[derive(Debug, Default)]
pub struct Going {
    has_begun: AtomicBool,
}

impl Going {
    /// A run that has begun.
    pub fn begun() -> Self {
        Self { has_begun: AtomicBool::new(true) }
    }

    /// Say that the run begins.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }
}

/// Threads that a run holds one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    Compute,
    Batch,
}

/// Told of what happens, in a sentence.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// The runs that nobody waits for.
pub struct Abandoned {
    /// How long they may go on without being stuck.
    patience: Duration,
    /// How many threads there are, by [`Threads`].
    capacities: [usize; 2],
    runs: Mutex<Vec<Run>>,
    /// About as many as there are runs; 0 only when there are none.
    count: AtomicUsize,
    is_watched: AtomicBool,
    /// How many have got stuck so far.
    total: AtomicU64,
    tell: RwLock<Option<Tell>>,
}

struct Run {
    model: String,
    threads: Threads,
    since: Instant,
    going: Weak<Going>,
    is_told: bool,
}

impl Run {
    fn goes_on(&self) -> bool {
        self.going.strong_count() > 0
    }
}

impl Abandoned {
    pub fn new(patience: Duration, compute_threads: usize, batch_threads: usize) -> Arc<Self> {
        Arc::new(Self {
            patience,
            capacities: [compute_threads.max(1), batch_threads.max(1)],
            runs: Mutex::default(),
            count: AtomicUsize::new(0),
            is_watched: AtomicBool::new(false),
            total: AtomicU64::new(0),
            tell: RwLock::default(),
        })
    }

    /// Whom to tell of runs that get stuck.
    pub fn set_tell(&self, tell: Tell) {
        *self.tell.write() = Some(tell);
    }

    /// Take in a run that nobody waits for from `now` on. One that has not begun is none, and a
    /// batch is one run, however many waited for it.
    pub fn add(self: &Arc<Self>, model: &str, threads: Threads, going: &Weak<Going>, now: Instant) {
        if !going.upgrade().is_some_and(|going| going.has_begun.load(Ordering::Relaxed)) {
            return;
        }
        let mut runs = self.runs.lock();
        runs.retain(Run::goes_on);
        if !runs.iter().any(|run| run.going.ptr_eq(going)) {
            let (model, going) = (model.to_owned(), going.clone());
            runs.push(Run { model, threads, since: now, going, is_told: false });
        }
        self.count.store(runs.len(), Ordering::Relaxed);
        drop(runs);
        self.watch();
    }

    /// How many runs of each model are stuck.
    pub fn stuck(&self, now: Instant) -> Vec<(String, usize)> {
        let mut counts: Vec<(String, usize)> = Vec::new();
        self.each_stuck(now, |run| match counts.iter_mut().find(|(name, _)| *name == run.model) {
            Some((_, count)) => *count += 1,
            None => counts.push((run.model.clone(), 1)),
        });
        counts.sort();
        counts
    }

    /// How many have got stuck since the server was started.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Whether all threads of a pool are held by stuck runs.
    pub fn hold_everything(&self, now: Instant) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut held = [0; 2];
        self.each_stuck(now, |run| held[run.threads as usize] += 1);
        held.iter().zip(self.capacities).any(|(held, capacity)| *held >= capacity)
    }

    /// Check that a model may be run on these threads.
    ///
    /// # Errors
    /// UNAVAILABLE while its stuck runs hold half of them.
    pub fn check(&self, model: &str, threads: Threads, now: Instant) -> Result<()> {
        // All that is asked while everything goes well.
        if self.count.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let capacity = self.capacities[threads as usize];
        let mut held = 0;
        self.each_stuck(now, |run| {
            held += usize::from(run.threads == threads && run.model == model);
        });
        if held * 2 < capacity {
            return Ok(());
        }
        Err(Status::unavailable(format!(
            "{held} runs of this model go on although nobody has waited for them for {} s, and \
             hold {held} of {capacity} threads; it is not run until some of them end",
            self.patience.as_secs_f64()
        )))
    }

    fn each_stuck(&self, now: Instant, mut visit: impl FnMut(&Run)) {
        let mut runs = self.runs.lock();
        runs.retain(Run::goes_on);
        self.count.store(runs.len(), Ordering::Relaxed);
        let is_stuck = |run: &&Run| now.saturating_duration_since(run.since) >= self.patience;
        runs.iter().filter(is_stuck).for_each(&mut visit);
    }

    /// Say which runs have got stuck by now, each once. Whether any are left to look at.
    fn tell(&self, now: Instant) -> bool {
        let mut news = Vec::new();
        let mut runs = self.runs.lock();
        runs.retain(Run::goes_on);
        self.count.store(runs.len(), Ordering::Relaxed);
        for run in runs.iter_mut().filter(|run| !run.is_told) {
            if now.saturating_duration_since(run.since) >= self.patience {
                run.is_told = true;
                news.push(run.model.clone());
            }
        }
        let are_left = !runs.is_empty();
        drop(runs);
        self.total.fetch_add(news.len() as u64, Ordering::Relaxed);
        let tell = self.tell.read().clone();
        for (model, tell) in news.iter().filter_map(|model| Some((model, tell.as_ref()?))) {
            tell(&format!(
                "A run of {model} goes on although nobody has waited for it for {} s",
                self.patience.as_secs_f64()
            ));
        }
        are_left
    }

    /// Look after the runs until there are none, once; outside a runtime nobody does.
    fn watch(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let abandoned = self.clone();
        runtime.spawn(async move {
            let every = (abandoned.patience / 4).max(Duration::from_millis(10));
            loop {
                tokio::time::sleep(every).await;
                if abandoned.tell(Instant::now()) {
                    continue;
                }
                abandoned.is_watched.store(false, Ordering::Release);
                // One that was added just before has found it watched.
                let is_over = abandoned.count.load(Ordering::Relaxed) == 0
                    || abandoned.is_watched.swap(true, Ordering::AcqRel);
                if is_over {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn add(abandoned: &Arc<Abandoned>, model: &str, now: Instant) -> Arc<Going> {
        let going = Arc::new(Going::begun());
        abandoned.add(model, Threads::Compute, &Arc::downgrade(&going), now);
        going
    }

    #[test]
    fn a_run_is_stuck_when_it_goes_on_for_long_and_no_more_when_it_ends() {
        let abandoned = Abandoned::new(PATIENCE, 4, 1);
        let now = Instant::now();
        let run = add(&abandoned, "m", now);

        assert!(abandoned.stuck(now + PATIENCE / 2).is_empty());
        assert_eq!(abandoned.stuck(now + PATIENCE), [("m".to_owned(), 1)]);
        drop(run);
        assert!(abandoned.stuck(now + PATIENCE).is_empty());
    }

    #[test]
    fn what_has_not_begun_is_no_run_and_a_batch_is_one() {
        let abandoned = Abandoned::new(PATIENCE, 4, 1);
        let now = Instant::now();
        let waiting = Arc::new(Going::default());
        abandoned.add("m", Threads::Compute, &Arc::downgrade(&waiting), now);
        assert!(abandoned.stuck(now + PATIENCE).is_empty());

        waiting.begin();
        for _ in 0..3 {
            abandoned.add("m", Threads::Compute, &Arc::downgrade(&waiting), now);
        }
        assert_eq!(abandoned.stuck(now + PATIENCE), [("m".to_owned(), 1)]);
    }

    #[test]
    fn a_model_that_holds_half_of_the_threads_is_not_run_and_others_are() {
        let abandoned = Abandoned::new(PATIENCE, 4, 1);
        let now = Instant::now();
        let late = now + PATIENCE;
        let check = |model| abandoned.check(model, Threads::Compute, late).map_err(|s| s.code);
        let mut runs = vec![add(&abandoned, "m", now)];
        assert_eq!(check("m"), Ok(()));

        runs.push(add(&abandoned, "m", now));
        assert_eq!(check("m"), Err(Code::Unavailable));
        assert_eq!(check("n"), Ok(()));
        assert_eq!(abandoned.check("m", Threads::Batch, late), Ok(()));
        assert_eq!(abandoned.check("m", Threads::Compute, now), Ok(()), "they may still end");

        runs.pop();
        assert_eq!(check("m"), Ok(()));
    }

    #[test]
    fn the_server_is_stuck_when_all_threads_are() {
        let abandoned = Abandoned::new(PATIENCE, 2, 1);
        let now = Instant::now();
        let first = add(&abandoned, "m", now);
        assert!(!abandoned.hold_everything(now + PATIENCE));
        let second = add(&abandoned, "n", now);
        assert!(abandoned.hold_everything(now + PATIENCE));
        assert!(!abandoned.hold_everything(now));
        drop((first, second));
        assert!(!abandoned.hold_everything(now + PATIENCE));
    }

    #[test]
    fn each_is_told_of_once() {
        let abandoned = Abandoned::new(PATIENCE, 2, 1);
        let (told, heard) = std::sync::mpsc::channel();
        let told = Mutex::new(told);
        abandoned.set_tell(Arc::new(move |text| told.lock().send(text.to_owned()).unwrap()));
        let now = Instant::now();
        let run = add(&abandoned, "m", now);

        assert!(abandoned.tell(now));
        assert!(abandoned.tell(now + PATIENCE));
        assert!(abandoned.tell(now + 2 * PATIENCE));
        drop(run);
        assert!(!abandoned.tell(now + 3 * PATIENCE));

        let heard: Vec<String> = heard.try_iter().collect();
        assert_eq!(heard, ["A run of m goes on although nobody has waited for it for 5 s"]);
        assert_eq!(abandoned.total(), 1);
    }
}
