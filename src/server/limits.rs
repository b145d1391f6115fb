//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use std::time::Duration;

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
pub use echoring_wire::limits::{IDEMPOTENCY_KEY_BYTES_MAX, JSON_DEPTH_MAX, PRESENCE_PAGE_MAX};

// ---- queues and memory ----

/// Connections beyond the maximum that are accepted to be answered 503.
pub const REFUSING_CONNECTIONS_MAX: u32 = 64;

// ---- broadcast ----

/// Default maximum of topics per node. Topics without subscribers are evicted for new ones.
pub const TOPICS_DEFAULT: u32 = 65_536;
/// Topics that a shard leases from the node's maximum at a time.
pub const TOPIC_LEASE: u64 = 64;
/// Default maximum of topics that one connection subscribes to.
pub const SUBSCRIPTIONS_DEFAULT: u32 = 128;
/// Subscriptions of a shard that wait for the owner of their topic: as many as a lane between two shards holds. They may
/// wait behind the publications of a busy topic, for the handshake timeout at most. Further subscribers are refused as busy.
pub const SUBSCRIPTIONS_WAITING_MAX: usize = 4_096;
/// Requests of sessions that wait for room in a mailbox. Further ones are refused as busy.
pub const REQUESTS_WAITING_MAX: usize = 1_024;
/// Publications of one session that owners of topics on other shards have not answered, as far as they are remembered: as many as a
/// lane between two shards holds.
pub(crate) const PUBLICATIONS_UNANSWERED_MAX: usize = 4_096;
/// Time that the refusal of a publication waits for the answers before it: twice the time in which an owner on another node must
/// be reached. They do not come if their shard has failed.
pub(crate) const REFUSAL_WAIT_MAX: Nanos = 10 * SECOND;
/// Protocol errors in a row before a session is closed with 1008.
pub const PROTOCOL_ERRORS_MAX: u8 = 20;
/// Bytes of frames that came behind a connect command of Centrifuge's protocol whose token is being checked: a client that
/// reconnects sends its subscriptions with it. More end the session.
pub(crate) const CENTRIFUGE_CONNECT_BACKLOG_BYTES_MAX: usize = 64 * 1024;
/// Bytes of these frames, and of pages of history that wait for others, of all sessions of a shard. Further requests are
/// refused.
pub(crate) const CENTRIFUGE_KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Requests of history, and of presence statistics, of one session that wait for other shards. Each may hold pages; further
/// ones are refused.
pub(crate) const CENTRIFUGE_PENDING_REQUESTS_MAX: usize = 16;
/// Requests of one session about which the application is asked. Beyond it the session is not read, and its further commands wait.
pub(crate) const CENTRIFUGE_APP_CALLS_MAX: usize = 16;
/// Bytes of frames of such a session that wait: as many as may be on the way when reading pauses, on kernels that bound a receive less
/// strictly. They are charged to the memory budget. More end the session.
pub(crate) const CENTRIFUGE_HELD_BYTES_MAX: usize = 2 * echoring_proto::limits::RECEIVE_CREDIT_BYTES as usize;
/// Calls of one identity that wait for the application, from all its connections: those of sixteen connections that are full, and a
/// quarter of what may wait. Further ones are refused.
pub(crate) const APP_CALLS_PER_IDENTITY_MAX: u32 = echoring_auth::limits::APP_CALLS_MAX as u32 / 4;
/// Clients in one answer about presence, which has no pages: about 100 KB of JSON. Of more, an error is told.
pub(crate) const CENTRIFUGE_PRESENCE_CLIENTS_MAX: usize = 1_024;
/// Bytes of their numbers and subjects, each as long as it may be.
pub(crate) const CENTRIFUGE_PRESENCE_BYTES_MAX: usize = CENTRIFUGE_PRESENCE_CLIENTS_MAX * (8 + 1 + 255);
/// Bytes of history in one answer, and one page besides: twice the default of a topic's history.
pub(crate) const CENTRIFUGE_HISTORY_BYTES_MAX: usize = 128 * 1024;
/// Messages from other threads that wait for the owners of their topics, per node. Further ones are answered 429.
pub const OUTSIDE_MESSAGES_MAX: u64 = 1_024;
/// Bytes of these messages.
pub const OUTSIDE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of these messages that a shard publishes per tick. A batch may be longer than the lag that a subscriber may have
/// ([`QUEUE_BYTES_DEFAULT`](echoring_proto::limits::QUEUE_BYTES_DEFAULT)), and must not make subscribers lag by itself.
pub const OUTSIDE_BYTES_PER_TICK: usize = 64 * 1024;

/// Publications of a handler's connection that wait for room in a mailbox. Further ones are refused as busy.
pub const HANDLER_HELD_MAX: u16 = 1_024;
/// Messages that a connection of a handler publishes [on close](crate::Remote::publish_on_close): one for each topic that it
/// subscribes to by default.
pub const ON_CLOSE_MESSAGES_MAX: usize = SUBSCRIPTIONS_DEFAULT as usize;
/// Bytes of these messages of one connection, with their topics' names and keys.
pub const ON_CLOSE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of these messages that a shard publishes per tick. Thousands of connections may be cut in one tick, which must not make
/// those that stay lag by itself; see [`OUTSIDE_BYTES_PER_TICK`].
pub const ON_CLOSE_BYTES_PER_TICK: usize = 64 * 1024;
/// Bytes that each counts there besides its own: its frame's header, and its entry in the logs.
pub(crate) const ON_CLOSE_MESSAGE_BYTES: usize = 64;
/// Bytes that a message of a [`RemoteSender`](crate::RemoteSender) is charged besides its payload: its entry in two queues.
pub const SENDER_MESSAGE_BYTES: usize = 160;
/// Bytes of the messages of senders that a shard hands to connections per tick, so that its other connections get their share.
pub const SENDER_BYTES_PER_TICK: usize = 1024 * 1024;

// ---- shards ----

/// Minimum bytes of each direction of a mailbox between two shards. A mailbox always holds two messages of the maximum size.
pub const MAILBOX_BYTES_MIN: usize = 1024 * 1024;
/// The last part of a drain, in which subscribers that have not got everything are told what they lose: a round trip,
/// and a second for a busy peer. At most a quarter of the drain.
pub const DRAIN_GOODBYE: Nanos = 2 * SECOND;
/// Handlers that a shard tells of a drain per tick, and connections that it closes then, so that its other connections get their
/// share: some 20 µs.
pub const DRAIN_NOTICES_PER_TICK: usize = 64;
/// Maximum time that a handler has for its connection's end in a paced drain: what an immediate one grants by default.
pub const PACED_DRAIN_NOTICE: Nanos = 6 * SECOND;

// ---- authentication ----

/// Identities at which those that need not be remembered are dropped for the first time.
pub(crate) const IDENTITIES_SWEPT_MIN: usize = 1_024;
/// Requests of one shard that wait for the authentication thread. Further clients are answered 503.
pub const AUTH_PENDING_MAX: usize = 1_024;
/// Bytes of their heads: a quarter of them may be as large as a head may be.
pub const AUTH_PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Time before the expiry of its credentials at which a session is told, or half of the time that is left.
pub const EXPIRY_NOTICE: Nanos = 30 * SECOND;

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

// ---- control plane ----

/// Concurrent connections to the admin address. A further one replaces the one that has waited longest for a request.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Concurrent requests, except for `/healthz`, which has connections reserved. Further ones are answered 429.
pub const ADMIN_REQUESTS_MAX: usize = 48;
/// Time from accept to the end of the request's head.
pub const ADMIN_HEAD_TIMEOUT: Nanos = 2 * SECOND;
/// The part of it that every connection is granted, however many others arrive. A head is sent at once, so it takes
/// less than a round trip.
pub const ADMIN_IDLE_MIN: Nanos = 100 * MILLISECOND;
/// Bytes of a log level that the admin address takes: a few directives.
pub(crate) const ADMIN_LOG_LEVEL_BYTES_MAX: u64 = 1024;
/// Time for a request behind its head, with its response.
pub const ADMIN_TIMEOUT: Nanos = 10 * SECOND;
/// Time that an admin connection waits for another request: longer than clients keep theirs, such as Go's 90 s, so that they do not
/// send a request while the connection is closed.
pub const ADMIN_KEPT_TIMEOUT: Nanos = 120 * SECOND;
/// The part of [`ADMIN_TIMEOUT`] for the body of a request.
pub const ADMIN_BODY_TIMEOUT: Nanos = 5 * SECOND;
/// Maximum bytes of a batch of messages; two messages of the maximum size if that is more.
pub const ADMIN_BATCH_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of the answers to the commands of one request of Centrifugo's API after which no further one is run: a batch of
/// publications has some 60 KiB of answers. The last answer may be longer.
pub(crate) const ADMIN_ANSWERS_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the bodies of all requests; a single body may be longer. Further publishers are answered 429.
pub const ADMIN_BODIES_BYTES_MAX: u64 = OUTSIDE_BYTES_MAX;
/// Bytes of an unwanted body that are read and discarded, so that its sender sees the response.
pub const ADMIN_DISCARD_BYTES_MAX: u64 = 1024 * 1024;
/// Time for discarding them, and for a further request while no connection is kept.
pub const ADMIN_LINGER: Nanos = SECOND;
/// Time for requests in progress when the control thread stops, below [`SNAPSHOT_TIMEOUT`].
pub const ADMIN_STOP_TIMEOUT: Nanos = SECOND;
/// Default length of a list of topics.
pub const ADMIN_TOPICS_DEFAULT: usize = 1_000;
/// Maximum length of a list of topics: about 6 MB of JSON.
pub const ADMIN_TOPICS_MAX: usize = 10_000;
/// Default length of a page of connections.
pub const ADMIN_CONNECTIONS_LISTED_DEFAULT: usize = 100;
/// Maximum length of a page of connections: 300 KB of JSON, or 5 MB if each subscribes to many topics with long names.
pub const ADMIN_CONNECTIONS_LISTED_MAX: usize = 1_000;
/// Concurrent requests about connections. Each may hold a page; further ones are answered 429.
pub const ADMIN_CONNECTION_REQUESTS_MAX: usize = 4;
/// Delay of the first answer to an address without access; it doubles with each further attempt.
pub const ADMIN_DELAY_MIN: Duration = Duration::from_millis(100);
/// Maximum of this delay, below [`ADMIN_TIMEOUT`]. A guess every five seconds finds no token.
pub const ADMIN_DELAY_MAX: Duration = Duration::from_secs(5);
/// Time without an attempt after which an address is forgotten.
pub const ADMIN_ATTEMPTS_FORGOTTEN: Duration = Duration::from_secs(60);
/// Interval of the log lines about the attempts of one address.
pub const ADMIN_ATTEMPTS_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Addresses that are remembered for it: 100 KB.
pub const ADMIN_OFFENDERS_MAX: usize = 1_024;
/// Addresses that `GET /limits` names: about 10 KB of JSON.
pub(crate) const ADMIN_ADDRESSES_MAX: usize = 100;
/// Minimum bytes of the admin token: a shorter one may be guessed.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;
/// Maximum bytes of the admin token: it fits a request head.
pub const ADMIN_TOKEN_BYTES_MAX: usize = 1_024;
/// Time that a shard has to answer the control plane. A busy shard answers between two ticks, far sooner; a stuck shard must
/// not block the operator.
pub const SNAPSHOT_TIMEOUT: Nanos = 2 * SECOND;
/// Time without an answer after which a shard counts as stalled and `/healthz` answers 503.
pub const TURN_TIMEOUT: Nanos = SECOND;
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
/// Topics of a connection that are shown by name.
pub(crate) const CONNECTION_TOPICS_SHOWN_MAX: usize = 16;
/// Time after which a shard ends a page with what it has found.
pub(crate) const CONNECTION_SCAN_TIME: Nanos = SECOND;
/// Time after which no further shard is asked for a page. With one more shard, below [`ADMIN_TIMEOUT`].
pub(crate) const CONNECTION_GATHER_TIME: Nanos = 4 * SECOND;
/// Time that a shard has to find the largest queues of all its connections.
pub(crate) const CONNECTION_RANK_TIME: Nanos = 4 * SECOND;

// ---- takeover ----

/// Duration of a handover without `--drain`. Clients are served meanwhile, so it may be long.
pub const HANDOVER_TIME: Nanos = 60 * SECOND;
/// Time for one step of a takeover, such as to read a line or to send a block of topics.
pub const HANDOVER_STEP_TIMEOUT: Nanos = 10 * SECOND;
/// Time that a successor has to start everything that can fail. Nothing has changed in the predecessor until then.
pub const HANDOVER_START_TIMEOUT: Nanos = 60 * SECOND;
/// Time in which the shards of a predecessor must agree that nothing is ordered any more. Publications wait meanwhile.
pub const HANDOVER_FREEZE_TIMEOUT: Nanos = 5 * SECOND;
/// Time that a link between the two may be without progress, while its publishers are backpressured.
pub const HANDOVER_STALL_TIMEOUT: Nanos = 5 * SECOND;
/// Duration of the drain when the successor is lost: its clients cannot be served, and reconnect.
pub const LOST_DRAIN_TIMEOUT: Nanos = 2 * SECOND;
/// Time for the last mail of a predecessor to leave after its shards have ended.
pub const HANDOVER_LAST_MAIL_TIMEOUT: Nanos = 2 * SECOND;
/// Bytes of a block of topics, and of mail that is written at once.
pub const HANDOVER_BATCH_BYTES: usize = 256 * 1024;
/// Maximum bytes of a frame between the two: a message of the maximum size, and what surrounds it.
pub const HANDOVER_FRAME_BYTES_MAX: usize = (1 << 31) + 64 * 1024;
/// Bytes after which a predecessor ends a list of connections: the successor asks for the rest.
pub(crate) const HANDOVER_ANSWER_BYTES: usize = 1024 * 1024;
/// Maximum bytes of such an answer, with one connection whose path and topics are as long as they can be.
pub(crate) const HANDOVER_ANSWER_BYTES_MAX: usize = 16 * HANDOVER_ANSWER_BYTES;
/// Maximum listening sockets that are passed: of each address, one for each shard.
pub const HANDOVER_SOCKETS_MAX: usize = 4_096;

// ---- sockets and descriptors ----

/// Send buffer of an accepted socket in bytes; the kernel doubles it for its bookkeeping. Under autotuning, a peer that did
/// not read absorbed 3.9 MB.
pub const SOCKET_SEND_BYTES: usize = 128 * 1024;
/// Receive buffer of an accepted socket in bytes; the kernel doubles it too.
pub const SOCKET_RECEIVE_BYTES: usize = 128 * 1024;
/// Descriptors reserved for everything but connections.
pub const RESERVED_DESCRIPTORS: u32 = 64;
/// Connections that a shard leases from the node's maximum at a time.
pub const CONNECTION_LEASE: u64 = 64;

// ---- the peak of memory (docs/memory.md) ----

/// Bytes of an open connection that sends nothing.
pub(crate) const PEAK_CONNECTION_BYTES: u64 = 256;
/// Bytes of a session, beside those: of `echoring.v1.json` or Centrifuge's protocol.
pub(crate) const PEAK_SESSION_BYTES: u64 = 256;
/// Bytes of a subscription: a cursor into its topic's log.
pub(crate) const PEAK_SUBSCRIPTION_BYTES: u64 = 180;
/// Bytes of an address that is limited: an entry in a table that is half full, and its place in the index. Some 330 were
/// measured.
pub(crate) const PEAK_ADDRESS_BYTES: u64 = 384;
/// Bytes of a connection's credentials, without the identity itself, which is charged to the budget: the client, its timer, and
/// its identity's place in a table that is half full.
pub(crate) const PEAK_CLIENT_BYTES: u64 = 192;
/// Bytes of what a connection, and an identity of its own with the longest subject, have used of limits on topics. Of
/// identities without a connection, as many may be remembered.
pub(crate) const PEAK_TOPIC_USE_BYTES: u64 = 896;
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
/// Bytes of a mailbox beside its messages: their envelopes.
pub(crate) const PEAK_MAILBOX_BYTES: u64 = 200 << 10;
/// Bytes of the program, the control thread and the admin address.
pub(crate) const PEAK_PROGRAM_BYTES: u64 = 12 << 20;
/// Bytes that the kernel takes for a socket without data.
pub(crate) const PEAK_SOCKET_BYTES: u64 = 4_096;

// ---- cluster ----

/// Bytes of messages of other nodes that wait for the shards, past which none are taken from the backbone.
pub(crate) const CLUSTER_INBOX_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Interval at which a node that leaves looks whether the others know it: many round trips.
pub(crate) const CLUSTER_LEAVE_INTERVAL: Nanos = 20 * MILLISECOND;
/// Time that a client whose position its node has not reached waits for that: shorter than SDKs wait for an answer, which is 5 seconds.
pub(crate) const CLUSTER_BEHIND_TIMEOUT: Nanos = 3 * SECOND;
/// Maximum number of pages of a shard's topics that wait for that. Any others are answered at once.
pub(crate) const CLUSTER_BEHIND_MAX: usize = 1_024;
/// Interval at which a node's view of its cluster is put together for operators, unless it changes.
pub(crate) const CLUSTER_REPORT_INTERVAL: Nanos = SECOND / 4;
/// Time for which nodes may have different settings of topics before that is logged: a change that is rolled out reaches all of them.
pub(crate) const CLUSTER_SETTINGS_DIFFER_MAX: Nanos = 60 * SECOND;
/// Bytes of messages that wait to be published for other clients of NATS, for all shards.
pub(crate) const CLUSTER_RELAY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Requests at a time that come to the control thread by other ways than the admin address.
pub const ADMIN_PASSED_ON_MAX: usize = 64;
/// Time in which a successor must own topics beside its predecessor, below [`HANDOVER_START_TIMEOUT`].
pub(crate) const CLUSTER_JOIN_TIMEOUT: Nanos = 30 * SECOND;
/// Time in which other nodes must have the topics of one that is taken over, below [`HANDOVER_STEP_TIMEOUT`].
pub(crate) const CLUSTER_HANDOVER_TIMEOUT: Nanos = 8 * SECOND;
/// Bytes of the idempotency keys, and of the latest messages of keys, that move with a topic to another node, together in one
/// packet.
pub(crate) const CLUSTER_STATE_BYTES_MAX: usize = 512 * 1024;
/// Bytes of publications of a shard that wait for the end of its tick, when they are sent to other nodes.
pub(crate) const CLUSTER_STAGED_BYTES_MAX: usize = 4 * 1024 * 1024;

// ---- tests of programs ----

/// Steps of shards and clients without time passing, past which a test is thought to hang.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_STEPS_MAX: u64 = 1_000_000;
/// Time that passes while a call of a test waits and nothing happens: a shard tries again what found no room in a mailbox.
#[cfg(any(test, feature = "testing"))]
pub(crate) const TEST_RETRY_DELAY: Nanos = MILLISECOND;
/// How often it passes: a mailbox has room for two messages, and what waits is at most [`OUTSIDE_BYTES_MAX`] or one message.
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
