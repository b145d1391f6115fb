//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use echoring_proto::limits::{Nanos, SECOND};

// ---- broadcast ----

/// The first integer that JavaScript cannot represent exactly. Offsets are below it.
pub const INTEGER_END: u64 = 1 << 53;
/// Maximum bytes of a topic's name, percent-decoded.
pub const TOPIC_BYTES_MAX: usize = 255;
/// Default of the topics that exist because one connection created them: a sixteenth of the node's default.
pub const TOPICS_PER_CONNECTION_DEFAULT: u32 = 4_096;
/// Tables of creators, so that shards seldom meet at one.
pub(crate) const CREATOR_TABLES: usize = 16;
/// Time within which a publication with a known idempotency key is a duplicate.
pub const IDEMPOTENCY_WINDOW: Nanos = 300 * SECOND;
/// Maximum idempotency keys of a topic from clients, and the same number from the operator; above it the oldest are
/// evicted, which shortens that topic's window.
pub(crate) const IDEMPOTENCY_KEYS_PER_TOPIC_MAX: usize = 8_192;
/// The same for all topics that one shard owns: about 20 MB at most, charged to the memory budget.
pub(crate) const IDEMPOTENCY_KEYS_PER_SHARD_MAX: usize = 65_536;
/// Maximum bytes of a message's key.
pub const KEY_BYTES_MAX: usize = 255;
/// Maximum bytes of a message's tags as they are encoded: 3 bytes for each, and its key and value. It is charged beside the payload, which
/// is meant to be longer.
pub const TAGS_BYTES_MAX: usize = 4 * 1024;
/// Maximum bytes of a subscriber's filter as it is encoded: a list of about 500 symbols.
pub const FILTER_BYTES_MAX: usize = 4 * 1024;
/// Maximum tests and groups of a filter, which is evaluated for each message: some microseconds for the worst one.
pub const FILTER_NODES_MAX: usize = 64;
/// Maximum levels of a filter, the tests included.
pub const FILTER_DEPTH_MAX: usize = 8;
/// Maximum keys of a conflated topic.
pub(crate) const KEYS_MAX: usize = 4_096;
/// Maximum bytes of a member's subject: a UUID, an e-mail address or a distinguished name.
pub const SUBJECT_BYTES_MAX: usize = 255;
/// Maximum bytes of the application's data about a client, and the same about its subscription: a name, the address of a picture, and
/// some roles. They are in each entry of a member list and in each message that names its author.
pub const INFO_BYTES_MAX: usize = 1_024;
/// Maximum bytes of what subscribers are told of a member: its subject, both data, and a mark in front of each, which are base64 if
/// they are bytes.
pub const PROFILE_BYTES_MAX: usize = SUBJECT_BYTES_MAX + 2 * (2 + INFO_BYTES_MAX.div_ceil(3) * 4);
/// Maximum bytes of a message's author: the length of its profile, its id, and the profile. They are charged beside the payload.
pub const AUTHOR_BYTES_MAX: usize = 2 + 16 + PROFILE_BYTES_MAX;
/// Default number of messages of a topic that are kept for replay.
pub(crate) const HISTORY_MESSAGES_DEFAULT: u32 = 100;
/// Default bytes of them.
pub(crate) const HISTORY_BYTES_DEFAULT: usize = 64 * 1024;
/// Default age of them: a page that reloads or changes networks reconnects within a minute.
pub(crate) const HISTORY_AGE_DEFAULT: Nanos = 60 * SECOND;
/// Default number of messages of a durable topic in its stream.
pub(crate) const DURABLE_MESSAGES_DEFAULT: u32 = 1_000_000;
/// Default bytes of a stream.
pub(crate) const DURABLE_BYTES_DEFAULT: usize = 1024 * 1024 * 1024;
/// Default age of its messages: a client that was away over a day misses nothing.
pub(crate) const DURABLE_AGE_DEFAULT: Nanos = 24 * 3_600 * SECOND;
/// Time for which a shard remembers the position of a forgotten topic, so that returning subscribers continue in the
/// same epoch: many times a client's reconnect delay (half a minute).
pub const REMEMBERED_AGE: Nanos = 600 * SECOND;
/// Bytes per shard for these positions, and the same for delivery counts of topics whose last subscriber has left.
/// About 4,000 topics each.
pub(crate) const REMEMBERED_BYTES_MAX: usize = 1024 * 1024;
/// Patterns of topics that are counted each for itself; topics of those behind them count with the default. It bounds the series of a
/// node's metrics: 11 of each pattern, besides the histograms of ages.
pub(crate) const COUNTED_PATTERNS_MAX: usize = 256;
/// Idle time of a topic after which its subscribers are sent its last offset.
pub const HEARTBEAT_INTERVAL: Nanos = 25 * SECOND;
/// Idempotency keys, or members, that an export to another process writes at a time: about 64 KiB at most.
pub(crate) const TRANSFER_PARTS_MAX: usize = 256;
/// Bytes that a listed member is charged besides its subject, where lists are charged: its share of the list's nodes, and two
/// allocations.
pub(crate) const MEMBER_BYTES: usize = 96;
/// Changes of the members of a topic of which subscribers are told at once in each [`PRESENCE_INTERVAL`].
pub const PRESENCE_CHANGES_AT_ONCE: u32 = 10;
/// Further changes wait for the end of this time and are merged, so that clients that come and go cost the others a bounded number of
/// messages. Few people see a list of people change sooner.
pub const PRESENCE_INTERVAL: Nanos = SECOND / 4;
/// Subscribers of a format from which on a shard keeps a compression context for them. With a window of 32 KiB it takes 288 KiB, and
/// 72 for each of four subscribers, as much as a quarter of a compressor per connection.
pub(crate) const CONTEXT_SUBSCRIBERS_MIN: usize = 4;
/// Bytes of a topic's messages that are kept while connections move, unless its own history may be larger: ten seconds of 400 KB/s.
/// A topic with more loses the oldest, and its moved subscribers are told of the gap.
pub(crate) const RETAINED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Size of a log segment in bytes.
pub const LOG_SEGMENT_BYTES: usize = 16 * 1024;
/// Bytes of a log's first segment: a quiet topic has one. Each further one is twice as large.
pub(crate) const LOG_SEGMENT_BYTES_MIN: usize = 1024;

// ---- sockets and descriptors ----

/// Maximum time that a subscriber may lag behind its topic.
pub const LAG_MAX: Nanos = 5 * SECOND;
