//! The way to agents: addresses, connections that come back by themselves, and what their errors mean.

mod dial;
mod error;
mod target;
mod watch;

pub use dial::dial;
pub use error::LinkError;
pub use target::{Target, TargetError};
pub use watch::{LinkEvent, watch};
