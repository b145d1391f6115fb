//! How often a plan's loads are run, and at which rates: once, as a search for the highest rate that holds an objective, or
//! repeated, in turn with another target where there is one.
//!
//! Never: counting or timing anything itself.

use serde_json::Value;

use super::compare::{self, Comparison, THRESHOLD_DEFAULT};
use super::payload::mix;
use super::plan::{Means, Pace, Plan, Refused, Target, Workload};
use super::record::Repetition;
use super::run::{Moment, Outcome, Session};
use super::search::{self, Found, Limit, Search, Step, Terms};
use super::show;
use super::statistics::Random;

/// How often, and at which rates.
#[derive(Debug)]
pub enum Scheme {
    /// Each load once.
    Once,
    /// Each load at rates that follow from what came of the ones before.
    Search(Terms),
    /// Each load so many times.
    Repeat {
        /// Runs of each load, at least 1.
        times: u32,
        /// Another target, measured as often, in turn.
        against: Option<Rival>,
    },
}

/// The second of two targets.
#[derive(Debug)]
pub struct Rival {
    /// Who is measured.
    pub target: Target,
    /// A process whose CPU time and memory are sampled.
    pub server_pid: Option<u32>,
}

/// What is seen of runs while they go on.
#[derive(Clone, Copy, Debug)]
pub enum Sight<'a> {
    /// A look at the present run, a few times a second.
    Moment(&'a Moment<'a>),
    /// Something to remember, in one line.
    Note(&'a str),
}

/// What came of all runs.
#[derive(Debug, Default)]
pub struct Results {
    /// Each run that was made; of a search the best.
    pub outcomes: Vec<Outcome>,
    /// Repeated runs, load by load.
    pub comparison: Vec<Comparison>,
    /// Why there are not more of them.
    pub refused: Option<Refused>,
}

/// Runs a plan's loads as the scheme says.
///
/// # Errors
/// When the environment forbids the first run: the server cannot be reached, ports or descriptors are too few, the driver
/// is denied. What goes wrong later ends the runs and is [`Results::refused`].
pub fn conduct(plan: Plan, scheme: Scheme, show: &mut dyn FnMut(Sight<'_>)) -> Result<Results, Refused> {
    let mut results = match scheme {
        Scheme::Once => repeat(plan, 1, None, show)?,
        Scheme::Search(terms) => search_all(plan, &terms, show)?,
        Scheme::Repeat { times, against } => {
            let mut results = repeat(plan, times, against, show)?;
            results.comparison = compare_all(&results.outcomes);
            results
        }
    };
    match results.refused.take() {
        Some(refused) if results.outcomes.is_empty() => Err(refused),
        refused => Ok(Results { refused, ..results }),
    }
}

// ---- repetitions ----

fn repeat(
    plan: Plan,
    times: u32,
    against: Option<Rival>,
    show: &mut dyn FnMut(Sight<'_>),
) -> Result<Results, Refused> {
    let Plan { target, workloads, means } = plan;
    let rival = against.map(|Rival { target, server_pid }| (target, Means { server_pid, ..means.clone() }));
    let mut sides = vec![(Session::open(target, means)?, "a")];
    if let Some((target, means)) = rival {
        sides.push((Session::open(target, means)?, "b"));
    }
    let order = Order::new(workloads.first().map_or(0, |load| load.seed));
    let mut results = Results::default();
    for number in 1..=times {
        if times > 1 {
            show(Sight::Note(&format!("repetition {number} of {times}")));
        }
        let second_first = sides.len() > 1 && order.second_first(number);
        for load in &workloads {
            for at in 0..sides.len() {
                let (session, side) = &sides[if second_first { sides.len() - 1 - at } else { at }];
                // Both of a pair get the same payloads and arrivals; no two pairs share topics.
                let seed = if number == 1 { load.seed } else { mix(load.seed ^ u64::from(number)) };
                let load = Workload { seed, ..load.clone() };
                match session.measure(load, &mut |moment| show(Sight::Moment(moment))) {
                    Ok(mut outcome) => {
                        let side = (*side).to_owned();
                        outcome.record.repetition =
                            (times > 1).then_some(Repetition { number, of: times, side });
                        results.outcomes.push(outcome);
                    }
                    Err(refused) => {
                        results.refused = Some(refused);
                        return Ok(results);
                    }
                }
                if session.is_stopped() {
                    return Ok(results);
                }
            }
        }
    }
    Ok(results)
}

/// Which target is first in each pair: at random in odd ones, and the other way round in those that follow them, so that a
/// machine that gets slower and slower favours neither.
struct Order {
    seed: u64,
}

impl Order {
    fn new(seed: u64) -> Order {
        Order { seed }
    }

    fn second_first(&self, number: u32) -> bool {
        let couple = u64::from(number.saturating_sub(1) / 2);
        let drawn = Random::new(self.seed ^ mix(couple)).below(2) == 1;
        drawn ^ number.is_multiple_of(2)
    }
}

fn compare_all(outcomes: &[Outcome]) -> Vec<Comparison> {
    let side = |wanted: &str| -> Vec<Value> {
        let own = |outcome: &&Outcome| outcome.record.repetition.as_ref().is_some_and(|r| r.side == wanted);
        outcomes.iter().filter(own).filter_map(|outcome| serde_json::to_value(&outcome.record).ok()).collect()
    };
    let metrics = compare::metrics(&compare::METRICS).unwrap_or_default();
    let (a, b) = (side("a"), side("b"));
    if b.is_empty() {
        return compare::spread(&a, &metrics);
    }
    // With no whole run of one side there is nothing to say.
    let terms = compare::Terms { metrics, threshold: THRESHOLD_DEFAULT, trust_single: false };
    compare::compare(&a, &b, &terms).unwrap_or_default()
}

// ---- the search ----

fn search_all(plan: Plan, terms: &Terms, show: &mut dyn FnMut(Sight<'_>)) -> Result<Results, Refused> {
    let Plan { target, workloads, means } = plan;
    let session = Session::open(target, means)?;
    let mut results = Results::default();
    for load in &workloads {
        let (outcome, refused) = search_one(&session, load, terms, show);
        results.outcomes.extend(outcome);
        results.refused = refused;
        if results.refused.is_some() || session.is_stopped() {
            break;
        }
    }
    Ok(results)
}

/// The best run with the search in its record; the last one when none held.
fn search_one(
    session: &Session,
    load: &Workload,
    terms: &Terms,
    show: &mut dyn FnMut(Sight<'_>),
) -> (Option<Outcome>, Option<Refused>) {
    let mut search = Search::new(terms.start, search::bounds(terms), terms.precision);
    let mut steps: Vec<Step> = Vec::new();
    let (mut best, mut last) = (None, None);
    let (mut refused, mut ended_by) = (None, None);
    while let Some(rate) = search.next_rate() {
        let duration = terms.step_time(load.duration, rate);
        let seed = mix(load.seed ^ steps.len() as u64);
        let one = Workload { pace: Pace::Rate(rate), duration, seed, ..load.clone() };
        let outcome = match session.measure(one.clone(), &mut |moment| show(Sight::Moment(moment))) {
            Ok(outcome) => outcome,
            Err(reason) => {
                (refused, ended_by) = (Some(reason), Some(Limit::Target));
                break;
            }
        };
        let step = Step::judge(&outcome, &one, rate, &terms.objective);
        show(Sight::Note(&told(load, &step)));
        if step.held && search.max_rate().is_none_or(|held| rate > held) {
            best = Some(outcome);
        } else {
            last = Some(outcome);
        }
        search.tell(rate, step.limit);
        steps.push(step);
        if session.is_stopped() {
            ended_by = Some(Limit::Interrupted);
            break;
        }
    }
    let mut outcome: Option<Outcome> = best.or(last);
    if let Some(outcome) = &mut outcome {
        outcome.record.search = Some(Found {
            objective: terms.objective.to_string(),
            precision: terms.precision,
            max_rate: search.max_rate(),
            knee: search::knee(&steps),
            limited_by: ended_by.unwrap_or_else(|| search.limited_by()),
            steps,
        });
    }
    (outcome, refused)
}

fn told(load: &Workload, step: &Step) -> String {
    let came = match &step.why {
        None => format!("held, p99 {}", show::duration(step.p99_ns)),
        Some(why) => format!("not held: {why}"),
    };
    format!("{}: {} messages/s {came}", load.mode.name(), show::count(step.rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_target_is_first_more_often_than_the_other() {
        for seed in 0..200 {
            let order = Order::new(seed);
            let first = (1..=20).filter(|number| order.second_first(*number)).count();
            assert_eq!(first, 10, "pairs two by two, one each way round");
            for couple in 0..10 {
                let (one, other) = (2 * couple + 1, 2 * couple + 2);
                assert_ne!(order.second_first(one), order.second_first(other));
            }
        }
        let starts: Vec<bool> = (0..200).map(|seed| Order::new(seed).second_first(1)).collect();
        let second = starts.iter().filter(|second_first| **second_first).count();
        assert!((60..140).contains(&second), "{second} of 200");
    }
}
