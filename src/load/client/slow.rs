//! Subscribers that are slow on purpose: they read nothing, or at a trickle, while the measured time lasts.
//!
//! What one of them takes is decided by holding up its reads. A read brings what the kernel has for it, up to
//! [`RECEIVE_CREDIT_BYTES`](crate::limits::RECEIVE_CREDIT_BYTES); then nothing is read until its rate has come to as
//! much. So the rate holds on average, in steps of a read.
//!
//! Never: an influence on what the others are found to get.

use super::Client;
use super::connection::{Connection, Flow, Part, State};
use crate::connection::Closed;
use crate::driver::Driver;
use crate::limits::{Nanos, SECOND};
use crate::load::tally::Tally;
use crate::protocol::CloseCode;
use crate::shard::{Context, Link};

/// Those of one thread.
#[derive(Debug)]
pub(super) struct Slow {
    /// Positions of those that trickle.
    positions: Vec<u32>,
    /// When the next of them may read on.
    next: Nanos,
}

impl Default for Slow {
    fn default() -> Slow {
        Slow { positions: Vec::new(), next: Nanos::MAX }
    }
}

impl Slow {
    /// One of them got a message of so many bytes, and may read on at `on_at` once its rate has come to that.
    pub(super) fn took(
        &mut self,
        link: &mut Link<'_, Client>,
        on_at: &mut Nanos,
        trickle: Option<u64>,
        bytes: usize,
        tally: &mut Tally,
    ) {
        let now = link.now();
        if !tally.window.contains(now) {
            return;
        }
        tally.stalled_messages += 1;
        tally.stalled_bytes += bytes as u64;
        // Without a rate it was under way when its reader stopped.
        let Some(bytes_per_s) = trickle else { return };
        *on_at = wait(*on_at, now, bytes as u64, bytes_per_s);
        link.hold_up(true);
        self.next = self.next.min(*on_at);
    }
}

/// When a reader that could have read on at `on_at` may, having taken `bytes` at `now`.
fn wait(on_at: Nanos, now: Nanos, bytes: u64, bytes_per_s: u64) -> Nanos {
    let pause = u128::from(bytes) * u128::from(SECOND) / u128::from(bytes_per_s.max(1));
    on_at.max(now).saturating_add(u64::try_from(pause).unwrap_or(Nanos::MAX))
}

impl Client {
    /// The measured time begins: those that are to stop reading do so, and those that trickle are counted from here.
    pub(super) fn stall<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>) {
        let trickles = self.shared.load.trickle.is_some();
        for (connection, position) in self.connections.iter().zip(0..) {
            if !connection.stalls() || connection.state != State::Open {
                continue;
            }
            if trickles {
                self.slow.positions.push(position);
            } else if let Some(mut link) = connection.token.and_then(|token| cx.link(token)) {
                link.hold_up(true);
            }
        }
    }

    /// Lets those read on whose rate has come to what they have read.
    pub(super) fn trickle<D: Driver>(&mut self, cx: &mut Context<'_, D, Client>, now: Nanos) {
        if now >= self.slow.next {
            self.slow.next = Nanos::MAX;
            for &position in &self.slow.positions {
                let connection = &self.connections[position as usize];
                let Flow::Broadcast(broadcast) = &connection.flow else { continue };
                let Part::Slow { on_at } = broadcast.part else { continue };
                if on_at > now {
                    self.slow.next = self.slow.next.min(on_at);
                } else if let Some(mut link) = connection.token.and_then(|token| cx.link(token)) {
                    link.hold_up(false);
                }
            }
        }
        self.wake_by(self.slow.next);
    }

    /// A slow one has ended: by the server's decision, which it has every right to, or by ours.
    pub(super) fn stalled_ended(&mut self, closed: &Closed) {
        // What the server said, also where this side closed first and found it behind what it had not read.
        let code = closed.peer_close.as_ref().map_or(CloseCode::ABNORMAL, |close| close.code);
        *self.tally.stalled_closes.entry(code.0).or_default() += 1;
        if ![CloseCode::NORMAL, CloseCode::SLOW_CONSUMER, CloseCode::ABNORMAL].contains(&code) {
            self.failed += 1;
            self.tally.ended_early += 1;
        }
    }

    /// Those that have not ended when nobody waits any longer: the server has not closed them.
    pub(super) fn give_up_stalled(&mut self) {
        let open = |connection: &&Connection| connection.stalls() && connection.state == State::Open;
        let left = self.connections.iter().filter(open).count() as u64;
        if left > 0 {
            *self.tally.stalled_closes.entry(CloseCode::ABNORMAL.0).or_default() += left;
        }
    }
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
        // Time in which nothing came is not saved up.
        let idle = on_at + 50 * SECOND;
        assert_eq!(wait(on_at, idle, 1_000, RATE), idle + SECOND);
        // Several messages of one read add up.
        assert_eq!(wait(wait(0, idle, 500, RATE), idle, 500, RATE), idle + SECOND);
        assert_eq!(wait(0, 0, u64::MAX, 1), Nanos::MAX);
    }
}
