//! The search for the first commit of a history at which a metric is worse: GOOD against BAD, then bisection. The next pair
//! depends on the results only; the caller makes the measurements.
//!
//! First the pairs of GOOD and BAD show that BAD is worse by more than the threshold, and by how much at least. Each step then
//! compares the commit in the middle with GOOD, until one of two hypotheses is rejected: "as good as GOOD", or "worse by at
//! least that much". The share of searches that may err is divided among the tests: the first gets one part, and each
//! step as large a part of the rest as there are steps left.
//!
//! Never: a clock, I/O, a process, a source of randomness.

use super::sequential::{Rejected, SequentialTest, lower_bound, ratio};
use super::statistics::{CONFIDENCE, Estimate, pseudo_median};

/// Default maximum number of pairs of a step.
pub const PAIRS_MAX_DEFAULT: usize = 200;
/// The pairs of GOOD and BAD continue until the regression is at least this share of what it seems to be. With a larger
/// share they are more, and those of the steps fewer; near one half their sum hardly changes.
const SHARE_OF_REGRESSION: f64 = 0.5;

/// The options of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BisectOptions {
    /// The smallest relative difference of GOOD and BAD that is searched: 0.05 is 5 %.
    pub threshold: f64,
    /// Share of searches that may name a wrong commit, or answer wrongly that there is no difference.
    pub error: f64,
    /// Maximum number of pairs of a step.
    pub pairs_max: usize,
    /// Whether more of the metric is worse.
    pub more_is_worse: bool,
}

/// The next action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextPair {
    /// Measure this commit and GOOD once each, in random order.
    Measure {
        /// Index of the commit.
        commit: usize,
    },
    /// Nothing: the search has ended.
    Ended(Ending),
}

/// How a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The first commit that is worse.
    Found {
        /// Index of the commit.
        commit: usize,
        /// Indices of commits before it that could not be measured, and may be the first as well.
        or: Vec<usize>,
    },
    /// BAD is not worse than GOOD by the threshold.
    NoDifference,
    /// This many pairs did not decide on this commit.
    Undecided {
        /// Index of the commit.
        commit: usize,
    },
}

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitVerdict {
    /// As good as GOOD.
    Good,
    /// Worse.
    Bad,
    /// Undecided.
    Undecided,
}

/// A commit that was compared with GOOD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BisectStep {
    /// Index of the commit.
    pub commit: usize,
    /// Number of pairs.
    pub pairs: usize,
    /// Ratio of the commit to GOOD: the pseudo-median over the pairs.
    pub ratio: f64,
    /// The interval of the ratio, which contains the true one in 95 % of searches at least.
    pub interval: Option<(f64, f64)>,
    /// The result.
    pub verdict: CommitVerdict,
}

/// A search in progress. Make the pair that [`next_pair`](Bisection::next_pair) returns, then pass its result to
/// [`record`](Bisection::record), or [`skip`](Bisection::skip) the commit.
#[derive(Clone, Debug)]
pub struct Bisection {
    options: BisectOptions,
    /// Logarithm of the threshold.
    threshold: f64,
    /// The remaining error rate for the next tests.
    error_left: f64,
    /// Number of commits that are known to be good, all at the beginning.
    good: usize,
    /// The first commit known to be bad; initially the last one.
    bad: usize,
    skipped: Vec<bool>,
    /// By how much bad commits are worse at least, as a logarithm; `None` until GOOD and BAD have been compared.
    regression: Option<f64>,
    trial: Option<Trial>,
    steps: Vec<BisectStep>,
    ending: Option<Ending>,
}

/// A commit that is being compared.
#[derive(Clone, Debug)]
struct Trial {
    commit: usize,
    test: SequentialTest,
    error: f64,
    /// How many times as bad as GOOD, as logarithms.
    logs: Vec<f64>,
    rejected: Option<Rejected>,
}

impl Bisection {
    /// A search among `commits` commits after GOOD, at least one, of which the last is BAD.
    pub fn new(commits: usize, options: BisectOptions) -> Bisection {
        let commits = commits.max(1);
        let bad = commits - 1;
        let threshold = options.threshold.ln_1p();
        let error = options.error / (steps_for(commits) + 1) as f64;
        Bisection {
            options,
            threshold,
            error_left: options.error - error,
            good: 0,
            bad,
            skipped: vec![false; commits],
            regression: None,
            trial: Some(Trial::new(bad, (threshold, threshold), error)),
            steps: Vec::new(),
            ending: None,
        }
    }

    /// The next pair.
    pub fn next_pair(&mut self) -> NextPair {
        if let Some(ending) = &self.ending {
            return NextPair::Ended(ending.clone());
        }
        if let Some(trial) = &self.trial {
            return NextPair::Measure { commit: trial.commit };
        }
        let Some(commit) = self.middle() else {
            let or = (self.good..self.bad).collect();
            return self.end(Ending::Found { commit: self.bad, or });
        };
        let error = self.error_left / steps_for(self.bad - self.good + 1) as f64;
        self.error_left -= error;
        let worse = self.regression.unwrap_or(self.threshold);
        self.trial = Some(Trial::new(commit, (0.0, worse), error));
        NextPair::Measure { commit }
    }

    fn end(&mut self, ending: Ending) -> NextPair {
        self.ending = Some(ending.clone());
        NextPair::Ended(ending)
    }

    /// The commit next to the middle that can be measured.
    fn middle(&self) -> Option<usize> {
        // Of an even number, the later one: its predecessor is the end of the good half.
        let middle = (self.good + self.bad) / 2;
        (self.good..self.bad)
            .filter(|commit| !self.skipped[*commit])
            .min_by_key(|commit| commit.abs_diff(middle))
    }

    /// Takes the values of a pair, both above zero, and returns the step if that decided it.
    pub fn record(&mut self, good: f64, commit: f64) -> Option<BisectStep> {
        let trial = self.trial.as_mut()?;
        let times_as_bad = if self.options.more_is_worse { commit / good } else { good / commit };
        trial.add(times_as_bad.ln());
        let is_last = trial.logs.len() >= self.options.pairs_max;
        let is_first = self.regression.is_none();
        let verdict = match trial.rejected {
            Some(Rejected::High) => CommitVerdict::Good,
            Some(Rejected::Low) if is_first => {
                // The bound is above the threshold already, since that was rejected.
                let least = lower_bound(&trial.logs, trial.error).unwrap_or(0.0).max(self.threshold);
                let seems = pseudo_median(&trial.logs)?;
                if least < SHARE_OF_REGRESSION * seems && !is_last {
                    return None;
                }
                self.regression = Some(least);
                CommitVerdict::Bad
            }
            Some(Rejected::Low) => CommitVerdict::Bad,
            None if is_last => CommitVerdict::Undecided,
            None => return None,
        };
        let trial = self.trial.take()?;
        match verdict {
            CommitVerdict::Bad => self.bad = trial.commit,
            CommitVerdict::Good if is_first => self.ending = Some(Ending::NoDifference),
            CommitVerdict::Good => self.good = trial.commit + 1,
            CommitVerdict::Undecided => self.ending = Some(Ending::Undecided { commit: trial.commit }),
        }
        let step = self.step_of(&trial, verdict)?;
        self.steps.push(step);
        Some(step)
    }

    /// The commit cannot be measured. Returns `false` if that is BAD itself, without which there is no search.
    pub fn skip(&mut self) -> bool {
        if self.regression.is_none() {
            return false;
        }
        if let Some(trial) = self.trial.take() {
            self.skipped[trial.commit] = true;
            // Its pairs decided nothing.
            self.error_left += trial.error;
        }
        true
    }

    /// The commits that were compared so far.
    pub fn steps(&self) -> &[BisectStep] {
        &self.steps
    }

    /// The commits among which the first bad one is.
    pub fn candidates(&self) -> std::ops::RangeInclusive<usize> {
        self.good..=self.bad
    }

    /// Maximum number of remaining steps, if every commit can be measured.
    pub fn steps_left(&self) -> usize {
        steps_for(self.bad - self.good + 1)
    }

    /// By how much a bad commit is worse than GOOD at least: 1.1 is 10 %. `None` before BAD was compared.
    pub fn regression(&self) -> Option<f64> {
        self.regression.map(f64::exp)
    }

    fn step_of(&self, trial: &Trial, verdict: CommitVerdict) -> Option<BisectStep> {
        let found = ratio(&trial.logs, 1.0 - CONFIDENCE);
        let value = pseudo_median(&trial.logs)?.exp();
        let Estimate { value, low, high } = found.unwrap_or(Estimate { value, low: value, high: value });
        let (ratio, low, high) = if self.options.more_is_worse {
            (value, low, high)
        } else {
            (1.0 / value, 1.0 / high, 1.0 / low)
        };
        let interval = found.map(|_| (low, high));
        Some(BisectStep { commit: trial.commit, pairs: trial.logs.len(), ratio, interval, verdict })
    }
}

impl Trial {
    fn new(commit: usize, (low, high): (f64, f64), error: f64) -> Trial {
        let test = SequentialTest::new(low, high, error);
        Trial { commit, test, error, logs: Vec::new(), rejected: None }
    }

    fn add(&mut self, log: f64) {
        self.logs.push(log);
        // The first decision counts; further pairs only say more about the size.
        if self.rejected.is_none() {
            self.rejected = self.test.add(log);
        }
    }
}

/// Number of steps that find one of this many commits.
fn steps_for(commits: usize) -> usize {
    commits.next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests;
