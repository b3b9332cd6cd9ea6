//! Small pictures of numbers: sparklines, bars, lines over time, heatmaps.

mod heatmap;
mod interval;
mod plot;
mod spark;

pub use heatmap::heatmap;
pub use interval::{Interval, intervals, linear_row};
pub use plot::{Line, log_rows, plot};
pub use spark::{bar, sparkline};
