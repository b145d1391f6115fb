//! The search over loads: doubling with quick steps until one misses, bisection with full steps, and a second look at both
//! ends. The next step depends on the results only; the experiment makes the runs.
//!
//! At each load two test martingales bet on the blocks of its full steps: one against "this load does not hold", one against "it
//! does". A load is decided when one of them wins, the other does not, and each step as a whole agrees. It holds only if its
//! blocks keep their distance from the objective: near the capacity a queue is long now and short then, for longer than a
//! step. A load that several steps leave open is *unclear*; it stays within the answer. All tests together err with at most the chance [`ERROR`].
//!
//! Never: a clock, I/O, a run.

use std::collections::BTreeMap;

use crate::analyse::sequential::{SideOfBound, TestMartingale};
use crate::analyse::statistics::median;
use crate::record::search::Limit;

/// Chance that an answer is wrong.
pub(super) const ERROR: f64 = 0.05;
/// Maximum number of steps.
pub(crate) const STEPS_MAX: usize = 60;
/// Loads that are tested at most, among which the chance of an error is divided.
const LOADS_MAX: usize = 30;
/// Blocks of a step: as many as decide a load in which all agree.
pub(crate) const BLOCKS: usize = 12;
/// Full steps after which a load is unclear.
const RUNS_MAX: u32 = 3;
/// The same if none of them said anything.
const EMPTY_RUNS_MAX: u32 = 2;
/// Full steps that each end of the answer has, at different times.
const RUNS_OF_AN_END: u32 = 2;
/// Deviations of the blocks (as median of absolute ones, scaled to a normal distribution's) by which they stay below the
/// objective at a load that holds.
const DEVIATIONS: f64 = 4.0 * 1.4826;
/// Factor between loads where the search has to go on beyond unclear ones.
const STRIDE: f64 = 1.25;
/// Unclear loads after which it goes no further.
const UNCLEAR_MAX: usize = 3;

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextStep {
    /// The load.
    pub(crate) load: u64,
    /// Its length as a multiple of a full step; `None` for a quick one, which only shows the way.
    pub(crate) times: Option<u32>,
}

/// The result of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Evidence {
    /// How far each block lies beyond the objective, as a logarithm: below 0 it holds. None if the step says nothing.
    pub(crate) blocks: Vec<f64>,
    /// Whether the step as a whole holds; `None` if it says nothing.
    pub(crate) held: Option<bool>,
    /// The limit, if it does not hold.
    pub(crate) limit: Option<Limit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Misses,
    Unclear,
}

/// What is known of a load.
#[derive(Clone, Debug)]
struct Tried {
    /// Full steps.
    runs: u32,
    /// The blocks as shares of the objective.
    shares: Vec<f64>,
    against_holding: TestMartingale,
    against_missing: TestMartingale,
    /// Whether some step as a whole held, and whether some did not.
    seen: [bool; 2],
    limit: Option<Limit>,
    /// `None` while it is open.
    verdict: Option<Verdict>,
}

impl Tried {
    fn new() -> Tried {
        Tried {
            runs: 0,
            shares: Vec::new(),
            against_holding: TestMartingale::new(0.0, SideOfBound::Above),
            against_missing: TestMartingale::new(0.0, SideOfBound::Below),
            seen: [false; 2],
            limit: None,
            verdict: None,
        }
    }

    fn add(&mut self, evidence: &Evidence) {
        self.runs += 1;
        for block in &evidence.blocks {
            self.shares.push(block.exp());
            self.against_holding.add(*block);
            self.against_missing.add(*block);
        }
        if let Some(held) = evidence.held {
            self.seen[usize::from(!held)] = true;
        }
        self.limit = evidence.limit.or(self.limit);
        let error = ERROR / LOADS_MAX as f64;
        let (holds, misses) = (self.against_missing.rejects(error), self.against_holding.rejects(error));
        self.verdict = match (holds, misses, self.seen) {
            (true, false, [true, false]) if self.keeps_distance() => Some(Verdict::Holds),
            (false, true, [false, true]) => Some(Verdict::Misses),
            (.., [false, false]) => (self.runs >= EMPTY_RUNS_MAX).then_some(Verdict::Unclear),
            _ => (self.runs >= RUNS_MAX).then_some(Verdict::Unclear),
        };
    }

    fn keeps_distance(&self) -> bool {
        let Some(middle) = median(&self.shares) else { return false };
        let deviations: Vec<f64> = self.shares.iter().map(|share| (share - middle).abs()).collect();
        median(&deviations).is_some_and(|deviation| middle + DEVIATIONS * deviation < 1.0)
    }
}

/// A search in progress. Make the step that [`next_step`](CapacitySearch::next_step) returns, then pass its result to
/// [`tell`](CapacitySearch::tell).
#[derive(Clone, Debug)]
pub(crate) struct CapacitySearch {
    start: u64,
    least: u64,
    most: u64,
    precision: f64,
    tried: BTreeMap<u64, Tried>,
    steps: usize,
}

/// The decided loads around the capacity, and those next to them on the inner side.
#[derive(Clone, Copy, Debug, Default)]
struct Bracket {
    /// The highest load that holds, below all that do not.
    low: Option<u64>,
    /// The lowest load that does not hold, or is unclear.
    first_doubt: Option<u64>,
    /// The highest load that holds, or is unclear.
    last_doubt: Option<u64>,
    /// The lowest load that misses, above all that do not.
    high: Option<u64>,
}

impl CapacitySearch {
    /// Starts at `start` (clamped to the bounds) and stays between `least` and `most`, until the loads around the capacity
    /// are within `precision`.
    pub(crate) fn new(start: u64, (least, most): (u64, u64), precision: f64) -> CapacitySearch {
        let (least, most) = (least.max(1), most.max(least.max(1)));
        let start = start.clamp(least, most);
        CapacitySearch { start, least, most, precision, tried: BTreeMap::new(), steps: 0 }
    }

    /// The next step; `None` when the search has ended.
    pub(crate) fn next_step(&self) -> Option<NextStep> {
        let is_over =
            self.steps >= STEPS_MAX || self.tried.values().filter(|tried| tried.runs > 0).count() > LOADS_MAX;
        if is_over {
            return None;
        }
        if let Some((load, open)) = self.tried.iter().find(|(_, tried)| tried.verdict.is_none()) {
            return Some(NextStep { load: *load, times: Some(1 << open.runs.min(RUNS_MAX - 1)) });
        }
        let bracket = self.bracket();
        let beyond = self.outward(&bracket).or_else(|| self.inward(&bracket));
        beyond.or_else(|| {
            let ends = [bracket.low, bracket.high].into_iter().flatten();
            let mut unsure = ends.filter(|load| self.tried[load].runs < RUNS_OF_AN_END);
            unsure.next().map(|load| NextStep { load, times: Some(1) })
        })
    }

    /// Records the result of the step at this load.
    pub(crate) fn tell(&mut self, step: NextStep, evidence: &Evidence) {
        self.steps += 1;
        let tried = self.tried.entry(step.load).or_insert_with(Tried::new);
        if step.times.is_some() {
            if tried.runs == 0 {
                *tried = Tried::new();
            }
            return tried.add(evidence);
        }
        let holds = evidence.held == Some(true) && median(&evidence.blocks).is_some_and(|block| block < 0.0);
        tried.verdict = Some(if holds { Verdict::Holds } else { Verdict::Misses });
        tried.limit = evidence.limit;
    }

    /// The highest load that holds, by full steps.
    pub(crate) fn low(&self) -> Option<u64> {
        self.bracket().low.filter(|load| self.tried[load].runs > 0)
    }

    /// The lowest load that misses, by full steps.
    pub(crate) fn high(&self) -> Option<u64> {
        self.bracket().high.filter(|load| self.tried[load].runs > 0)
    }

    /// The limit that the lowest load that misses hits.
    pub(crate) fn limited_by(&self) -> Limit {
        let bracket = self.bracket();
        match bracket.high.and_then(|load| self.tried[&load].limit) {
            _ if self.steps >= STEPS_MAX => Limit::Steps,
            Some(limit) => limit,
            None if bracket.first_doubt.is_some() => Limit::Host,
            None => Limit::Bound,
        }
    }

    fn bracket(&self) -> Bracket {
        let with = |wanted: Verdict| {
            self.tried.iter().filter(move |(_, tried)| tried.verdict == Some(wanted)).map(|(load, _)| *load)
        };
        let open = || self.tried.iter().filter(|(_, tried)| tried.verdict.is_none()).map(|(load, _)| *load);
        let doubts = || with(Verdict::Unclear).chain(open());
        let first_doubt = with(Verdict::Misses).chain(doubts()).min();
        let last_doubt = with(Verdict::Holds).chain(doubts()).max();
        Bracket {
            low: with(Verdict::Holds).filter(|load| first_doubt.is_none_or(|doubt| *load < doubt)).max(),
            high: with(Verdict::Misses).filter(|load| last_doubt.is_none_or(|doubt| *load > doubt)).min(),
            first_doubt,
            last_doubt,
        }
    }

    /// A step beyond all loads so far, while one side has no end.
    fn outward(&self, bracket: &Bracket) -> Option<NextStep> {
        let step = |from: u64, load: u64, times: Option<u32>| {
            let load = load.clamp(self.least, self.most);
            (load != from).then_some(NextStep { load, times })
        };
        let unclear = self.tried.values().filter(|tried| tried.verdict == Some(Verdict::Unclear)).count();
        let goes_on = unclear < UNCLEAR_MAX;
        match (bracket.low, bracket.high, bracket.first_doubt, bracket.last_doubt) {
            (None, None, None, None) => Some(NextStep { load: self.start, times: None }),
            // No load holds, or none misses.
            (None, _, Some(from), None) => step(from, from / 2, None),
            (_, None, None, Some(from)) => step(from, from.saturating_mul(2), None),
            (None, _, Some(from), _) if goes_on => step(from, (from as f64 / STRIDE) as u64, Some(1)),
            (_, None, _, Some(from)) if goes_on => step(from, (from as f64 * STRIDE).ceil() as u64, Some(1)),
            _ => None,
        }
    }

    /// A step between two loads that are further apart than the precision.
    fn inward(&self, bracket: &Bracket) -> Option<NextStep> {
        let sides = [(bracket.low, bracket.first_doubt), (bracket.last_doubt, bracket.high)];
        let between = |(below, above): (Option<u64>, Option<u64>)| {
            let (below, above) = (below?, above?);
            let is_wide = above > below + 1 && above as f64 > below as f64 * (1.0 + self.precision);
            let middle = (below as f64 * above as f64).sqrt().round() as u64;
            is_wide.then(|| NextStep { load: middle.clamp(below + 1, above - 1), times: Some(1) })
        };
        sides.into_iter().find_map(between)
    }
}

#[cfg(test)]
mod tests;
