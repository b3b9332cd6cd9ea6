use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// How long a worker looks for more work before it sleeps. Between two products of one step there are microseconds.
const SPIN: Duration = Duration::from_micros(60);

/// Turns that each thread takes at least where there are enough tasks, so that none waits long for the last.
const TURNS_A_THREAD: usize = 16;

/// Threads that share the work of one caller at a time.
///
/// Work is cut into tasks that threads take one by one, or a few neighbours at a time where there are many; the caller takes part. It waits only for workers that have
/// taken a task, never for one that sleeps or is held up by the system, so a busy machine slows it by its share and no
/// more. Workers look for work for a moment after each job and then sleep: an idle pool costs nothing.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Whether a caller has the workers; another one works alone meanwhile.
    taken: AtomicBool,
    /// Where its threads stay, where that was asked for.
    cores: Vec<usize>,
}

struct Shared {
    /// Bit 63: a job can be entered. Bits 32 to 62: its number. Bits 0 to 31: workers inside.
    state: AtomicU64,
    /// Valid while the job is open or a worker is inside.
    job: AtomicPtr<Job<'static>>,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

const OPEN: u64 = 1 << 63;
const NUMBER_ONE: u64 = 1 << 32;
const INSIDE: u64 = NUMBER_ONE - 1;

struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    /// Tasks that are taken together: to ask for each of many small ones takes longer than they do, and what neighbours write often
    /// shares a line of cache.
    a_turn: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Job<'_> {
    fn take_part(&self) {
        loop {
            let first = self.next.fetch_add(self.a_turn, Ordering::Relaxed);
            if first >= self.tasks {
                return;
            }
            (first..(first + self.a_turn).min(self.tasks)).for_each(self.work);
        }
    }
}

impl Pool {
    /// A pool of `threads`, the caller's included; at least one.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Self::start(threads, Vec::new())
    }

    /// A pool of one thread for each of these cores, by the system's numbers: each worker stays on its own, and callers
    /// that ask for it by [`Pool::bind_caller`] on any of them.
    ///
    /// # Errors
    /// When there is no such core or the process may not use it, or the system has no thread left.
    pub fn pinned(cores: &[usize]) -> std::io::Result<Self> {
        if cores.is_empty() {
            return Err(std::io::Error::new(ErrorKind::InvalidInput, "no core is named"));
        }
        // Said of the core by its number here rather than by a worker later.
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let outcome = cores.iter().try_for_each(|core| stay_on(&[*core]));
        sched_setaffinity(Pid::from_raw(0), &before)?;
        outcome?;
        Self::start(cores.len(), cores.to_vec())
    }

    fn start(threads: usize, cores: Vec<usize>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), taken: AtomicBool::new(false), cores };
        for index in 1..threads {
            let (shared, core) = (Arc::clone(&pool.shared), pool.cores.get(index).copied());
            let worker = std::thread::Builder::new().name(format!("compute {index}"));
            pool.workers.push(worker.spawn(move || {
                if let Some(core) = core {
                    // It was possible a moment ago; a core taken away since costs speed, not answers.
                    let _ = stay_on(&[core]);
                }
                shared.serve();
            })?);
        }
        Ok(pool)
    }

    /// Keeps the thread that calls this on the pool's cores, where it has its own.
    ///
    /// # Errors
    /// When the process may no longer use them.
    pub fn bind_caller(&self) -> std::io::Result<()> {
        if self.cores.is_empty() { Ok(()) } else { stay_on(&self.cores) }
    }

    /// As many threads as the process may use.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn of_machine() -> std::io::Result<Self> {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// Threads that take part, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` with every number below `tasks`, each once, on any thread; returns when all are done. A panic in
    /// `work` comes out of here.
    pub fn run(&self, tasks: usize, work: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() || self.taken.swap(true, Ordering::Acquire) {
            return (0..tasks).for_each(work);
        }
        let a_turn = (tasks / (self.threads() * TURNS_A_THREAD)).max(1);
        let (next, panicked) = (AtomicUsize::new(0), AtomicBool::new(false));
        let job = Job { work: &work, tasks, a_turn, next, panicked };
        self.shared.open(&job);
        let mine = catch_unwind(AssertUnwindSafe(|| job.take_part()));
        self.shared.close();
        self.taken.store(false, Ordering::Release);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(
            !job.panicked.load(Ordering::Relaxed),
            "a task panicked on another thread; the log has its message"
        );
    }

    /// Calls `work` with every item, each once, on any thread.
    pub fn run_each<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        let first = SendPointer(items.as_mut_ptr());
        self.run(items.len(), |index| {
            // SAFETY: `run` gives each index below the length to one call, so no two references meet, and it returns
            // before the borrow of `items` ends.
            work(unsafe { &mut *first.at(index) });
        });
    }
}

fn stay_on(cores: &[usize]) -> std::io::Result<()> {
    let refused = |core: usize, error: Errno| {
        let message = format!("core {core} cannot be used: {}", error.desc());
        std::io::Error::new(ErrorKind::InvalidInput, message)
    };
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core).map_err(|error| refused(*core, error))?;
    }
    let first = cores.first().copied().unwrap_or(0);
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| refused(first, error))
}

/// A pointer that tasks may use on any thread, to places of their own.
pub(crate) struct SendPointer<T>(pub(crate) *mut T);

impl<T> SendPointer<T> {
    /// The place `index` after the first.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

// SAFETY: whoever dereferences it promises that no two threads use one place.
unsafe impl<T: Send> Sync for SendPointer<T> {}

impl Shared {
    fn open(&self, job: &Job<'_>) {
        self.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) & !(OPEN | INSIDE)).wrapping_add(NUMBER_ONE) & !OPEN;
        self.state.store(OPEN | number, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// Lets no further worker in and waits for those inside.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut turns = 0u32;
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            turns += 1;
            if turns < 2_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    fn serve(&self) {
        let mut last = 0;
        while let Some(number) = self.enter_after(last) {
            last = number;
            let job = self.job.load(Ordering::Relaxed);
            // SAFETY: the caller's `close` returns, and with it the job's life ends, only when no worker is inside;
            // this one is, since `enter_after`.
            let job = unsafe { &*job };
            if catch_unwind(AssertUnwindSafe(|| job.take_part())).is_err() {
                job.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a job other than `last` and enters it; `None` when the pool ends.
    fn enter_after(&self, last: u64) -> Option<u64> {
        let mut since = Instant::now();
        let mut turns = 0u32;
        loop {
            let state = self.state.load(Ordering::Acquire);
            let number = state & !(OPEN | INSIDE);
            if state & OPEN != 0 && number != last {
                if self.state.compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
                {
                    return Some(number);
                }
                continue;
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            std::hint::spin_loop();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(128) && since.elapsed() > SPIN {
                self.sleep(last);
                since = Instant::now();
            }
        }
    }

    fn sleep(&self, last: u64) {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let work = state & OPEN != 0 && state & !(OPEN | INSIDE) != last;
            if work || self.stop.load(Ordering::SeqCst) {
                break;
            }
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its tasks throw.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::Pid;

    use super::Pool;

    #[test]
    fn every_task_runs_once_in_each_of_many_jobs() {
        let pool = Pool::new(4).unwrap();
        for tasks in (0..200).chain([5_000]) {
            let mut counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, |task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter_mut().all(|count| *count.get_mut() == 1), "{tasks} tasks");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "an interpreter has no cores")]
    fn a_pinned_pool_stays_on_its_cores() {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cores: Vec<usize> =
            (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap()).take(2).collect();
        let pool = Pool::pinned(&cores).unwrap();
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), allowed, "the caller may go where it could");
        pool.bind_caller().unwrap();
        let mine = std::thread::current().id();
        let strayed = AtomicUsize::new(0);
        for _ in 0..200 {
            pool.run(8, |_| {
                let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
                let on = (0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap());
                let expected = if std::thread::current().id() == mine { &cores[..] } else { &cores[1..] };
                if !on.eq(expected.iter().copied()) {
                    strayed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        assert_eq!(strayed.into_inner(), 0);
        let nowhere = Pool::pinned(&[CpuSet::count() - 1]).err().unwrap().to_string();
        assert!(nowhere.contains("cannot be used"), "{nowhere}");
    }

    #[test]
    fn callers_at_the_same_time_all_get_their_work_done() {
        let pool = Pool::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mut items = vec![1u64; 50];
                        pool.run_each(&mut items, |item| *item += 1);
                        assert_eq!(items.iter().sum::<u64>(), 100);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_in_a_task_comes_out_and_the_pool_goes_on() {
        let pool = Pool::new(2).unwrap();
        for panicking in [0, 1, 63] {
            let run = || pool.run(64, |task| assert_ne!(task, panicking));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        }
        let done = AtomicUsize::new(0);
        pool.run(64, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 64);
    }
}
