//! Analysis of several runs: objectives and metrics of records, statistics, comparisons, the search for the highest
//! rate, and the experiments that make the runs.

pub mod compare;
pub(crate) mod experiment;
pub mod objective;
pub mod pairs;
pub mod search;
pub mod statistics;

pub use experiment::{Baseline, Experiment, Measures, Progress, Results, run_experiment, run_experiment_on};
