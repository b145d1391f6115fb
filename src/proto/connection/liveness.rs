//! Whether the peer is alive: when it was heard, whether a pong is due, and how many pings it sends.

use crate::ProtocolError;
use crate::limits::{Nanos, SECOND};

use bytes::BufMut as _;

use super::frozen_bytes::{Freezing, ThawError, Thawing};
use super::{ConnectionConfig, Times};

/// The signs of life of the peer.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Start of the state: when the peer was last heard or pinged, or sent FIN.
    since: Nanos,
    /// The second in which these pings of the peer arrived.
    ping_second: u32,
    pings: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It sent or took bytes.
    Heard,
    /// It was pinged since.
    Pinged,
    /// It sent FIN, and bytes before that wait to be read.
    HalfClosed,
}

impl Liveness {
    pub(super) fn new(now: Nanos) -> Liveness {
        Liveness { since: now, ping_second: 0, pings: 0, state: State::Heard }
    }

    /// Bytes of the peer arrived.
    #[inline]
    pub(super) fn heard(&mut self, now: Nanos) {
        self.since = now;
        self.state = State::Heard;
    }

    /// The peer took bytes. That is no pong.
    pub(super) fn took_bytes(&mut self, now: Nanos) {
        self.since = now;
    }

    /// The peer could not be heard until now.
    pub(super) fn restart(&mut self, now: Nanos) {
        self.since = now;
        if self.state == State::Pinged {
            self.state = State::Heard;
        }
    }

    /// A ping was queued.
    pub(super) fn pinged(&mut self, now: Nanos) {
        self.since = now;
        self.state = State::Pinged;
    }

    /// The peer sent FIN, and bytes before that wait to be read.
    pub(super) fn half_closed(&mut self, now: Nanos) {
        self.since = now;
        self.state = State::HalfClosed;
    }

    pub(super) fn is_pinged(&self) -> bool {
        self.state == State::Pinged
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.state == State::HalfClosed
    }

    /// When the peer must be pinged, or the pong is overdue; [`Nanos::MAX`] for never.
    pub(super) fn ping_deadline(&self, times: Times) -> Nanos {
        match self.state {
            _ if times.ping_interval == 0 => Nanos::MAX,
            // Not more, so that a pong makes no deadline earlier.
            State::Pinged => self.since + times.pong_timeout.min(times.ping_interval),
            State::Heard | State::HalfClosed => self.since + times.ping_interval,
        }
    }

    /// When a peer that has sent FIN, and whose reading is paused, must be pinged.
    pub(super) fn half_closed_deadline(&self, config: &ConnectionConfig) -> Nanos {
        self.since + config.close_timeout
    }

    pub(super) fn freeze(&self, to: &mut Freezing<'_>) {
        to.out.put_u8(self.state as u8);
        to.age(self.since);
        to.out.put_u16_le(if self.ping_second == second(to.now) { self.pings } else { 0 });
    }

    pub(super) fn thaw(&mut self, from: &mut Thawing<'_, '_>) -> Result<(), ThawError> {
        let known = [State::Heard, State::Pinged, State::HalfClosed];
        self.state = *known.get(usize::from(from.u8()?)).ok_or(ThawError::Malformed)?;
        self.since = from.age()?;
        (self.ping_second, self.pings) = (second(from.now), from.u16()?);
        Ok(())
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
