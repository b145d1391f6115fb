//! The server's CPU time, sampled by a worker thread.
//!
//! CPU time per message is a quotient whose two parts must cover the same time span. Therefore the thread that reads
//! the clock counts the messages at the same moment, see [`Sample`]. A separate thread would read it whenever it
//! happens to be scheduled.
//!
//! Never: allocating, or reading files, on that thread. A sample is one system call for a process, one per thread for
//! threads. The series over the whole run, [`ServerSamples`], is taken by the thread that watches the run.

use serde::{Deserialize, Serialize};

use crate::measure::host;
use crate::plan::declared::part;
use echoring_proto::limits::Nanos;

/// The processes or threads whose CPU time is counted as the server's.
#[derive(Debug)]
pub(crate) enum Meter {
    /// A process, with all its threads.
    Process(u32),
    /// Threads of this process.
    Threads(Vec<u32>),
    /// Unknown.
    None,
}

impl Meter {
    /// CPU time so far, user and system, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        match self {
            Meter::Process(pid) => host::process_cpu_ns(*pid),
            // A thread that has ended counts as zero, unless all have.
            Meter::Threads(threads) => threads
                .iter()
                .filter_map(|&thread| host::own_thread_cpu_ns(thread))
                .reduce(|sum, ns| sum + ns),
            Meter::None => None,
        }
    }

    /// Resident bytes.
    pub(crate) fn rss_bytes(&self) -> Option<u64> {
        match self {
            Meter::Process(pid) => host::rss_bytes(*pid),
            // Shared with the generator.
            Meter::Threads(_) | Meter::None => None,
        }
    }
}

/// A sample of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// That moment.
    pub at: Nanos,
    /// CPU time of the server.
    pub cpu_ns: u64,
    /// Messages that had arrived.
    pub messages: u64,
}

part! {
    /// Samples of the server during the measured time, for charts over time. Each list has an entry for each sample, in order.
    #[derive(Default)]
    ServerSamples {
        /// Seconds from the start of the measured time.
        at_s: Vec<f64>,
        /// CPU time, user and system, since the first sample.
        cpu_ns: Vec<u64>,
        /// Resident memory; empty if it is unknown, or shared with the generator.
        rss_bytes: Vec<u64>,
    }
}

impl ServerSamples {
    /// Adds a sample of the moment `at_s`, which the CPU time `first_cpu_ns` had preceded. Nothing if the server's CPU
    /// time is unknown.
    pub(crate) fn take(&mut self, meter: &Meter, at_s: f64, first_cpu_ns: &mut Option<u64>) {
        let Some(cpu_ns) = meter.cpu_ns() else { return };
        self.at_s.push(at_s);
        self.cpu_ns.push(cpu_ns.saturating_sub(*first_cpu_ns.get_or_insert(cpu_ns)));
        self.rss_bytes.extend(meter.rss_bytes());
    }
}

/// The samples at both ends of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSpan {
    /// When the measured time began.
    pub first: Option<Sample>,
    /// When it was over.
    pub last: Option<Sample>,
}

impl CpuSpan {
    /// The difference of the samples: time in nanoseconds, CPU time and messages. `None` without both.
    pub fn passed(&self) -> Option<Sample> {
        let (first, last) = self.first.zip(self.last)?;
        Some(Sample {
            at: last.at.checked_sub(first.at)?,
            cpu_ns: last.cpu_ns.checked_sub(first.cpu_ns)?,
            messages: last.messages.checked_sub(first.messages)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_as_cpu_time_of_the_process_and_of_its_threads() {
        const WORK_NS: u64 = 1_000_000;
        let process = Meter::Process(std::process::id());
        let own_ns = || host::thread_cpu_ns().expect("own thread");
        let before_ns = process.cpu_ns().expect("alive");
        let start_ns = own_ns();
        let mut sum = 0_u64;
        while own_ns() < start_ns + WORK_NS {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(process.cpu_ns().expect("alive") >= before_ns + WORK_NS);
        let own = Meter::Threads(vec![nix::unistd::gettid().as_raw() as u32]);
        assert!(own.cpu_ns().expect("alive") >= start_ns + WORK_NS);
        assert_eq!(Meter::Threads(vec![1, u32::MAX >> 4]).cpu_ns(), None, "not threads of this process");
        assert_eq!(Meter::None.cpu_ns(), None);
    }

    #[test]
    fn a_span_is_the_difference_of_its_samples() {
        let first = Sample { at: 100, cpu_ns: 7, messages: 3 };
        let last = Sample { at: 350, cpu_ns: 107, messages: 13 };
        let stretch = CpuSpan { first: Some(first), last: Some(last) };
        assert_eq!(stretch.passed(), Some(Sample { at: 250, cpu_ns: 100, messages: 10 }));
        assert_eq!(CpuSpan { last: None, ..stretch }.passed(), None);
    }
}
