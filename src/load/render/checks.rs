//! The checks of a run, for test reports.

use crate::analyse::objective::Metric;
use crate::engine::Outcome;
use crate::record::{FailIf, Record};
use crate::render::summary;

/// One check of a run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// The subject of the check.
    pub(super) name: String,
    /// Why it failed, in one line.
    pub(super) failure: Option<String>,
}

/// All checks of a run, passed ones too.
pub(super) fn checks(outcome: &Outcome) -> Vec<Check> {
    let record = &outcome.record;
    let mut checks = vec![
        Check { name: "integrity".to_owned(), failure: record.is_broken().then(|| summary::broken(record)) },
        Check { name: "schedule".to_owned(), failure: outcome.is_late().then(|| summary::saturated(record)) },
    ];
    checks.extend(record.fail_if.iter().map(|judged| Check {
        name: format!("--fail-if {}", judged.expression),
        failure: judged.failed.then(|| seen(judged)),
    }));
    checks.extend(record.aborted_by.iter().map(|condition| Check {
        name: format!("--abort-if {condition}"),
        failure: Some(format!("it ended the run after {:.1} s", record.duration_s)),
    }));
    checks
}

/// Whether all checks passed, in a few words.
pub(super) fn verdict(checks: &[Check]) -> String {
    match checks.iter().filter(|check| check.failure.is_some()).count() {
        0 => "passed".to_owned(),
        failed => format!("{failed} of {} checks failed", checks.len()),
    }
}

/// The values of a condition's metrics.
fn seen(judged: &FailIf) -> String {
    let shown = |(name, value): (&String, &Option<f64>)| match (value, name.parse::<Metric>()) {
        (Some(value), Ok(metric)) => format!("{name} is {}", metric.dimension.shown(*value)),
        (Some(value), Err(_)) => format!("{name} is {value}"),
        (None, _) => format!("{name} is not available for this run"),
    };
    judged.seen.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The label of a run, or its mode.
pub(super) fn title(record: &Record) -> String {
    record.label.clone().unwrap_or_else(|| summary::headline(record))
}
