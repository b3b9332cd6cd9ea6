//! What fits on the node and who holds what of it: an estimate before every load, a budget that deployments share, and
//! engines that are unloaded while nobody asks and loaded again when someone does.

mod adapters;
mod budget;
mod engine_settings;
mod free;
mod gaps;
mod idle;
mod loaded;
mod loader;
mod room;
mod variant;

pub use budget::{Holding, MemoryBudget, Reservation, Shortage};
pub use engine_settings::{CacheNumbers, EngineSettings, Guessing};
pub use free::free_bytes;
pub use gaps::give_gaps_back_now_and_then;
pub use idle::unload_when_idle;
pub use loaded::Loaded;
pub use loader::{LoadError, LoadSettings, Loader, Memory};
pub use room::{Candidate, Loses};
pub use variant::{Changes, Variant};
