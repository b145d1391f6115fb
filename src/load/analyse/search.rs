//! The search for the highest rate that meets an objective: doubling until a step fails, then bisection. The next rate
//! depends on the results only; the experiment makes the runs.
//!
//! The *knee* of a search is the rate above which the tail of the response time grows: the highest tried rate at which
//! p99 is below twice the lowest p99, as it is at all rates in between.
//!
//! Never: a clock, I/O, a run.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::analyse::objective::{Evaluation, Objective};
use crate::engine::Outcome;
use crate::measure::{Quantiles, distribution};
use crate::plan::{Arrivals, Flaw, RATE_MAX, Workload, units};
use crate::record::Record;
use crate::record::search::{Limit, SearchStep};

/// Default first rate in messages per second.
pub const START_DEFAULT: u64 = 1_000;
/// Default precision: the relative distance of the two rates at which a search ends.
pub const PRECISION_DEFAULT: f64 = 0.05;
/// The smallest and largest precision.
pub const PRECISIONS: (f64, f64) = (0.005, 0.5);
/// Default measured time of a step.
pub const STEP_TIME_DEFAULT: Duration = Duration::from_secs(5);
/// Maximum measured time of a step, if the objective's quantile needs more messages.
pub(crate) const STEP_TIME_MAX: Duration = Duration::from_secs(120);
/// The same for rates below the first one, which are tried if the first one fails.
const LOWER_STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// A search goes down to the first rate divided by this. If the objective still fails, it is unreachable, or the first
/// rate was far too high.
const DOWN: u64 = 32;
/// Maximum number of runs of a search: enough for any first rate and all rates, with each failure repeated.
pub const STEPS_MAX: usize = 80;
/// Share of the offered rate that must arrive.
const RATE_SHARE_MIN: f64 = 0.99;
/// Random arrivals may fall short by this many standard deviations.
const DEVIATIONS: f64 = 4.0;
/// Before the knee, p99 is below this many times its lowest.
const KNEE_FACTOR: u64 = 2;

/// The options of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// The objective.
    pub objective: Objective,
    /// The first rate in messages per second.
    pub start: u64,
    /// The relative distance of the two rates at which the search ends: 0.05 is 5 %.
    pub precision: f64,
}

impl SearchOptions {
    /// The lowest rate to try: a 32nd of the first, unless a step of half a minute would have too few messages for the
    /// objective.
    pub(crate) fn least_rate(&self) -> u64 {
        let needed = self.objective.messages_needed().div_ceil(LOWER_STEP_TIME_MAX.as_secs());
        needed.max(self.start / DOWN).min(self.start).max(1)
    }

    /// The lowest first rate: one that gives the objective enough messages within `STEP_TIME_MAX`.
    pub fn least_start(&self) -> u64 {
        self.objective.messages_needed().div_ceil(STEP_TIME_MAX.as_secs()).max(1)
    }

    /// The measured time of a step at this rate: as configured, or longer if the objective needs more messages.
    pub(crate) fn step_time(&self, asked: Duration, rate: u64) -> Duration {
        let needed = Duration::from_secs_f64(self.objective.messages_needed() as f64 / rate as f64);
        asked.max(needed.min(STEP_TIME_MAX))
    }
}

/// A search in progress. Run a step at `next_rate`, then pass its result to
/// [`tell`](Search::tell).
#[derive(Clone, Debug)]
pub struct Search {
    start: u64,
    least: u64,
    most: u64,
    precision: f64,
    held: Option<u64>,
    failed: Option<(u64, Limit)>,
    doubted: Option<u64>,
    text: usize,
}

impl Search {
    /// Starts at `start` (clamped to the bounds) and stays between `least` and `most`, until the two rates around the
    /// highest one are within `precision`.
    pub fn new(start: u64, (least, most): (u64, u64), precision: f64) -> Search {
        let (least, most) = (least.max(1), most.max(least.max(1)));
        let precision = precision.clamp(PRECISIONS.0, PRECISIONS.1);
        let start = start.clamp(least, most);
        Search { start, least, most, precision, held: None, failed: None, doubted: None, text: 0 }
    }

    /// The next rate to try; `None` when the search has ended.
    pub(crate) fn next_rate(&self) -> Option<u64> {
        if self.text >= STEPS_MAX {
            return None;
        }
        if self.doubted.is_some() {
            return self.doubted;
        }
        match (self.held, self.failed) {
            (None, None) => Some(self.start),
            (Some(held), None) => (held < self.most).then(|| held.saturating_mul(2).min(self.most)),
            (None, Some((failed, _))) => (failed > self.least).then(|| (failed / 2).max(self.least)),
            (Some(held), Some((failed, _))) => {
                let near = (held as f64 * self.precision) as u64;
                (failed - held > near.max(1)).then(|| held + (failed - held) / 2)
            }
        }
    }

    /// Records the result of a run at `next_rate`: its limit if it failed. A failure counts only
    /// after two in a row, because the machine may be busy otherwise.
    pub fn tell(&mut self, rate: u64, limit: Option<Limit>) {
        self.text += 1;
        match limit {
            None => {
                self.doubted = None;
                self.held = Some(self.held.map_or(rate, |held| held.max(rate)));
            }
            Some(limit) if self.doubted == Some(rate) => {
                self.doubted = None;
                self.failed = Some((rate, limit));
            }
            Some(_) => self.doubted = Some(rate),
        }
    }

    /// The highest rate that met the objective.
    pub fn max_rate(&self) -> Option<u64> {
        self.held
    }

    /// The limit that higher rates hit.
    pub fn limited_by(&self) -> Limit {
        match self.failed {
            _ if self.text >= STEPS_MAX => Limit::Steps,
            Some((_, limit)) => limit,
            None => Limit::Bound,
        }
    }
}

/// Evaluates the run of a step.
pub(super) fn evaluate(outcome: &Outcome, load: &Workload, rate: u64, objective: &Objective) -> SearchStep {
    let record = &outcome.record;
    let found = failure_of(outcome, load, rate, objective);
    SearchStep {
        rate,
        messages_per_s: record.messages_per_s,
        held: found.is_none(),
        p50_ns: record.response_ns.p50,
        p99_ns: record.response_ns.p99,
        p999_ns: record.response_ns.p999,
        limit: found.as_ref().map(|(limit, _)| *limit),
        why: found.map(|(_, why)| why),
    }
}

/// Why a run failed. Response times include the generator's lateness: if they meet the objective, so does the server.
/// If they do not, or too few messages arrived, the generator is blamed if its lateness explains that.
fn failure_of(
    outcome: &Outcome,
    load: &Workload,
    rate: u64,
    objective: &Objective,
) -> Option<(Limit, String)> {
    let record = &outcome.record;
    if record.interrupted {
        return Some((Limit::Interrupted, "interrupted".to_owned()));
    }
    // A server that takes too little at this rate does nothing wrong.
    let mut allow = record.config.allow.clone();
    if record.generator.unsent_gone == 0 {
        allow.push(Flaw::Unsent);
    }
    if record.is_broken_beyond(&allow) {
        return Some((Limit::Integrity, integrity_failures(record)));
    }
    let late = units::duration(record.generator.lateness_ns.p99);
    let value = record.value();
    if objective.evaluate(&value) != Evaluation::Holds {
        let seen = objective.describe_seen(&value);
        let is_late = record.generator.saturated && holds_without_lateness(outcome, value, objective);
        return Some(match is_late {
            true => (Limit::Generator, format!("{seen}, because the generator was {late} late at p99")),
            false => (Limit::Objective, seen),
        });
    }
    let due_per_s = rate as f64 * load.deliveries_per_message();
    if !is_kept(record.messages_per_s, due_per_s, record.duration_s, load) {
        let (due, came) = (units::count(due_per_s as u64), units::count(record.messages_per_s as u64));
        let arrived = format!("{came}/s of {due}/s arrived");
        // A generator that is late at the end has not sent the messages of that time.
        let late_s = record.generator.lateness_ns.max as f64 / 1e9;
        let missed_per_s = due_per_s * (late_s / record.duration_s).min(1.0);
        let is_late = record.generator.saturated
            && is_kept(record.messages_per_s + missed_per_s, due_per_s, record.duration_s, load);
        return Some(match is_late {
            true => (Limit::Generator, format!("{arrived}, and the generator was {late} late at p99")),
            false => (Limit::Rate, arrived),
        });
    }
    // A step is judged by what the server took, also where the generator was late.
    let is_short = record.generator.unsent > 0 && !record.config.allow.contains(&Flaw::Unsent);
    (is_short || record.is_broken()).then(|| (Limit::Rate, integrity_failures(record)))
}

/// Whether a run would meet the objective if the generator had sent each message on time. Service times exclude its
/// lateness, but also the time that messages waited for room in their connection, which is not the generator's fault.
/// So response times minus the largest lateness must meet the objective as well.
fn holds_without_lateness(outcome: &Outcome, record: Value, objective: &Objective) -> bool {
    let Outcome { record: Record { service_ns, generator, .. }, response, .. } = outcome;
    let mut shorter = Histogram::new_from(response);
    for step in response.iter_recorded() {
        let ns = step.value_iterated_to().saturating_sub(generator.lateness_ns.max);
        shorter.saturating_record_n(ns, step.count_at_value());
    }
    // The standard deviation does not change when all values are shifted.
    let shorter_ns = Quantiles { stddev: service_ns.stddev, ..Quantiles::of(&shorter) };
    let (mut prompt, mut served) = (record.clone(), record);
    prompt["response_ns"] = serde_json::to_value(shorter_ns).unwrap_or(Value::Null);
    prompt["response_histogram"] = distribution::encode(&shorter).into();
    served["response_ns"] = served["service_ns"].clone();
    served["response_histogram"] = served["service_histogram"].clone();
    [prompt, served].iter().all(|record| objective.evaluate(record) == Evaluation::Holds)
}

fn integrity_failures(record: &Record) -> String {
    let others = [
        ("unsent", record.generator.unsent),
        ("connections ended early", record.connections.ended_early),
        ("errors", record.errors.values().sum()),
    ];
    let parts: Vec<String> = (record.integrity.by_kind().into_iter().chain(others))
        .filter(|(_, times)| *times > 0)
        .map(|(what, times)| format!("{} {what}", units::count(times)))
        .collect();
    parts.join(", ")
}

/// Whether as many messages arrived as were due.
fn is_kept(arrived_per_s: f64, due_per_s: f64, duration_s: f64, load: &Workload) -> bool {
    let chance = match load.arrivals {
        Arrivals::Even => 0.0,
        // The random arrivals are those of messages, and all have the same number of deliveries.
        Arrivals::Poisson => {
            let copies = load.deliveries_per_message();
            let published = due_per_s / copies * duration_s;
            DEVIATIONS * published.max(0.0).sqrt() * copies / duration_s.max(f64::MIN_POSITIVE)
        }
    };
    arrived_per_s >= RATE_SHARE_MIN * due_per_s - chance
}

/// The lowest and the highest rate of a search.
pub fn bounds(options: &SearchOptions) -> (u64, u64) {
    (options.least_rate(), RATE_MAX)
}

/// The rate above which the tail grows, see the module's head. Of a rate that was tried twice the better run counts.
/// `None` if the tail does not grow within the curve.
pub fn knee(steps: &[SearchStep]) -> Option<u64> {
    // A step that did not keep its rate, or was interrupted, has no latency for that rate.
    let belongs = |step: &SearchStep| !matches!(step.limit, Some(Limit::Interrupted | Limit::Generator));
    let mut curve: Vec<(u64, u64)> = Vec::new();
    let mut sorted: Vec<&SearchStep> = steps.iter().filter(|step| belongs(step)).collect();
    sorted.sort_by_key(|step| (step.rate, tail_ns(step)));
    for step in sorted {
        if curve.last().is_none_or(|(rate, _)| *rate != step.rate) {
            curve.push((step.rate, tail_ns(step)));
        }
    }
    let lowest = curve.iter().enumerate().min_by_key(|(_, (_, tail_ns))| *tail_ns)?;
    let (at, bound_ns) = (lowest.0, lowest.1.1.saturating_mul(KNEE_FACTOR));
    let beyond = curve[at..].iter().position(|(_, tail_ns)| *tail_ns >= bound_ns)?;
    // Without responses at any rate there is no knee.
    (beyond > 0).then(|| curve[at + beyond - 1].0)
}

/// The p99 of a step; the maximum if messages were lost.
fn tail_ns(step: &SearchStep) -> u64 {
    match step.limit {
        Some(Limit::Rate | Limit::Integrity) => u64::MAX,
        _ => step.p99_ns.max(1),
    }
}

#[cfg(test)]
mod tests;
