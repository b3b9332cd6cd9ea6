//! What the node measures: recorders for requests, samplers for GPU and host, and the frames made of them.

mod atomic_histogram;
mod cpu_energy;
mod energy;
pub mod events;
mod frame;
pub mod gpu;
mod history;
mod host;
mod recorder;
mod subscribers;

pub use atomic_histogram::AtomicHistogram;
pub use energy::{Prices, attribute_energy};
pub use frame::{FrameMaker, FrameStates};
pub use history::History;
pub use host::HostSampler;
pub use recorder::{AnswerQuality, Interval, Outcome, Recorder};
pub use subscribers::{Subscribers, Subscription};
