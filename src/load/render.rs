//! Results and progress for people and other programs: tables, progress lines, HdrHistogram logs, CSV, Markdown, JUnit and
//! the Prometheus text format.
//!
//! It is the last of the crate's modules, and the only one that prints.

mod checks;
pub mod export;
mod exposition;
pub mod figures;
#[cfg(test)]
mod golden;
mod junit;
mod markdown;
mod progress;
#[cfg(test)]
mod reference_tests;
mod replay;
pub mod samples;
pub mod summary;
pub mod tables;

pub use exposition::{CONTENT_TYPE, exposition};
pub use figures::{Figures, figures};
pub use junit::junit;
pub use markdown::markdown;
pub use progress::{MessageRate, ProgressReporter};
