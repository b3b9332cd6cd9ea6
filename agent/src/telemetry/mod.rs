//! What the node measures: recorders for requests, and the frames made of them and of the sensors' readings.

mod atomic_histogram;
mod energy;
pub mod events;
mod frame;
mod history;
mod node_meter;
mod recorder;
mod subscribers;

pub use atomic_histogram::AtomicHistogram;
pub use energy::{Prices, attribute_energy};
pub use frame::{FrameMaker, FrameStates};
pub use history::History;
pub use node_meter::{NodeMeasurement, NodeMeter, NodeUse};
pub use recorder::{AnswerQuality, Interval, Outcome, Recorder};
pub use subscribers::{Subscribers, Subscription};
