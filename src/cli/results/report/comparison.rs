//! Two sides of a page compared, as `echoring compare` does.

use serde_json::Value;

use super::axis::Axis;
use super::run::Run;
use super::svg::{Chart, Line, NOBODY, Stroke};
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

/// The name of the chart of differences.
pub(super) const DIFFERENCES: &str = "differences";
/// Metrics of the chart at most: as many as its axis has names for.
const METRICS_MAX: usize = 12;

/// The ratio of side B to side A for each metric, with its interval.
pub(super) fn chart(comparisons: &[Comparison]) -> Option<Chart> {
    let found = comparisons.first()?;
    let known = found.metrics.iter().filter_map(|metric| {
        Some((metric.metric.as_str(), metric.ratio?, metric.ratio_low?, metric.ratio_high?))
    });
    let known: Vec<_> = known.filter(|(_, ratio, ..)| *ratio > 0.0).take(METRICS_MAX).collect();
    let change = |ratio: f64| 100.0 * (ratio - 1.0);
    let most = known.iter().flat_map(|(_, ratio, low, high)| [ratio, low, high]).map(|it| change(*it).abs());
    let x = Axis::around_zero("B compared with A, in percent", most.fold(0.0, f64::max));
    let mut lines =
        vec![Line::new(NOBODY, Stroke::Dotted, vec![vec![(0.0, 0.0), (0.0, known.len() as f64)]])];
    let mut ticks = Vec::new();
    for (at, (name, ratio, low, high)) in known.iter().rev().enumerate() {
        let at = at as f64 + 0.5;
        ticks.push((at, short(name).to_owned()));
        lines.push(Line::new(1, Stroke::Solid, vec![vec![(change(*low), at), (change(*high), at)]]));
        lines.push(Line { marked: true, ..Line::new(1, Stroke::Solid, vec![vec![(change(*ratio), at)]]) });
    }
    let y = Axis { label: "metric".to_owned(), from: 0.0, until: known.len() as f64, ticks };
    let confidence = 100.0 * found.confidence;
    let caption = format!(
        "The dot is the difference of B from A, the line its interval (all together {confidence:.0} %). An interval that \
         crosses 0 may be chance. The rate is that of messages, and more of it is better; more time is worse."
    );
    (!known.is_empty())
        .then(|| Chart { lines, ..Chart::new(DIFFERENCES, "Differences of B from A", caption, x, y) })
}

/// A name that fits beside an axis on a phone.
fn short(metric: &str) -> &str {
    match metric {
        "messages_per_s" => "rate",
        "cpu_per_message" => "CPU time",
        other => other,
    }
}

/// Tells the runs of the second side; `None` if there are not two.
pub(super) fn side_of(runs: &[Run]) -> Option<fn(&Run) -> bool> {
    fn is_b(run: &Run) -> bool {
        run.record.repetition.as_ref().is_some_and(|repetition| repetition.side == "b")
    }
    if runs.iter().any(|run| run.is_rival) {
        return Some(|run| run.is_rival);
    }
    let files = runs.iter().map(|run| run.file + 1).max().unwrap_or(0);
    match (files, runs.iter().any(is_b)) {
        (1, true) => Some(is_b),
        (2, false) => Some(|run| run.file == 1),
        _ => None,
    }
}
