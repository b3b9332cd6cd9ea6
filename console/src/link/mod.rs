//! The way to agents, and to servers without one: addresses, connections that come back by themselves, and what their errors
//! mean.

mod credentials;
mod dial;
mod error;
mod scraped;
mod target;
mod watch;

pub use dial::{Channel, dial};
pub use error::LinkError;
pub use target::{Target, TargetError};
pub use watch::{LinkEvent, watch};
