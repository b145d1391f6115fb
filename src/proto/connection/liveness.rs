//! Whether the peer is alive: when it was heard, whether a pong is due, and how many pings it sends.

use crate::ProtocolError;
use crate::limits::{Nanos, SECOND};

use super::{ConnectionConfig, Times};

/// The signs of life of the peer.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Start of the state: when the peer was last heard or pinged, or sent FIN.
    since: Nanos,
    /// The second in which these pings of the peer arrived.
    ping_second: u32,
    pings: u16,
    state: Heartbeat,
    /// Pings that the peer has not answered. One that answers only the latest (RFC 6455, 5.5.3) leaves some.
    awaited_pongs: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heartbeat {
    /// It sent or took bytes.
    Heard,
    /// It was pinged since.
    Pinged,
    /// It sent FIN, and bytes before that wait to be read.
    HalfClosed,
}

crate::plain!(for enum Heartbeat { Heard, Pinged, HalfClosed });

crate::plain! {
    /// What moves of it.
    pub(super) struct PlainLiveness {
        state: Heartbeat,
        awaited_pongs: u8,
        age: Nanos,
        /// Pings of the peer in this second.
        pings: u16,
    }
}

impl Liveness {
    pub(super) fn new(now: Nanos) -> Liveness {
        Liveness { since: now, ping_second: 0, pings: 0, state: Heartbeat::Heard, awaited_pongs: 0 }
    }

    /// Bytes of the peer arrived.
    #[inline]
    pub(super) fn heard(&mut self, now: Nanos) {
        self.since = now;
        self.state = Heartbeat::Heard;
    }

    /// The peer took bytes. That is no pong.
    pub(super) fn took_bytes(&mut self, now: Nanos) {
        self.since = now;
    }

    /// The peer could not be heard until now.
    pub(super) fn restart(&mut self, now: Nanos) {
        self.since = now;
        if self.state == Heartbeat::Pinged {
            self.state = Heartbeat::Heard;
        }
    }

    /// A ping was queued.
    pub(super) fn pinged(&mut self, now: Nanos) {
        self.since = now;
        self.state = Heartbeat::Pinged;
    }

    /// A ping was queued, by whom it may be.
    pub(super) fn awaits_another_pong(&mut self) {
        self.awaited_pongs = self.awaited_pongs.saturating_add(1);
    }

    /// The peer sent a pong.
    pub(super) fn ponged(&mut self) {
        self.awaited_pongs = self.awaited_pongs.saturating_sub(1);
    }

    /// Whether the peer may still send a pong, even behind its Close frame: only data may not follow that (RFC 6455, 5.5.1).
    pub(super) fn awaits_pong(&self) -> bool {
        self.awaited_pongs > 0
    }

    /// The peer sent FIN, and bytes before that wait to be read.
    pub(super) fn half_closed(&mut self, now: Nanos) {
        self.since = now;
        self.state = Heartbeat::HalfClosed;
    }

    pub(super) fn is_pinged(&self) -> bool {
        self.state == Heartbeat::Pinged
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.state == Heartbeat::HalfClosed
    }

    /// When the peer must be pinged, or the pong is overdue; [`Nanos::MAX`] for never.
    pub(super) fn ping_deadline(&self, times: Times) -> Nanos {
        match self.state {
            _ if times.ping_interval == 0 => Nanos::MAX,
            // Not more, so that a pong makes no deadline earlier.
            Heartbeat::Pinged => self.since + times.pong_timeout.min(times.ping_interval),
            Heartbeat::Heard | Heartbeat::HalfClosed => self.since + times.ping_interval,
        }
    }

    /// When a peer that has sent FIN, and whose reading is paused, must be pinged.
    pub(super) fn half_closed_deadline(&self, config: &ConnectionConfig) -> Nanos {
        self.since + config.close_timeout
    }

    pub(super) fn plain(&self, now: Nanos) -> PlainLiveness {
        let pings = if self.ping_second == second(now) { self.pings } else { 0 };
        let &Liveness { since, state, awaited_pongs, .. } = self;
        PlainLiveness { state, awaited_pongs, age: now.saturating_sub(since), pings }
    }

    pub(super) fn restored(plain: PlainLiveness, now: Nanos) -> Liveness {
        let PlainLiveness { state, awaited_pongs, age, pings } = plain;
        Liveness { since: now.saturating_sub(age), ping_second: second(now), pings, state, awaited_pongs }
    }

    /// Counts a ping of the peer. Each costs a frame, so their rate is limited.
    ///
    /// # Errors
    /// When there are more in this second than `max`.
    pub(super) fn count_ping(&mut self, now: Nanos, max: u32) -> Result<(), ProtocolError> {
        let second = second(now);
        if self.ping_second != second {
            self.ping_second = second;
            self.pings = 0;
        }
        self.pings = self.pings.saturating_add(1);
        if u32::from(self.pings) > max { Err(ProtocolError::PingFlood) } else { Ok(()) }
    }
}

/// The second in which pings are counted.
fn second(now: Nanos) -> u32 {
    (now / SECOND) as u32
}
