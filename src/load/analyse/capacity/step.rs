//! Steps of a search: whether a run holds the objective, the limit that it hits, and the evidence of its blocks.
//!
//! The *knee* of a search is the rate above which the tail of the response time grows: the highest tried rate at which
//! p99 is below twice the lowest p99, as it is at all rates in between.
//!
//! Never: a clock, I/O, a run.

use std::f64::consts::LN_2;

use hdrhistogram::Histogram;
use serde_json::Value;

use super::search::{BLOCKS, Evidence};
use crate::analyse::objective::{Evaluation, Objective};
use crate::analyse::statistics::median;
use crate::engine::Outcome;
use crate::measure::{Quantiles, distribution};
use crate::plan::{Arrivals, Flaw, Workload, units};
use crate::record::Record;
use crate::record::search::{CpuUse, Limit, SearchStep};

/// Share of the offered rate that must arrive.
const RATE_SHARE_MIN: f64 = 0.99;
/// Random arrivals may fall short by this many standard deviations.
const DEVIATIONS: f64 = 4.0;
/// Before the knee, p99 is below this many times its lowest.
const KNEE_FACTOR: u64 = 2;
/// CPU share from which on a thread of the generator is busy with its own work.
const BUSY_SHARE: f64 = 0.8;
/// Share of a CPU's time, stolen by the hypervisor, from which on a step that fails says nothing about the server.
const STOLEN_SHARE: f64 = 0.05;
/// A step is not steady if its response times would reach the objective within this many more such steps.
const STEPS_AHEAD: f64 = 16.0;
/// Rank statistic (Kendall) from which on the blocks of a step rise: by chance in 5 % of steady steps.
const RISING: i32 = 24;

/// Evaluates the run of a step.
pub(crate) fn evaluate(
    outcome: &Outcome,
    load: &Workload,
    cpus: Vec<CpuUse>,
    objective: &Objective,
) -> SearchStep {
    let record = &outcome.record;
    let rate = load.pace.rate().unwrap_or(0);
    let generator_cpu = record.generator.threads.iter().map(|thread| thread.cpu_share).fold(0.0, f64::max);
    let found = failure_of(outcome, load, rate, objective).map(|(limit, why)| {
        let is_stolen = cpus.iter().any(|cpu| cpu.stolen >= STOLEN_SHARE);
        match limit {
            Limit::Objective | Limit::Rate | Limit::Generator if is_stolen => (Limit::Host, why),
            Limit::Generator if generator_cpu < BUSY_SHARE => (Limit::Host, why),
            limit => (limit, why),
        }
    });
    SearchStep {
        load: None,
        rate,
        messages_per_s: record.messages_per_s,
        held: found.is_none(),
        p50_ns: record.response_ns.p50,
        p99_ns: record.response_ns.p99,
        p999_ns: record.response_ns.p999,
        limit: found.as_ref().map(|(limit, _)| *limit),
        why: found.map(|(_, why)| why),
        cpus,
        server_cpu: record.server.as_ref().and_then(|server| server.cpu_share),
        generator_cpu,
    }
}

/// The evidence of a step's blocks.
pub(crate) fn evidence(
    outcome: &Outcome,
    load: &Workload,
    step: &SearchStep,
    objective: &Objective,
) -> Evidence {
    let says_nothing = Evidence { limit: step.limit, ..Evidence::default() };
    if matches!(step.limit, Some(Limit::Host | Limit::Interrupted)) {
        return says_nothing;
    }
    let mut blocks = blocks(outcome, load, objective);
    let whole = objective.excess(&outcome.response);
    if step.held && is_rising(&blocks) {
        return says_nothing;
    }
    // Blocks do not show why the whole step fails.
    if !step.held && (step.limit != Some(Limit::Objective) || whole.is_none_or(|excess| excess < 0.0)) {
        blocks.iter_mut().for_each(|block| *block = block.max(LN_2));
        // What is counted over the step may be of one burst: two steps decide.
        if step.limit != Some(Limit::Rate) {
            blocks.truncate(BLOCKS / 2);
        }
    }
    Evidence { blocks, held: Some(step.held), limit: step.limit }
}

/// How far the response times of each block lie beyond the objective, as a logarithm. An objective without response times is
/// met by a block in which the messages arrive that are due.
fn blocks(outcome: &Outcome, load: &Workload, objective: &Objective) -> Vec<f64> {
    let Some(slices) = &outcome.record.timeline else { return Vec::new() };
    let length = (slices.arrived.len() / BLOCKS).max(1);
    let of = |block: usize| {
        let range = block * length..(block + 1) * length;
        let mut response = crate::measure::histogram();
        for text in slices.response_histograms[range.clone()].iter().flatten() {
            // What was encoded here can be decoded.
            let _ = distribution::decode(text).map(|slice| response.add(slice));
        }
        let arrived = slices.arrived[range.clone()].iter().sum::<u64>() as f64;
        let due = slices.due.as_ref().map_or(0, |due| due[range].iter().sum::<u64>()) as f64;
        let due = due * load.deliveries_per_message();
        let rate = (RATE_SHARE_MIN * due.max(1.0) / arrived.max(1.0)).ln();
        match objective.excess(&response) {
            // Nothing arrived.
            _ if arrived == 0.0 && due > 0.0 => rate.max(LN_2),
            Some(excess) => excess,
            None => rate,
        }
    };
    (0..BLOCKS.min(slices.arrived.len() / length)).map(of).collect()
}

/// Whether the response times of a step rise so steeply that the objective would soon be missed: a queue grows.
pub(super) fn is_rising(blocks: &[f64]) -> bool {
    let pairs = || (0..blocks.len()).flat_map(|at| blocks[at + 1..].iter().map(move |later| (at, later)));
    let rank: i32 =
        pairs().map(|(at, later)| i32::from(*later > blocks[at]) - i32::from(*later < blocks[at])).sum();
    let quarter = blocks.len() / 4;
    let shares: Vec<f64> = blocks.iter().map(|block| block.exp()).collect();
    let ends = (median(&shares[..quarter]), median(&shares[shares.len() - quarter..]));
    let (Some(first), Some(last)) = ends else { return false };
    rank >= RISING && (last - first) * STEPS_AHEAD > 1.0 - last
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

/// The rate above which the tail grows, see the module's head. Of a rate that was tried twice the better run counts.
/// `None` if the tail does not grow within the curve.
pub fn knee(steps: &[SearchStep]) -> Option<u64> {
    // A step that did not keep its rate, or was interrupted, has no latency for that rate.
    let belongs =
        |step: &SearchStep| !matches!(step.limit, Some(Limit::Interrupted | Limit::Generator | Limit::Host));
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
