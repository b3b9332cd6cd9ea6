//! What benches measured as lines and tables, for the command line and the screen alike.

mod node;
mod outcome;
mod training;

pub use node::NodeTables;
pub use outcome::{LATENCY_TITLES, cost_words, figures, latency_rows, milliseconds};
pub use training::{SCORE_TITLES, check_rows, score_rows};

/// A title and rows of cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Over it.
    pub title: String,
    /// Of its columns.
    pub columns: Vec<&'static str>,
    /// As many cells as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// A label and what it says.
pub type Figure = (&'static str, String);
