//! Analysis of several runs: objectives and metrics of records, statistics, comparisons, the search for the capacity
//! of a server, and the experiments that make the runs.

pub mod capacity;
pub mod compare;
pub(crate) mod experiment;
pub mod objective;
pub mod pairs;
pub(crate) mod sequential;
pub mod statistics;
pub mod until;

pub use experiment::{
    Baseline, Experiment, PairedOptions, Progress, Results, run_experiment, run_experiment_on,
};
