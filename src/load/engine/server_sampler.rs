//! Samples the server's CPU time and memory at the ends of slices of the measured time, on the thread that watches the
//! run: of the generator itself, or of the coordinator of several.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::measure::Window;
use crate::measure::meter::{Meter, ServerSamples};
use echoring_proto::limits::Nanos;

/// Samples a server while the measured time lasts.
#[derive(Debug)]
pub struct ServerSampler {
    meter: Arc<Meter>,
    every: Duration,
    phase: Phase,
    /// From the beginning of the measured time to the next sample.
    next: Duration,
    first_cpu_ns: Option<u64>,
    samples: ServerSamples,
}

/// Whether the measured time lasts, and since when.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Before,
    During(Instant),
    After,
}

impl ServerSampler {
    /// For a measured time of this length.
    pub(super) fn new(meter: Arc<Meter>, duration: Duration) -> ServerSampler {
        let slice_ns = Window { from: 0, until: duration.as_nanos() as Nanos }.slice();
        ServerSampler {
            meter,
            every: Duration::from_nanos(slice_ns),
            phase: Phase::Before,
            next: Duration::ZERO,
            first_cpu_ns: None,
            samples: ServerSamples::default(),
        }
    }

    /// Of the process with this id on this machine, while the load comes from others.
    pub fn of_process(pid: u32, duration: Duration) -> ServerSampler {
        ServerSampler::new(Arc::new(Meter::Process(pid)), duration)
    }

    /// The measured time begins.
    pub(super) fn begin(&mut self) {
        if !matches!(*self.meter, Meter::None) {
            self.phase = Phase::During(Instant::now());
            self.sample_if_due();
        }
    }

    /// Samples it if that is due at `now`, where the measured time is from `from` until `until`. To be called soon after both of them,
    /// and when [`next_in`](ServerSampler::next_in) has passed.
    pub fn sample(&mut self, now: Nanos, from: Nanos, until: Nanos) {
        match self.phase {
            Phase::Before if now >= from => self.begin(),
            Phase::During(_) if now >= until => self.end(),
            _ => self.sample_if_due(),
        }
    }

    /// The time until the next sample; `None` before and after the measured time.
    pub fn next_in(&self) -> Option<Duration> {
        let Phase::During(began) = self.phase else { return None };
        Some(self.next.saturating_sub(began.elapsed()))
    }

    /// Takes a sample if one is due. Those that were missed are left out.
    pub(super) fn sample_if_due(&mut self) {
        let Phase::During(began) = self.phase else { return };
        let passed = began.elapsed();
        if passed >= self.next {
            self.samples.take(&self.meter, passed.as_secs_f64(), &mut self.first_cpu_ns);
            let slices = passed.as_nanos() / self.every.as_nanos() + 1;
            self.next = Duration::from_nanos(slices as Nanos * self.every.as_nanos() as Nanos);
        }
    }

    /// The measured time is over, perhaps early: takes the last sample, unless it was taken.
    pub fn end(&mut self) {
        self.next = Duration::ZERO;
        self.sample_if_due();
        self.phase = Phase::After;
    }

    /// All samples.
    pub fn samples(self) -> ServerSamples {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_proto::limits::MILLISECOND;
    use echoring_runtime::driver::monotonic_now;

    /// The samples of this process in 300 ms. `ends` is asked whether the run ends early.
    fn watched(ends: impl Fn(&ServerSampler) -> bool) -> ServerSamples {
        let (length, begins) = (300 * MILLISECOND, monotonic_now() + 10 * MILLISECOND);
        let mut server = ServerSampler::of_process(std::process::id(), Duration::from_nanos(length));
        assert_eq!(server.next_in(), None);
        loop {
            let now = monotonic_now();
            if ends(&server) {
                server.end();
            }
            server.sample(now, begins, begins + length);
            if now >= begins + length && server.next_in().is_none() {
                return server.samples();
            }
        }
    }

    #[test]
    fn a_process_is_sampled_while_the_measured_time_lasts() {
        let samples = watched(|_| false);
        let count = samples.at_s.len();
        // One in each slice of 100 ms and at both ends; a busy machine misses some.
        assert!((2..=5).contains(&count), "{samples:?}");
        assert_eq!((samples.cpu_ns.len(), samples.rss_bytes.len()), (count, count));
        assert!(samples.at_s.is_sorted() && samples.at_s[count - 1] > samples.at_s[0], "{samples:?}");
        assert!(samples.cpu_ns.is_sorted() && samples.cpu_ns[count - 1] > samples.cpu_ns[0], "{samples:?}");
    }

    #[test]
    fn the_last_sample_of_a_run_that_ends_early_is_at_its_end() {
        let samples = watched(|server| server.next_in().is_some());
        assert_eq!(samples.at_s.len(), 2, "{samples:?}");
        assert_eq!(watched(|_| true).at_s.len(), 0, "it ended before");
    }
}
