//! The bounds and deadlines of topics and sessions, with their units and reasons. No logic.

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

// ---- ages of deliveries ----

/// Of so many deliveries the age of one is sampled, on average.
pub const AGE_SAMPLE_DEFAULT: u32 = 100;
/// Samples of a shard that are followed at a time.
pub(crate) const AGE_SAMPLES_MAX: usize = 64;
/// How long a sample waits for its acknowledgement. A client that is gone does not acknowledge, and TCP finds that later.
pub(crate) const AGE_WAIT: Nanos = 60 * SECOND;

// ---- sessions ----

/// Default maximum of topics that one connection subscribes to.
pub const SUBSCRIPTIONS_DEFAULT: u32 = 128;
/// How many times as many topics as it may have, or as the default allows, a session subscribes to per second by default. A page that
/// reconnects subscribes to all of its topics at once, and one that shows something else to all others.
pub const SUBSCRIBE_RATE_OF_SUBSCRIPTIONS: u64 = 4;
/// Subscriptions of a shard that wait for the owner of their topic: as many as a lane between two shards holds. They may
/// wait behind the publications of a busy topic, for the handshake timeout at most. Further subscribers are refused as busy.
pub const SUBSCRIPTIONS_WAITING_MAX: usize = 4_096;
/// Members in one page of a member list: about 5 KB of JSON.
pub const PRESENCE_PAGE_MAX: usize = 256;
/// Requests of sessions that wait for room in a mailbox. Further ones are refused as busy.
pub const REQUESTS_WAITING_MAX: usize = 1_024;
/// Filters of a session's subscriptions that have not begun or have ended, which are removed beyond that.
pub(crate) const CENTRIFUGE_FILTERS_UNUSED_MAX: usize = 32;
/// Maximum bytes of an idempotency key. A UUID has 36, and mail between shards counts them in one byte.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Publications of one session whose answers from owners on other shards are pending, as far as they are remembered: as
/// many as a lane between two shards holds.
pub(crate) const PUBLICATIONS_UNANSWERED_MAX: usize = 4_096;
/// Time that the refusal of a publication waits for the answers before it: twice the time in which an owner on another node must
/// be reached. They do not come if their shard has failed.
pub(crate) const REFUSAL_WAIT_MAX: Nanos = 10 * SECOND;
/// Protocol errors in a row before a session is closed with 1008.
pub const PROTOCOL_ERRORS_MAX: u8 = 20;
/// Notes of one tick about sessions that an operator follows; further ones are counted.
pub(crate) const WATCHED_NOTES_MAX: usize = 256;
/// Time for which a subscription of Centrifuge's protocol waits for the owner of its topic, as the handshake timeout allows: with the
/// second between two checks, it is answered before the 5 s after which SDKs give up.
pub(crate) const CENTRIFUGE_OWNER_WAIT: Nanos = 3_900 * MILLISECOND;
/// Maximum nesting of arrays and objects in published JSON: the default of common JSON parsers.
pub const JSON_DEPTH_MAX: usize = 128;
/// Bytes of frames that came behind a connect command of Centrifuge's protocol whose token is being checked: a client that
/// reconnects sends its subscriptions with it. More end the session.
pub(crate) const CENTRIFUGE_CONNECT_BACKLOG_BYTES_MAX: usize = 64 * 1024;
/// Bytes of these frames, and of pages of history that wait for others, of all sessions of a shard. Further requests are
/// refused.
pub(crate) const CENTRIFUGE_KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Requests of history, and of presence statistics, of one session that wait for other shards. Each may hold pages; further
/// ones are refused.
pub(crate) const PENDING_REQUESTS_MAX: usize = 16;
/// Requests of one session about which the application is asked. Beyond it the session is not read, and its further commands wait.
pub(crate) const CENTRIFUGE_APP_CALLS_MAX: usize = 16;
/// Bytes of frames of such a session that wait: as many as may be on the way when reading pauses, on kernels that bound a receive less
/// strictly. They are charged to the memory budget. More end the session.
pub(crate) const CENTRIFUGE_HELD_BYTES_MAX: usize = 2 * echoring_proto::limits::RECEIVE_CREDIT_BYTES as usize;
/// Calls of one identity that wait for the application, from all its connections: those of sixteen connections that are
/// full, and a quarter of all that may wait. Further ones are refused.
pub(crate) const APP_CALLS_PER_IDENTITY_MAX: u32 = echoring_auth::limits::APP_CALLS_MAX as u32 / 4;
/// Clients in one answer about presence, which has no pages: about 100 KB of JSON, besides the application's data about them. Further ones get an error.
pub(crate) const CENTRIFUGE_PRESENCE_CLIENTS_MAX: usize = 1_024;
/// Bytes of their ids and profiles, each as long as it may be.
pub(crate) const CENTRIFUGE_PRESENCE_BYTES_MAX: usize =
    CENTRIFUGE_PRESENCE_CLIENTS_MAX * (16 + 3 + echoring_topics::limits::PROFILE_BYTES_MAX);
/// Bytes of history in one answer, and one page besides: twice the default of a topic's history.
pub(crate) const HISTORY_BYTES_MAX: usize = 128 * 1024;

// ---- webhooks ----

/// Time without a subscriber after which a topic counts as vacated: clients that reload a page return within it.
pub const TOPIC_VACATED_DELAY: Nanos = SECOND;
/// Topics of a shard that wait for that. Beyond it, those that wait for longest are told at once.
pub(crate) const TOPICS_VACATED_MAX: usize = 65_536;

// ---- messages from other threads and handlers ----

/// Messages from other threads that wait for the owners of their topics, per node. Further ones are answered 429.
pub const OUTSIDE_MESSAGES_MAX: u64 = 1_024;
/// Bytes of these messages.
pub const OUTSIDE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of these messages that a shard publishes per tick. A batch may be longer than the lag that a subscriber may have
/// ([`QUEUE_BYTES_DEFAULT`](echoring_proto::limits::QUEUE_BYTES_DEFAULT)), and must not make subscribers lag by itself.
pub const OUTSIDE_BYTES_PER_TICK: usize = 64 * 1024;
/// Publications of a handler's connection that wait for room in a mailbox. Further ones are refused as busy.
pub const HANDLER_HELD_MAX: u16 = 1_024;
/// Messages that a connection of a handler publishes when it is over: one for each topic that it subscribes
/// to by default.
pub const ON_CLOSE_MESSAGES_MAX: usize = SUBSCRIPTIONS_DEFAULT as usize;
/// Bytes of these messages of one connection, with their topics' names and keys.
pub const ON_CLOSE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of these messages that a shard publishes per tick. Thousands of connections may be cut in one tick, which must not make
/// those that stay lag by itself; see [`OUTSIDE_BYTES_PER_TICK`].
pub const ON_CLOSE_BYTES_PER_TICK: usize = 64 * 1024;
/// Bytes that each counts there besides its own: its frame's header, and its entry in the logs.
pub(crate) const ON_CLOSE_MESSAGE_BYTES: usize = 64;

// ---- clients ----

/// Identities at which those that need not be remembered are dropped for the first time.
pub(crate) const IDENTITIES_SWEPT_MIN: usize = 1_024;
/// Time before the expiry of its credentials at which a session is notified, or half of the time that is left.
pub const EXPIRY_NOTICE: Nanos = 30 * SECOND;

// ---- shards ----

/// Time after a fence for which owner shards keep all messages, for connections that move: many times what one takes between two
/// processes.
pub(crate) const FENCE_RETENTION: Nanos = 10 * SECOND;
/// Time after a change of a cluster's members for which nodes keep all messages: as long as it may take until all topics have new owners,
/// and the connections of a node that is replaced have moved.
pub(crate) const VIEW_RETENTION: Nanos = 40 * SECOND;
/// Maximum subscriptions of a connection that moves: many times the default of a connection.
pub(crate) const PLAIN_SUBSCRIPTIONS_MAX: usize = 65_536;
/// The last part of a drain, in which subscribers that have not received everything are notified of their losses: a
/// round trip, and a second for a busy peer. At most a quarter of the drain.
pub const DRAIN_GOODBYE: Nanos = 2 * SECOND;
/// Time limit of a shard's answer to the control thread. A busy shard answers between two ticks, far sooner; a stuck
/// shard must not block the operator.
pub const SNAPSHOT_TIMEOUT: Nanos = 2 * SECOND;

// ---- cluster ----

/// Bytes of messages of other nodes that wait for the shards, past which none are taken from the backbone.
pub(crate) const CLUSTER_INBOX_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Time that a client whose position its node has not reached waits for that: shorter than SDKs wait for an answer, which is 5 seconds.
pub(crate) const CLUSTER_BEHIND_TIMEOUT: Nanos = 3 * SECOND;
/// Maximum number of pages of a shard's topics that wait for that. Any others are answered at once.
pub(crate) const CLUSTER_BEHIND_MAX: usize = 1_024;
/// Bytes of messages that wait to be published for other clients of NATS, for all shards.
pub(crate) const CLUSTER_RELAY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of the idempotency keys, and of the latest messages of keys, that move with a topic to another node, together in one
/// packet.
pub(crate) const CLUSTER_STATE_BYTES_MAX: usize = 512 * 1024;
/// Bytes of publications of a shard that wait for the end of its tick, when they are sent to other nodes.
pub(crate) const CLUSTER_STAGED_BYTES_MAX: usize = 4 * 1024 * 1024;
