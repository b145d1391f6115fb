//! Samples the server's CPU time and memory at the ends of slices of the measured time, on the thread that watches the
//! run.

use std::time::{Duration, Instant};

use crate::measure::meter::{Meter, ServerSamples};
use crate::measure::window::Window;
use echoring_proto::limits::Nanos;

/// Samples a meter while the measured time lasts.
pub(super) struct ServerSampler<'a> {
    meter: &'a Meter,
    every: Duration,
    /// Since when the measured time lasts; `None` before and after.
    began: Option<Instant>,
    /// From there to the next sample.
    next: Duration,
    first_cpu_ns: Option<u64>,
    samples: ServerSamples,
}

impl ServerSampler<'_> {
    /// For a measured time of this length.
    pub(super) fn new(meter: &Meter, duration: Duration) -> ServerSampler<'_> {
        let slice_ns = Window { from: 0, until: duration.as_nanos() as Nanos }.slice();
        ServerSampler {
            meter,
            every: Duration::from_nanos(slice_ns),
            began: None,
            next: Duration::ZERO,
            first_cpu_ns: None,
            samples: ServerSamples::default(),
        }
    }

    /// The measured time begins.
    pub(super) fn begin(&mut self) {
        if !matches!(self.meter, Meter::None) {
            self.began = Some(Instant::now());
            self.sample_if_due();
        }
    }

    /// The time until the next sample.
    pub(super) fn next_in(&self) -> Option<Duration> {
        Some(self.next.saturating_sub(self.began?.elapsed()))
    }

    /// Takes a sample if one is due. Those that were missed are left out.
    pub(super) fn sample_if_due(&mut self) {
        let Some(passed) = self.began.map(|began| began.elapsed()) else { return };
        if passed >= self.next {
            self.samples.take(self.meter, passed.as_secs_f64(), &mut self.first_cpu_ns);
            let slices = passed.as_nanos() / self.every.as_nanos() + 1;
            self.next = Duration::from_nanos(slices as Nanos * self.every.as_nanos() as Nanos);
        }
    }

    /// The measured time is over: takes the last sample.
    pub(super) fn end(&mut self) {
        self.next = Duration::ZERO;
        self.sample_if_due();
        self.began = None;
    }

    /// All samples.
    pub(super) fn samples(self) -> ServerSamples {
        self.samples
    }
}
