//! The server's CPU time, read by a generating thread where it stands.
//!
//! Per message it is a quotient, and both its parts must be of one stretch of time: so whoever reads the clock
//! counts the messages in the same breath, see [`Sample`]. A thread of its own would read it when it happens to be
//! scheduled.
//!
//! Never: allocating, or reading files. A reading is one system call for a process, one a thread for threads.

use super::host;
use crate::limits::Nanos;

/// Whose CPU time is the server's.
#[derive(Debug)]
pub(super) enum Meter {
    /// A process, with all its threads.
    Process(u32),
    /// Threads of this process.
    Threads(Vec<u32>),
    /// Nobody's.
    None,
}

impl Meter {
    /// CPU time so far, user and system, in nanoseconds.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        match self {
            Meter::Process(pid) => host::process_cpu_ns(*pid),
            // One that has ended counts as zero, unless all have.
            Meter::Threads(threads) => threads
                .iter()
                .filter_map(|&thread| host::own_thread_cpu_ns(thread))
                .reduce(|sum, ns| sum + ns),
            Meter::None => None,
        }
    }

    /// Resident bytes.
    pub(super) fn rss_bytes(&self) -> Option<u64> {
        match self {
            Meter::Process(pid) => host::rss_bytes(*pid),
            // Shared with the generator, so nobody's in particular.
            Meter::Threads(_) | Meter::None => None,
        }
    }
}

/// What had happened by one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// That moment.
    pub at: Nanos,
    /// CPU time of the server.
    pub cpu_ns: u64,
    /// Messages that had arrived.
    pub messages: u64,
}

/// What happened between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stretch {
    /// When the measured time began.
    pub first: Option<Sample>,
    /// When it was over.
    pub last: Option<Sample>,
}

impl Stretch {
    /// Its length in nanoseconds, the CPU time spent in it, and the messages that arrived in it. `None` without two
    /// samples.
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
    fn work_shows_on_the_meters_of_the_process_and_of_its_threads() {
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
    fn a_stretch_is_what_lies_between_its_samples() {
        let first = Sample { at: 100, cpu_ns: 7, messages: 3 };
        let last = Sample { at: 350, cpu_ns: 107, messages: 13 };
        let stretch = Stretch { first: Some(first), last: Some(last) };
        assert_eq!(stretch.passed(), Some(Sample { at: 250, cpu_ns: 100, messages: 10 }));
        assert_eq!(Stretch { last: None, ..stretch }.passed(), None);
    }
}
