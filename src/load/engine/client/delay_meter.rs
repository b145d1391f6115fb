//! Measures the causes of delays on this side at the beginning of each tick: the thread's CPU time, and how
//! long it was runnable without a CPU.
//!
//! Both cost a system call, so short spans are not measured: those below [`CPU_SPAN_MIN`] count as work, and a wait for
//! a CPU is checked once that much time without one has passed.

use super::Client;
use crate::measure::host::{self, RunDelay};
use crate::measure::own_delays::Delays;
use echoring_proto::limits::Nanos;

/// Minimum time between two readings of the CPU clock: a reading takes up to 0.7 µs.
const CPU_SPAN_MIN: Nanos = 50_000;
/// Minimum time without a CPU, most of it asleep, between two readings of the run delay: a reading takes up to 1.5 µs.
const OFF_CPU_MIN: Nanos = 250_000;

/// The clocks of one thread, as last read.
#[derive(Debug, Default)]
pub(super) struct DelayMeter {
    read_at: Nanos,
    cpu_ns: u64,
    run_delay: Option<RunDelay>,
    run_delay_ns: u64,
    /// Time without a CPU since the run delay was read.
    off_cpu: Nanos,
}

impl DelayMeter {
    /// Begins at `now`, on the thread that is measured.
    fn begin(&mut self, now: Nanos) {
        let run_delay = RunDelay::of_this_thread();
        self.run_delay_ns = run_delay.as_ref().and_then(RunDelay::ns).unwrap_or(0);
        (self.read_at, self.off_cpu, self.run_delay) = (now, 0, run_delay);
        self.cpu_ns = host::thread_cpu_ns().unwrap_or(0);
    }

    /// The delays of the span that ends at `now`. The thread was to wake up at `wake_at`.
    fn measure(&mut self, now: Nanos, span: Nanos, wake_at: Option<Nanos>) -> Delays {
        let since = now - self.read_at;
        if since < CPU_SPAN_MIN {
            return Delays { generator: span, host: 0 };
        }
        let before = std::mem::replace(&mut self.cpu_ns, host::thread_cpu_ns().unwrap_or(0));
        let cpu = self.cpu_ns.saturating_sub(before);
        self.read_at = now;
        self.off_cpu += since.saturating_sub(cpu);
        let mut waited = 0;
        if self.off_cpu >= OFF_CPU_MIN
            && let Some(ns) = self.run_delay.as_ref().and_then(RunDelay::ns)
        {
            waited = ns.saturating_sub(std::mem::replace(&mut self.run_delay_ns, ns));
            self.off_cpu = 0;
        }
        Delays::of_span(span, cpu, waited, wake_at.map_or(0, |at| now.saturating_sub(at)))
    }
}

impl Client {
    /// Delays are measured from `now` on.
    pub(super) fn begin_delays(&mut self, now: Nanos) {
        self.delay_meter.begin(now);
        self.tally.shares.begin(self.shared.delay_logs.clone(), self.thread, now);
    }

    /// Measures the delays of the tick, with its first event.
    #[inline]
    pub(super) fn note_tick(&mut self, now: Nanos) {
        if let Some(recorder) = self.tally.shares.recorder()
            && recorder.now != now
        {
            let span = now.saturating_sub(recorder.now);
            let delays = self.delay_meter.measure(now, span, self.timers.wake_at());
            recorder.tick_began(now, delays);
        }
    }
}
