//! The runs of a calibration: planted faults, planted delays of several lengths, and one delay at rising rates.
//!
//! Never: a clock, or counts of its own.

use std::time::Duration;

use super::calibration::{MESSAGES_BEYOND, believed, believed_by_the_kernel};
use super::capacity::search::{BLOCKS, CapacitySearch, Evidence};
use super::experiment::Progress;
use crate::engine::calibration_server::{Behaviour, CalibrationServer, ServerLog};
use crate::engine::{Outcome, RunVerdict, TargetSession};
use crate::measure::Integrity;
use crate::measure::merge::Merge;
use crate::measure::quantiles::Quantiles;
use crate::plan::{Embedded, Flaw, Pace, RATE_MAX, Refused, Resources, Target, Workload, count, duration};
use crate::record::Record;
use crate::record::calibration::{Calibration, CalibrationStep, Faults, QuantilePair, QuantilePairs, SCHEMA};
use crate::record::search::Limit;
use echoring_proto::random::mix;

/// Messages per second of the steps with faults, and with delays of several lengths.
const BASE_RATE: u64 = 5_000;
/// The first of the rising rates.
const START_RATE: u64 = 10_000;
/// The delay at the rising rates.
const RATE_DELAY: Duration = Duration::from_millis(1);
/// Steps at rising rates: doubling up to 640,000 messages per second, or fewer and some bisections.
const RATE_STEPS: u32 = 8;
/// Relative distance of the two rates at which the search ends.
const PRECISION: f64 = 0.1;
/// Interval of faults on a connection: one message in this many has a fault.
const FAULT_INTERVAL: u64 = 20;
/// How long lost messages are awaited: longer than a busy host stops one of the two sides.
const FAULT_DRAIN: Duration = Duration::from_secs(2);
/// How long messages are awaited at the rising rates: one that is too high leaves many.
const RATE_DRAIN: Duration = Duration::from_secs(1);
/// Share of the messages that must arrive while the rate lasts.
const RATE_SHARE_MIN: f64 = 0.99;

/// Delays of which each message has one, by their shares. Each quantile lies within one of them.
const MIXED: [(f64, Duration); 5] = [
    (0.3, Duration::ZERO),
    (0.5, Duration::from_micros(100)),
    (0.15, Duration::from_millis(1)),
    (0.046, Duration::from_millis(10)),
    (0.004, Duration::from_millis(50)),
];
/// Delays that all messages of a step have.
const LEVELS: [Duration; 3] =
    [Duration::from_micros(100), Duration::from_millis(1), Duration::from_millis(10)];
/// Total number of steps, which share the time.
const STEPS: u32 = 1 + LEVELS.len() as u32 + 1 + RATE_STEPS;

/// Calibrates the generator: `load` is an echo load, whose duration all steps share. `None` if it was interrupted.
///
/// # Errors
/// If the environment prevents a run, as for [`run`](crate::run).
pub fn calibrate(
    load: &Workload,
    resources: Resources,
    show: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<Calibration>, Refused> {
    let server = CalibrationServer::start(&resources.server_cpus, resources.driver, load.connections)?;
    let address = server.address;
    // The server outlives the session, which therefore stops nothing.
    let target = Target::Embedded(Box::new(move |_| Ok(Embedded { address, stop: Box::new(|| ()) })));
    let session = TargetSession::open(target, resources)?;
    let mut calibrator = Calibrator { load, server, session, steps: Vec::new(), last: None };
    let faults = calibrator.run(show)?;
    let Calibrator { steps, last, .. } = calibrator;
    let (Some(faults), Some(Record { environment, started_at, config, .. })) = (faults, last) else {
        return Ok(None);
    };
    Ok(Some(Calibration {
        schema: SCHEMA.to_owned(),
        measured_at: started_at,
        environment,
        threads: config.threads,
        cpus: config.cpus,
        connections: config.connections,
        message_bytes: config.message_bytes,
        believed: believed(&steps),
        kernel: believed_by_the_kernel(&steps),
        faults,
        steps,
    }))
}

struct Calibrator<'a> {
    load: &'a Workload,
    server: CalibrationServer,
    session: TargetSession,
    steps: Vec<CalibrationStep>,
    last: Option<Record>,
}

impl Calibrator<'_> {
    /// Makes all runs. `None` if they were interrupted.
    fn run(&mut self, show: &mut dyn FnMut(Progress<'_>)) -> Result<Option<Faults>, Refused> {
        let (outcome, log) =
            self.measure(BASE_RATE, &Behaviour::Faults(FAULT_INTERVAL), FAULT_DRAIN, show)?;
        let mut faults = Faults { planted: log.planted, reported: outcome.record.integrity };
        show(Progress::Note(&described(&faults)));
        let drain = self.load.drain;
        let (log, reported) = self.step(BASE_RATE, "mixed", &MIXED, drain, show)?;
        faults.planted.merge(&log.planted);
        faults.reported.merge(&reported);
        for level in LEVELS {
            if self.session.is_stopped() {
                return Ok(None);
            }
            let name = duration(level.as_nanos() as u64);
            self.step(BASE_RATE, &name, &[(1.0, level)], drain, show)?;
        }
        let mut search = CapacitySearch::new(START_RATE, (BASE_RATE, RATE_MAX), PRECISION);
        let name = duration(RATE_DELAY.as_nanos() as u64);
        for _ in 0..RATE_STEPS {
            let Some(next) = search.next_step().filter(|_| !self.session.is_stopped()) else { break };
            self.step(next.load, &name, &[(1.0, RATE_DELAY)], RATE_DRAIN, show)?;
            let held = self.steps.last().is_some_and(|step| step.why.is_none());
            let blocks = vec![if held { -1.0 } else { 1.0 }; BLOCKS];
            search.tell(next, &Evidence { blocks, held: Some(held), limit: (!held).then_some(Limit::Rate) });
        }
        Ok((!self.session.is_stopped()).then_some(faults))
    }

    /// A run with planted delays. Returns the server's log, and the failures that the generator found.
    fn step(
        &mut self,
        rate: u64,
        delays: &str,
        levels: &[(f64, Duration)],
        drain: Duration,
        show: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(ServerLog, Integrity), Refused> {
        let behaviour = Behaviour::Delays { levels: levels.to_vec(), seed: self.load.seed };
        let (outcome, log) = self.measure(rate, &behaviour, drain, show)?;
        let longest = levels.iter().map(|(_, delay)| *delay).max().unwrap_or_default();
        let step = compared(rate, delays, longest, &outcome, &log);
        show(Progress::Note(&noted(&step)));
        self.steps.push(step);
        Ok((log, outcome.record.integrity))
    }

    fn measure(
        &mut self,
        rate: u64,
        behaviour: &Behaviour,
        drain: Duration,
        show: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(Outcome, ServerLog), Refused> {
        self.server.behave(behaviour);
        let load = Workload {
            pace: Pace::Rate(rate),
            duration: self.load.duration / STEPS,
            // Every message that the server logs counts.
            warmup: Duration::ZERO,
            drain,
            // Different delays exchange answers.
            allow: vec![Flaw::Reordered],
            seed: mix(self.load.seed ^ self.steps.len() as u64),
            ..self.load.clone()
        };
        let outcome = self.session.measure(load, &mut |moment| show(Progress::Run(moment)))?;
        self.last = Some(outcome.record.clone());
        Ok((outcome, self.server.log()))
    }
}

/// A step: the server's actions, and the generator's findings.
fn compared(
    rate: u64,
    delays: &str,
    longest: Duration,
    outcome: &Outcome,
    log: &ServerLog,
) -> CalibrationStep {
    let record = &outcome.record;
    CalibrationStep {
        rate,
        delays: delays.to_owned(),
        messages_per_s: record.messages_per_s,
        why: why_not_held(rate, longest, outcome),
        response: pairs(log, &record.response_ns),
        kernel: record.server_and_network_ns.as_ref().map(|found| pairs(log, found)).unwrap_or_default(),
    }
}

/// What the server kept messages for, and what the generator found.
fn pairs(log: &ServerLog, found: &Quantiles) -> QuantilePairs {
    let pair = |quantile: f64, measured_ns: u64| {
        let beyond = |count: u64| (count as f64 * (1.0 - quantile)).round() as u64 >= MESSAGES_BEYOND;
        let planted_ns = log.held.value_at_quantile(quantile);
        (beyond(log.held.len()) && beyond(found.count)).then_some(QuantilePair { planted_ns, measured_ns })
    };
    QuantilePairs { p50: pair(0.5, found.p50), p99: pair(0.99, found.p99), p999: pair(0.999, found.p999) }
}

/// Why a rate was not held, if it was not. A generator that is late has an error, and may hold the rate all the same.
fn why_not_held(rate: u64, longest: Duration, outcome: &Outcome) -> Option<String> {
    let record = &outcome.record;
    let due = rate as f64 * record.duration_s;
    // Messages that are kept at the end arrive later.
    let kept = rate as f64 * longest.as_secs_f64();
    if record.interrupted {
        Some("interrupted".to_owned())
    } else if outcome.verdict() == RunVerdict::Broken {
        Some("messages were lost or damaged".to_owned())
    } else if (record.messages as f64) < RATE_SHARE_MIN * due - kept || record.generator.unsent > 0 {
        Some(format!("{}/s of {}/s arrived", count(record.messages_per_s as u64), count(rate)))
    } else {
        None
    }
}

fn described(faults: &Faults) -> String {
    let planted = format!("planted faults: {}", faults.planted.listed(count));
    match faults.is_exact() {
        true => format!("{planted}; all found"),
        false => format!("{planted}; NOT found exactly"),
    }
}

fn noted(step: &CalibrationStep) -> String {
    let error = |name: &str, pair: Option<QuantilePair>| {
        pair.map(|pair| format!("{name} {} off", duration(pair.error_ns())))
    };
    let QuantilePairs { p50, p99, p999 } = step.response;
    let errors = [error("p50", p50), error("p99", p99), error("p99.9", p999)];
    let errors: Vec<String> = errors.into_iter().flatten().collect();
    let why = step.why.as_ref().map_or(String::new(), |why| format!("; not held: {why}"));
    format!("{} messages/s, delays {}: {}{why}", count(step.rate), step.delays, errors.join(", "))
}
