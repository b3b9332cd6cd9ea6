//! Artifacts by digest: the built-in models, suite and dataset, and whatever files a deployment names.

mod builtin;
pub mod digest;
mod resolve;

pub use builtin::{Artifact, ArtifactKind, BuiltinArtifacts};
pub use resolve::{Registry, RegistryError, ResolvedModel};
