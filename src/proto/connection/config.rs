//! Settings that all connections of a shard share.

use std::time::Duration;

use crate::event_stream::WriteEnd;
use crate::handshake::Dial;
use crate::limits::{self, Nanos};

use super::Compression;

/// A time for deadlines, which are sums of times.
#[doc(hidden)]
pub fn nanos(time: Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX).min(Nanos::MAX / 2)
}

/// The treatment of a peer's pings (RFC 6455, 5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pings {
    /// The connection answers them.
    #[default]
    Answered,
    /// The connection answers them and then shows them.
    AnsweredAndShown,
    /// The connection shows them, and the application [answers](super::Connection::pong).
    Shown,
}

/// How messages are split into chunks. A compressed message is always one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Each message is one chunk.
    Whole,
    /// A frame that spans several received spans is one chunk unless it is long, so that its echo is one frame; see
    /// [`ASSEMBLED_FRAME_BYTES_MAX`](limits::ASSEMBLED_FRAME_BYTES_MAX).
    Frames,
    /// Chunks are as long as the received parts: nothing is collected. The application validates text as it collects
    /// it, and reports a fault by [`Connection::fail_protocol`](super::Connection::fail_protocol).
    Chunks,
}

crate::plain!(for enum Delivery { Whole, Frames, Chunks });

impl Delivery {
    /// Whole messages, or chunks that suit an echo.
    pub(super) fn of(whole: bool) -> Delivery {
        if whole { Delivery::Whole } else { Delivery::Frames }
    }
}

/// The least progress of a message that has begun: each further `bytes` of its payload, or its end, arrive within `time`.
/// Time in which reading pauses does not count. There is no limit of its total time, unless `bytes` is more than a message
/// may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageProgress {
    /// Bytes of payload; of a compressed message, compressed ones. 0 for no limit.
    pub bytes: u32,
    /// The time that they may take; 0 for no limit.
    pub time: Nanos,
}

impl MessageProgress {
    /// A message may stop arriving.
    pub const UNLIMITED: MessageProgress = MessageProgress { bytes: 0, time: 0 };

    /// `bytes` in `time`.
    pub fn new(bytes: u32, time: Duration) -> MessageProgress {
        MessageProgress { bytes, time: nanos(time) }
    }

    /// When these bytes are overdue that were begun at `since`; [`Nanos::MAX`] for never.
    pub(super) fn deadline(self, since: Nanos) -> Nanos {
        let is_limited = self.bytes > 0 && self.time > 0;
        if is_limited { since.saturating_add(self.time) } else { Nanos::MAX }
    }
}

impl Default for MessageProgress {
    fn default() -> MessageProgress {
        MessageProgress { bytes: limits::MESSAGE_PROGRESS_BYTES, time: limits::MESSAGE_PROGRESS_TIME }
    }
}

/// The times of a connection that its route may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The least progress of a message that has begun.
    pub message_progress: MessageProgress,
    /// Silence after which a ping is sent; 0 for never.
    pub ping_interval: Nanos,
    /// From the ping to the next byte of the peer, and not more than the interval.
    pub pong_timeout: Nanos,
}

/// Settings that all connections of a shard share.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Maximum size of a request head in bytes, inclusive, in the server role. Response heads have a bound of their own,
    /// [`HEAD_BYTES_DEFAULT`](limits::HEAD_BYTES_DEFAULT).
    pub max_header: usize,
    /// Maximum message size in bytes, inclusive.
    pub max_message: u64,
    /// Bytes queued to a peer above which reading from it pauses.
    pub queue_bytes: u32,
    /// Whether reading continues above that. A load generator wants this, because the messages that it queues do not
    /// depend on those that it reads: if the peer answers each message before it reads the next one, both ends would
    /// otherwise wait for ever.
    pub reads_when_full: bool,
    /// From accept or connect to the 101.
    pub handshake_timeout: Nanos,
    /// The least progress of a message that has begun.
    pub message_progress: MessageProgress,
    /// The times of connections that have [their own](super::Connection::set_times), which name them by their place here.
    pub own_times: Vec<Times>,
    /// Silence after which a ping is sent; 0 for never.
    pub ping_interval: Nanos,
    /// From the ping to the next byte of the peer, and not more than the interval.
    pub pong_timeout: Nanos,
    /// From our Close frame to the end of the connection.
    pub close_timeout: Nanos,
    /// Maximum time that a server tells clients to wait before they [return](crate::close::retry_after), each another one at random, in
    /// Close frames whose code invites them to; 0 for never.
    pub reconnect_delay: Nanos,
    /// Time without progress after which a send fails; 0 for never.
    pub send_timeout: Nanos,
    /// Maximum number of pings that a peer may send in a second; 2^16 or more for no limit.
    pub pings_per_second_max: u32,
    /// The treatment of pings.
    pub pings: Pings,
    /// Whether a peer's Close frame is answered with its own code. If not, the application
    /// [answers](super::Connection::answer_close).
    pub answers_closes: bool,
    /// How messages are compressed if the peer agrees; `None` for never.
    pub compression: Option<Compression>,
    /// The request of connections in the client role.
    pub dial: Option<Dial>,
    /// Writes the last message of streams in formats of the application; `None` if there are none.
    pub stream_end: Option<WriteEnd>,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            max_header: limits::HEAD_BYTES_DEFAULT,
            max_message: limits::MESSAGE_BYTES_DEFAULT,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            reads_when_full: false,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            message_progress: MessageProgress::default(),
            own_times: Vec::new(),
            ping_interval: limits::PING_INTERVAL,
            pong_timeout: limits::PONG_TIMEOUT,
            close_timeout: limits::CLOSE_TIMEOUT,
            reconnect_delay: 0,
            send_timeout: limits::SEND_TIMEOUT,
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            pings: Pings::default(),
            answers_closes: true,
            compression: None,
            dial: None,
            stream_end: None,
        }
    }
}

impl ConnectionConfig {
    /// The times of connections that have not their own.
    pub fn times(&self) -> Times {
        let ConnectionConfig { message_progress, ping_interval, pong_timeout, .. } = *self;
        Times { message_progress, ping_interval, pong_timeout }
    }
}
