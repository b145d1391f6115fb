//! Two targets measured in turn, in pairs of runs, until it is known which is better.
//!
//! The order of each pair is drawn anew: the test of the pairs relies on it.

use std::time::{Duration, Instant};

use super::{Baseline, Progress, Results, compare_all, count};
use crate::analyse::until::Goal;
use crate::analyse::until::pairs::PairedGoals;
use crate::engine::{Measures, Outcome};
use crate::plan::{Refused, Workload};
use crate::record::Repetition;
use crate::record::comparison::{Basis, PairsUntil};
use echoring_proto::random::{SplitMix64, mix};

/// Pairs that are made until their verdicts are known.
#[derive(Debug)]
pub struct PairedOptions {
    /// The second target.
    pub against: Baseline,
    /// What is compared, and which difference matters: the same for all.
    pub goals: Vec<Goal>,
    /// The longest time for each load. A pair is begun only if it is likely to end by then.
    pub longest: Duration,
}

/// The two targets.
pub(super) type Targets<'a> = [(&'a dyn Measures, &'static str); 2];

/// Compares two targets under each load.
pub(super) fn compare(
    targets: Targets<'_>,
    workloads: &[Workload],
    (goals, longest): (&[Goal], Duration),
    show: &mut dyn FnMut(Progress<'_>),
) -> Results {
    let mut results = Results::default();
    for load in workloads {
        let mut pairs = Pairs { targets, load, order: SplitMix64::new(load.seed), outcomes: Vec::new() };
        let mut paired = PairedGoals::new(goals);
        let ended = pairs.make(&mut paired, longest, show);
        let (made, seconds) = match ended {
            Ok(made) => made,
            Err(refused) => {
                results.refused = Some(refused);
                results.outcomes.append(&mut pairs.outcomes);
                return results;
            }
        };
        for outcome in &mut pairs.outcomes {
            outcome.record.repetition.iter_mut().for_each(|repetition| repetition.of = made);
        }
        let metrics = goals.iter().map(|goal| goal.metric().clone()).collect();
        let margin = goals.iter().map(Goal::width).fold(0.0, f64::max);
        let mut found = compare_all(&pairs.outcomes, metrics, margin);
        if let Some(found) = found.first_mut() {
            found.basis = Basis::Pairs;
            found.metrics.iter_mut().for_each(|finding| paired.conclude(finding));
            let decided = paired.is_decided();
            found.until = Some(PairsUntil { pairs: made, seconds, decided, goals: paired.ends() });
        }
        results.comparison.append(&mut found);
        results.outcomes.append(&mut pairs.outcomes);
    }
    results
}

/// The pairs of a load.
struct Pairs<'a> {
    targets: Targets<'a>,
    load: &'a Workload,
    order: SplitMix64,
    outcomes: Vec<Outcome>,
}

impl Pairs<'_> {
    /// Makes pairs until the verdicts are known or the time is up. Returns their number and the seconds that they took.
    fn make(
        &mut self,
        paired: &mut PairedGoals,
        longest: Duration,
        show: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(u32, f64), Refused> {
        let (began, mut longest_pair) = (Instant::now(), Duration::ZERO);
        let mut made = 0;
        while made == 0 || began.elapsed() + longest_pair <= longest {
            let since = Instant::now();
            let Some([a, b]) = self.pair(made + 1, show)? else { break };
            longest_pair = longest_pair.max(since.elapsed());
            made += 1;
            paired.add(|goal| goal.metric().of(&a).zip(goal.metric().of(&b)));
            show(Progress::Note(&format!("pair {}: {}", count(u64::from(made)), paired.line())));
            if paired.is_decided() {
                break;
            }
        }
        Ok((made, began.elapsed().as_secs_f64()))
    }

    /// Measures both targets once. Returns their records, or `None` if the user has stopped that.
    fn pair(
        &mut self,
        number: u32,
        show: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Option<[serde_json::Value; 2]>, Refused> {
        let mut records = [serde_json::Value::Null, serde_json::Value::Null];
        let first = usize::from(self.order.below(2) == 1);
        // Both get the same payloads and arrivals; no two pairs share topics.
        let seed = mix(self.load.seed ^ u64::from(number));
        for at in [first, 1 - first] {
            let (target, side) = self.targets[at];
            let load = Workload { seed, ..self.load.clone() };
            let mut outcome = target.measure(load, &mut |moment| show(Progress::Run(moment)))?;
            outcome.record.repetition = Some(Repetition { number, of: number, side: side.to_owned() });
            records[at] = outcome.record.value();
            self.outcomes.push(outcome);
            if target.is_stopped() {
                return Ok(None);
            }
        }
        Ok(Some(records))
    }
}
