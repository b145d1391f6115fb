//! Settings of a connection, and the result of its handshake.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::buffers::BufferPool;
use super::heartbeat::Heartbeat;
use crate::limits::CONN_BUFFER_BYTES_DEFAULT;
use echoring_proto::Role;
use echoring_proto::connection::{Compression, ConnectionConfig, MessageProgress};
use echoring_proto::deflate::Agreement;
use echoring_proto::limits;
use echoring_proto::limits::Nanos;

/// A time that never comes, far enough from the maximum that times may be added to it.
const NEVER: Nanos = Nanos::MAX / 4;

/// Settings of a connection.
///
/// ```
/// use std::time::Duration;
/// use echoring::{BufferPool, Heartbeat, Settings};
///
/// let buffers = BufferPool::new();
/// let settings = Settings::default()
///     .max_message(1 << 20)
///     .buffers(buffers.clone())
///     .heartbeat(Heartbeat::every(Duration::from_secs(30)));
/// assert_eq!(settings.read_buffer_bytes, 4096);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[must_use]
pub struct Settings {
    /// Number of bytes per read of the transport at first. It grows with the peer's traffic, up to 68 KiB, and shrinks
    /// again. 0 means the default of 4,096.
    pub read_buffer_bytes: usize,
    /// Size in bytes of the fragments that a [`MessageWriter`](super::MessageWriter) sends, and of the buffer of a
    /// sink. After 64 KiB of a streamed message its fragments are larger. Messages that are written whole are sent as
    /// one frame regardless. 0 means the default of 4,096.
    pub write_buffer_bytes: usize,
    /// The pool of buffers; without one, the connections of a thread share buffers.
    pub buffers: Option<BufferPool>,
    /// Maximum size of a received message in bytes; a longer one closes the connection with 1009.
    pub max_message: u64,
    /// Bytes queued to the peer above which writing waits. Reading never waits: the frames that it queues are bounded
    /// separately.
    pub queue_bytes: u32,
    /// Bytes of a message that has begun that must arrive within [`message_progress_time`](Settings::message_progress_time), unless
    /// it ends: 1 KiB by default. Of a compressed message, compressed ones. If it is more than a message may have, this is a limit
    /// of the message's whole time.
    pub message_progress_bytes: u32,
    /// The time for these bytes, including time in which nobody reads; a slower message closes the connection with 4009. There is no
    /// limit of a message's whole time. `None` for no limit at all.
    pub message_progress_time: Option<Duration>,
    /// Time limit for a transport that has stopped accepting to accept a frame, or several that leave together; `None`
    /// for no limit. So no write, flush, ping or close waits longer for a peer that does not read, and no pong or
    /// heartbeat stays queued while the connection is read. The peer may have received part of a frame, so the
    /// connection has ended: that call and all later ones, also reads, return
    /// [`Error::SendTimeout`](super::Error::SendTimeout). A long message takes its time: 64 MB at 1 MB/s more than a
    /// minute.
    ///
    /// A [deadline](super::Writer::set_write_deadline) leaves the connection as it is instead, and the message queued.
    pub write_timeout: Option<Duration>,
    /// Time limit from our Close frame to the end.
    pub close_timeout: Duration,
    /// Maximum number of pings per second from the peer; more close the connection with 1008.
    pub pings_per_second_max: u32,
    /// Compression level and threshold of outgoing messages, if compression was negotiated.
    pub compression: Option<Compression>,
    /// The heartbeat, if any.
    pub heartbeat: Option<Heartbeat>,
}

impl Default for Settings {
    /// Messages of up to 64 KiB, which may stop arriving, no heartbeat, no write timeout, 5 s to close.
    fn default() -> Settings {
        Settings {
            read_buffer_bytes: CONN_BUFFER_BYTES_DEFAULT,
            write_buffer_bytes: CONN_BUFFER_BYTES_DEFAULT,
            buffers: None,
            max_message: limits::MESSAGE_BYTES_DEFAULT,
            queue_bytes: limits::QUEUE_BYTES_DEFAULT,
            message_progress_bytes: limits::MESSAGE_PROGRESS_BYTES,
            message_progress_time: None,
            write_timeout: None,
            close_timeout: Duration::from_nanos(limits::CLOSE_TIMEOUT),
            pings_per_second_max: limits::PINGS_PER_SECOND_MAX,
            compression: None,
            heartbeat: None,
        }
    }
}

impl Settings {
    /// Sets [`read_buffer_bytes`](#structfield.read_buffer_bytes).
    pub fn read_buffer_bytes(self, bytes: usize) -> Settings {
        Settings { read_buffer_bytes: bytes, ..self }
    }

    /// Sets [`write_buffer_bytes`](#structfield.write_buffer_bytes).
    pub fn write_buffer_bytes(self, bytes: usize) -> Settings {
        Settings { write_buffer_bytes: bytes, ..self }
    }

    /// Sets [`buffers`](#structfield.buffers).
    pub fn buffers(self, buffers: impl Into<Option<BufferPool>>) -> Settings {
        Settings { buffers: buffers.into(), ..self }
    }

    /// Sets [`max_message`](#structfield.max_message).
    pub fn max_message(self, bytes: u64) -> Settings {
        Settings { max_message: bytes, ..self }
    }

    /// Sets [`queue_bytes`](#structfield.queue_bytes).
    pub fn queue_bytes(self, bytes: u32) -> Settings {
        Settings { queue_bytes: bytes, ..self }
    }

    /// Sets [`message_progress_bytes`](#structfield.message_progress_bytes) and
    /// [`message_progress_time`](#structfield.message_progress_time).
    pub fn message_progress(self, bytes: u32, time: impl Into<Option<Duration>>) -> Settings {
        Settings { message_progress_bytes: bytes, message_progress_time: time.into(), ..self }
    }

    /// Sets [`write_timeout`](#structfield.write_timeout).
    pub fn write_timeout(self, timeout: impl Into<Option<Duration>>) -> Settings {
        Settings { write_timeout: timeout.into(), ..self }
    }

    /// Sets [`close_timeout`](#structfield.close_timeout).
    pub fn close_timeout(self, timeout: Duration) -> Settings {
        Settings { close_timeout: timeout, ..self }
    }

    /// Sets [`pings_per_second_max`](#structfield.pings_per_second_max).
    pub fn pings_per_second_max(self, pings: u32) -> Settings {
        Settings { pings_per_second_max: pings, ..self }
    }

    /// Sets [`compression`](#structfield.compression).
    pub fn compression(self, compression: impl Into<Option<Compression>>) -> Settings {
        Settings { compression: compression.into(), ..self }
    }

    /// Sets [`heartbeat`](#structfield.heartbeat).
    pub fn heartbeat(self, heartbeat: impl Into<Option<Heartbeat>>) -> Settings {
        Settings { heartbeat: heartbeat.into(), ..self }
    }

    pub(super) fn config(&self) -> ConnectionConfig {
        ConnectionConfig {
            max_message: self.max_message.min(limits::MESSAGE_BYTES_MAX),
            queue_bytes: self.queue_bytes,
            handshake_timeout: NEVER,
            message_progress: self.message_progress_time.map_or(MessageProgress::UNLIMITED, |time| {
                MessageProgress::new(self.message_progress_bytes, time)
            }),
            ping_interval: 0,
            pong_timeout: 0,
            close_timeout: nanos(self.close_timeout),
            // The tasks that wait look after it.
            send_timeout: 0,
            pings_per_second_max: self.pings_per_second_max,
            compression: self.compression,
            ..ConnectionConfig::default()
        }
    }
}

/// A duration in nanoseconds.
pub(super) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(NEVER).min(NEVER)
}

/// The result of a handshake, by any implementation.
///
/// ```
/// use echoring::{Conn, Opened, Role, Settings};
///
/// // A protocol of the program's own has opened the stream, and has received the first bytes of a frame.
/// let (stream, _far) = tokio::io::duplex(1024);
/// let mut opened = Opened::new(Role::Server);
/// opened.subprotocol = Some("chat".to_owned());
/// opened.early = bytes::Bytes::from_static(b"\x81");
/// let conn = Conn::new(stream, &Settings::default(), opened);
/// assert_eq!(conn.subprotocol(), Some("chat"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The local role: only clients mask their frames.
    pub role: Role,
    /// The negotiated subprotocol.
    pub subprotocol: Option<String>,
    /// The negotiated compression, if any.
    pub agreement: Option<Agreement>,
    /// Bytes that were read behind the peer's head: the beginning of its frames.
    pub early: Bytes,
    /// The local address, if the transport has one.
    pub local: Option<SocketAddr>,
    /// The peer's address, if the transport has one.
    pub peer: Option<SocketAddr>,
}

impl Opened {
    /// A connection of which only the role is known.
    pub fn new(role: Role) -> Opened {
        Opened { role, subprotocol: None, agreement: None, early: Bytes::new(), local: None, peer: None }
    }
}
