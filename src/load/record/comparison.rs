//! Comparisons of two targets, or the spread of repeated runs, as in records.

use crate::plan::declared::{part, words};

words! {
    /// The verdict on one metric.
    pub enum ComparisonVerdict {
        /// The second is better by more than the threshold
        Better => "better",
        /// The second is worse by more than the threshold
        Worse => "worse",
        /// The second is better, perhaps by less than the threshold
        SlightlyBetter => "slightly_better",
        /// The second is worse, perhaps by less than the threshold
        SlightlyWorse => "slightly_worse",
        /// The difference is below the threshold, and may be zero
        Same => "same",
        /// The interval allows several of these, or there is none, or single runs may not decide
        Undecided => "undecided",
    }
}

words! {
    /// The basis of the confidence intervals, see [`compare`](crate::analyse::compare).
    pub enum Basis {
        /// Alternating runs of both targets
        Pairs => "pairs",
        /// Several runs of both that did not alternate, or several of the only target
        Runs => "runs",
        /// The seconds of one run each
        Slices => "slices",
        /// The answers of one search for a capacity each
        Searches => "searches",
    }
}

part! {
    /// One side of a comparison.
    #[derive(Eq)]
    Side {
        /// The target, as named in its records.
        target: String,
        /// Number of runs.
        runs: usize,
    }
}

part! {
    /// The values of a metric on one side.
    #[derive(Copy)]
    Spread {
        /// The median.
        median: f64,
        /// The smallest.
        least: f64,
        /// The largest.
        most: f64,
        /// Lower end of the median's interval; `null` with too few values.
        low: Option<f64>,
        /// Its upper end.
        high: Option<f64>,
    }
}

part! {
    /// One metric compared.
    #[derive(Default)]
    MetricComparison {
        /// Its name.
        metric: String,
        /// Unit of its values, `1` for numbers and shares.
        unit: String,
        /// Whether more of it is better.
        more_is_better: bool,
        /// The first target's values; `null` if missing.
        a: Option<Spread>,
        /// The second target's values.
        b: Option<Spread>,
        /// Ratio of the second to the first: the pseudo-median over all pairs or runs, or the ratio of the two runs.
        ratio: Option<f64>,
        /// Lower end of its interval.
        ratio_low: Option<f64>,
        /// Its upper end.
        ratio_high: Option<f64>,
        /// The verdict; `null` with one target.
        verdict: Option<ComparisonVerdict>,
        /// Why there is no interval.
        why: Option<String>,
    }
}

part! {
    /// The runs of one load compared.
    Comparison {
        /// Mode of the load.
        mode: String,
        /// The first target.
        a: Side,
        /// The second; `null` when runs of one target were repeated.
        b: Option<Side>,
        /// The basis of the intervals.
        basis: Basis,
        /// The relative difference that matters: 0.05 is 5 %.
        threshold: f64,
        /// Confidence level at which the intervals of all metrics contain the true values.
        confidence: f64,
        /// The metrics that both sides have, or those of the only side.
        metrics: Vec<MetricComparison>,
        /// Options of the two loads that differ, so that they are hardly comparable.
        differences: Vec<String>,
        /// Warnings, one line each.
        warnings: Vec<String>,
        /// How the pairs ended, if that depended on their results.
        until: Option<PairsUntil>,
    }
}

part! {
    /// Pairs of runs that were made until the verdicts were known.
    PairsUntil {
        /// Number of complete pairs.
        pairs: u32,
        /// Seconds that they took, with connecting, warm-up and drain.
        seconds: f64,
        /// Whether every verdict was known before the time was up.
        decided: bool,
        /// Each goal.
        goals: Vec<PairsGoal>,
    }
}

part! {
    /// A metric that was compared until its verdict was known.
    PairsGoal {
        /// As given.
        expression: String,
        /// Its metric.
        metric: String,
        /// The number of pairs after which the verdict was known.
        known_after: Option<u32>,
        /// The ratio after each pair, from the first that has an interval.
        course: Vec<RatioLook>,
    }
}

part! {
    /// The ratio of the second to the first after some pairs.
    #[derive(Copy)]
    RatioLook {
        /// Number of pairs.
        pairs: u32,
        /// The pseudo-median of their ratios.
        ratio: f64,
        /// Lower end of its interval; all intervals of a course contain the true value together.
        low: f64,
        /// Its upper end.
        high: f64,
    }
}

impl MetricComparison {
    /// By how much a metric of the second is worse, where it is, as the end of a sentence.
    pub fn worse_by(&self) -> Option<String> {
        let by = match (self.ratio_low, self.ratio_high) {
            (Some(low), Some(high)) => format!("{low:.3} to {high:.3}"),
            (low, high) => {
                let (word, end) = if low.is_some() { ("at least", low) } else { ("at most", high) };
                format!("{word} {:.3}", end.unwrap_or(1.0))
            }
        };
        (self.verdict == Some(ComparisonVerdict::Worse)).then(|| format!("{by} times that of"))
    }
}
