//! Two targets, or one before and after, compared by their records: for each metric the ratio of the second to the first,
//! the interval in which the true one lies, and a word.
//!
//! What carries the interval is named, because it decides what it may be believed for. *Pairs* are runs of both that were
//! made next to each other in time: what the machine did meanwhile is in both and falls out. *Runs* are repetitions that
//! were not: a machine that changed between them looks like a difference. *Intervals* are the seconds of a single run
//! each, drawn in blocks because neighbours resemble one another: they tell how steady these two runs were, and nothing of
//! how much the next one would differ.
//!
//! Records are read as JSON, so that those of older and of newer versions can be compared.
//!
//! Never: a clock, I/O, a word that the interval does not carry.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::objective::Metric;
use super::statistics::{
    ERROR_SHARE, Estimate, INTERVALS_MIN, RUNS_MIN, SEED, median, median_of, pairs_needed, ratio_of_pairs,
    ratio_of_runs, runs_needed,
};
use intervals::{Figure, Intervals};

mod intervals;

/// A difference below this does not matter, unless told otherwise: 5 %.
pub const THRESHOLD_DEFAULT: f64 = 0.05;
/// What is compared unless told otherwise.
pub const METRICS: [&str; 6] = ["messages_per_s", "p50", "p99", "p99.9", "cpu_per_message", "max_rate"];
/// What must not be worse unless told otherwise.
pub const JUDGED: [&str; 4] = ["p50", "p99", "messages_per_s", "cpu_per_message"];

/// Parts of a load that may differ between runs of one load.
const NOT_THE_LOAD: [&str; 12] = [
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
];
/// Of those, parts whose difference is told.
const TOLD: [&str; 4] = ["threads", "duration_s", "warmup_s", "verify"];
/// Parts of an environment whose difference is told.
const MACHINE: [&str; 5] = ["cpu", "cpus", "kernel", "driver", "optimized"];
/// What a comparison comes to for one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The second is better by more than the threshold, surely.
    Better,
    /// The second is worse by more than the threshold, surely.
    Worse,
    /// The second is better, surely, but not surely by more than the threshold.
    SlightlyBetter,
    /// The second is worse, surely, but not surely by more than the threshold.
    SlightlyWorse,
    /// They differ by less than the threshold, surely, and perhaps not at all.
    Same,
    /// The interval allows more than one of these, or there is none, or it may not be trusted.
    Undecided,
}

impl Word {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Word::Better => "better",
            Word::Worse => "worse",
            Word::SlightlyBetter => "slightly better",
            Word::SlightlyWorse => "slightly worse",
            Word::Same => "same",
            Word::Undecided => "undecided",
        }
    }

    /// What an interval of a ratio says.
    fn of(ratio: Estimate, threshold: f64, more_is_better: bool) -> Word {
        // How many times as bad.
        let (low, high) =
            if more_is_better { (1.0 / ratio.high, 1.0 / ratio.low) } else { (ratio.low, ratio.high) };
        let (least, most) = (1.0 / (1.0 + threshold), 1.0 + threshold);
        match () {
            () if low > most => Word::Worse,
            () if high < least => Word::Better,
            () if low > 1.0 => Word::SlightlyWorse,
            () if high < 1.0 => Word::SlightlyBetter,
            () if low >= least && high <= most => Word::Same,
            () => Word::Undecided,
        }
    }
}

/// What carries the intervals of a comparison, see this module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Runs of both, made in turn.
    Pairs,
    /// Several runs of both, not made in turn; or several of the only target.
    Runs,
    /// The intervals of one run each.
    Intervals,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// As its records name it.
    pub target: String,
    /// Runs that were taken.
    pub runs: usize,
}

/// The values of a metric on one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// Lower end of the interval of the median; `null` where values are too few.
    pub low: Option<f64>,
    /// Its upper end.
    pub high: Option<f64>,
}

/// One metric compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub metric: String,
    /// Unit of its values, `1` for numbers and shares.
    pub unit: String,
    /// Whether more of it is better.
    pub more_is_better: bool,
    /// The first target's; `null` when it is not known.
    pub a: Option<Spread>,
    /// The second target's.
    pub b: Option<Spread>,
    /// The second of the first: the pseudo-median of the ratios of all pairs, or of all runs, or the ratio of the two runs.
    pub ratio: Option<f64>,
    /// Lower end of its interval.
    pub ratio_low: Option<f64>,
    /// Its upper end.
    pub ratio_high: Option<f64>,
    /// What that comes to; `null` when there is one target.
    pub verdict: Option<Word>,
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
    /// What carries the intervals.
    pub basis: Basis,
    /// The difference that matters: 0.05 is 5 %.
    pub threshold: f64,
    /// Share of comparisons in which the intervals of all metrics hold the true values.
    pub confidence: f64,
    /// Each metric that is known of both, or of the only one.
    pub metrics: Vec<Finding>,
    /// What was asked of the two and is not the same, so that they cannot well be compared.
    pub differences: Vec<String>,
    /// What to keep in mind, in one line each.
    pub warnings: Vec<String>,
}

impl Comparison {
    /// Whether the second is worse in one of these metrics.
    pub fn is_worse(&self, judged: &[Metric]) -> bool {
        self.metrics.iter().any(|finding| {
            finding.verdict == Some(Word::Worse)
                && judged.iter().any(|metric| metric.name() == finding.metric)
        })
    }
}

/// How runs are to be compared.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What is looked at.
    pub metrics: Vec<Metric>,
    /// The difference that matters: 0.05 is 5 %.
    pub threshold: f64,
    /// Whether a single run of each may decide.
    pub trust_single: bool,
}

/// Compares the runs of two targets, load by load. Loads that only one of them was put under are told in `warnings` of the
/// first comparison.
///
/// # Errors
/// In one line, when there is no load of the same mode on both sides.
pub fn compare(a: &[Value], b: &[Value], terms: &Terms) -> Result<Vec<Comparison>, String> {
    let (mut of_a, mut of_b) = (groups(a), groups(b));
    let mut matched = Vec::new();
    for is_alike in [Group::has_load_of, Group::has_mode_of] {
        of_a.retain_mut(|group| {
            let Some(at) = of_b.iter().position(|other| is_alike(group, other)) else { return true };
            matched.push((std::mem::take(group), of_b.remove(at)));
            false
        });
    }
    if matched.is_empty() {
        let modes = |groups: &[Group<'_>]| {
            let names: Vec<&str> = groups.iter().map(|group| group.mode).collect();
            if names.is_empty() { "no whole run".to_owned() } else { names.join(", ") }
        };
        return Err(format!(
            "nothing to compare: the first has {}, the second {}",
            modes(&of_a),
            modes(&of_b)
        ));
    }
    let mut comparisons: Vec<Comparison> = matched.iter().map(|(a, b)| compare_groups(a, b, terms)).collect();
    for (groups, which) in [(of_a, "first"), (of_b, "second")] {
        let alone =
            groups.iter().map(|group| format!("only the {which} has runs of this load: {}", group.mode));
        comparisons[0].warnings.extend(alone);
    }
    Ok(comparisons)
}

/// How far runs of one target lie apart, load by load. Loads with a single run are left out.
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
                    let spread = Spread::of(&group.values(metric))?;
                    let why = (spread.low.is_none()).then(|| too_few(group.runs.len(), RUNS_MIN, "runs"));
                    Some(Finding { a: Some(spread), why, ..Finding::of_nothing(metric) })
                })
                .collect(),
            differences: Vec::new(),
            warnings: group.warnings("of the runs"),
        })
        .collect()
}

/// The runs of one load.
#[derive(Default)]
struct Group<'a> {
    mode: &'a str,
    /// What was asked for, so far as it makes the load.
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

/// What was asked for, without what may differ between runs of one load.
fn load_of(run: &Value) -> Map<String, Value> {
    let mut load = run["config"].as_object().cloned().unwrap_or_default();
    load.retain(|name, _| !NOT_THE_LOAD.contains(&name.as_str()));
    // A search was asked for an objective; the rate is what it found.
    if let Some(objective) = run["search"].get("objective") {
        load.remove("rate");
        load.insert("find_max".to_owned(), objective.clone());
    }
    load
}

impl Group<'_> {
    fn has_load_of(&self, other: &Group<'_>) -> bool {
        self.load == other.load
    }

    fn has_mode_of(&self, other: &Group<'_>) -> bool {
        self.mode == other.mode
    }

    fn side(&self) -> Side {
        let target = self.runs[0]["target"].as_str().unwrap_or("unknown").to_owned();
        Side { target, runs: self.runs.len() }
    }

    fn values(&self, metric: &Metric) -> Vec<f64> {
        self.runs.iter().filter_map(|run| metric.of(run)).collect()
    }

    /// What makes its runs doubtful.
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
            warnings.push(format!("{} more {whose} were interrupted and are left out", self.interrupted));
        }
        warnings
    }
}

impl Spread {
    fn of(values: &[f64]) -> Option<Spread> {
        let interval = median_of(values, SEED);
        Some(Spread {
            median: median(values)?,
            least: values.iter().copied().min_by(f64::total_cmp)?,
            most: values.iter().copied().max_by(f64::total_cmp)?,
            low: interval.map(|found| found.low),
            high: interval.map(|found| found.high),
        })
    }
}

impl Finding {
    fn of_nothing(metric: &Metric) -> Finding {
        Finding {
            metric: metric.name().to_owned(),
            unit: metric.dimension().unit().to_owned(),
            more_is_better: metric.more_is_better(),
            a: None,
            b: None,
            ratio: None,
            ratio_low: None,
            ratio_high: None,
            verdict: None,
            why: None,
        }
    }
}

fn too_few(have: usize, needed: usize, what: &str) -> String {
    format!("{have} of the {needed} {what} that an interval takes")
}

fn compare_groups(a: &Group<'_>, b: &Group<'_>, terms: &Terms) -> Comparison {
    let pairs = pair_up(&a.runs, &b.runs);
    let basis = match &pairs {
        _ if a.runs.len() == 1 && b.runs.len() == 1 => Basis::Intervals,
        Some(_) => Basis::Pairs,
        None => Basis::Runs,
    };
    let values: Vec<(&Metric, Values)> = (terms.metrics.iter())
        .filter(|metric| metric.is_of_mode(a.mode))
        .map(|metric| {
            let values = match (basis, &pairs) {
                (Basis::Pairs, Some(pairs)) => Values::of_pairs(metric, pairs),
                _ => Values { a: a.values(metric), b: b.values(metric) },
            };
            (metric, values)
        })
        .collect();
    let judged = values.iter().filter(|(_, values)| values.is_known()).count().max(1);
    let error = ERROR_SHARE / judged as f64;
    let seconds = (basis == Basis::Intervals).then(|| (Intervals::of(a.runs[0]), Intervals::of(b.runs[0])));
    let metrics = (values.iter())
        .filter_map(|(metric, values)| {
            let Some((of_a, of_b)) = seconds.as_ref().filter(|_| values.is_known()) else {
                return values.conclude(metric, basis, error, terms.threshold);
            };
            let mut finding = by_intervals(metric, values, (of_a, of_b), error, terms.threshold);
            if !terms.trust_single {
                finding.verdict = Some(Word::Undecided);
            }
            Some(finding)
        })
        .collect();
    let mut warnings = a.warnings("runs of the first");
    warnings.extend(b.warnings("runs of the second"));
    let (one, other) = (a.runs[0], b.runs[0]);
    warnings.extend(differing(&one["environment"], &other["environment"], &MACHINE));
    warnings.extend(differing(&one["config"], &other["config"], &TOLD));
    warnings.extend(match basis {
        Basis::Pairs => None,
        Basis::Runs => Some(
            "the runs were not made in turn, so what changed on the machine between them counts as a difference: \
             --repeat with --against makes them in turn"
                .to_owned(),
        ),
        Basis::Intervals => Some(
            if terms.trust_single {
                "one run of each: the intervals tell how steady these two were, not how much another run would \
                 differ; --repeat with --against does"
            } else {
                "one run of each decides nothing: make several with --repeat 10 --against URL, or say --trust-single to \
                 take their seconds for repetitions"
            }
            .to_owned(),
        ),
    });
    let names: Vec<&str> = a.load.keys().chain(b.load.keys()).map(String::as_str).collect();
    let (of_a, of_b) = (Value::Object(a.load.clone()), Value::Object(b.load.clone()));
    Comparison {
        mode: a.mode.to_owned(),
        a: a.side(),
        b: Some(b.side()),
        basis,
        threshold: terms.threshold,
        confidence: super::statistics::CONFIDENCE,
        metrics,
        differences: differing(&of_a, &of_b, &names),
        warnings,
    }
}

/// Members that both have and that are not the same, each named once.
fn differing(a: &Value, b: &Value, names: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for name in names {
        // A version that does not know a member does not contradict one that does.
        let (Some(one), Some(other)) = (a.get(name), b.get(name)) else { continue };
        let line = format!("{name} is {one} in the first and {other} in the second");
        if one != other && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// Runs of both that were made next to each other in time, in either order. `None` when they were not made in turn.
fn pair_up<'a>(a: &[&'a Value], b: &[&'a Value]) -> Option<Vec<(&'a Value, &'a Value)>> {
    let mut order = Vec::new();
    for (runs, is_b) in [(a, false), (b, true)] {
        for run in runs {
            // RFC 3339 in UTC with one number of digits: in the order of the text.
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
    // The last one may lack its other half.
    (order.len() - 2 * pairs.len() <= 1 && !pairs.is_empty()).then_some(pairs)
}

/// A metric's values on both sides.
struct Values {
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Values {
    /// Of the pairs whose two runs know it; where none does, of the runs that do.
    fn of_pairs(metric: &Metric, pairs: &[(&Value, &Value)]) -> Values {
        let of_both = |(a, b): &(&Value, &Value)| Some((metric.of(a)?, metric.of(b)?));
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().filter_map(of_both).unzip();
        if !a.is_empty() {
            return Values { a, b };
        }
        let of_a = pairs.iter().filter_map(|(a, _)| metric.of(a));
        Values { a: of_a.collect(), b: pairs.iter().filter_map(|(_, b)| metric.of(b)).collect() }
    }

    /// Whether both sides know it.
    fn is_known(&self) -> bool {
        !self.a.is_empty() && !self.b.is_empty()
    }

    fn conclude(&self, metric: &Metric, basis: Basis, error: f64, threshold: f64) -> Option<Finding> {
        let (a, b) = (Spread::of(&self.a), Spread::of(&self.b));
        if !self.is_known() {
            return (a.is_some() || b.is_some()).then(|| Finding {
                why: Some(format!("known of the {} only", if a.is_some() { "first" } else { "second" })),
                a,
                b,
                verdict: Some(Word::Undecided),
                ..Finding::of_nothing(metric)
            });
        }
        let (found, needed, what) = match basis {
            Basis::Pairs => (ratio_of_pairs(&self.a, &self.b, error), pairs_needed(error), "pairs"),
            _ => (ratio_of_runs(&self.a, &self.b, error), runs_needed(error), "runs"),
        };
        let have = self.a.len().min(self.b.len());
        let why = if have < needed { too_few(have, needed, what) } else { NO_RATIO.to_owned() };
        // Without an interval, still what the values say.
        let ratio = median(&self.b).zip(median(&self.a)).map(|(b, a)| b / a);
        let finding = Finding { a, b, ratio, why: Some(why), ..Finding::of_nothing(metric) };
        Some(finding.with(found, threshold))
    }
}

const NO_RATIO: &str = "there is no ratio to zero";

/// A metric of a single run each, whose interval comes from their seconds.
fn by_intervals(
    metric: &Metric,
    values: &Values,
    (of_a, of_b): (&Intervals<'_>, &Intervals<'_>),
    error: f64,
    threshold: f64,
) -> Finding {
    let (a, b) = (values.a[0], values.b[0]);
    let ratio = b / a;
    let (one, other) = (of_a.figure(metric), of_b.figure(metric));
    let spread = |value: f64, figure: &Result<Figure, String>| match figure {
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
                too_few(have, INTERVALS_MIN, "intervals"),
            )
        }
        (Err(why), _) | (_, Err(why)) => (None, why.clone()),
        _ => (None, NO_RATIO.to_owned()),
    };
    let finding = Finding {
        a: Some(spread_of_a),
        b: Some(spread_of_b),
        ratio: Some(ratio),
        why: Some(why),
        ..Finding::of_nothing(metric)
    };
    finding.with(found, threshold)
}

impl Finding {
    /// What follows from the interval, or from its absence.
    fn with(self, found: Option<Estimate>, threshold: f64) -> Finding {
        let Some(found) = found else {
            let ratio = self.ratio.filter(|ratio| ratio.is_finite());
            return Finding { ratio, verdict: Some(Word::Undecided), ..self };
        };
        Finding {
            ratio: Some(found.value),
            ratio_low: Some(found.low),
            ratio_high: Some(found.high),
            verdict: Some(Word::of(found, threshold, self.more_is_better)),
            why: None,
            ..self
        }
    }
}

/// Metrics by their names.
///
/// # Errors
/// In one line, when there is no such metric.
pub fn metrics(names: &[&str]) -> Result<Vec<Metric>, String> {
    names.iter().map(|name| name.parse()).collect()
}

#[cfg(test)]
mod tests;
