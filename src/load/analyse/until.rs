//! Runs that end when a quantile is known as exactly as asked, and pairs of runs that end when the verdict is known.
//!
//! Never: a clock, or a claim about what recurs less often than the run is long.

pub(crate) mod pairs;
mod sequence;

pub(crate) use sequence::BEYOND_MIN;

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;

use super::objective::{Dimension, Metric};
use super::statistics::{CONFIDENCE, Estimate};
use crate::engine::{Outcome, RunProgress, RunStage};
use crate::measure::LiveResults;
use crate::plan::Workload;
use crate::record::until::{QuantileLook, Reached, Until};
use sequence::Sequence;

/// Widths that a goal may have, as shares of the value: values are exact to a thousandth, and beyond a half an interval
/// says little.
const WIDTHS: std::ops::RangeInclusive<f64> = 0.005..=0.5;
/// How long after the end of a block it is taken, in seconds: the threads send their parts at its end.
const SETTLED_S: f64 = 0.5;
const EXAMPLE: &str = "expected a time or a rate and 0.5% to 50%, such as 'p99±5%' or p99+-5%";

/// A metric and a width: `p99±5%`. For one run it says how exactly a quantile of the response time is to be known, for two
/// targets which difference matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    words: String,
    metric: Metric,
    /// The share of response times below, if the metric is a quantile of theirs.
    share_below: Option<f64>,
    /// How far the ends of the interval may be from the value, or how far the ratio of two targets from 1, as a share.
    width: f64,
}

impl Goal {
    /// Why runs of this load do not have the quantile; `None` if they do.
    pub fn missing_in(&self, load: &Workload) -> Option<&'static str> {
        self.metric.missing_in(load)
    }

    /// Whether one run can have it: only blocks of response times have an interval.
    pub fn is_of_one_run(&self) -> bool {
        self.share_below.is_some()
    }

    /// What is to be known.
    pub fn metric(&self) -> &Metric {
        &self.metric
    }

    /// The width, as a share.
    pub fn width(&self) -> f64 {
        self.width
    }
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(words: &str) -> Result<Goal, String> {
        let words = words.trim();
        let (name, width) = words.split_once('±').or_else(|| words.split_once("+-")).ok_or(EXAMPLE)?;
        let metric: Metric = name.trim().parse()?;
        let is_measured = !matches!(metric.dimension, Dimension::Count | Dimension::Share | Dimension::Bytes);
        if !is_measured || metric.needs_search() {
            return Err(EXAMPLE.to_owned());
        }
        let share_below = metric.share_below.filter(|share| metric.is_live() && *share > 0.0);
        let percent =
            width.trim().strip_suffix('%').and_then(|percent| percent.trim_end().parse::<f64>().ok());
        let width =
            percent.map(|percent| percent / 100.0).filter(|width| WIDTHS.contains(width)).ok_or(EXAMPLE)?;
        Ok(Goal { words: words.to_owned(), metric, share_below, width })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// Follows runs, and ends each when all goals are reached.
#[derive(Debug)]
pub struct UntilWatch {
    goals: Vec<Goal>,
    run: Run,
    /// The results of the runs that are over.
    done: Vec<Until>,
}

/// A run so far.
#[derive(Debug, Default)]
struct Run {
    sequence: Sequence,
    /// The response times of the goals at the latest look, and its time in seconds.
    found: Vec<Option<Estimate>>,
    /// The same at all looks that had an interval.
    courses: Vec<Vec<QuantileLook>>,
    found_s: u64,
    is_reached: bool,
}

impl UntilWatch {
    /// Without goals it does nothing.
    pub fn new(goals: Vec<Goal>) -> UntilWatch {
        UntilWatch { goals, run: Run::default(), done: Vec::new() }
    }

    /// Looks at the progress of a run, and ends its measured time when all goals are reached.
    pub fn observe(&mut self, moment: &RunProgress<'_>) {
        if self.goals.is_empty() {
            return;
        }
        match moment.stage {
            RunStage::Connecting | RunStage::WarmingUp => self.run = Run::default(),
            RunStage::Measuring => {
                self.run.take(moment.elapsed.as_secs_f64() - SETTLED_S, moment.live, &self.goals);
                if let Some(end) = moment.end.filter(|_| self.run.is_reached) {
                    end.store(true, Ordering::Relaxed);
                }
            }
            RunStage::Draining => {}
            RunStage::Done => {
                let run = std::mem::take(&mut self.run);
                self.done.push(run.result(&self.goals));
            }
        }
    }

    /// Adds to the records of these runs, which it has observed in this order, how exactly the quantiles are known.
    pub fn note(self, outcomes: &mut [Outcome]) {
        for (outcome, until) in outcomes.iter_mut().zip(self.done) {
            outcome.record.until = Some(until);
        }
    }
}

impl Run {
    /// Takes the results after this number of seconds.
    fn take(&mut self, elapsed_s: f64, live: &LiveResults, goals: &[Goal]) {
        if self.is_reached || elapsed_s < self.sequence.next_s() as f64 {
            return;
        }
        let mut block: Histogram<u64> = live.settled.clone().into();
        if block.subtract(self.sequence.whole()).is_err() {
            // The counts of results never decrease.
            return;
        }
        if self.sequence.add(&block) {
            self.look(goals);
            // Those that are outstanding may be the slow ones.
            let all = live.response();
            self.is_reached = goals.iter().zip(&self.found).all(|(goal, found)| {
                let seen = all.as_ref().zip(goal.share_below);
                let seen = seen.map(|(all, share_below)| all.value_at_quantile(share_below) as f64);
                found.zip(seen).is_some_and(|(found, seen)| {
                    width(&found) <= goal.width && (found.low..=found.high).contains(&seen)
                })
            });
        }
    }

    fn look(&mut self, goals: &[Goal]) {
        let error = self.sequence.look();
        let found = goals.iter().map(|goal| self.sequence.quantile(goal.share_below?, error));
        self.found = found.collect();
        self.found_s = self.sequence.seconds;
        self.courses.resize(goals.len(), Vec::new());
        for (course, found) in self.courses.iter_mut().zip(&self.found) {
            course.extend(found.map(|found| QuantileLook {
                at_s: self.found_s,
                value_ns: found.value as u64,
                low_ns: found.low as u64,
                high_ns: found.high as u64,
            }));
        }
    }

    /// The result at the end of the run, which is a look too.
    fn result(mut self, goals: &[Goal]) -> Until {
        if self.found.is_empty() || self.found_s < self.sequence.seconds {
            self.look(goals);
        }
        let courses = std::mem::take(&mut self.courses);
        let each = goals.iter().zip(&self.found).zip(courses).map(|((goal, found), course)| Reached {
            expression: goal.to_string(),
            reached: self.is_reached || found.is_some_and(|found| width(&found) <= goal.width),
            value_ns: found.map(|found| found.value as u64),
            low_ns: found.map(|found| found.low as u64),
            high_ns: found.map(|found| found.high as u64),
            width: found.as_ref().map(width),
            course,
        });
        let goals: Vec<Reached> = each.collect();
        Until {
            confidence: CONFIDENCE,
            unreached: goals.iter().filter(|goal| !goal.reached).count() as u64,
            at_s: self.found_s,
            blocks: self.sequence.blocks() as u64,
            looks: self.sequence.looks,
            goals,
        }
    }
}

/// The larger distance of an end from the value, as a share of the value.
fn width(found: &Estimate) -> f64 {
    (found.high - found.value).max(found.value - found.low) / found.value.max(1.0)
}

#[cfg(test)]
mod tests;
