//! Comparisons of the capacities that a search on each side has found.
//!
//! The other figures of their records are those of the runs at the lower ends, each at its own load.
//!
//! Never: a verdict by a point within an interval.

use serde_json::Value;

use super::{unknown, verdict_of};
use crate::analyse::objective::Metric;
use crate::analyse::statistics::Estimate;
use crate::record::comparison::{ComparisonVerdict, MetricComparison, Spread};

/// The objective of the search in a record.
pub(super) fn objective_of(run: &Value) -> Option<&Value> {
    run["search"].get("objective").filter(|objective| !objective.is_null())
}

/// The chance that the answers of both searches are right.
pub(super) fn confidence(a: &Value, b: &Value) -> f64 {
    let doubt = |run: &Value| 1.0 - run["search"]["confidence"].as_f64().unwrap_or(0.0);
    (1.0 - doubt(a) - doubt(b)).max(0.0)
}

/// Their capacities, whose ratio lies between the quotients of the ends of their intervals.
pub(super) fn capacities(metric: &Metric, (a, b): (&Value, &Value), threshold: f64) -> MetricComparison {
    let ends =
        |run: &Value| ["low", "high"].map(|end| run["search"][end].as_f64().filter(|load| *load > 0.0));
    let spread = |[low, high]: [Option<f64>; 2]| {
        let median = low.zip(high).map(|(low, high)| (low * high).sqrt()).or(low).or(high)?;
        Some(Spread { median, least: low.unwrap_or(median), most: high.unwrap_or(median), low, high })
    };
    let (of_a, of_b) = (ends(a), ends(b));
    let quotient = |of_b: Option<f64>, of_a: Option<f64>| Some(of_b? / of_a?);
    let (low, high) = (quotient(of_b[0], of_a[1]), quotient(of_b[1], of_a[0]));
    let (a, b) = (spread(of_a), spread(of_b));
    let ratio = quotient(b.map(|b| b.median), a.map(|a| a.median));
    // An open end may be anywhere.
    let (from, until) = (low.unwrap_or(0.0), high.unwrap_or(f64::INFINITY));
    let found = Estimate { value: ratio.unwrap_or(1.0), low: from, high: until };
    let why = match (low, high) {
        (Some(_), Some(_)) => None,
        (None, None) => Some("the answers of the searches have no ends to compare".to_owned()),
        (None, Some(high)) => Some(format!("at most {high:.3}: the answer of a search has an open end")),
        (Some(low), None) => Some(format!("at least {low:.3}: the answer of a search has an open end")),
    };
    MetricComparison {
        a,
        b,
        ratio,
        ratio_low: low,
        ratio_high: high,
        verdict: Some(verdict_of(found, threshold, metric.more_is_better)),
        why,
        ..unknown(metric)
    }
}

/// Another figure of the runs at their lower ends, which decides nothing.
pub(super) fn undecided(finding: MetricComparison) -> MetricComparison {
    MetricComparison {
        ratio_low: None,
        ratio_high: None,
        verdict: Some(ComparisonVerdict::Undecided),
        why: Some("each at the lower end of its own search".to_owned()),
        ..finding
    }
}
