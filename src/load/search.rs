//! The search for the highest rate that holds an objective: by doubling until a step fails, then by bisection. Which rate
//! is asked for next follows from the answers alone; whoever conducts the runs is elsewhere.
//!
//! The curve of a search has its *knee* where the tail of the response time begins to grow: the highest rate tried at which
//! p99 is below twice the lowest p99 of the curve, all rates between the two included.
//!
//! Never: a clock, I/O, a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::objective::{Judgement, Objective};
use super::plan::{Mode, Workload};
use super::record::Record;
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
/// objective, so does the server. Where they do not, a generator that was late is named if without its lateness, by the
/// service times, the objective holds.
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
        let is_late =
            record.generator.saturated && objective.judge(&without_lateness(value)) == Judgement::Holds;
        return Some(match is_late {
            true => (Limit::Generator, format!("{seen}, because the generator came {late} late at p99")),
            false => (Limit::Objective, seen),
        });
    }
    let due_per_s = rate as f64 * load.deliveries_per_message();
    if !is_kept(record.messages_per_s, due_per_s, record.duration_s, load) {
        let (due, came) = (show::count(due_per_s as u64), show::count(record.messages_per_s as u64));
        let arrived = format!("{came}/s of {due}/s arrived");
        return Some(match record.generator.saturated {
            true => (Limit::Generator, format!("{arrived}, and the generator came {late} late at p99")),
            false => (Limit::Rate, arrived),
        });
    }
    None
}

/// A record as it would be had the generator sent each message when it was due.
fn without_lateness(mut record: Value) -> Value {
    record["response_ns"] = record["service_ns"].clone();
    record["response_histogram"] = record["service_histogram"].clone();
    record
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
mod tests {
    use super::*;
    use crate::load::plan::tests::workload;
    use crate::load::statistics::Random;

    /// p99 of the response time of a server that takes `capacity` messages a second one after the other, arrivals and
    /// service times being exponential (M/M/1): exponential itself, with the mean 1 / (capacity - rate).
    fn p99_s(rate: u64, capacity: f64) -> f64 {
        let spare = capacity - rate as f64;
        if spare <= 0.0 { f64::INFINITY } else { 100_f64.ln() / spare }
    }

    /// Searches a server, of which `judge` says what keeps a rate from being held.
    fn search(mut search: Search, mut judge: impl FnMut(u64) -> Option<Limit>) -> (Search, usize) {
        let mut runs = 0;
        while let Some(rate) = search.next_rate() {
            search.tell(rate, judge(rate));
            runs += 1;
        }
        (search, runs)
    }

    #[test]
    fn the_highest_rate_is_found_within_the_precision_and_in_few_runs() {
        let mut random = Random::new(11);
        for _ in 0..2_000 {
            let capacity = 10_f64.powf(2.0 + 6.0 * random.unit());
            let bound_s = 100_f64.ln() / capacity * (1.2 + 50.0 * random.unit());
            let start = 10_f64.powf(8.0 * random.unit()) as u64;
            let precision = 0.01 + 0.2 * random.unit();
            let exact = capacity - 100_f64.ln() / bound_s;
            let begun = Search::new(start, (1, RATE_MAX), precision);
            let (over, runs) =
                search(begun, |rate| (p99_s(rate, capacity) > bound_s).then_some(Limit::Objective));
            let found = over.max_rate().expect("some rate holds") as f64;
            assert!(found <= exact * (1.0 + 1e-9), "{found} of {exact}");
            assert!(found * (1.0 + precision) + 1.0 >= exact - 1.0, "{found} of {exact}, {precision}");
            assert_eq!(over.limited_by(), Limit::Objective);
            // Doublings or halvings, these repeated, and the bisection with its repetitions.
            let far = (exact / start as f64).log2().abs().ceil();
            let most = 2.0 * far + 4.0 + 2.0 * (1.0 / precision).log2().ceil();
            assert!(runs as f64 <= most && runs < STEPS_MAX, "{runs} runs of {most}");
        }
    }

    #[test]
    fn one_bad_run_is_not_believed() {
        let mut random = Random::new(12);
        for _ in 0..500 {
            let exact = 1_000 + random.below(1_000_000) as u64;
            let mut disturbed = None;
            let (over, _) = search(Search::new(1_000, (1, RATE_MAX), 0.05), |rate| {
                // The machine is busy elsewhere in every third run, but not twice in a row.
                if random.below(3) == 0 && disturbed != Some(rate) {
                    disturbed = Some(rate);
                    return Some(Limit::Objective);
                }
                disturbed = None;
                (rate > exact).then_some(Limit::Objective)
            });
            let found = over.max_rate().expect("some rate holds");
            assert!(found <= exact && found as f64 * 1.05 + 1.0 >= exact as f64, "{found} of {exact}");
        }
    }

    #[test]
    fn a_generator_that_is_too_late_ends_the_search_upward_and_is_named() {
        let (over, _) = search(Search::new(1_000, (1, RATE_MAX), 0.05), |rate| {
            (rate > 70_000).then_some(Limit::Generator)
        });
        assert_eq!(over.limited_by(), Limit::Generator);
        assert!(over.max_rate().is_some_and(|rate| (66_000..=70_000).contains(&rate)), "{over:?}");
    }

    #[test]
    fn a_search_has_an_end_in_every_case() {
        let (over, runs) = search(Search::new(1_000, (1, RATE_MAX), 0.05), |_| None);
        assert_eq!((over.max_rate(), over.limited_by()), (Some(RATE_MAX), Limit::Bound));
        assert!(runs <= 21, "{runs}");
        let (over, runs) = search(Search::new(1_000, (84, RATE_MAX), 0.05), |_| Some(Limit::Rate));
        assert_eq!((over.max_rate(), over.limited_by()), (None, Limit::Rate));
        assert!(runs <= 10, "{runs}");
        // Noise that follows nothing.
        let mut random = Random::new(13);
        for _ in 0..200 {
            let start = 1 + random.below(RATE_MAX as usize) as u64;
            let limit = |yes: bool| yes.then_some(Limit::Objective);
            let (_, runs) = search(Search::new(start, (1, RATE_MAX), 0.005), |_| limit(random.below(2) == 0));
            assert!(runs <= STEPS_MAX);
        }
    }

    fn step(rate: u64, p99_ns: u64, limit: Option<Limit>) -> Step {
        let held = limit.is_none();
        Step { rate, messages_per_s: rate as f64, held, p50_ns: 1, p99_ns, p999_ns: p99_ns, limit, why: None }
    }

    #[test]
    fn the_knee_is_where_the_tail_begins_to_grow() {
        // An M/M/1 server's p99 is twice that of no load at half of what it takes.
        let curve: Vec<Step> =
            (1..20).map(|at| step(at * 500, (p99_s(at * 500, 10_000.0) * 1e9) as u64, None)).collect();
        // 1 / (10,000 - r) is twice 1 / 9,500 at r = 5,250.
        assert_eq!(knee(&curve), Some(5_000));
        // A hockey stick: flat, somewhat slower while hardly used, and steep at the end. Twice tried counts once.
        let stick = [
            step(1_000, 900, None),
            step(2_000, 500, None),
            step(4_000, 510, None),
            step(8_000, 2_000, Some(Limit::Objective)),
            step(8_000, 700, None),
            step(16_000, 90_000, Some(Limit::Objective)),
            step(16_000, 80_000, Some(Limit::Objective)),
            step(12_000, 990, None),
            step(14_000, 1_000, None),
        ];
        assert_eq!(knee(&stick), Some(12_000));
        // Messages that did not come back are not fast.
        let lossy = [step(10, 500, None), step(20, 500, None), step(40, 400, Some(Limit::Rate))];
        assert_eq!(knee(&lossy), Some(20));
    }

    #[test]
    fn a_curve_that_does_not_bend_has_no_knee() {
        assert_eq!(knee(&[]), None);
        assert_eq!(knee(&[step(10, 500, None)]), None);
        assert_eq!(knee(&[step(10, 500, None), step(20, 600, None), step(40, 999, None)]), None);
        assert_eq!(knee(&[step(10, 500, Some(Limit::Rate)), step(5, 500, Some(Limit::Integrity))]), None);
        let late = [step(10, 500, None), step(20, 90_000, Some(Limit::Generator))];
        assert_eq!(knee(&late), None, "the generator's lateness is not the server's");
    }

    #[test]
    fn steps_are_long_enough_for_the_quantile() {
        let terms = |words: &str| Terms {
            objective: words.parse().expect(words),
            start: START_DEFAULT,
            precision: PRECISION_DEFAULT,
        };
        let asked = Duration::from_secs(5);
        assert_eq!(terms("p99<2ms").step_time(asked, 1_000), asked);
        assert_eq!(terms("p99.9<2ms").step_time(asked, 1_000), Duration::from_secs(10));
        assert_eq!(terms("p99.9<2ms").step_time(asked, 334), Duration::from_secs_f64(10_000.0 / 334.0));
        assert_eq!((terms("p99.9<2ms").least_rate(), terms("p99.9<2ms").least_start()), (334, 84));
        assert_eq!(terms("p99.99<2ms").step_time(asked, 10), STEP_TIME_MAX);
        assert_eq!((terms("p50<2ms").least_rate(), terms("p50<2ms").least_start()), (31, 1));
        let low = Terms { start: 100, ..terms("p99.9<2ms") };
        assert_eq!(low.least_rate(), 100, "there is no time for less");
    }

    #[test]
    fn a_published_message_is_due_at_every_subscriber_that_reads() {
        assert!((workload(Mode::Echo).deliveries_per_message() - 1.0).abs() < 1e-12);
        // Topic 0 has 2 publishers and 4 subscribers, topic 1 has 1 and 3.
        let load = workload(Mode::Broadcast);
        assert!((load.deliveries_per_message() - 11.0 / 3.0).abs() < 1e-12);
        let load = Workload { stalled: 2, ..load };
        assert!((load.deliveries_per_message() - 8.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_rate_is_kept_when_next_to_all_of_it_arrives() {
        let even = workload(Mode::Echo);
        assert!(is_kept(991.0, 1_000.0, 1.0, &even) && !is_kept(989.0, 1_000.0, 1.0, &even));
        let poisson = Workload { arrivals: Arrivals::Poisson, ..even };
        // Four standard deviations of 1,000 are 126.
        assert!(is_kept(870.0, 1_000.0, 1.0, &poisson) && !is_kept(850.0, 1_000.0, 1.0, &poisson));
        assert!(!is_kept(970.0, 1_000.0, 100.0, &poisson));
    }
}
