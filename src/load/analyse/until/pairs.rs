//! Two targets compared by pairs of runs until it is known which is better by more than a margin, or that neither is.
//!
//! The logarithm of the ratio is above the margin, below it, or within. Each of the four bounds that this needs has a
//! [`TestMartingale`], which may be looked at after every pair. Whatever the truth is, at most two of them could lead to a
//! wrong verdict, and each errs with at most half of the error rate.
//!
//! Never: a clock, or a claim that depends on the distribution of the noise.

use super::Goal;
use crate::analyse::compare::verdict_of;
use crate::analyse::sequential::{SideOfBound, TestMartingale, ratio};
use crate::analyse::statistics::{ERROR_SHARE, Estimate};
use crate::plan::in_words;
use crate::record::comparison::{ComparisonVerdict, MetricComparison, PairsGoal, RatioLook};

/// All goals of a comparison. Their verdicts are right together with the chance [`CONFIDENCE`](super::CONFIDENCE).
#[derive(Debug)]
pub(crate) struct PairedGoals(Vec<PairedGoal>);

/// A goal and the pairs so far.
#[derive(Debug)]
struct PairedGoal {
    goal: Goal,
    /// Chance of a wrong verdict.
    error: f64,
    /// Logarithms of the ratios of the second target to the first.
    logs: Vec<f64>,
    /// Evidence that the ratio is above the margin, or not above it.
    upper: [TestMartingale; 2],
    /// Evidence that it is below the margin, or not below it.
    lower: [TestMartingale; 2],
    found: Option<(Region, u32)>,
    course: Vec<RatioLook>,
}

/// Where the ratio is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Region {
    Above,
    Within,
    Below,
}

impl PairedGoals {
    pub(crate) fn new(goals: &[Goal]) -> PairedGoals {
        let error = ERROR_SHARE / goals.len().max(1) as f64;
        PairedGoals(goals.iter().map(|goal| PairedGoal::new(goal.clone(), error)).collect())
    }

    /// Takes the values of the next pair of runs, by goal. A pair without values above zero tells nothing.
    pub(crate) fn add(&mut self, values: impl Fn(&Goal) -> Option<(f64, f64)>) {
        for paired in &mut self.0 {
            let log = values(&paired.goal).map(|(a, b)| (b / a).ln());
            if let Some(log) = log.filter(|log| log.is_finite()) {
                paired.add(log);
                paired.look();
            }
        }
    }

    /// Whether all verdicts are known.
    pub(crate) fn is_decided(&self) -> bool {
        self.0.iter().all(|paired| paired.found.is_some())
    }

    /// The results so far, in a line.
    pub(crate) fn line(&self) -> String {
        let each = self.0.iter().map(|paired| {
            let name = &paired.goal.metric.name;
            match paired.course.last() {
                Some(RatioLook { ratio, low, high, .. }) => {
                    let verdict = in_words(paired.verdict().name());
                    format!("{name} B / A {ratio:.3} ({low:.3} to {high:.3}), {verdict}")
                }
                None => format!("{name} has no interval yet"),
            }
        });
        each.collect::<Vec<String>>().join("; ")
    }

    /// Replaces ratio and verdict of a metric by those that this test found.
    pub(crate) fn conclude(&self, finding: &mut MetricComparison) {
        let Some(paired) = self.0.iter().find(|paired| paired.goal.metric.name == finding.metric) else {
            return;
        };
        let found = paired.estimate();
        if let Some(found) = found {
            finding.ratio = Some(found.value);
        }
        finding.ratio_low = found.map(|found| found.low);
        finding.ratio_high = found.map(|found| found.high);
        finding.verdict = Some(paired.verdict());
        let pairs = paired.logs.len();
        finding.why = found.is_none().then(|| format!("too few pairs with a ratio for an interval: {pairs}"));
    }

    /// How the pairs ended, by goal.
    pub(crate) fn ends(self) -> Vec<PairsGoal> {
        let end = |paired: PairedGoal| PairsGoal {
            expression: paired.goal.to_string(),
            metric: paired.goal.metric.name.clone(),
            known_after: paired.found.map(|(_, pairs)| pairs),
            course: paired.course,
        };
        self.0.into_iter().map(end).collect()
    }
}

impl PairedGoal {
    fn new(goal: Goal, error: f64) -> PairedGoal {
        let margin = goal.width.ln_1p();
        let both = |bound| {
            [TestMartingale::new(bound, SideOfBound::Above), TestMartingale::new(bound, SideOfBound::Below)]
        };
        PairedGoal {
            goal,
            error,
            logs: Vec::new(),
            upper: both(margin),
            lower: both(-margin),
            found: None,
            course: Vec::new(),
        }
    }

    /// Takes the logarithm of a ratio. The first decision counts; further pairs only say more about the size.
    fn add(&mut self, log: f64) {
        self.logs.push(log);
        if self.found.is_some() {
            return;
        }
        self.upper.iter_mut().chain(&mut self.lower).for_each(|test| test.add(log));
        let [above_upper, below_upper] = self.upper.each_ref().map(|test| test.rejects(self.error / 2.0));
        let [above_lower, below_lower] = self.lower.each_ref().map(|test| test.rejects(self.error / 2.0));
        let region = match () {
            () if above_upper => Some(Region::Above),
            () if below_lower => Some(Region::Below),
            () if below_upper && above_lower => Some(Region::Within),
            () => None,
        };
        self.found = region.map(|region| (region, self.logs.len() as u32));
    }

    fn look(&mut self) {
        let pairs = self.logs.len() as u32;
        self.course.extend(self.estimate().map(|found| RatioLook {
            pairs,
            ratio: found.value,
            low: found.low,
            high: found.high,
        }));
    }

    /// The ratio with its interval, which supports the verdict.
    fn estimate(&self) -> Option<Estimate> {
        let Estimate { value, low, high } = ratio(&self.logs, self.error)?;
        let (least, most) = (1.0 / (1.0 + self.goal.width), 1.0 + self.goal.width);
        Some(match self.found {
            Some((Region::Above, _)) => Estimate { value, low: low.max(most), high },
            Some((Region::Below, _)) => Estimate { value, low, high: high.min(least) },
            Some((Region::Within, _)) => Estimate { value, low: low.max(least), high: high.min(most) },
            None => Estimate { value, low, high },
        })
    }

    fn verdict(&self) -> ComparisonVerdict {
        let more_is_better = self.goal.metric.more_is_better;
        match (self.found, self.estimate()) {
            (Some((Region::Within, _)), _) => ComparisonVerdict::Same,
            (Some((region, _)), _) if more_is_better == (region == Region::Above) => {
                ComparisonVerdict::Better
            }
            (Some(_), _) => ComparisonVerdict::Worse,
            (None, Some(found)) => verdict_of(found, self.goal.width, more_is_better),
            (None, None) => ComparisonVerdict::Undecided,
        }
    }
}

#[cfg(test)]
mod tests;
