//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use std::ops::RangeInclusive;
use std::time::Duration;

use echoring_proto::limits::{
    HEAD_BYTES_MAX, HEAD_BYTES_MIN, MEMORY_BUDGET_MIN, MESSAGE_BYTES_MAX, MILLISECOND, Nanos, SECOND,
};
pub use echoring_wire::limits::{IDEMPOTENCY_KEY_BYTES_MAX, JSON_DEPTH_MAX, PRESENCE_PAGE_MAX};

// ---- queues and memory ----

/// Connections beyond the maximum that are accepted to be answered 503.
pub const REFUSING_CONNECTIONS_MAX: u32 = 64;

// ---- broadcast ----

/// Default maximum of topics per node. Topics without subscribers are evicted for new ones.
pub const TOPICS_DEFAULT: u32 = 65_536;

/// Bytes that a message of a [`RemoteSender`](crate::RemoteSender) is charged besides its payload: its entry in two queues.
pub const SENDER_MESSAGE_BYTES: usize = 160;
/// Bytes of the messages of senders that a shard hands to connections per tick, so that its other connections get their share.
pub const SENDER_BYTES_PER_TICK: usize = 1024 * 1024;

// ---- shards ----

/// Minimum bytes of each direction of a mailbox between two shards. A mailbox always holds two messages of the maximum size.
pub const MAILBOX_BYTES_MIN: usize = 1024 * 1024;
/// Handlers that a shard notifies of a drain per tick, and connections that it closes then, so that its other
/// connections get their share: some 20 µs.
pub const DRAIN_NOTICES_PER_TICK: usize = 64;
/// Maximum time of a handler before its connection's end in a paced drain: the default of an immediate one.
pub const PACED_DRAIN_NOTICE: Nanos = 6 * SECOND;

// ---- authentication ----

/// Requests of one shard that wait for the authentication thread, and as many for back ends. Further clients are answered 503.
pub const AUTH_PENDING_MAX: usize = 1_024;
/// Bytes of their heads: a quarter of them may be as large as a head may be.
pub const AUTH_PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Connections that a paced drain closes per second by default: their clients' handshakes arrive elsewhere at this rate, and
/// a core does some 5,000 of TLS.
pub const DRAIN_RATE_DEFAULT: u32 = 2_000;

// ---- routes of the embedding program ----

/// Maximum bytes of the body of a route's response.
pub const RESPONSE_BODY_BYTES_MAX: usize = 1024 * 1024;

// ---- test endpoints ----

/// Maximum of a time in the query of a test endpoint, such as `/delay?ms=`: one minute.
pub const ENDPOINT_MS_MAX: u64 = 60_000;
/// Messages that wait in `/delay` before their sender is not read.
pub const DELAYED_MESSAGES_MAX: usize = 1_024;
/// Bytes of these messages.
pub const DELAYED_BYTES_MAX: usize = 256 * 1024;
/// Maximum messages per second of `/source`.
pub const SOURCE_RATE_MAX: u64 = 100_000;
/// Maximum message size of `/source` in bytes.
pub const SOURCE_BYTES_MAX: u64 = 1024 * 1024;
/// Messages that `/source` sends per tick, so that other connections get their share.
pub const SOURCE_MESSAGES_PER_TICK: u32 = 256;
/// Interval of `/source`: the messages due within it are sent together.
pub const SOURCE_TICK: Nanos = MILLISECOND;
/// Maximum frames of a message of `/fragment`.
pub const FRAGMENTS_MAX: u64 = 1_024;
/// Maximum pings per second of `/ping-storm`.
pub const PING_STORM_RATE_MAX: u64 = 1_000;
/// Minimum bytes per second of `/slow-read`: one receive must not take hours.
pub const SLOW_READ_BYTES_PER_S_MIN: u64 = 64;
/// Maximum bytes per second of `/slow-read`.
pub const SLOW_READ_BYTES_PER_S_MAX: u64 = 1 << 30;
/// Maximum messages after which `/abort` ends the stream and `/sink` reports.
pub const ENDPOINT_MESSAGES_MAX: u64 = 1_000_000;
/// Bytes of a wrong parameter that the answer repeats.
pub const SHOWN_PARAMETER_BYTES_MAX: usize = 64;

// ---- control thread ----

/// Maximum length of a page of connections: 300 KB of JSON, or 5 MB if each subscribes to many topics with long names.
pub const ADMIN_CONNECTIONS_LISTED_MAX: usize = 1_000;
/// Number of shards: more threads than the largest hosts have CPUs take memory and turns from one another.
pub const SHARDS_RANGE: RangeInclusive<usize> = 1..=1_024;
/// Values of the maximum size of a request head in bytes.
pub const HEAD_BYTES_RANGE: RangeInclusive<usize> = HEAD_BYTES_MIN..=HEAD_BYTES_MAX;
/// Values of the maximum size of a message in bytes.
pub const MESSAGE_BYTES_RANGE: RangeInclusive<u64> = 1..=MESSAGE_BYTES_MAX;
/// Values of the maximum number of connections: descriptors are numbers of 24 bits.
pub const CONNECTIONS_RANGE: RangeInclusive<u32> = 1..=16_777_216;
/// Values of the maximum number of topics of a node.
pub const TOPICS_RANGE: RangeInclusive<u32> = 1..=16_777_216;
/// Values of the maximum number of topics of a connection.
pub const SUBSCRIPTIONS_RANGE: RangeInclusive<u32> = 1..=1_048_576;
/// Values of the maximum number of pings per second; the largest is no limit.
pub const PINGS_PER_SECOND_RANGE: RangeInclusive<u32> = 1..=u32::MAX;
/// Values of the queue of a connection in bytes: from the smallest send buffer of the kernel to the largest power of two in 31 bits.
pub const QUEUE_BYTES_RANGE: RangeInclusive<u32> = 4 * 1024..=1 << 30;
/// Values of the memory budget in bytes: up to the address space of a process.
pub const MEMORY_BUDGET_RANGE: RangeInclusive<u64> = MEMORY_BUDGET_MIN..=1 << 47;
/// Values of the bytes that the kernel may hold unsent: up to the largest power of two in 31 bits; the kernel's own bound is the send
/// buffer.
pub const NOTSENT_LOWAT_RANGE: RangeInclusive<u32> = 0..=1 << 30;
/// Time without an answer after which a shard counts as stalled and `/healthz` answers 503.
pub const TURN_TIMEOUT: Nanos = SECOND;
/// Interval at which a server looks for shards that stall, so that the log tells of them within four seconds. An idle shard is woken for it.
pub(crate) const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time after the time-out of a shutdown for shards to end; their last ticks and the drops of handlers take milliseconds. Then one that is
/// blocked by a handler is given up.
pub const SHUTDOWN_END_TIMEOUT: Nanos = SECOND;
/// Duration of the drain after a thread of the server has failed.
pub const BROKEN_DRAIN_TIMEOUT: Nanos = 2 * SECOND;
/// Time from the failure to the end of the server, whether all shards have ended or not.
pub const BROKEN_END_TIMEOUT: Nanos = BROKEN_DRAIN_TIMEOUT + SECOND;

// ---- connections as operators see them ----

/// Connections that a shard looks at in one tick, for each request: some 20 µs.
pub(crate) const CONNECTIONS_PER_TICK: usize = 256;
/// Addresses that a request waits for at once. With io_uring each needs a descriptor for a moment, of
/// [`RESERVED_DESCRIPTORS`].
pub(crate) const CONNECTION_LOOKUPS_MAX: usize = 32;
/// Time after which the traffic and the topics of followed connections are looked at again, and as many connections as in a tick are
/// searched for an identity: some 20 µs each.
pub(crate) const WATCH_INTERVAL: Nanos = 20 * MILLISECOND;
/// The same for a followed topic, of which all subscribers are looked at: a millisecond for 100,000.
pub(crate) const WATCH_TOPIC_INTERVAL: Nanos = 100 * MILLISECOND;
/// Events of one trace that a shard tells in a second, some 150 bytes each. Further ones are counted.
pub const WATCH_EVENTS_PER_SECOND: u32 = 200;
/// Connections that a shard follows for one trace.
pub const WATCHED_CONNECTIONS_MAX: usize = 64;
/// Maximum topics of a connection that are listed by name.
pub(crate) const CONNECTION_TOPICS_SHOWN_MAX: usize = 16;
/// Time after which a shard ends a page with its results so far.
pub(crate) const CONNECTION_SCAN_TIME: Nanos = SECOND;
/// Time limit for a shard to find the largest queues of all its connections.
pub(crate) const CONNECTION_RANK_TIME: Nanos = 4 * SECOND;

/// Bytes of the path of a connection in events for webhooks. A longer one is cut.
pub const WEBHOOK_PATH_BYTES_MAX: usize = 512;

// ---- takeover ----

/// Duration of a paced drain without `--drain`. Clients are served meanwhile, so it may be long.
pub const PACED_DRAIN_TIME: Nanos = 60 * SECOND;
/// Time for one step of a takeover, such as to read a line or to send a block of topics.
pub const PROCESS_STEP_TIMEOUT: Nanos = 10 * SECOND;
/// Connections to the meeting points that have not asked for anything yet. A successor asks at once, and a further connection takes the
/// place of the oldest; each has a descriptor.
pub(crate) const MEETING_NEWCOMERS_MAX: usize = 32;
/// Time limit for a successor to start everything that can fail. Nothing has changed in the predecessor until then.
pub const PROCESS_START_TIMEOUT: Nanos = 60 * SECOND;
/// Time in which the shards of a predecessor must agree that nothing is ordered any more. Publications wait meanwhile.
pub const ORDER_STOP_TIMEOUT: Nanos = 5 * SECOND;
/// Time that a link between the two may be without progress, while its publishers are backpressured.
pub const PROCESS_STALL_TIMEOUT: Nanos = 5 * SECOND;
/// Duration of the drain when the successor is lost: its clients cannot be served, and reconnect.
pub const LOST_DRAIN_TIMEOUT: Nanos = 2 * SECOND;
/// Time for the last mail of a predecessor to leave after its shards have ended.
pub const LAST_MAIL_TIMEOUT: Nanos = 9 * SECOND / 10;
/// Bytes of a block of topics, and of mail that is written at once.
pub const PROCESS_BATCH_BYTES: usize = 256 * 1024;
/// Maximum bytes of a frame between the two: a message of the maximum size, and its envelope.
pub const PROCESS_FRAME_BYTES_MAX: usize = (1 << 31) + 64 * 1024;
/// Bytes after which a predecessor ends a list of connections: the successor asks for the rest.
pub(crate) const PROCESS_ANSWER_BYTES: usize = 1024 * 1024;
/// Maximum bytes of such an answer, with one connection whose path and topics are as long as they can be.
pub(crate) const PROCESS_ANSWER_BYTES_MAX: usize = 16 * PROCESS_ANSWER_BYTES;
/// Time limit for the open connections to move to a successor. Those that have not moved by then drain.
pub(crate) const MOVE_TIMEOUT: Nanos = 20 * SECOND;
/// Time for the program around a predecessor to carry out a command, such as to read its configuration again. With the reload of the
/// successor it is below the ten seconds that a request to the admin address may take.
pub(crate) const PASSED_ORDER_TIMEOUT: Duration = Duration::from_secs(4);
/// Interval at which a predecessor tells its successor how many connections it has, and of bans: metrics are read less often.
pub(crate) const PROCESS_COUNT_INTERVAL: Duration = Duration::from_secs(2);
/// Time for a process that its deadline ends to tell its successor of that.
pub(crate) const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(500);
/// Time in which a process whose sockets the kernel has closed is seen to have ended: the kernel does both at once.
pub(crate) const PROCESS_END_TIMEOUT: Duration = Duration::from_secs(2);
/// Descriptors of a successor that are not for connections of its predecessor: listeners, files, its drivers.
pub(crate) const SPARE_DESCRIPTORS: u64 = 128;
/// Maximum bytes of the state of a [`Migrate`](crate::Migrate) handler. A longer one lets its connection stay.
pub const MIGRATE_STATE_BYTES_MAX: usize = 256 * 1024;
/// Connections of a shard that move together. Their clients wait for one another, so it takes milliseconds.
pub(crate) const MOVE_BATCH: usize = 256;
/// Time without a connection that can move after which the others stay: they owe something to slow clients.
pub(crate) const MOVE_PATIENCE: Nanos = 5 * SECOND;
/// Interval at which connections that could not move are looked at again.
pub(crate) const MOVE_RETRY_INTERVAL: Nanos = 20 * MILLISECOND;
/// Shards whose connections differ by fewer are not balanced unasked.
pub(crate) const REBALANCE_DIFFERENCE_MIN: u64 = 64;
/// Interval at which the numbers of the shards' connections are compared.
pub(crate) const REBALANCE_INTERVAL: Duration = Duration::from_secs(5);
/// Connections that move from one shard to another together.
pub(crate) const REBALANCE_BATCH: u64 = 500;
/// Pause between two such moves, so that the shards have time for their clients.
pub(crate) const REBALANCE_PAUSE: Duration = Duration::from_millis(20);
/// Maximum moves of one balancing.
pub(crate) const REBALANCE_ROUNDS_MAX: usize = 200;
/// Time limit for one of them.
pub(crate) const REBALANCE_MOVE_TIMEOUT: Nanos = 2 * SECOND;
/// Maximum listening sockets that are passed: of each address, one for each shard.
pub const PROCESS_SOCKETS_MAX: usize = 4_096;

// ---- sockets and descriptors ----

/// Send buffer of an accepted socket in bytes; the kernel doubles it for its bookkeeping. Under autotuning, a peer that did
/// not read absorbed 3.9 MB.
pub const SOCKET_SEND_BYTES: usize = 128 * 1024;
/// Receive buffer of an accepted socket in bytes; the kernel doubles it too.
pub const SOCKET_RECEIVE_BYTES: usize = 128 * 1024;
/// Bytes that the kernel holds unsent for a subscriber that has fallen behind (`TCP_NOTSENT_LOWAT`). What it holds can no longer
/// be replaced by newer messages, nor overtaken by a Close.
pub const NOTSENT_LOWAT_BYTES: u32 = 16 * 1024;
/// Descriptors reserved for everything but connections.
pub const RESERVED_DESCRIPTORS: u32 = 64;
/// The part of its ring's descriptors that a shard may need on average, as numerator and denominator: the kernel distributes connections
/// by a hash, so the fullest of 64 shards with 15,000 each has 2 % more, and of 64 with 300 each 15 % more.
pub(crate) const SHARD_SHARE_MAX: (u64, u64) = (7, 8);

/// Maximum bytes of a connect command of Centrifuge's protocol in the body of a request for a stream.
pub const CONNECT_BODY_BYTES_MAX: u32 = 64 * 1024;

// ---- the peak of memory (docs/memory.md) ----

/// Bytes of an open connection that sends nothing.
pub(crate) const PEAK_CONNECTION_BYTES: u64 = 256;
/// Bytes of a session, in addition to those: of `echoring.v1.json` or Centrifuge's protocol.
pub(crate) const PEAK_SESSION_BYTES: u64 = 256;
/// Bytes of a subscription: a cursor into its topic's log.
pub(crate) const PEAK_SUBSCRIPTION_BYTES: u64 = 180;
/// Bytes of an address that is limited: an entry in a table that is half full, and its place in the index. Some 330 were
/// measured.
pub(crate) const PEAK_ADDRESS_BYTES: u64 = 384;
/// Bytes of a connection's credentials, without the identity itself, which is charged to the budget: the client, its timer, and
/// its identity's place in a table that is half full.
pub(crate) const PEAK_CLIENT_BYTES: u64 = 192;
/// Bytes of the usage counters of a connection, and of an identity of its own with the longest subject, for limits on
/// topics. Of identities without a connection, as many may be remembered.
pub(crate) const PEAK_TOPIC_USE_BYTES: u64 = 896;
/// Bytes of an open connection whose end webhooks are told: its path, and two ids in a table.
pub(crate) const PEAK_TOLD_BYTES: u64 = 768;
/// Bytes of the decisions that the authentication thread remembers, without the identities in them.
pub(crate) const PEAK_DECISIONS_BYTES: u64 = echoring_auth::limits::CACHE_ENTRIES_MAX as u64 * 256;
/// Bytes of a connection that the access log takes notes of: 320 were measured, and the longest path.
pub(crate) const PEAK_ACCESS_BYTES: u64 = 384 + 1_024;
/// Bytes of a topic at its owner shard, without its name.
pub(crate) const PEAK_TOPIC_BYTES: u64 = 1_024;
/// Bytes of a topic at a shard with subscribers, without its name.
pub(crate) const PEAK_TOPIC_SHARD_BYTES: u64 = 1_331;
/// Bytes of a shard: receive regions, rings, codecs.
pub(crate) const PEAK_SHARD_BYTES: u64 = 3 << 20;
/// The same on kernels that do not provide buffers incrementally.
pub(crate) const PEAK_SHARD_BYTES_WITHOUT_INCREMENTAL: u64 = 9 << 20;
/// Bytes of a shard's allocator pages that are not full: 512 KiB for each class of buffers.
pub(crate) const PEAK_ALLOCATOR_BYTES: u64 = 4 << 20;
/// Bytes of a mailbox in addition to its messages: their envelopes.
pub(crate) const PEAK_MAILBOX_BYTES: u64 = 200 << 10;
/// Bytes of the program, the control thread and the admin address.
pub(crate) const PEAK_PROGRAM_BYTES: u64 = 6 << 20;
/// Bytes that the kernel takes for a socket without data.
pub(crate) const PEAK_SOCKET_BYTES: u64 = 4_096;

// ---- cluster ----

/// Interval at which a node that leaves checks whether the others know it: many round trips.
pub(crate) const CLUSTER_LEAVE_INTERVAL: Nanos = 20 * MILLISECOND;
/// Interval at which a node's view of its cluster is put together for operators, unless it changes.
pub(crate) const CLUSTER_REPORT_INTERVAL: Nanos = SECOND / 4;
/// Time for which nodes may have different settings of topics before that is logged: a rolled-out change reaches all of
/// them.
pub(crate) const CLUSTER_SETTINGS_DIFFER_MAX: Nanos = 60 * SECOND;
/// Time in which a successor must be connected to the backbone of the cluster, below [`PROCESS_START_TIMEOUT`].
pub(crate) const CLUSTER_JOIN_TIMEOUT: Nanos = 30 * SECOND;
/// Time in which a node that is taken over must own topics together with all others: a change of members takes less.
pub(crate) const CLUSTER_OPEN_TIMEOUT: Nanos = 3 * SECOND;
/// Time in which nothing must wait for other nodes any more, when a node is taken over: a little more than publications and pages wait. With
/// [`CLUSTER_OPEN_TIMEOUT`] it is below [`PROCESS_STEP_TIMEOUT`].
pub(crate) const CLUSTER_SUSPEND_TIMEOUT: Nanos = 6 * SECOND;

// ---- tests of programs ----

/// Steps of shards and clients without time passing, past which a test is thought to hang.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_STEPS_MAX: u64 = 1_000_000;
/// Time that passes while a call of a test waits and nothing happens: a shard retries mail that found no room.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_RETRY_DELAY: Nanos = MILLISECOND;
/// How often it passes: a mailbox has room for two messages, and what waits is at most
/// [`OUTSIDE_BYTES_MAX`](echoring_broker::limits::OUTSIDE_BYTES_MAX) or one message.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_RETRIES_MAX: u32 = 32;
/// Bytes on the way in each direction between a test client and the server, as in the buffers of sockets.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_BUFFER_BYTES: usize = 64 * 1024;
/// Maximum connections of a test server, unless its program sets another.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_CONNECTIONS_DEFAULT: u32 = 10_000;
/// Lines that a transcript keeps: the latest ones.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_TRANSCRIPT_LINES_MAX: usize = 10_000;
/// Bytes of a payload that a line of a transcript shows.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_TRANSCRIPT_PAYLOAD_BYTES: usize = 60;
