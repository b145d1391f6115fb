//! A finished run, and its verdict.

use hdrhistogram::Histogram;

use crate::measure::samples::{Sample, Sampler};
use crate::measure::{Samples, Timeline};
use crate::plan::{Mode, Workload};
use crate::record::segment::SegmentResult;
use crate::record::{Agent, Record, Sampled, time_series};

/// A finished run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The record of the run.
    pub record: Record,
    /// The distribution behind `response_ns`.
    pub response: Histogram<u64>,
    /// The measured time in intervals, with the distribution of each.
    pub timeline: Timeline,
    /// A sample of single messages, if the load asks for one.
    pub samples: Option<Samples>,
}

/// The verdict on a run, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunVerdict {
    /// The run succeeded.
    Good,
    /// The generator was too late for its own schedule.
    Saturated,
    /// Messages or connections failed.
    Broken,
}

impl Outcome {
    /// The outcome of a run of this load.
    pub fn of(load: &Workload, target: &str, mut result: SegmentResult) -> Outcome {
        let samples = result.samples.take().map(|sampler| samples_of(load, sampler, &result));
        let timeline = Timeline::take(&mut result.tally);
        let mut record = Record::of(load, target, &result);
        record.intervals = time_series::intervals(&timeline);
        record.samples = samples.as_ref().map(Sampled::of);
        Outcome { record, timeline, response: result.tally.latency.whole.response.into(), samples }
    }

    /// The same, by these agents in the order of their segments.
    #[must_use]
    pub fn by_agents(mut self, agents: Vec<Agent>) -> Outcome {
        if let Some(samples) = &mut self.samples {
            samples.agents = agents.iter().map(|agent| agent.name.clone()).collect();
        }
        self.record.agents = agents;
        self
    }

    /// The verdict. Integrity failures take precedence over a late generator.
    pub fn verdict(&self) -> RunVerdict {
        if self.record.is_broken() {
            return RunVerdict::Broken;
        }
        if self.is_late() { RunVerdict::Saturated } else { RunVerdict::Good }
    }

    /// Whether the generator was later than allowed.
    pub(crate) fn is_late(&self) -> bool {
        // A search evaluates its steps by response times, which include lateness.
        let is_allowed = self.record.config.allow_saturated || self.record.search.is_some();
        self.record.generator.saturated && !is_allowed
    }
}

/// The sampled messages, with the names of their requests.
fn samples_of(load: &Workload, sampler: Sampler, result: &SegmentResult) -> Samples {
    let mut samples = sampler.finish(result.tally.window.from);
    let protocols = load.compiled_protocols();
    if !protocols.is_empty() {
        let requests = protocols.iter().flat_map(|protocol| &protocol.requests);
        let names: Vec<String> = requests.map(|request| request.name.clone()).collect();
        // The requests of sessions do not follow from the numbers of messages, nor do the protocols of slots.
        let follows = match load.mode {
            Mode::Session => false,
            Mode::Connect => protocols.len() == 1,
            _ => !load.has_topics(),
        };
        let turns = load.protocol_turns();
        let is_known = follows && !names.is_empty();
        let request_of = |Sample { name, .. }: &Sample| {
            let sequence = name.sequence.filter(|_| is_known)?;
            let protocol = &protocols[usize::from(turns[name.connection as usize % turns.len()])];
            Some((protocol.first_request + protocol.request(load.seed, name.connection, sequence)) as u32)
        };
        samples.request_of = samples.rows.iter().map(request_of).collect();
        samples.requests = names;
    }
    samples
}
