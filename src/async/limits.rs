//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use std::time::Duration;

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

// ---- queues and memory ----

/// Maximum connections per node if neither `--max-connections` nor the descriptor limit is lower.
pub const CONNECTIONS_DEFAULT: u32 = 100_000;

// ---- shards ----

/// Time within which a draining server exits, whatever its peers do.
pub const DRAIN_TIMEOUT: Nanos = 8 * SECOND;

// ---- TLS ----

/// Time for which session tickets are encrypted with one secret. They live twice as long, as with rustls' own tickets.
pub const TICKET_SECRET_TIME: Nanos = 6 * 3_600 * SECOND;

// ---- async connections ----

/// Longest time of a setting. A longer one has no other effect: thirty years from now are a time that every clock can express.
pub(crate) const SETTING_TIME_MAX: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Default size in bytes of the read buffer and of the write buffer of an async connection, each.
pub const CONN_BUFFER_BYTES_DEFAULT: usize = 4096;
/// Size in bytes to which the read buffer of an async connection grows: a frame with the default size limit, its header,
/// and one byte more, because a read that does not fill its buffer shows that nothing more has arrived.
pub const CONN_READ_BYTES_MAX: usize = 68 * 1024;
/// The read buffer grows by this factor after a read that filled it, and inside a long message with what has arrived.
pub const CONN_READ_GROWTH: usize = 4;
/// Number of reads in a row that fill less than a quarter of the read buffer, after which it shrinks by half.
pub const CONN_SHORT_READS_MAX: u8 = 16;
/// A received message keeps no more than this multiple of its size in memory: it shares the memory that it was received
/// in, or is copied.
pub const SHARED_REGION_FACTOR: usize = 4;
/// Number of reads after which queued frames leave at the latest, while there is always more to read.
pub const READS_BEFORE_FLUSH_MAX: u8 = 8;
/// Inflated bytes after which a read yields to the other tasks of its thread, although more has been received: a read of 68
/// KiB may inflate to 70 MB. As many as a shard inflates for a connection per tick.
pub const INFLATED_BYTES_PER_TURN: usize = echoring_proto::limits::INFLATED_BYTES_PER_TICK;
/// Payload bytes from which a server sends a message from where it lies, instead of copying it behind its header: a
/// vectored write costs as much as copying some kilobytes.
pub const SEND_SHARED_BYTES_MIN: usize = 4 * 1024;
/// Bytes of a streamed message after which its fragments become this long, however small the write buffer is, because
/// peers limit the number of fragments.
pub const FRAGMENT_BYTES_LONG: usize = 64 * 1024;
/// A fragment of a streamed message is at least this fraction of the bytes already sent, so that the longest message, 2
/// GiB, takes fewer than 4,096 fragments.
pub const FRAGMENTS_PER_DOUBLING: u64 = 512;
/// Maximum number of spare buffer sets in a pool of async connections.
pub const BUFFERS_KEPT_MAX: usize = 64;
/// Maximum number of spare buffer sets of a thread, for async connections without a pool. More are in use only while as
/// many peers do not read.
pub const SPARE_BUFFERS_MAX: usize = 16;
/// Maximum bytes of a spare buffer set; larger buffers are freed.
pub const SPARE_BUFFERS_BYTES_MAX: u64 = 1 << 20;
/// A buffer set is trimmed after this number of releases.
pub const SPARE_BUFFERS_TRIM_AFTER: u32 = 32;

// ---- io_uring ----

/// Interval at which a pending tokio-uring operation is submitted again; if it was submitted already, this costs one
/// system call.
pub const RESUBMIT_INTERVAL: Nanos = 5 * MILLISECOND;

/// Maximum bytes of a tokio-uring operation of a stream: a connection's longest read, so that a long message is one
/// operation.
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
pub(crate) const URING_BUFFER_BYTES_MAX: usize = CONN_READ_BYTES_MAX;
/// Bytes of a write buffer that an idle stream keeps; a longer one is freed.
#[cfg(all(feature = "uring", target_os = "linux", not(target_env = "musl")))]
pub(crate) const URING_BUFFER_BYTES_KEPT: usize = CONN_BUFFER_BYTES_DEFAULT;

// ---- sockets and descriptors ----

/// Connections that wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 4096;

// ---- async handshakes ----

/// Buffer size in bytes of a connection that uses an HTTP server's default: hyper's initial read size.
pub const AIO_HTTP_BUFFER_BYTES: usize = 8 * 1024;
/// Time that a refused client gets to read the response, and that a dialer waits for the body of a refusal.
pub const AIO_LINGER: Nanos = SECOND;
/// Maximum number of concurrent handshakes of a listener; further connections wait to be accepted.
pub const AIO_HANDSHAKES_MAX: usize = 1_024;
/// Pause between accepts while the process has no free descriptors.
pub const ACCEPT_PAUSE: Nanos = 100 * MILLISECOND;
/// Time limit of a dial, from the first step to the 101; the same as gorilla's default dialer.
pub const DIAL_TIMEOUT: Nanos = 45 * SECOND;
/// The part of it for the name lookup and the TCP connection.
pub const CONNECT_TIMEOUT: Nanos = 10 * SECOND;
/// Head start of an address over the next one (RFC 8305, section 5).
pub const CONNECT_STAGGER: Nanos = 250 * MILLISECOND;
/// Bytes kept of the body of a response that refuses the WebSocket: enough for the reason.
pub const REFUSAL_BODY_BYTES_MAX: usize = 1_024;
/// Maximum delay before the second attempt of a reconnecting dialer; it doubles with each attempt.
pub const RECONNECT_DELAY: Nanos = 500 * MILLISECOND;
/// Maximum delay before any attempt.
pub const RECONNECT_DELAY_MAX: Nanos = 30 * SECOND;
/// Age from which a connection is stable: its end resets the attempt counter.
pub const RECONNECT_SETTLED: Nanos = 10 * SECOND;
/// Maximum time that a reconnecting client waits because of the `Retry-After` of a response, or because a Close frame asks it to: a
/// server that asks for days would end its clients.
pub const RETRY_AFTER_MAX: Nanos = 600 * SECOND;
/// A delay that never ends: 30 years, which timers can express.
#[cfg(feature = "client")]
pub(crate) const NEVER: Nanos = 30 * 365 * 86_400 * SECOND;
/// Time limit of the callback that restores a client's state on a new connection: as long as a dial.
pub const ON_OPEN_TIMEOUT: Nanos = DIAL_TIMEOUT;

// ---- TLS ----

/// Maximum bytes of a stapled OCSP response, which every handshake sends. Responses have about 500 bytes, or 2 KiB with
/// the certificate of a delegated responder.
#[cfg(feature = "tls")]
pub(crate) const OCSP_RESPONSE_BYTES_MAX: usize = 16 * 1024;
