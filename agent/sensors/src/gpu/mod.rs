//! GPUs through NVML, in a thread of their own: a driver that hangs delays readings, not the agent.

mod device;
mod driver;
mod energy;
mod processes;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use llmdeck_proto::v1::gpu_driver::State;
use llmdeck_proto::v1::{Gpu, GpuDriver};
use nvml_wrapper::Nvml;
use processes::GpuProcesses;

pub use energy::GpuEnergy;

/// How often a driver that does not answer is looked for again.
const RETRY: Duration = Duration::from_secs(30);
/// Readings older than this many intervals are said to be old.
const STALE_INTERVALS: u32 = 5;

/// The latest readings of every card.
#[derive(Clone, Debug)]
pub struct GpuReadings {
    /// How measurement as a whole stands.
    pub driver: GpuDriver,
    /// One entry a card, in the driver's order.
    pub gpus: Vec<Gpu>,
    taken: Instant,
}

impl GpuReadings {
    /// Whether they were taken behind a moment.
    pub fn is_after(&self, moment: Instant) -> bool {
        self.taken > moment
    }
}

/// Samples until it is dropped.
pub struct GpuSampler {
    latest: Arc<ArcSwap<GpuReadings>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    interval: Duration,
}

impl GpuSampler {
    /// Starts the thread. `library` is the path of NVML; the system's search path where it is `None`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(library: Option<OsString>, interval: Duration) -> std::io::Result<Self> {
        let none = GpuReadings { driver: GpuDriver::default(), gpus: Vec::new(), taken: Instant::now() };
        let latest = Arc::new(ArcSwap::from_pointee(none));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker { library, interval, latest: Arc::clone(&latest), stop: Arc::clone(&stop) };
        let thread = std::thread::Builder::new().name("gpu".into()).spawn(move || worker.run())?;
        Ok(Self { latest, stop, thread: Some(thread), interval })
    }

    /// What was read last. When the driver has not answered for a while, that is said.
    pub fn latest(&self) -> GpuReadings {
        let mut readings = GpuReadings::clone(&self.latest.load());
        let age = readings.taken.elapsed();
        if readings.driver.state() == State::Ok && age > self.interval * STALE_INTERVALS {
            readings.driver.set_state(State::Failed);
            readings.driver.detail =
                format!("the driver has not answered for {} s; look into the kernel's log", age.as_secs());
        }
        readings
    }
}

impl Drop for GpuSampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        // A thread inside a driver that hangs never ends; the process must.
        let patience = Instant::now() + Duration::from_secs(1);
        while !thread.is_finished() && Instant::now() < patience {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

struct Worker {
    library: Option<OsString>,
    interval: Duration,
    latest: Arc<ArcSwap<GpuReadings>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(self) {
        while !self.stopped() {
            let nvml = match &self.library {
                Some(path) => Nvml::builder().lib_path(path).init(),
                None => Nvml::init(),
            };
            match nvml {
                Ok(nvml) => self.sample_until_broken(&nvml),
                Err(error) => self.publish(driver::of_error(&error), Vec::new()),
            }
            self.pause(RETRY);
        }
    }

    /// Returns when the library as a whole stops answering. A card that is lost does not end it.
    fn sample_until_broken(&self, nvml: &Nvml) {
        let mut driver = driver::of_library(nvml);
        let mut known: Vec<Gpu> = Vec::new();
        let mut xids = device::XidWatch::new(nvml);
        let mut processes = GpuProcesses::default();
        while !self.stopped() {
            let started = Instant::now();
            let count = match nvml.device_count() {
                Ok(count) => count,
                Err(error) => {
                    known.iter_mut().for_each(|gpu| *gpu = device::lost(gpu, driver::words(&error)));
                    return self.publish(driver::of_error(&error), known);
                }
            };
            known.truncate(count as usize);
            let gpus = (0..count).map(|index| {
                let before = known.get(index as usize);
                match nvml.device_by_index(index) {
                    Ok(card) => device::read(&card, index, before, processes.read(nvml, &card, index)),
                    Err(error) => device::unreachable(index, before, driver::words(&error)),
                }
            });
            known = gpus.collect();
            xids.note(&mut known);
            driver.set_state(State::Ok);
            self.publish(driver.clone(), known.clone());
            self.pause(self.interval.saturating_sub(started.elapsed()));
        }
    }

    fn publish(&self, driver: GpuDriver, gpus: Vec<Gpu>) {
        self.latest.store(Arc::new(GpuReadings { driver, gpus, taken: Instant::now() }));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stopped() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}
