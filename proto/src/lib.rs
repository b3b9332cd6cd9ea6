//! The contract between agent and console: services and messages of `llmdeck.v1`, the histogram codec, and how frames
//! merge.

pub mod buckets;
pub mod histogram;
mod memory;
pub mod merge;
pub mod socket;
pub mod sparse;

/// Messages, clients and servers as the `.proto` files describe them.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated; the .proto files are the documentation"
)]
pub mod v1 {
    tonic::include_proto!("llmdeck.v1");
}

/// The compiled descriptors, for server reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message that either side takes, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
