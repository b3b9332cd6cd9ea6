//! Artifacts by digest: what came with the agent, what was added, and whatever files a deployment names.

mod artifact;
mod builtin;
mod derive;
pub mod digest;
mod governance;
mod inspect;
mod merge;
mod resolve;
mod take_in;
mod upkeep;

pub use artifact::{Artifact, ArtifactKind};
pub use builtin::BuiltinArtifacts;
pub use derive::DerivedDataset;
pub use governance::{GovernedDataset, today};
pub use resolve::{Registry, RegistryError};
pub use take_in::Means;
pub use upkeep::{NewArtifact, Removed, Verified};
