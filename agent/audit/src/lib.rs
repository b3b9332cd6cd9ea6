//! An append-only record of who did what, as files that anyone with the public key can prove whole.
//!
//! `audit.jsonl` has one JSON object a line, each with the SHA-256 of the line before. A full file is renamed to
//! `audit-<its first sequence>.jsonl`, and the next goes on with the chain. After every record the head of the chain is
//! signed into `audit.checkpoint`: a signed note (C2SP) with the name of the log, how many records it has and the digest
//! of its last line. `audit.pub` has the key to check it with; a copy kept elsewhere proves that nobody made a new key.

mod chain;
mod log;
mod note;
mod record;
mod verify;

pub use log::{AuditError, AuditLog};
pub use note::{Note, NoteError, Signer, Verifier};
pub use record::{NewRecord, Record};
pub use verify::{Flaw, Proof, verify};

/// The file that records go to.
const CURRENT: &str = "audit.jsonl";
/// The signed head of the chain.
const CHECKPOINT: &str = "audit.checkpoint";
/// The public key.
const PUBLIC_KEY: &str = "audit.pub";
/// The private key, readable by the agent's user only.
const PRIVATE_KEY: &str = "audit.key";
