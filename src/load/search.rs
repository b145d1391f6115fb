//! The search for the highest rate that holds an objective: by doubling until a step fails, then by bisection. Which rate
//! is asked for next follows from the answers alone; whoever conducts the runs is elsewhere.
//!
//! The curve of a search has its *knee* where the tail of the response time begins to grow: the highest rate tried at which
//! p99 is below twice the lowest p99 of the curve, all rates between the two included.
//!
//! Never: a clock, I/O, a run.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::distribution;
use super::objective::{Judgement, Objective};
use super::plan::{Mode, Workload};
use super::record::{Quantiles, Record};
use super::run::{Outcome, Verdict};
use super::schedule::{Arrivals, RATE_MAX};
use super::show;

/// Where a search begins, in messages a second, when nothing is said.
pub const START_DEFAULT: u64 = 1_000;
/// How near to one another the rates are between which a search ends, when nothing is said.
pub const PRECISION_DEFAULT: f64 = 0.05;
/// The smallest and largest precision that may be asked for.
pub const PRECISIONS: (f64, f64) = (0.005, 0.5);
/// Measured time of a step, when nothing is said.
pub const STEP_TIME_DEFAULT: Duration = Duration::from_secs(5);
/// Measured time of a step that needs longer for as many messages as the objective's quantile takes.
pub const STEP_TIME_MAX: Duration = Duration::from_secs(120);
/// The same of rates below the first one, which are tried when that does not hold.
const LOWER_STEP_TIME_MAX: Duration = Duration::from_secs(30);
/// A search goes down to the first rate divided by this. An objective that fails there is out of reach, or the first rate
/// was far too high.
const DOWN: u64 = 32;
/// Runs of a search at most: from any first rate over all rates there are, with each failure repeated.
pub const STEPS_MAX: usize = 80;
/// Of the rate that was asked for, what has to arrive.
const RATE_SHARE_MIN: f64 = 0.99;
/// Random arrivals may be fewer by so many standard deviations.
const DEVIATIONS: f64 = 4.0;
/// The knee is before p99 is so many times its lowest.
const KNEE_FACTOR: u64 = 2;

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// What has to hold.
    pub objective: Objective,
    /// The first rate, in messages a second.
    pub start: u64,
    /// How near the rates are between which the search ends: 0.05 is 5 %.
    pub precision: f64,
}

impl Terms {
    /// The lowest rate to try: down to a 32nd of the first, while a step of half a minute has as many messages as the
    /// objective needs.
    pub fn least_rate(&self) -> u64 {
        let needed = self.objective.messages_needed().div_ceil(LOWER_STEP_TIME_MAX.as_secs());
        needed.max(self.start / DOWN).min(self.start).max(1)
    }

    /// The first rate has to bring as many messages as the objective needs within [`STEP_TIME_MAX`]: the lowest that does.
    pub fn least_start(&self) -> u64 {
        self.objective.messages_needed().div_ceil(STEP_TIME_MAX.as_secs()).max(1)
    }

    /// How long a step at this rate measures: as asked for, or longer for as many messages as the objective needs.
    pub fn step_time(&self, asked: Duration, rate: u64) -> Duration {
        let needed = Duration::from_secs_f64(self.objective.messages_needed() as f64 / rate as f64);
        asked.max(needed.min(STEP_TIME_MAX))
    }
}

/// What keeps a rate from being held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The objective did not hold.
    Objective,
    /// Fewer messages came back than were due.
    Rate,
    /// Messages or connections went wrong.
    Integrity,
    /// The generator was late for its own schedule, without which the rate would have held.
    Generator,
    /// No rate beyond may be asked for.
    Bound,
    /// The search was too long.
    Steps,
    /// It was interrupted.
    Interrupted,
    /// The server could not be measured any more.
    Target,
}

impl Limit {
    /// In a few words.
    pub fn words(self) -> &'static str {
        match self {
            Limit::Objective => "the objective",
            Limit::Rate => "a server that takes no more",
            Limit::Integrity => "messages or connections that go wrong",
            Limit::Generator => "the generator, not the server",
            Limit::Bound => "the rates that may be asked for",
            Limit::Steps => "the length of a search",
            Limit::Interrupted => "an interruption",
            Limit::Target => "a server that was gone",
        }
    }
}

/// A search under way. Ask for [`next_rate`](Search::next_rate), and [`tell`](Search::tell) what came of it.
#[derive(Clone, Debug)]
pub struct Search {
    start: u64,
    least: u64,
    most: u64,
    precision: f64,
    held: Option<u64>,
    failed: Option<(u64, Limit)>,
    doubted: Option<u64>,
    told: usize,
}

impl Search {
    /// From `start` (brought between the bounds), no lower than `least` and no higher than `most`, until the rates
    /// between which the highest one lies are as near as `precision`.
    pub fn new(start: u64, (least, most): (u64, u64), precision: f64) -> Search {
        let (least, most) = (least.max(1), most.max(least.max(1)));
        let precision = precision.clamp(PRECISIONS.0, PRECISIONS.1);
        let start = start.clamp(least, most);
        Search { start, least, most, precision, held: None, failed: None, doubted: None, told: 0 }
    }

    /// The rate to try next; `None` when the search is over.
    pub fn next_rate(&self) -> Option<u64> {
        if self.told >= STEPS_MAX {
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

    /// What came of a run at [`next_rate`](Search::next_rate): what kept it from holding, if anything did. A failure is
    /// believed when it was seen twice in a row, since a machine may be busy elsewhere.
    pub fn tell(&mut self, rate: u64, limit: Option<Limit>) {
        self.told += 1;
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

    /// The highest rate that held.
    pub fn max_rate(&self) -> Option<u64> {
        self.held
    }

    /// What keeps rates above it from being held.
    pub fn limited_by(&self) -> Limit {
        match self.failed {
            _ if self.told >= STEPS_MAX => Limit::Steps,
            Some((_, limit)) => limit,
            None => Limit::Bound,
        }
    }
}

/// A search as the record tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// What had to hold.
    pub objective: String,
    /// How near the rates are between which the search ended: 0.05 is 5 %.
    pub precision: f64,
    /// The highest rate that held it, in messages a second over all senders; `null` when none did.
    pub max_rate: Option<u64>,
    /// Where p99 begins to grow, in messages a second; `null` when it does not within the curve.
    pub knee: Option<u64>,
    /// What keeps higher rates from holding it. With `generator` the server may take more than `max_rate`.
    pub limited_by: Limit,
    /// All runs in the order in which they were made.
    pub steps: Vec<Step>,
}

impl Found {
    /// Why a search did not find what it was to find, in one line; `None` when it did, or was ended from outside.
    pub fn complaint(&self) -> Option<String> {
        let last = self.steps.last();
        match (self.limited_by, self.max_rate) {
            (Limit::Generator, rate) => {
                let more =
                    rate.map_or("any rate".to_owned(), |rate| format!("more than {}/s", show::count(rate)));
                Some(format!(
                    "the generator is the limit of --find-max {}, so the server may hold {more}: give the generator \
                     more --threads or CPUs",
                    self.objective
                ))
            }
            (Limit::Interrupted | Limit::Target, _) | (_, Some(_)) => None,
            (_, None) => Some(format!(
                "--find-max {} held at no rate: at {}/s {}; a lower --rate begins lower",
                self.objective,
                show::count(last.map_or(0, |step| step.rate)),
                last.and_then(|step| step.why.as_deref()).unwrap_or("nothing was measured")
            )),
        }
    }
}

/// One run of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What was asked for, in messages a second over all senders.
    pub rate: u64,
    /// What arrived.
    pub messages_per_s: f64,
    /// Whether the objective held, the rate was kept, and nothing went wrong.
    pub held: bool,
    /// Response time: median.
    pub p50_ns: u64,
    /// 99 %.
    pub p99_ns: u64,
    /// 99.9 %.
    pub p999_ns: u64,
    /// What kept it from being held.
    pub limit: Option<Limit>,
    /// The same in words.
    pub why: Option<String>,
}

impl Step {
    /// Judges the run of a load.
    pub fn judge(outcome: &Outcome, load: &Workload, rate: u64, objective: &Objective) -> Step {
        let record = &outcome.record;
        let found = why_not(outcome, load, rate, objective);
        Step {
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
}

/// What kept a run from holding its rate. Response times contain the generator's own lateness: where they meet the
/// objective, so does the server. Where they do not, or where too little arrived, a generator that was late is named if its
/// lateness explains that.
fn why_not(outcome: &Outcome, load: &Workload, rate: u64, objective: &Objective) -> Option<(Limit, String)> {
    let record = &outcome.record;
    if record.interrupted {
        return Some((Limit::Interrupted, "interrupted".to_owned()));
    }
    if outcome.verdict() == Verdict::Broken {
        return Some((Limit::Integrity, what_broke(record)));
    }
    let late = show::duration(record.generator.lateness_ns.p99);
    let value = serde_json::to_value(record).unwrap_or(Value::Null);
    if objective.judge(&value) != Judgement::Holds {
        let seen = objective.seen_words(&value);
        let is_late = record.generator.saturated && holds_without_lateness(outcome, value, objective);
        return Some(match is_late {
            true => (Limit::Generator, format!("{seen}, because the generator came {late} late at p99")),
            false => (Limit::Objective, seen),
        });
    }
    let due_per_s = rate as f64 * load.deliveries_per_message();
    if !is_kept(record.messages_per_s, due_per_s, record.duration_s, load) {
        let (due, came) = (show::count(due_per_s as u64), show::count(record.messages_per_s as u64));
        let arrived = format!("{came}/s of {due}/s arrived");
        // A generator that is late at the end has not come to what was due in that time.
        let late_s = record.generator.lateness_ns.max as f64 / 1e9;
        let missed_per_s = due_per_s * (late_s / record.duration_s).min(1.0);
        let is_late = record.generator.saturated
            && is_kept(record.messages_per_s + missed_per_s, due_per_s, record.duration_s, load);
        return Some(match is_late {
            true => (Limit::Generator, format!("{arrived}, and the generator came {late} late at p99")),
            false => (Limit::Rate, arrived),
        });
    }
    None
}

/// Whether a run would meet the objective had the generator sent each message when it was due. Service times do not contain
/// its lateness, nor what messages waited for room in their connection, which is no fault of the generator. So response
/// times have to meet the objective as well when they are shorter by the largest lateness.
fn holds_without_lateness(outcome: &Outcome, record: Value, objective: &Objective) -> bool {
    let Outcome { record: Record { service_ns, generator, .. }, response, .. } = outcome;
    let mut shorter = Histogram::new_from(response);
    for step in response.iter_recorded() {
        let ns = step.value_iterated_to().saturating_sub(generator.lateness_ns.max);
        shorter.saturating_record_n(ns, step.count_at_value());
    }
    // How far values lie apart does not change when all are shorter by the same.
    let shorter_ns = Quantiles { stddev: service_ns.stddev, ..Quantiles::of(&shorter) };
    let (mut prompt, mut served) = (record.clone(), record);
    prompt["response_ns"] = serde_json::to_value(shorter_ns).unwrap_or(Value::Null);
    prompt["response_histogram"] = distribution::encode(&shorter).into();
    served["response_ns"] = served["service_ns"].clone();
    served["response_histogram"] = served["service_histogram"].clone();
    [prompt, served].iter().all(|record| objective.judge(record) == Judgement::Holds)
}

fn what_broke(record: &Record) -> String {
    let integrity = &record.integrity;
    let errors = record.errors.values().sum();
    let parts: Vec<String> = [
        (integrity.lost, "lost"),
        (integrity.duplicated, "duplicated"),
        (integrity.reordered, "reordered"),
        (integrity.corrupted, "corrupted"),
        (integrity.late, "late"),
        (record.generator.unsent_gone, "unsent"),
        (record.connections.ended_early, "connections ended early"),
        (errors, "errors"),
    ]
    .into_iter()
    .filter(|(times, _)| *times > 0)
    .map(|(times, what)| format!("{} {what}", show::count(times)))
    .collect();
    parts.join(", ")
}

/// Whether as much arrived as was due.
fn is_kept(arrived_per_s: f64, due_per_s: f64, duration_s: f64, load: &Workload) -> bool {
    let chance = match load.arrivals {
        Arrivals::Even => 0.0,
        // Of messages, each of which is delivered as often.
        Arrivals::Poisson => {
            let copies = load.deliveries_per_message();
            let published = due_per_s / copies * duration_s;
            DEVIATIONS * published.max(0.0).sqrt() * copies / duration_s.max(f64::MIN_POSITIVE)
        }
    };
    arrived_per_s >= RATE_SHARE_MIN * due_per_s - chance
}

impl Workload {
    /// How many connections a message that is sent reaches on average, of those that read and are timed.
    pub fn deliveries_per_message(&self) -> f64 {
        if self.mode != Mode::Broadcast {
            return 1.0;
        }
        let mut readers = vec![0_u64; self.topics.max(1) as usize];
        for connection in (self.publishers..self.connections).filter(|&c| !self.is_stalled(c)) {
            readers[self.topic(connection) as usize] += 1;
        }
        let deliveries: u64 =
            (0..).zip(&readers).map(|(topic, readers)| readers * u64::from(self.publishers_of(topic))).sum();
        deliveries as f64 / f64::from(self.publishers.max(1))
    }
}

/// The lowest and the highest rate of a search.
pub fn bounds(terms: &Terms) -> (u64, u64) {
    (terms.least_rate(), RATE_MAX)
}

/// Where the tail begins to grow, see this module's head. Of a rate that was tried twice the better run counts. `None`
/// when it does not grow within the curve.
pub fn knee(steps: &[Step]) -> Option<u64> {
    // A run that did not keep its rate, or was none, has no latency that belongs to the rate.
    let belongs = |step: &Step| !matches!(step.limit, Some(Limit::Interrupted | Limit::Generator));
    let mut curve: Vec<(u64, u64)> = Vec::new();
    let mut sorted: Vec<&Step> = steps.iter().filter(|step| belongs(step)).collect();
    sorted.sort_by_key(|step| (step.rate, step.tail_ns()));
    for step in sorted {
        if curve.last().is_none_or(|(rate, _)| *rate != step.rate) {
            curve.push((step.rate, step.tail_ns()));
        }
    }
    let lowest = curve.iter().enumerate().min_by_key(|(_, (_, tail_ns))| *tail_ns)?;
    let (at, bound_ns) = (lowest.0, lowest.1.1.saturating_mul(KNEE_FACTOR));
    let beyond = curve[at..].iter().position(|(_, tail_ns)| *tail_ns >= bound_ns)?;
    // Where nothing came back at any rate, the lowest is beyond itself.
    (beyond > 0).then(|| curve[at + beyond - 1].0)
}

impl Step {
    /// Its p99, as long as can be where messages did not come back.
    fn tail_ns(&self) -> u64 {
        match self.limit {
            Some(Limit::Rate | Limit::Integrity) => u64::MAX,
            _ => self.p99_ns.max(1),
        }
    }
}

#[cfg(test)]
mod tests;
