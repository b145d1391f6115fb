//! The bounds, deadlines and defaults of this crate, with their units and reasons. Never: logic.

/// Nanoseconds on the monotonic clock of the driver. Every layer above the driver takes time as an argument.
pub type Nanos = u64;
/// One millisecond in [`Nanos`].
pub const MILLISECOND: Nanos = 1_000_000;
/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000 * MILLISECOND;

/// Maximum errors of a chain of causes that are inspected or printed: a chain of another crate may be a ring.
pub const ERROR_CAUSES_MAX: usize = 16;

// ---- handshake (RFC 6455, section 4) ----

/// Default maximum size of a request head in bytes, inclusive, and the maximum size of a response head. A browser sends about
/// 600 bytes; cookies rarely exceed 8 KiB.
pub const HEAD_BYTES_DEFAULT: usize = 16 * 1024;
/// The smallest value that `--max-header` accepts, in bytes: the request of a browser with a short token fits.
pub const HEAD_BYTES_MIN: usize = 1024;
/// The largest value that `--max-header` accepts, in bytes: each client may have as much buffered before it is
/// authenticated.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Maximum number of header fields in a head.
pub const HEADERS_MAX: usize = 100;
/// Time from accepting the connection to the 101. The deadline is absolute: a slowly sent head does not extend it.
pub const HANDSHAKE_TIMEOUT: Nanos = 5 * SECOND;

/// Maximum bytes of a header of the PROXY protocol. Addresses take 52 bytes; the fields behind them may carry the client's
/// TLS parameters and its certificate's name.
pub const PROXY_HEADER_BYTES_MAX: usize = 4 * 1024;

// ---- TLS (RFC 8446, RFC 5246) ----

/// Session tickets sent with each full or resumed TLS 1.3 handshake. A ticket takes about 200 bytes on the wire, and
/// a client that reconnects needs one.
pub const TLS_TICKETS: usize = 1;

// ---- messages (RFC 6455, section 5) ----

/// Default maximum size of a message in bytes, inclusive.
pub const MESSAGE_BYTES_DEFAULT: u64 = 64 * 1024;
/// The largest value that `--max-message` accepts, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 31;
/// Maximum payload of a control frame in bytes (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// Bytes by which a message that has begun must grow in each [`MESSAGE_PROGRESS_TIME`], unless it ends: 34 bytes per second,
/// slower than any network that carries WebSockets. There is no limit of its total time: 2 GiB may take days.
pub const MESSAGE_PROGRESS_BYTES: u32 = 1024;
/// Time for these bytes: many retransmissions of TCP.
pub const MESSAGE_PROGRESS_TIME: Nanos = 30 * SECOND;
/// Maximum payload in bytes of a frame that is assembled across ticks and echoed whole. A longer frame is streamed
/// as validated fragments, so that a declared length reserves no memory.
pub const ASSEMBLED_FRAME_BYTES_MAX: u64 = 64 * 1024;

// ---- compression (RFC 7692) ----

/// Inflated bytes of one connection per tick; the remaining messages wait for the next tick. Inflating, handling and
/// deflating as much takes a few milliseconds, so one peer cannot delay the others.
pub const INFLATED_BYTES_PER_TICK: usize = 256 * 1024;
/// Size in bytes below which a message is sent uncompressed: compressing it costs more than it saves.
pub const COMPRESSION_THRESHOLD_BYTES: u32 = 128;
/// The same for a topic's messages that are compressed with their [shared context](crate::connection::Compression::shared): with the
/// messages before it in the window, a message of this size still shrinks.
pub const SHARED_CONTEXT_THRESHOLD_BYTES: usize = 16;
/// Default compression level, from 1 (fastest) to 9 (smallest).
pub const COMPRESSION_LEVEL_DEFAULT: u8 = 1;
/// Bytes of compression contexts that a shard leases at a time.
pub const COMPRESSION_LEASE_BYTES: u64 = 1024 * 1024;
/// Deflaters of closed connections that a shard keeps for new connections.
pub const SPARE_CONTEXTS_MAX: usize = 8;

// ---- liveness and closing (RFC 6455, sections 5.5.2 and 7) ----

/// Time without received bytes after which a ping is sent.
pub const PING_INTERVAL: Nanos = 25 * SECOND;
/// Time from that ping to the next byte of the peer.
pub const PONG_TIMEOUT: Nanos = 10 * SECOND;
/// Time from the sent Close frame to the end of the connection.
pub const CLOSE_TIMEOUT: Nanos = 5 * SECOND;
/// Maximum number of pongs queued behind an incomplete send. Above it only the latest pong is kept, as RFC 6455,
/// 5.5.3, allows.
pub const QUEUED_PONGS_MAX: u32 = 16;
/// Maximum number of pings per second; a peer that sends more is closed with 1008. Autobahn sends ten at once.
pub const PINGS_PER_SECOND_MAX: u32 = 1_000;
/// Maximum size of a close reason in bytes (RFC 6455, 5.5).
pub const REASON_BYTES_MAX: usize = 123;
/// Bytes that are discarded after the sent Close frame before the connection is aborted. The bound covers the data
/// that a peer had in flight, and stops a peer that ignores the Close frame.
pub const DISCARD_BYTES_MAX: u32 = 4 * 1024 * 1024;

// ---- event streams (WHATWG HTML, section 9.2) ----

/// Bytes that the client of an event stream may send behind its request. It has nothing to say; the bound covers
/// pipelined requests, none of which is answered.
pub const EVENT_STREAM_INPUT_BYTES_MAX: u32 = 64 * 1024;
/// Shortest time in milliseconds after which the client of an event stream returns.
pub const EVENT_STREAM_RETRY_MS_MIN: u64 = 2_000;
/// Range of the random time in milliseconds that is added, so that clients whose streams end together do not return together.
pub const EVENT_STREAM_RETRY_JITTER_MS: u64 = 3_000;

// ---- queues and memory ----

/// Queued bytes of a connection above which reading pauses; reading resumes at half. Also the encoded bytes of the
/// log of a topic on one shard, which bound the lag of a subscriber.
pub const QUEUE_BYTES_DEFAULT: u32 = 256 * 1024;
/// Bytes that an armed multishot receive may return before it must be armed again, on kernels that support a total.
/// One receive may return all of them. The replies of one tick leave in one send. Fewer sends per large message mean
/// fewer timers of a pacing congestion control. Compared with 128 KiB, an echo of 1 MiB costs a fifth less;
/// 512 KiB gains nothing more.
pub const RECEIVE_CREDIT_BYTES: u32 = 256 * 1024;
/// Maximum number of received bytes that a connection defers, while the application decides on its request or after
/// its compressed messages exceeded the bound of a tick. Receives are paused meanwhile, so one more credit can
/// arrive. The factor 2 covers kernels that bound a receive less strictly.
pub const DEFERRED_BYTES_MAX: usize = 2 * RECEIVE_CREDIT_BYTES as usize;
/// Default budget of the node in bytes, for pooled buffers and logs.
pub const MEMORY_BUDGET_DEFAULT: u64 = 1024 * 1024 * 1024;
/// Smallest budget of a node in bytes.
pub const MEMORY_BUDGET_MIN: u64 = 16 * 1024 * 1024;
/// The reserve is the budget divided by this number. While less than the reserve is free, the node frees optional memory, evicts
/// histories, then closes the connections that exceed their share the most.
pub const MEMORY_RESERVE_PARTS: u64 = 8;
/// The handshake reserve is the budget divided by this number. Only handshakes may use it: TLS sessions and requests,
/// at most 36 KiB each, or 132 KiB with the largest `--max-header`.
pub const HANDSHAKE_RESERVE_PARTS: u64 = 32;
/// Histories may use the budget divided by this number. They serve clients that may reconnect; connected clients need
/// the rest.
pub const HISTORY_SHARE_PARTS: u64 = 2;
/// Optional memory is granted while the budget divided by this number stays free: twice the reserve, so that it never is the cause of a
/// shortage.
pub const OPTIONAL_FREE_PARTS: u64 = 4;
/// The reserve of a shard is the budget divided by this number. It serves allocations that cannot wait until memory
/// has been freed.
pub const SHARD_RESERVE_PARTS: u64 = 128;
/// Maximum reserve of a shard in bytes: several receives of the largest size, with their replies.
pub const SHARD_RESERVE_BYTES_MAX: u64 = 1024 * 1024;
/// Time without progress of a send after which the connection is aborted. TCP retransmits to a vanished peer for
/// minutes. A peer that does not read occupies its queue and up to half a megabyte in the kernel.
pub const SEND_TIMEOUT: Nanos = 30 * SECOND;
/// Bytes that a shard leases from the budget of the node at a time; at most 1/64 of the budget.
pub const BUDGET_LEASE_BYTES: u64 = 1024 * 1024;

// ---- io_uring ----

/// Time for which the kernel may reject submissions for lack of memory. After it, a running ring has failed, and a
/// probed ring is unavailable.
pub const RING_REFUSAL_MAX: Nanos = SECOND;
