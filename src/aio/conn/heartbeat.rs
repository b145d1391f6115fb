//! Asking a peer for a sign of life.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::limits::{CONTROL_PAYLOAD_BYTES_MAX, PING_INTERVAL, PONG_TIMEOUT};

/// What is sent to the peer at intervals, and how long it may stay silent after it. Any byte of the peer counts as a
/// sign of life, a pong or not.
///
/// It runs inside the reading of a connection (and sends from inside a [`Pump`](super::Pump) too): a connection that
/// nobody reads has no heartbeat, and one that its own end does not read is never found dead for that.
///
/// ```
/// use std::time::Duration;
/// use echoring::aio::Heartbeat;
///
/// // A ping every 30 seconds; 10 seconds without a sign of life end the connection.
/// let pings = Heartbeat::every(Duration::from_secs(30)).timeout(Duration::from_secs(10)).payload("beat");
/// // The same as a text message that the application at the other end sees, as browsers can show no pings.
/// let messages = Heartbeat::every(Duration::from_secs(3)).message("heart beat").without_timeout();
/// assert_ne!(pings, messages);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    interval: Duration,
    timeout: Option<Duration>,
    beat: Beat,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Ping(Bytes),
    Text(String),
}

impl Default for Heartbeat {
    /// An empty ping every 25 seconds, 10 seconds for an answer.
    fn default() -> Heartbeat {
        Heartbeat {
            interval: Duration::from_nanos(PING_INTERVAL),
            timeout: Some(Duration::from_nanos(PONG_TIMEOUT)),
            beat: Beat::Ping(Bytes::new()),
        }
    }
}

impl Heartbeat {
    /// A ping after each `interval`, of which a millisecond is the least; 10 seconds for an answer.
    pub fn every(interval: Duration) -> Heartbeat {
        Heartbeat { interval: interval.max(Duration::from_millis(1)), ..Heartbeat::default() }
    }

    /// How long the peer may stay silent after a beat.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Heartbeat {
        Heartbeat { timeout: Some(timeout), ..self }
    }

    /// No answer is expected.
    #[must_use]
    pub fn without_timeout(self) -> Heartbeat {
        Heartbeat { timeout: None, ..self }
    }

    /// The pings' payload, cut after 125 bytes.
    #[must_use]
    pub fn payload(self, payload: impl Into<Bytes>) -> Heartbeat {
        let mut payload = payload.into();
        payload.truncate(CONTROL_PAYLOAD_BYTES_MAX);
        Heartbeat { beat: Beat::Ping(payload), ..self }
    }

    /// A text message instead of a ping: the variant that the peer's application takes part in.
    #[must_use]
    pub fn message(self, text: impl Into<String>) -> Heartbeat {
        Heartbeat { beat: Beat::Text(text.into()), ..self }
    }
}

/// A heartbeat that runs.
#[derive(Debug)]
pub(super) struct Pulse {
    heartbeat: Heartbeat,
    next: Instant,
    /// When the first beat was sent since the peer was last heard.
    unanswered: Option<Instant>,
}

impl Pulse {
    pub(super) fn new(heartbeat: Heartbeat, now: Instant) -> Pulse {
        let next = now + heartbeat.interval;
        Pulse { heartbeat, next, unanswered: None }
    }

    /// The beat that is due, if one is.
    pub(super) fn due(&mut self, now: Instant) -> Option<Beat> {
        if now < self.next {
            return None;
        }
        self.next = now + self.heartbeat.interval;
        Some(self.heartbeat.beat.clone())
    }

    /// A beat was queued.
    pub(super) fn sent(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }

    pub(super) fn heard(&mut self) {
        self.unanswered = None;
    }

    /// The peer is not taking what it was sent, so it cannot have heard the beat: its time begins anew.
    pub(super) fn excuse(&mut self, now: Instant) {
        if let Some(unanswered) = &mut self.unanswered {
            *unanswered = now;
        }
    }

    /// When the peer counts as dead if nothing is heard.
    pub(super) fn dead_at(&self) -> Option<Instant> {
        Some(self.unanswered? + self.heartbeat.timeout?)
    }

    /// When the next beat is due.
    pub(super) fn next_beat(&self) -> Instant {
        self.next
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> Instant {
        self.dead_at().map_or(self.next, |dead_at| dead_at.min(self.next))
    }
}
