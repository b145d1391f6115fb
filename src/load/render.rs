//! Results and progress as text: tables, progress lines, HdrHistogram logs, CSV and the Prometheus text format.
//!
//! It is the last of the crate's modules, and the only one that prints.

pub mod export;
mod exposition;
mod progress;
pub mod summary;
pub mod tables;

pub use exposition::{CONTENT_TYPE, exposition};
pub use progress::{MessageRate, ProgressReporter};
