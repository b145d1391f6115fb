//! Heartbeats: pings that detect dead peers.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::limits::SETTING_TIME_MAX;
use echoring_proto::limits::{CONTROL_PAYLOAD_BYTES_MAX, PING_INTERVAL, PONG_TIMEOUT};

/// Frames sent to the peer at intervals, and the maximum silence of the peer afterwards. Any received byte counts as
/// a sign of life, not only a pong.
///
/// The heartbeat runs while the connection is read (a [`SendTask`](super::SendTask) sends it too). So a connection that
/// is not read has no timeout: its peer is not declared dead because of the local application.
///
/// ```
/// use std::time::Duration;
/// use echoring::Heartbeat;
///
/// // A ping every 30 seconds; 10 seconds without a sign of life end the connection.
/// let pings = Heartbeat::every(Duration::from_secs(30)).timeout(Duration::from_secs(10)).payload("beat");
/// // The same as a text message to the peer's application, because browsers do not expose pings.
/// let messages = Heartbeat::every(Duration::from_secs(3)).message("heart beat").without_timeout();
/// assert_ne!(pings, messages);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Heartbeat {
    interval: Duration,
    timeout: Option<Duration>,
    queue_heartbeat: HeartbeatFrame,
}

/// The frame that a heartbeat sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeartbeatFrame {
    Ping(Bytes),
    Text(String),
}

impl Default for Heartbeat {
    /// An empty ping every 25 seconds, with a timeout of 10 seconds.
    fn default() -> Heartbeat {
        Heartbeat {
            interval: Duration::from_nanos(PING_INTERVAL),
            timeout: Some(Duration::from_nanos(PONG_TIMEOUT)),
            queue_heartbeat: HeartbeatFrame::Ping(Bytes::new()),
        }
    }
}

impl Heartbeat {
    /// A ping every `interval` (at least a millisecond), with a timeout of 10 seconds.
    pub fn every(interval: Duration) -> Heartbeat {
        Heartbeat {
            interval: interval.clamp(Duration::from_millis(1), SETTING_TIME_MAX),
            ..Heartbeat::default()
        }
    }

    /// Sets how long the peer may stay silent after a heartbeat.
    pub fn timeout(self, timeout: Duration) -> Heartbeat {
        Heartbeat { timeout: Some(timeout.min(SETTING_TIME_MAX)), ..self }
    }

    /// Disables the timeout.
    pub fn without_timeout(self) -> Heartbeat {
        Heartbeat { timeout: None, ..self }
    }

    /// Sets the payload of the pings, truncated to 125 bytes.
    pub fn payload(self, payload: impl Into<Bytes>) -> Heartbeat {
        let mut payload = payload.into();
        payload.truncate(CONTROL_PAYLOAD_BYTES_MAX);
        Heartbeat { queue_heartbeat: HeartbeatFrame::Ping(payload), ..self }
    }

    /// Sends a text message instead of a ping, so that the peer's application sees it.
    pub fn message(self, text: impl Into<String>) -> Heartbeat {
        Heartbeat { queue_heartbeat: HeartbeatFrame::Text(text.into()), ..self }
    }
}

/// A running heartbeat.
#[derive(Debug)]
pub(super) struct HeartbeatTimer {
    heartbeat: Heartbeat,
    next: Instant,
    /// When the first heartbeat was sent since the peer was last heard.
    unanswered: Option<Instant>,
}

impl HeartbeatTimer {
    pub(super) fn new(heartbeat: Heartbeat, now: Instant) -> HeartbeatTimer {
        let next = now + heartbeat.interval;
        HeartbeatTimer { heartbeat, next, unanswered: None }
    }

    /// The heartbeat that is due, if any.
    pub(super) fn due(&mut self, now: Instant) -> Option<HeartbeatFrame> {
        if now < self.next {
            return None;
        }
        self.next = now + self.heartbeat.interval;
        Some(self.heartbeat.queue_heartbeat.clone())
    }

    /// Records that a heartbeat was queued.
    pub(super) fn sent(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }

    pub(super) fn heard(&mut self) {
        self.unanswered = None;
    }

    /// The peer does not accept our bytes, so it cannot have received the heartbeat: the timeout restarts.
    pub(super) fn restart_timeout(&mut self, now: Instant) {
        if let Some(unanswered) = &mut self.unanswered {
            *unanswered = now;
        }
    }

    /// When the peer counts as dead unless it sends something.
    pub(super) fn dead_at(&self) -> Option<Instant> {
        Some(self.unanswered? + self.heartbeat.timeout?)
    }

    /// When the next heartbeat is due.
    pub(super) fn next_heartbeat(&self) -> Instant {
        self.next
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Instant {
        self.dead_at().map_or(self.next, |dead_at| dead_at.min(self.next))
    }
}
