//! Looks at the TCP of a shard's connections.

use super::Core;
use super::tcp_samples::TcpSamples;
use crate::driver::Token;
use crate::limits::{TCP_SAMPLE_TRIES, TCP_SAMPLES_INTERVAL, TCP_SAMPLES_MAX};
use crate::shard::kinds::Kinds;

impl<K: Kinds> Core<K> {
    /// Has the driver look at the next connections, unless that was done a moment ago.
    pub(in crate::shard) fn sample_tcp(&mut self) {
        let (now, indexes) = (self.env.now, self.slots.indexes());
        let TcpSamples { next, due, waiting } = &mut self.tcp_samples;
        if now < *due {
            return;
        }
        *due = now + TCP_SAMPLES_INTERVAL;
        waiting.clear();
        for _ in 0..indexes.min(TCP_SAMPLE_TRIES) {
            let index = if *next < indexes { *next } else { 0 };
            *next = index + 1;
            if let Some(token) = self.slots.token_at(index)
                && self.slots.get(token).is_some_and(|slot| slot.connection.is_open())
            {
                self.driver.find_tcp_info(token);
                waiting.push(token);
            }
            if waiting.len() == TCP_SAMPLES_MAX {
                break;
            }
        }
    }

    /// The driver has looked at a connection. What it tells counts if it is one of the sample: who asks for single connections does not
    /// distort it.
    pub(in crate::shard) fn note_tcp(&mut self, token: Token) {
        let waiting = &mut self.tcp_samples.waiting;
        let Some(at) = waiting.iter().position(|sampled| *sampled == token) else { return };
        waiting.swap_remove(at);
        if let Some(info) = self.driver.tcp_info(token) {
            self.counters.tcp_round_trip.record(info.round_trip, 1);
            self.counters.tcp_segments_sent += u64::from(info.segments_sent);
            self.counters.tcp_segments_retransmitted += u64::from(info.segments_retransmitted);
        }
    }
}
