//! Comparisons of two targets, or the spread of repeated runs, as in records.

use serde::{Deserialize, Serialize};

/// The verdict on one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparisonVerdict {
    /// The second is better by more than the threshold.
    Better,
    /// The second is worse by more than the threshold.
    Worse,
    /// The second is better, perhaps by less than the threshold.
    SlightlyBetter,
    /// The second is worse, perhaps by less than the threshold.
    SlightlyWorse,
    /// The difference is below the threshold, and may be zero.
    Same,
    /// The interval allows several of these, or there is none, or single runs may not decide.
    Undecided,
}

impl ComparisonVerdict {
    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            ComparisonVerdict::Better => "better",
            ComparisonVerdict::Worse => "worse",
            ComparisonVerdict::SlightlyBetter => "slightly better",
            ComparisonVerdict::SlightlyWorse => "slightly worse",
            ComparisonVerdict::Same => "same",
            ComparisonVerdict::Undecided => "undecided",
        }
    }
}

/// The basis of the intervals, see [`compare`](crate::analyse::compare).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Alternating runs of both targets.
    Pairs,
    /// Several runs of both that did not alternate, or several of the only target.
    Runs,
    /// The intervals of one run each.
    Intervals,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The target, as named in its records.
    pub target: String,
    /// Number of runs.
    pub runs: usize,
}

/// The values of a metric on one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// Lower end of the median's interval; `null` with too few values.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

/// One metric compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricComparison {
    /// Its name.
    pub metric: String,
    /// Unit of its values, `1` for numbers and shares.
    pub unit: String,
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// The first target's values; `null` if missing.
    pub a: Option<Spread>,
    /// The second target's values.
    pub b: Option<Spread>,
    /// Ratio of the second to the first: the pseudo-median over all pairs or runs, or the ratio of the two runs.
    pub ratio: Option<f64>,
    /// Lower end of its interval.
    pub ratio_low: Option<f64>,
    /// Its upper end.
    pub ratio_high: Option<f64>,
    /// The verdict; `null` with one target.
    pub verdict: Option<ComparisonVerdict>,
    /// Why there is no interval.
    pub why: Option<String>,
}

/// The runs of one load compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Mode of the load.
    pub mode: String,
    /// The first target.
    pub a: Side,
    /// The second; `null` when runs of one target were repeated.
    pub b: Option<Side>,
    /// The basis of the intervals.
    pub basis: Basis,
    /// The relative difference that matters: 0.05 is 5 %.
    pub threshold: f64,
    /// Confidence level at which the intervals of all metrics contain the true values.
    pub confidence: f64,
    /// The metrics that both sides have, or those of the only side.
    pub metrics: Vec<MetricComparison>,
    /// Options of the two loads that differ, so that they are hardly comparable.
    pub differences: Vec<String>,
    /// Warnings, one line each.
    pub warnings: Vec<String>,
    /// How the pairs ended, if that depended on their results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<PairsUntil>,
}

/// Pairs of runs that were made until the verdicts were known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairsUntil {
    /// Number of complete pairs.
    pub pairs: u32,
    /// Seconds that they took, with connecting, warm-up and drain.
    pub seconds: f64,
    /// Whether every verdict was known before the time was up.
    pub decided: bool,
    /// Each goal.
    pub goals: Vec<PairsGoal>,
}

/// A metric that was compared until its verdict was known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairsGoal {
    /// As given.
    pub expression: String,
    /// Its metric.
    pub metric: String,
    /// The number of pairs after which the verdict was known.
    pub known_after: Option<u32>,
    /// The ratio after each pair, from the first that has an interval.
    pub course: Vec<RatioLook>,
}

/// The ratio of the second to the first after some pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatioLook {
    /// Number of pairs.
    pub pairs: u32,
    /// The pseudo-median of their ratios.
    pub ratio: f64,
    /// Lower end of its interval; all intervals of a course contain the true value together.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// Runs compared with results that are stored under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineComparison {
    /// The name.
    pub name: String,
    /// Metrics that must not be worse.
    pub judged: Vec<String>,
    /// Load by load: the first side is the stored one, the second the runs of this file.
    pub loads: Vec<Comparison>,
}

impl BaselineComparison {
    /// The judged metrics of each load, with its mode.
    pub fn findings(&self) -> impl Iterator<Item = (&str, &MetricComparison)> {
        self.loads.iter().flat_map(|load| {
            let judged = load.metrics.iter().filter(|finding| self.judged.contains(&finding.metric));
            judged.map(|finding| (load.mode.as_str(), finding))
        })
    }
}

impl MetricComparison {
    /// By how much a metric of the second is worse, where it is, as the end of a sentence.
    pub fn worse_by(&self) -> Option<String> {
        let (low, high) = (self.ratio_low.unwrap_or(1.0), self.ratio_high.unwrap_or(1.0));
        (self.verdict == Some(ComparisonVerdict::Worse))
            .then(|| format!("{low:.3} to {high:.3} times that of"))
    }
}
