//! Analysis of several runs: objectives and metrics of records, statistics, comparisons, the searches for the capacity
//! of a server and for the commit that made a metric worse, calibrations, and the experiments that make the runs.

pub mod bisect;
pub mod calibration;
pub(crate) mod calibrator;
pub mod capacity;
pub mod compare;
pub(crate) mod experiment;
pub mod objective;
pub mod pairs;
pub(crate) mod sequential;
pub mod statistics;
pub mod until;

pub use calibrator::calibrate;
pub use experiment::{
    Baseline, Experiment, Measures, PairedOptions, Progress, Results, run_experiment, run_experiment_on,
};
