//! Broadcast mode: deliberately slow subscribers, which read nothing or at a low rate during the measured time.
//!
//! Backpressure on their reads limits the rate. A read takes everything that the kernel has, up to
//! [`RECEIVE_CREDIT_BYTES`](echoring_proto::limits::RECEIVE_CREDIT_BYTES); the next one waits until the rate allows it.
//! So the rate holds on average, in steps of one read.
//!
//! Never: an influence on the results of other subscribers.

use crate::measure::Tally;
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::shard::{ConnectionContext, Kinds};

/// The slow subscribers of one thread.
#[derive(Debug)]
pub(super) struct SlowReaders {
    /// Indices of those with a rate.
    pub(super) positions: Vec<u32>,
    /// When the next of them may read.
    pub(super) next: Nanos,
}

impl Default for SlowReaders {
    fn default() -> SlowReaders {
        SlowReaders { positions: Vec::new(), next: Nanos::MAX }
    }
}

impl SlowReaders {
    /// A slow reader got a message; it may read again at `on_at`.
    pub(super) fn took(
        &mut self,
        link: &mut ConnectionContext<'_, impl Kinds>,
        on_at: &mut Nanos,
        trickle: Option<u64>,
        bytes: usize,
        tally: &mut Tally,
    ) {
        let now = link.now();
        if !tally.window.contains(now) {
            return;
        }
        tally.slow.messages += 1;
        tally.slow.bytes += bytes as u64;
        // Without a rate, the message was in flight when its reader stopped.
        let Some(bytes_per_s) = trickle else { return };
        *on_at = wait(*on_at, now, bytes as u64, bytes_per_s);
        link.set_backpressured(true);
        self.next = self.next.min(*on_at);
    }
}

/// When a reader may read again that was allowed to at `on_at` and got `bytes` at `now`.
fn wait(on_at: Nanos, now: Nanos, bytes: u64, bytes_per_s: u64) -> Nanos {
    let pause = u128::from(bytes) * u128::from(SECOND) / u128::from(bytes_per_s.max(1));
    on_at.max(now).saturating_add(u64::try_from(pause).unwrap_or(Nanos::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_keeps_its_rate_in_steps_of_a_read() {
        const RATE: u64 = 1_000;
        let mut on_at = 0;
        let mut taken = 0;
        // Reads of any size, each as soon as it is allowed.
        for bytes in [10, 400, 1, 131_072, 3, 77].into_iter().cycle().take(60) {
            on_at = wait(on_at, on_at, bytes, RATE);
            taken += bytes;
            assert_eq!(on_at, taken * SECOND / RATE);
        }
        // Idle time is not accumulated.
        let idle = on_at + 50 * SECOND;
        assert_eq!(wait(on_at, idle, 1_000, RATE), idle + SECOND);
        // Several messages of one read add up.
        assert_eq!(wait(wait(0, idle, 500, RATE), idle, 500, RATE), idle + SECOND);
        assert_eq!(wait(0, 0, u64::MAX, 1), Nanos::MAX);
    }
}
