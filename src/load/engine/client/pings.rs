//! Pings and their pongs (RFC 6455, 5.5.2): as the load, or beside it. A WebSocket server answers them without the application, so that they
//! tell the delay of the network and of the server's event loop.

use super::agenda::Due;
use super::connection::{Connection, Flow, State};
use super::{Client, Link};
use crate::measure::MessageName;
use crate::measure::track::Arrival;
use echoring_proto::limits::Nanos;

/// Payload of a ping that is the load: its sequence.
const LOAD_BYTES: usize = size_of::<u64>();
/// Payload of a ping in addition to the load: its send time, and the seed of the run, by which it is recognised.
const BESIDE_BYTES: usize = 2 * size_of::<u64>();

impl Client {
    /// Schedules the first ping of a connection that is ready. The connections take turns within the interval.
    pub(super) fn schedule_pings(&mut self, position: usize, now: Nanos) {
        let Some(every) = self.shared.load.ping_every else { return };
        let every = every.as_nanos() as Nanos;
        let connection = &mut self.connections[position];
        let turn = u128::from(every) * u128::from(connection.number)
            / u128::from(self.shared.load.connections.max(1));
        let at = now + turn as Nanos;
        connection.ping_at = at;
        self.enter(at, position, Due::Ping);
    }

    /// Sends the due ping in addition to the load.
    pub(super) fn ping_beside(&mut self, link: &mut Link<'_>, position: usize, now: Nanos) {
        let Some(every) = self.shared.load.ping_every else { return };
        let next = now + every.as_nanos() as Nanos;
        self.connections[position].ping_at = next;
        self.enter(next, position, Due::Ping);
        let mut payload = [0; BESIDE_BYTES];
        payload[..8].copy_from_slice(&now.to_be_bytes());
        payload[8..].copy_from_slice(&self.shared.load.seed.to_be_bytes());
        if link.ping(&payload) {
            self.tally.pings.sent += 1;
        }
    }

    /// A pong arrived. Those that no ping asked for are allowed (RFC 6455, 5.5.3) and mean nothing.
    pub(super) fn pong_arrived(&mut self, link: &mut Link<'_>, payload: &[u8]) {
        let (position, now) = (link.peer.position as usize, link.now());
        if let Ok(payload) = <[u8; BESIDE_BYTES]>::try_from(payload) {
            let (sent, seed) = payload.split_at(LOAD_BYTES);
            let sent = Nanos::from_be_bytes(sent.try_into().unwrap_or_default());
            if seed == self.shared.load.seed.to_be_bytes() && sent <= now {
                self.tally.pings.answered += 1;
                if self.tally.window.contains(sent) {
                    self.tally.pings.round_trip.saturating_record(now - sent);
                }
            }
            return;
        }
        let Ok(payload) = <[u8; LOAD_BYTES]>::try_from(payload) else { return };
        let sequence = u64::from_be_bytes(payload);
        let Client { connections, tally, .. } = self;
        let Connection { flow: Flow::Echo(awaited), state: State::Open, number, .. } =
            &mut connections[position]
        else {
            return;
        };
        // A server may answer the latest of several pings only.
        while awaited.oldest() < sequence && sequence < awaited.next() {
            awaited.arrived(awaited.oldest());
            tally.pings.skipped += 1;
        }
        match awaited.arrived(sequence) {
            Arrival::InOrder(times) | Arrival::Late(times) => {
                tally.arrived(now, MessageName::of(*number, sequence), times, LOAD_BYTES);
            }
            Arrival::Again => tally.integrity.duplicated += 1,
            Arrival::Unknown => tally.integrity.corrupted += 1,
        }
        self.send_allowed(link, position, now);
    }
}
