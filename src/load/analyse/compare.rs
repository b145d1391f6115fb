//! Compares the records of two targets, or of one before and after: for each metric the ratio of B to A, its
//! confidence interval, and a verdict.
//!
//! Each interval names its basis, because the basis decides what the interval proves. *Pairs* are runs of both targets next to
//! each other in time: changes of the machine are in both and cancel out. *Runs* are repetitions that were not paired: a
//! machine that changed between them looks like a difference. *Slices* are the seconds of a single run each, whose
//! slow changes give the scatter because neighbours resemble one another. They show how steady these two runs were, not
//! how another run would differ. *Searches* are one search for a capacity on each side: the capacity lies within the interval of each
//! with its confidence, so the ratio lies between the quotients of their ends with what is left of both.
//!
//! Records are read as JSON, so those of newer versions can be compared.
//!
//! Never: a clock, I/O, or a verdict that the interval does not support.

use serde_json::{Map, Value};

use super::objective::Metric;
use super::statistics::{
    ERROR_SHARE, Estimate, INTERVALS_MIN, RUNS_MIN, independent, median, median_of, pairs_needed,
    ratio_of_pairs, ratio_of_runs, runs_needed,
};
use crate::record::comparison::{Basis, Comparison, ComparisonVerdict, MetricComparison, Side, Spread};
use intervals::{Intervals, WeightedMetric};

mod intervals;
mod searches;

/// Differences below this do not matter by default: 5 %.
pub const THRESHOLD_DEFAULT: f64 = 0.05;
/// Metrics that are compared by default.
pub const METRICS: [&str; 7] =
    ["messages_per_s", "p50", "p99", "p99.9", "kernel.p99", "cpu_per_message", CAPACITY];
/// Metrics that must not get worse by default.
pub const JUDGED: [&str; 5] = ["p50", "p99", "messages_per_s", "cpu_per_message", CAPACITY];
/// The metric in which searches are compared.
const CAPACITY: &str = "capacity";

/// Options that may differ between runs of one load.
const VARIABLE_OPTIONS: [&str; 14] = [
    "allow",
    "allow_saturated",
    "max_lateness_s",
    "seed",
    "cpus",
    "source_addresses",
    "threads",
    "duration_s",
    "warmup_s",
    "drain_s",
    "verify",
    "sequenced",
    "timestamps",
    "timestamps_why",
];
/// Those whose difference is reported.
const REPORTED_OPTIONS: [&str; 5] = ["threads", "duration_s", "warmup_s", "verify", "timestamps"];
/// Members of an environment whose difference is reported.
const REPORTED_ENVIRONMENT: [&str; 5] = ["cpu", "cpus", "kernel", "driver", "optimized"];

/// Options of a comparison.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The metrics to compare.
    pub metrics: Vec<Metric>,
    /// The relative difference that matters: 0.05 is 5 %.
    pub threshold: f64,
}

/// Compares the runs of two targets, load by load. Loads of only one target are listed in `warnings` of the first
/// comparison.
///
/// # Errors
/// One line, if the two sides have no load of the same mode in common.
pub fn compare(a: &[Value], b: &[Value], options: &CompareOptions) -> Result<Vec<Comparison>, String> {
    let (mut of_a, mut of_b) = (groups(a), groups(b));
    let matched = matched(&mut of_a, &mut of_b)?;
    let mut comparisons: Vec<Comparison> =
        matched.iter().map(|(a, b)| compare_groups(a, b, options)).collect();
    for (groups, which) in [(of_a, "A"), (of_b, "B")] {
        let alone = groups.iter().map(|group| format!("only {which} has runs of this load: {}", group.mode));
        comparisons[0].warnings.extend(alone);
    }
    Ok(comparisons)
}

type Likeness = fn(&Group<'_>, &Group<'_>) -> bool;

/// Takes the runs of the same load on both sides, or else of the same mode.
fn matched<'a>(
    of_a: &mut Vec<Group<'a>>,
    of_b: &mut Vec<Group<'a>>,
) -> Result<Vec<(Group<'a>, Group<'a>)>, String> {
    let mut matched = Vec::new();
    let has_load: Likeness = |one, other| one.load == other.load;
    let has_mode: Likeness = |one, other| one.mode == other.mode;
    for is_alike in [has_load, has_mode] {
        of_a.retain_mut(|group| {
            let Some(at) = of_b.iter().position(|other| is_alike(group, other)) else { return true };
            matched.push((std::mem::take(group), of_b.remove(at)));
            false
        });
    }
    if matched.is_empty() {
        let modes = |groups: &[Group<'_>]| {
            let names: Vec<&str> = groups.iter().map(|group| group.mode).collect();
            if names.is_empty() { "no complete run".to_owned() } else { names.join(", ") }
        };
        return Err(format!("nothing to compare: A has {}, B {}", modes(of_a), modes(of_b)));
    }
    Ok(matched)
}

/// The spread of the runs of one target, load by load. Loads with a single run are omitted.
pub fn spread(runs: &[Value], metrics: &[Metric]) -> Vec<Comparison> {
    groups(runs)
        .iter()
        .filter(|group| group.runs.len() > 1)
        .map(|group| Comparison {
            mode: group.mode.to_owned(),
            a: group.side(),
            b: None,
            basis: Basis::Runs,
            threshold: 0.0,
            confidence: super::statistics::CONFIDENCE,
            metrics: metrics
                .iter()
                .filter_map(|metric| {
                    let values = group.values(metric);
                    let spread = spread_of(&values)?;
                    let why = (spread.low.is_none()).then(|| too_few_runs(&[&values], RUNS_MIN));
                    Some(MetricComparison { a: Some(spread), why, ..unknown(metric) })
                })
                .collect(),
            differences: Vec::new(),
            warnings: group.warnings("of the runs"),
            until: None,
        })
        .collect()
}

/// The runs of one load.
#[derive(Default)]
struct Group<'a> {
    mode: &'a str,
    /// The options that define the load.
    load: Map<String, Value>,
    runs: Vec<&'a Value>,
    interrupted: usize,
}

fn groups(runs: &[Value]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for run in runs {
        let load = load_of(run);
        let at = groups.iter().position(|group| group.load == load).unwrap_or_else(|| {
            let mode = run["config"]["mode"].as_str().unwrap_or("unknown");
            groups.push(Group { mode, load, ..Group::default() });
            groups.len() - 1
        });
        if run["interrupted"] == true {
            groups[at].interrupted += 1;
        } else {
            groups[at].runs.push(run);
        }
    }
    groups.retain(|group| !group.runs.is_empty());
    groups
}

/// The options of a run without those that may differ between runs of one load.
fn load_of(run: &Value) -> Map<String, Value> {
    let mut load = run["config"].as_object().cloned().unwrap_or_default();
    load.retain(|name, _| !VARIABLE_OPTIONS.contains(&name.as_str()));
    // A search is defined by its objective and its axis; the load on that is a result.
    if let Some(objective) = searches::objective_of(run) {
        load.remove("rate");
        load.insert("objective".to_owned(), objective.clone());
        if let Some(axis) = run["search"].get("axis") {
            load.insert("axis".to_owned(), axis.clone());
            if axis != "rate" {
                load.remove("connections");
            }
        }
    }
    load
}

impl Group<'_> {
    fn side(&self) -> Side {
        let target = self.runs[0]["target"].as_str().unwrap_or("unknown").to_owned();
        Side { target, runs: self.runs.len() }
    }

    /// Whether its runs are those at the lower ends of searches, each at another load.
    fn is_of_searches(&self) -> bool {
        searches::objective_of(self.runs[0]).is_some()
    }

    fn values(&self, metric: &Metric) -> Vec<f64> {
        self.runs.iter().filter_map(|run| metric.of(run)).collect()
    }

    /// Reasons to doubt the runs.
    fn warnings(&self, whose: &str) -> Vec<String> {
        let of = self.runs.len();
        let count = |is: &dyn Fn(&Value) -> bool| self.runs.iter().filter(|run| is(run)).count();
        let is_broken = |run: &Value| {
            let some = |field: &str| run[field].as_object().is_some_and(|object| !object.is_empty());
            let integrity = run["integrity"].as_object();
            some("errors") || integrity.is_some_and(|counts| counts.values().any(|times| *times != 0))
        };
        let mut warnings = Vec::new();
        for (times, what) in [
            (count(&|run| run["generator"]["saturated"] == true), "measured a generator that was saturated"),
            (count(&is_broken), "lost or damaged messages or had errors"),
            (count(&|run| run["environment"]["optimized"] == false), "were made without optimisations"),
        ] {
            if times > 0 {
                warnings.push(format!("{times} of {of} {whose} {what}"));
            }
        }
        if self.interrupted > 0 {
            warnings.push(format!("{} more {whose} were interrupted and are ignored", self.interrupted));
        }
        warnings
    }
}

/// The spread of some values; `None` without any.
fn spread_of(values: &[f64]) -> Option<Spread> {
    let interval = median_of(values);
    Some(Spread {
        median: median(values)?,
        least: values.iter().copied().min_by(f64::total_cmp)?,
        most: values.iter().copied().max_by(f64::total_cmp)?,
        low: interval.map(|found| found.low),
        high: interval.map(|found| found.high),
    })
}

/// A metric without values on either side.
fn unknown(metric: &Metric) -> MetricComparison {
    MetricComparison {
        metric: metric.name.clone(),
        unit: metric.dimension.unit().to_owned(),
        more_is_better: metric.more_is_better,
        ..MetricComparison::default()
    }
}

fn too_few(have: usize, needed: usize, what: &str) -> String {
    format!("a confidence interval needs {needed} {what}, but there are {have}")
}

/// The same for runs that are not paired, of which neighbours may be correlated.
fn too_few_runs(sides: &[&[f64]], needed: usize) -> String {
    let fewest = |count: fn(&[f64]) -> usize| sides.iter().map(|values| count(values)).min().unwrap_or(0);
    let (have, counted) = (fewest(<[f64]>::len), fewest(independent));
    if have < needed || counted >= needed {
        return too_few(have, needed, "runs");
    }
    format!(
        "neighbouring runs resemble one another: {have} count as {counted}, and a confidence interval needs {needed}"
    )
}

fn compare_groups(a: &Group<'_>, b: &Group<'_>, options: &CompareOptions) -> Comparison {
    let pairs = pair_up(&a.runs, &b.runs);
    let is_single = a.runs.len() == 1 && b.runs.len() == 1;
    let basis = match &pairs {
        _ if is_single && a.is_of_searches() => Basis::Searches,
        _ if is_single => Basis::Slices,
        Some(_) => Basis::Pairs,
        None => Basis::Runs,
    };
    let values: Vec<(&Metric, Values)> = (options.metrics.iter())
        .filter(|metric| metric.is_of_mode(a.mode))
        .map(|metric| {
            let values = match (basis, &pairs) {
                (Basis::Pairs, Some(pairs)) => Values::of_pairs(metric, pairs),
                _ => Values { a: a.values(metric), b: b.values(metric) },
            };
            (metric, values)
        })
        .collect();
    let evaluated = values.iter().filter(|(_, values)| values.is_known()).count().max(1);
    let terms = Terms {
        basis,
        error: ERROR_SHARE / evaluated as f64,
        seconds: (basis == Basis::Slices).then(|| (Intervals::of(a.runs[0]), Intervals::of(b.runs[0]))),
        threshold: options.threshold,
    };
    Comparison {
        mode: a.mode.to_owned(),
        a: a.side(),
        b: Some(b.side()),
        basis,
        threshold: options.threshold,
        confidence: match basis {
            Basis::Searches => searches::confidence(a.runs[0], b.runs[0]),
            _ => super::statistics::CONFIDENCE,
        },
        metrics: values.iter().filter_map(|(metric, values)| terms.compare(metric, values, a, b)).collect(),
        differences: load_differences(a, b),
        warnings: warnings(a, b, basis),
        until: None,
    }
}

/// How the metrics of two groups are compared.
struct Terms<'a> {
    basis: Basis,
    /// The chance of an error that each metric may have.
    error: f64,
    /// The intervals of single runs.
    seconds: Option<(Intervals<'a>, Intervals<'a>)>,
    threshold: f64,
}

impl Terms<'_> {
    /// Compares a metric. `None` if neither side has it.
    fn compare(
        &self,
        metric: &Metric,
        values: &Values,
        a: &Group<'_>,
        b: &Group<'_>,
    ) -> Option<MetricComparison> {
        let Terms { basis, error, threshold, .. } = *self;
        let mut finding = match self.seconds.as_ref().filter(|_| values.is_known()) {
            None if metric.name == CAPACITY && basis == Basis::Searches => {
                searches::capacities(metric, (a.runs[0], b.runs[0]), threshold)
            }
            None => values.compare(metric, basis, error, threshold)?,
            Some((of_a, of_b)) => by_intervals(metric, values, (of_a, of_b), error, threshold),
        };
        if basis == Basis::Slices {
            finding.verdict = Some(ComparisonVerdict::Undecided);
        }
        let is_at_its_own_load = a.is_of_searches() && !metric.needs_search();
        Some(if is_at_its_own_load { searches::undecided(finding) } else { finding })
    }
}

/// The factors that limit the comparison of two groups.
fn warnings(a: &Group<'_>, b: &Group<'_>, basis: Basis) -> Vec<String> {
    let mut warnings = a.warnings("runs of A");
    warnings.extend(b.warnings("runs of B"));
    let (one, other) = (a.runs[0], b.runs[0]);
    warnings.extend(differing(&one["environment"], &other["environment"], &REPORTED_ENVIRONMENT));
    warnings.extend(differing(&one["config"], &other["config"], &REPORTED_OPTIONS));
    let of_basis = match basis {
        Basis::Pairs | Basis::Searches => None,
        Basis::Runs => Some(
            "the runs did not alternate, so changes on the machine between them count as differences: \
             --repeat with --against alternates them",
        ),
        Basis::Slices => Some(
            "one run of each decides nothing: the confidence intervals tell how steady these two were, not how much \
             another run would differ; --repeat 10 with --against does",
        ),
    };
    warnings.extend(of_basis.map(str::to_owned));
    warnings
}

/// The options in which the loads of two groups differ.
fn load_differences(a: &Group<'_>, b: &Group<'_>) -> Vec<String> {
    let names: Vec<&str> = a.load.keys().chain(b.load.keys()).map(String::as_str).collect();
    let (of_a, of_b) = (Value::Object(a.load.clone()), Value::Object(b.load.clone()));
    differing(&of_a, &of_b, &names)
}

/// Members with different values on the two sides, each listed once.
fn differing(a: &Value, b: &Value, names: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for name in names {
        // A member that one version does not have is not a difference.
        let (Some(one), Some(other)) = (a.get(name), b.get(name)) else { continue };
        let line = format!("{name} is {one} in A and {other} in B");
        if one != other && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// Pairs of runs that were made next to each other, in either order. `None` if the runs were not made in turn.
fn pair_up<'a>(a: &[&'a Value], b: &[&'a Value]) -> Option<Vec<(&'a Value, &'a Value)>> {
    let mut order = Vec::new();
    for (runs, is_b) in [(a, false), (b, true)] {
        for run in runs {
            // RFC 3339 in UTC with a fixed number of digits sorts as text.
            order.push((run["started_at"].as_str()?, is_b, *run));
        }
    }
    order.sort_by_key(|(at, is_b, _)| (*at, *is_b));
    let (mut pairs, mut next) = (Vec::new(), 0);
    while let [(_, first_is_b, first), (_, second_is_b, second), ..] = order[next..] {
        if first_is_b == second_is_b {
            next += 1;
            continue;
        }
        pairs.push(if first_is_b { (second, first) } else { (first, second) });
        next += 2;
    }
    // The last run may be unpaired.
    (order.len() - 2 * pairs.len() <= 1 && !pairs.is_empty()).then_some(pairs)
}

/// A metric's values on both sides.
struct Values {
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Values {
    /// The values of the pairs in which both runs have the metric; if there are none, those of all runs that have it.
    fn of_pairs(metric: &Metric, pairs: &[(&Value, &Value)]) -> Values {
        let of_both = |(a, b): &(&Value, &Value)| Some((metric.of(a)?, metric.of(b)?));
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().filter_map(of_both).unzip();
        if !a.is_empty() {
            return Values { a, b };
        }
        let of_a = pairs.iter().filter_map(|(a, _)| metric.of(a));
        Values { a: of_a.collect(), b: pairs.iter().filter_map(|(_, b)| metric.of(b)).collect() }
    }

    /// Whether both sides have the metric.
    fn is_known(&self) -> bool {
        !self.a.is_empty() && !self.b.is_empty()
    }

    fn compare(&self, metric: &Metric, basis: Basis, error: f64, threshold: f64) -> Option<MetricComparison> {
        let (a, b) = (spread_of(&self.a), spread_of(&self.b));
        if !self.is_known() {
            return (a.is_some() || b.is_some()).then(|| MetricComparison {
                why: Some(format!("only {} has this metric", if a.is_some() { "A" } else { "B" })),
                a,
                b,
                verdict: Some(ComparisonVerdict::Undecided),
                ..unknown(metric)
            });
        }
        let have = self.a.len().min(self.b.len());
        let has_zeros = self.a.iter().chain(&self.b).any(|value| *value <= 0.0);
        let (found, why) = match basis {
            _ if has_zeros => (None, NO_RATIO.to_owned()),
            Basis::Pairs => {
                (ratio_of_pairs(&self.a, &self.b, error), too_few(have, pairs_needed(error), "pairs"))
            }
            _ => (
                ratio_of_runs(&self.a, &self.b, error),
                too_few_runs(&[&self.a, &self.b], runs_needed(error)),
            ),
        };
        // Without an interval, the ratio of the medians.
        let ratio = median(&self.b).zip(median(&self.a)).map(|(b, a)| b / a);
        let finding = MetricComparison { a, b, ratio, why: Some(why), ..unknown(metric) };
        Some(conclude(finding, found, threshold))
    }
}

const NO_RATIO: &str = "the ratio to zero is undefined";

/// A metric of a single run on each side, whose interval comes from the intervals of the runs.
fn by_intervals(
    metric: &Metric,
    values: &Values,
    (of_a, of_b): (&Intervals<'_>, &Intervals<'_>),
    error: f64,
    threshold: f64,
) -> MetricComparison {
    let (a, b) = (values.a[0], values.b[0]);
    let ratio = b / a;
    let (one, other) = (of_a.figure(metric), of_b.figure(metric));
    let spread = |value: f64, figure: &Result<WeightedMetric, String>| match figure {
        Ok(figure) => figure.spread(value, error),
        Err(_) => Spread { median: value, least: value, most: value, low: None, high: None },
    };
    let (spread_of_a, spread_of_b) = (spread(a, &one), spread(b, &other));
    let (found, why) = match (&one, &other) {
        (Ok(one), Ok(other)) if ratio.is_finite() && ratio > 0.0 => {
            let scatter = one.scatter().zip(other.scatter());
            let have = of_a.count().min(of_b.count());
            (
                scatter.map(|(one, other)| one.and(other).around(ratio, error)),
                too_few(have, INTERVALS_MIN, "slices"),
            )
        }
        (Err(why), _) | (_, Err(why)) => (None, why.clone()),
        _ => (None, NO_RATIO.to_owned()),
    };
    let finding = MetricComparison {
        a: Some(spread_of_a),
        b: Some(spread_of_b),
        ratio: Some(ratio),
        why: Some(why),
        ..unknown(metric)
    };
    conclude(finding, found, threshold)
}

/// Adds the results of the interval, or the reason why there is none.
fn conclude(finding: MetricComparison, found: Option<Estimate>, threshold: f64) -> MetricComparison {
    let Some(found) = found else {
        let ratio = finding.ratio.filter(|ratio| ratio.is_finite());
        return MetricComparison { ratio, verdict: Some(ComparisonVerdict::Undecided), ..finding };
    };
    MetricComparison {
        ratio: Some(found.value),
        ratio_low: Some(found.low),
        ratio_high: Some(found.high),
        verdict: Some(verdict_of(found, threshold, finding.more_is_better)),
        why: None,
        ..finding
    }
}

/// The verdict that the interval of a ratio supports.
pub(super) fn verdict_of(ratio: Estimate, threshold: f64, more_is_better: bool) -> ComparisonVerdict {
    // How many times as bad B is.
    let (low, high) =
        if more_is_better { (1.0 / ratio.high, 1.0 / ratio.low) } else { (ratio.low, ratio.high) };
    let (least, most) = (1.0 / (1.0 + threshold), 1.0 + threshold);
    match () {
        () if low > most => ComparisonVerdict::Worse,
        () if high < least => ComparisonVerdict::Better,
        () if low > 1.0 => ComparisonVerdict::SlightlyWorse,
        () if high < 1.0 => ComparisonVerdict::SlightlyBetter,
        () if low >= least && high <= most => ComparisonVerdict::Same,
        () => ComparisonVerdict::Undecided,
    }
}

/// The judged metrics in which B is worse.
pub fn worse<'a>(
    comparison: &'a Comparison,
    evaluated: &'a [Metric],
) -> impl Iterator<Item = &'a MetricComparison> {
    comparison.metrics.iter().filter(|finding| {
        finding.verdict == Some(ComparisonVerdict::Worse)
            && evaluated.iter().any(|metric| metric.name == finding.metric)
    })
}

/// Metrics by their names.
///
/// # Errors
/// One line, if there is no such metric.
pub fn metrics(names: &[&str]) -> Result<Vec<Metric>, String> {
    names.iter().map(|name| name.parse()).collect()
}

#[cfg(test)]
mod tests;
