//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

// ---- TLS (RFC 8446, RFC 5246) ----

/// Maximum plaintext bytes of a record that we send. The standard allows 16,384; four of this size, sealed, just fit a
/// pooled buffer of 64 KiB.
pub(crate) const TLS_RECORD_BYTES: usize = 16 * 1024 - TLS_RECORD_OVERHEAD_BYTES_MAX;
/// Maximum bytes that sealing adds to a record: 5 of header, 8 of nonce (TLS 1.2), 16 of tag, and 1 of type (TLS 1.3),
/// with a margin.
pub(crate) const TLS_RECORD_OVERHEAD_BYTES_MAX: usize = 64;
/// Maximum received bytes of a connection that cannot be opened yet: an incomplete record (18,437 bytes at most), or
/// the records of a handshake message, of which a certificate chain is the longest.
pub(crate) const TLS_UNREAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the node's budget charged for the keys and state of one session: an idle one was measured at 3.8 kB with
/// either version.
pub(crate) const TLS_SESSION_BYTES: usize = 4 * 1024;
/// Records that a session which began elsewhere seals under one key: half of what AES-GCM allows (RFC 8446, 5.5; rustls's limit is 2^24),
/// because the records of one call are sealed without a look at it.
pub(crate) const TLS_KEY_RECORDS_MAX: u64 = 1 << 23;
/// Updates of the keys that a peer may make without sending data between them, as in rustls and BoringSSL.
pub(crate) const TLS_UPDATES_IN_A_ROW_MAX: u32 = 32;
/// Updates of the keys of a session under rustls after which it can still go on elsewhere: each costs a microsecond then. Peers make one
/// every some million records, if any.
pub(crate) const TLS_UPDATES_MAX: usize = 256;

// ---- compression (RFC 7692) ----

/// Node-wide maximum bytes of compression windows with context takeover; above it they are declined.
pub const COMPRESSION_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;

// ---- queues and memory ----

/// Maximum pieces (iovecs) per send: eight times what a `SENDMSG` carries without the kernel allocating (`UIO_FASTIOV`
/// is 8), so that a long backlog still leaves in few sends.
pub const SEND_PIECES_MAX: usize = 64;
/// Bytes of one receive: large enough for a bulk sender, small enough that one peer cannot take the region.
pub(crate) const RECEIVE_BYTES_MAX: u32 = 16 * 1024;
/// Interval of scans for connections that hold more than their share, while the node is short of memory and the last
/// scan found none.
pub(crate) const RELIEF_INTERVAL: Nanos = 10 * MILLISECOND;
/// An earlier scan happens once this fraction of the free memory is used: so the cost of scans is proportional to the
/// memory taken between them, however many connections there are.
pub(crate) const RELIEF_PARTS: u64 = 8;
/// Interval of checks of a partial send, as a fraction of its timeout.
pub const SEND_LOOKS: u64 = 30;

/// Sends of a shard whose acknowledgements are awaited at a time.
pub(crate) const STAMPS_MAX: usize = 64;

// ---- shards ----

/// Connections whose TCP is looked at after a snapshot of their shard. A look costs four system calls, about two microseconds.
pub const TCP_SAMPLES_MAX: usize = 16;
/// Time between two such looks: whoever asks more often does not cost more.
pub const TCP_SAMPLES_INTERVAL: Nanos = SECOND;
/// Indexes of connections that are tried for them, many of which may be free.
pub(crate) const TCP_SAMPLE_TRIES: u32 = 256;
/// Looks that may be under way: those of a shard's samples, and of four lists of connections for operators.
pub(crate) const TCP_LOOKS_MAX: usize = 256;

/// Descriptors for which the table of a process has room from the start: 8 bytes of kernel memory each.
pub const DESCRIPTORS_RESERVED_MAX: u64 = 32 * 1024;

/// Interval at which unused buffers are freed.
pub const TRIM_INTERVAL: Nanos = SECOND;
/// How soon the deadline of a connection that is about to leave is looked at again.
pub(crate) const RELEASE_CHECK_INTERVAL: Nanos = SECOND;
/// Width of a slot of the timer wheel. Deadlines have this precision and are never early.
pub(crate) const TIMER_TICK: Nanos = 32 * MILLISECOND;

// ---- admission ----

/// Tables that the addresses of clients are distributed over: shards that accept at once seldom want the same one.
pub(crate) const ADMISSION_TABLES: usize = 64;
/// Addresses without a connection that a table remembers: 65,536 in all, of up to 384 bytes each. Those with a connection come
/// on top.
pub(crate) const ADMISSION_ENTRIES_MAX: usize = 1_024;
/// The same of all tables.
pub const ADDRESSES_REMEMBERED_MAX: usize = ADMISSION_TABLES * ADMISSION_ENTRIES_MAX;
/// Entries among which the one that is soonest at rest makes room for a new one.
pub(crate) const ADMISSION_PROBES: usize = 16;
/// Interval between two log records about one address that is over a limit, or, where the addresses of clients are not kept,
/// about one limit on one shard.
pub const LIMIT_LOG_INTERVAL: Nanos = 10 * SECOND;
/// Default window in which an address that is over its limits too often is banned.
pub const BAN_WINDOW_DEFAULT: Nanos = 60 * SECOND;
/// Default duration of a ban: long enough to make an attack pointless, short enough for users behind the same address.
pub const BAN_TIME_DEFAULT: Nanos = 10 * 60 * SECOND;
/// TLS handshakes that a tick continues: about two milliseconds of work. Further ones wait for the next tick, so that many
/// at once do not delay messages.
pub(crate) const TLS_HANDSHAKES_PER_TICK: usize = 8;
/// Bytes of a connection that are kept in addition to a request head of the maximum size, until its client is known or
/// it is the turn of its handshake: a header of the PROXY protocol, or the first flight of TLS. A client that sends
/// more has not waited for any answer, and is closed.
pub(crate) const ARRIVAL_BYTES_BESIDE_HEAD: usize = 48 * 1024;

/// Connections over a limit, of a shard, whose requests are read to be refused unless they are checks of health. Further ones are refused
/// at once.
pub(crate) const REFUSED_LATER_MAX: usize = 64;
/// Time that they have for their request, which a client sends at once: a round trip of a slow network.
pub(crate) const REFUSED_LATER_TIME: Nanos = SECOND;

/// Routes with times of their own: each connection keeps a byte for that.
pub(crate) const ROUTES_WITH_TIMES_MAX: usize = 255;
/// Looks at the messages of a connection in the time in which it may be idle. It is closed at the last look of the next such time, so
/// at most a quarter of the time late.
pub(crate) const IDLE_LOOKS: Nanos = 4;
/// Time between two ends of the lives of a shard's connections: a thousand a second, so that those who come back do not come at once.
pub const LIFE_END_SPACING: Nanos = MILLISECOND;
/// When a connection is looked at again that is in the middle of a message.
pub(crate) const LIFE_END_RETRY: Nanos = 100 * MILLISECOND;
/// Time that a subscriber has to take what it is to be sent, and a message to end, at the end of a connection's life.
pub const LIFE_END_GRACE: Nanos = 8 * SECOND;

// ---- measuring ----

/// Durations of at most 2^-24 seconds (60 ns) are not distinguished: reading the clock takes half of that.
pub(crate) const DURATION_OCTAVE_MIN: i32 = -24;
/// Durations above 2^6 seconds are not distinguished: a shard that takes one second is stalled already.
pub(crate) const DURATION_OCTAVE_MAX: i32 = 6;

/// A tick that takes longer, without its trip to the kernel, is a stall: it is counted and reported. Far longer than
/// the work of a busy shard or a turn of the kernel's scheduler, and shorter than a shard may take to answer the
/// control thread.
pub const STALL: Nanos = SECOND / 2;

// ---- the log ----

/// Maximum bytes of a field of a log record: peers may send more than helps to understand it.
pub const LOG_FIELD_BYTES_MAX: usize = 256;
/// Open connections of a thread that belong to traces; further handshakes are not traced. A client decides about its own.
pub const TRACED_CONNECTIONS_MAX: usize = 10_000;
/// Maximum characters of a path in a record for the access log.
pub(crate) const ACCESS_PATH_BYTES_MAX: usize = 1024;
/// Peer addresses that a shard looks up per second for its log; beyond that, records have none. Each costs three system
/// calls, and not many more records are written per second.
pub(crate) const LOG_LOOKUPS_PER_SECOND: u32 = 32;
/// How long a start waits for a port in use: the kernel ends the operations of a killed process asynchronously, a
/// pending accept of io_uring about 15 ms after its exit, and more than a second after it on a busy machine.
pub(crate) const BUSY_PORT_TIMEOUT: Nanos = 3 * SECOND;
/// Pause between two attempts.
pub(crate) const BUSY_PORT_PAUSE: Nanos = 5 * MILLISECOND;
