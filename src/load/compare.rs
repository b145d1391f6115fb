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
    Draw, Estimate, INTERVALS_MIN, RUNS_MIN, SEED, median, median_of, ratio_of_medians, ratio_of_pairs,
};

/// A difference below this does not matter, unless told otherwise: 5 %.
pub const THRESHOLD_DEFAULT: f64 = 0.05;
/// What is compared unless told otherwise.
pub const METRICS: [&str; 6] = ["messages_per_s", "p50", "p99", "p99.9", "cpu_per_message", "max_rate"];
/// What must not be worse unless told otherwise.
pub const JUDGED: [&str; 3] = ["p99", "messages_per_s", "cpu_per_message"];

/// Parts of a load that may differ between runs of one load.
const NOT_THE_LOAD: [&str; 9] = [
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
/// An interval that is shorter than this share of the first is the rest of a run.
const WHOLE_SHARE: f64 = 0.9;

/// What a comparison comes to for one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The second is better by more than the threshold, surely.
    Better,
    /// The second is worse by more than the threshold, surely.
    Worse,
    /// They differ by less than the threshold, surely.
    Same,
    /// The interval allows more than one of these, or there is none.
    Undecided,
}

impl Word {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Word::Better => "better",
            Word::Worse => "worse",
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
    /// The second of the first: the median of the pairs' ratios, or the ratio of the medians.
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
    /// Share of such intervals that hold the true value.
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

/// Compares the runs of two targets, load by load. Loads that only one of them was put under are told in `warnings` of the
/// first comparison.
///
/// # Errors
/// In one line, when there is no load of the same mode on both sides.
pub fn compare(
    a: &[Value],
    b: &[Value],
    metrics: &[Metric],
    threshold: f64,
) -> Result<Vec<Comparison>, String> {
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
    let mut comparisons: Vec<Comparison> =
        matched.iter().map(|(a, b)| compare_groups(a, b, metrics, threshold)).collect();
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
                    let spread = Spread::of(&group.values(metric), Draw::Single)?;
                    let why = (spread.low.is_none()).then(|| too_few(group.runs.len(), "runs"));
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

    /// The metric in each whole interval of the only run.
    fn interval_values(&self, metric: &Metric) -> Vec<f64> {
        let intervals = self.runs[0]["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
        let length = |interval: &Value| interval["duration_s"].as_f64().unwrap_or(0.0);
        let whole_s = intervals.first().map_or(0.0, length) * WHOLE_SHARE;
        let whole = intervals.iter().filter(|interval| length(interval) >= whole_s);
        whole.filter_map(|interval| metric.of_interval(interval)).collect()
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
    fn of(values: &[f64], draw: Draw) -> Option<Spread> {
        let interval = median_of(values, draw, SEED);
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

fn too_few(have: usize, what: &str) -> String {
    let needed = if what == "intervals" { INTERVALS_MIN } else { RUNS_MIN };
    format!("{have} of the {needed} {what} that an interval takes")
}

fn compare_groups(a: &Group<'_>, b: &Group<'_>, metrics: &[Metric], threshold: f64) -> Comparison {
    let pairs = pair_up(&a.runs, &b.runs);
    let basis = match &pairs {
        _ if a.runs.len() == 1 && b.runs.len() == 1 => Basis::Intervals,
        Some(_) => Basis::Pairs,
        None => Basis::Runs,
    };
    let known = metrics.iter().filter(|metric| metric.is_of_mode(a.mode));
    let metrics = known
        .filter_map(|metric| match (basis, &pairs) {
            (Basis::Pairs, Some(pairs)) => by_pairs(metric, pairs, threshold),
            (Basis::Intervals, _) => by_intervals(metric, a, b, threshold),
            _ => by_runs(metric, a, b, threshold),
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
            "one run of each: the intervals tell how steady these two were, not how much another run would \
             differ; --repeat with --against does"
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
        threshold,
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

fn by_pairs(metric: &Metric, pairs: &[(&Value, &Value)], threshold: f64) -> Option<Finding> {
    let known: Vec<(f64, f64)> =
        pairs.iter().filter_map(|(a, b)| Some((metric.of(a)?, metric.of(b)?))).collect();
    if known.is_empty() {
        let of_a: Vec<f64> = pairs.iter().filter_map(|(a, _)| metric.of(a)).collect();
        let of_b: Vec<f64> = pairs.iter().filter_map(|(_, b)| metric.of(b)).collect();
        return of_one_side(metric, &of_a, &of_b, Draw::Single);
    }
    let (a, b): (Vec<f64>, Vec<f64>) = known.into_iter().unzip();
    let ratios: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b / a).collect();
    let found = ratio_of_pairs(&a, &b, SEED);
    Some(conclude(metric, (&a, &b), Draw::Single, (median(&ratios), found), threshold, "pairs"))
}

fn by_runs(metric: &Metric, a: &Group<'_>, b: &Group<'_>, threshold: f64) -> Option<Finding> {
    let (a, b) = (a.values(metric), b.values(metric));
    by_medians(metric, &a, &b, Draw::Single, threshold, "runs")
}

fn by_intervals(metric: &Metric, a: &Group<'_>, b: &Group<'_>, threshold: f64) -> Option<Finding> {
    let (of_a, of_b) = (a.interval_values(metric), b.interval_values(metric));
    if !of_a.is_empty() && !of_b.is_empty() {
        return by_medians(metric, &of_a, &of_b, Draw::Blocks, threshold, "intervals");
    }
    // What is told of whole runs only.
    by_medians(metric, &a.values(metric), &b.values(metric), Draw::Single, threshold, "runs")
}

fn by_medians(
    metric: &Metric,
    a: &[f64],
    b: &[f64],
    draw: Draw,
    threshold: f64,
    what: &str,
) -> Option<Finding> {
    if a.is_empty() || b.is_empty() {
        return of_one_side(metric, a, b, draw);
    }
    let ratio = median(b).zip(median(a)).map(|(b, a)| b / a);
    let found = ratio_of_medians(a, b, draw, SEED);
    Some(conclude(metric, (a, b), draw, (ratio, found), threshold, what))
}

/// A metric that at most one side knows.
fn of_one_side(metric: &Metric, a: &[f64], b: &[f64], draw: Draw) -> Option<Finding> {
    let (a, b) = (Spread::of(a, draw), Spread::of(b, draw));
    (a.is_some() || b.is_some()).then(|| Finding {
        why: Some(format!("known of the {} only", if a.is_some() { "first" } else { "second" })),
        a,
        b,
        verdict: Some(Word::Undecided),
        ..Finding::of_nothing(metric)
    })
}

fn conclude(
    metric: &Metric,
    (a, b): (&[f64], &[f64]),
    draw: Draw,
    (ratio, found): (Option<f64>, Option<Estimate>),
    threshold: f64,
    what: &str,
) -> Finding {
    let enough = a.len().min(b.len()) >= if draw == Draw::Blocks { INTERVALS_MIN } else { RUNS_MIN };
    let why = match found {
        Some(_) => None,
        None if enough => Some("there is no ratio to zero".to_owned()),
        None => Some(too_few(a.len().min(b.len()), what)),
    };
    Finding {
        a: Spread::of(a, draw),
        b: Spread::of(b, draw),
        ratio: ratio.filter(|ratio| ratio.is_finite()),
        ratio_low: found.map(|found| found.low),
        ratio_high: found.map(|found| found.high),
        verdict: Some(
            found.map_or(Word::Undecided, |found| Word::of(found, threshold, metric.more_is_better())),
        ),
        why,
        ..Finding::of_nothing(metric)
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
