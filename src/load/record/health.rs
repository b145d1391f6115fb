//! The health of the generator during a run, and the server's use of resources, in its record.

use std::time::Duration;

use crate::measure::{Quantiles, Tally};
use crate::plan::declared::part;

part! {
    /// The health of the generator. The caller adds its threads, and the time that was stolen.
    #[derive(Default)]
    Generator of(tally: &Tally, max_lateness: Duration)
    where { let lateness = Quantiles::of(&tally.latency.whole.lateness); } {
        /// The generator was so late for its schedule at p99 that the latencies are in doubt (`--max-lateness`).
        saturated: bool = u128::from(lateness.p99) > max_lateness.as_nanos(),
        /// How late it sent messages; empty in a closed loop.
        lateness_ns: Quantiles = lateness,
        /// CPU time of its threads as a share of their wall time: 1 is all.
        cpu_share: f64 = cpu_share(tally),
        /// Messages that were due and never sent, because their connection was full or gone.
        unsent: u64 = tally.counts.unsent,
        /// Those whose connection was gone.
        unsent_gone: u64 = tally.counts.unsent_gone,
        /// How late its threads' heartbeats were, one per 10 ms: how long the threads were stalled, in either loop.
        heartbeat_ns: Option<Quantiles> = Some(Quantiles::of(&tally.health.heartbeat)),
        /// How long its threads were runnable without a CPU, all together; `null` if the kernel does not count it.
        run_delay_ns: Option<u64> = tally.health.run_delay_ns,
        /// How long the hypervisor ran something else on the CPUs that it may use, all together, in steps of 10 ms; `null` if
        /// unknown.
        stolen_ns: Option<u64> = None,
        /// Its threads.
        threads: Vec<GeneratorThread> = Vec::new(),
    }
}

part! {
    /// The health of one thread of the generator, within the measured time.
    GeneratorThread of(tally: &Tally, pinned_to: Option<usize>)
    where {
        let lateness = Quantiles::of(&tally.latency.whole.lateness);
        let heartbeat = Quantiles::of(&tally.health.heartbeat);
    } {
        /// The CPU that it is pinned to, if any.
        cpu: Option<usize> = pinned_to,
        /// Its CPU time as a share of its wall time: 1 is all.
        cpu_share: f64 = cpu_share(tally),
        /// How late it sent messages: 99 %; 0 in a closed loop.
        lateness_ns_p99: u64 = lateness.p99,
        /// The same: maximum.
        lateness_ns_max: u64 = lateness.max,
        /// How late its heartbeats were: 99 %.
        heartbeat_ns_p99: Option<u64> = Some(heartbeat.p99),
        /// The same: maximum.
        heartbeat_ns_max: Option<u64> = Some(heartbeat.max),
        /// How long it was runnable without a CPU.
        run_delay_ns: Option<u64> = tally.health.run_delay_ns,
    }
}

fn cpu_share(tally: &Tally) -> f64 {
    match tally.health.wall_ns {
        0 => 0.0,
        wall_ns => tally.health.cpu_ns as f64 / wall_ns as f64,
    }
}

part! {
    /// The server's process. Numerator and denominator of each quotient cover the span between the same two samples.
    Server of(tally: &Tally, resident: Option<u64>)
    where {
        let passed = tally.cpu_span.passed();
        let some = |number: f64| number.is_finite().then_some(number);
    } {
        /// CPU time, user and system, per arrived message, both between the same two samples.
        cpu_ns_per_message: Option<f64> = passed.and_then(|passed| some(passed.cpu_ns as f64 / passed.messages as f64)),
        /// The same CPU time as a share of the wall time: 1 is one CPU.
        cpu_share: Option<f64> = passed.and_then(|passed| some(passed.cpu_ns as f64 / passed.at as f64)),
        /// Resident memory at the end of the measured time; `null` if it shares the generator's process.
        rss_bytes: Option<u64> = resident,
        /// Messages that arrived between the two samples.
        sampled_messages: Option<u64> = passed.map(|passed| passed.messages),
        /// Time between the samples, which are taken in the generator's first ticks after the ends of the measured time.
        sampled_s: Option<f64> = passed.map(|passed| passed.at as f64 / 1e9),
    }
}
