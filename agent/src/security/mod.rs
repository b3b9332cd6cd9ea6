//! Who acts, what they may do, and how they prove it.

pub mod access;
pub mod identity;
pub mod keys;
pub mod pki;
pub mod tls;
