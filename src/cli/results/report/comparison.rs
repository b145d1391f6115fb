//! Two sides of a page compared, as `echoring compare` does.

use serde_json::Value;

use super::run::Run;
use echoring_load::analyse::compare::{self, CompareOptions, METRICS, THRESHOLD_DEFAULT};
use echoring_load::record::comparison::Comparison;

/// The comparisons of the runs of two files, or of the two targets that a file has; none otherwise, or if they have no load in
/// common.
pub(super) fn comparisons(runs: &[Run]) -> Vec<Comparison> {
    let Some(is_b) = side_of(runs) else { return Vec::new() };
    let (b, a): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| is_b(run));
    let Ok(metrics) = compare::metrics(&METRICS) else { return Vec::new() };
    let options =
        CompareOptions { metrics, threshold: THRESHOLD_DEFAULT, trust_single: false, one_machine: false };
    let values = |side: Vec<&Run>| side.into_iter().map(|run| run.record.value()).collect::<Vec<Value>>();
    compare::compare(&values(a), &values(b), &options).unwrap_or_default()
}

/// Tells the runs of the second side; `None` if there are not two.
pub(super) fn side_of(runs: &[Run]) -> Option<fn(&Run) -> bool> {
    fn is_b(run: &Run) -> bool {
        run.record.repetition.as_ref().is_some_and(|repetition| repetition.side == "b")
    }
    let files = runs.iter().map(|run| run.file + 1).max().unwrap_or(0);
    match (files, runs.iter().any(is_b)) {
        (1, true) => Some(is_b),
        (2, false) => Some(|run| run.file == 1),
        _ => None,
    }
}
