//! Two sides of a page compared, as `echoring compare` does.

use serde_json::{Value, json};

use super::Run;
use echoring_load::analyse::compare::{self, CompareOptions, METRICS, THRESHOLD_DEFAULT};
use echoring_load::record::comparison::Comparison;

/// The comparisons of the runs of two files, or of the two targets that a file has; none otherwise, or if they have no load in
/// common.
pub(super) fn comparisons(runs: &[Run]) -> Vec<Comparison> {
    let is_b = |run: &Run| run.record.repetition.as_ref().is_some_and(|repetition| repetition.side == "b");
    let files = runs.iter().map(|run| run.file + 1).max().unwrap_or(0);
    let (b, a): (Vec<&Run>, Vec<&Run>) = match (files, runs.iter().any(is_b)) {
        (1, true) => runs.iter().partition(|run| is_b(run)),
        (2, false) => runs.iter().partition(|run| run.file == 1),
        _ => return Vec::new(),
    };
    let Ok(metrics) = compare::metrics(&METRICS) else { return Vec::new() };
    let options =
        CompareOptions { metrics, threshold: THRESHOLD_DEFAULT, trust_single: false, one_machine: false };
    let values = |side: Vec<&Run>| side.into_iter().map(value).collect::<Vec<Value>>();
    compare::compare(&values(a), &values(b), &options).unwrap_or_default()
}

/// The record of a run with the search that it is the result of.
fn value(run: &Run) -> Value {
    let mut record = serde_json::to_value(&run.record).unwrap_or_default();
    if let Some(search) = &run.search {
        record["search"] = json!({ "objective": search.objective, "max_rate": search.max_rate });
    }
    record
}
