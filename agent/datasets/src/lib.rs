//! Examples to learn from: read in the formats that people have, checked before anything is trained on them, and cleaned by
//! recipes that say what they did. Knows no model, network or database.

mod checks;
mod example;
mod governance;
mod policy;
mod read;
mod recipe;
mod redact;
mod report;
mod words;

pub use checks::{Known, Suites, check};
pub use example::{Body, Example, Role, Turn};
pub use governance::{Governance, GovernanceChange, GovernanceField};
pub use policy::{Policy, Rule};
pub use read::{BadLine, Dataset, Format, ReadError};
pub use recipe::{Derived, Recipe};
pub use redact::{Finding, find, redacted};
pub use report::{CheckKind, CheckRow, Report};
