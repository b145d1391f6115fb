//! A finished run, and its verdict.

use hdrhistogram::Histogram;

use crate::measure::samples::Sampler;
use crate::measure::{Samples, Timeline};
use crate::plan::Workload;
use crate::record::segment::SegmentResult;
use crate::record::{Agent, Record, describe};

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
        let mut record = describe::write(load, target, &result);
        record.intervals = describe::describe_intervals(&timeline);
        record.samples = samples.as_ref().map(describe::describe_samples);
        Outcome { record, timeline, response: result.tally.latency.whole.response.into(), samples }
    }

    /// The same, by these agents in the order of their segments.
    #[must_use]
    pub fn by_agents(mut self, agents: Vec<Agent>) -> Outcome {
        if let Some(samples) = &mut self.samples {
            samples.name_agents(agents.iter().map(|agent| agent.name.clone()).collect());
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
    if let Some(protocol) = load.compiled_protocol() {
        let names = protocol.requests.iter().map(|request| request.name.clone()).collect();
        let has_requests = !load.has_topics() && !protocol.requests.is_empty();
        samples.name_requests(names, |name| {
            let sequence = name.sequence.filter(|_| has_requests)?;
            Some(protocol.request(load.seed, name.connection, sequence))
        });
    }
    samples
}
