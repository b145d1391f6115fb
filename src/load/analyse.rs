//! Analysis of several runs: objectives and metrics of records, statistics, comparisons, the search for the highest
//! rate, calibrations, and the experiments that make the runs.

pub mod calibration;
pub(crate) mod calibrator;
pub mod compare;
pub(crate) mod experiment;
pub mod objective;
pub mod pairs;
pub mod search;
pub mod statistics;

pub use calibrator::calibrate;
pub use experiment::{Baseline, Experiment, Measures, Progress, Results, run_experiment, run_experiment_on};
