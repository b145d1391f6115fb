//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

// ---- members ----

/// Default interval of heartbeats.
pub const HEARTBEAT_INTERVAL_DEFAULT: Nanos = SECOND;
/// Default silence after which a member is taken for dead: three heartbeats and a half may be late or lost. A topic of a node
/// that was killed is served again within five seconds.
pub const MEMBER_TIMEOUT_DEFAULT: Nanos = 3_500 * MILLISECOND;
/// Time that a new node listens before it owns topics. Every member answers its first heartbeat at once.
pub const JOIN_DELAY: Nanos = SECOND;
/// Maximum nodes of a cluster; heartbeats of further ones are ignored. Each costs a link.
pub const MEMBERS_MAX: usize = 1_024;
/// Maximum bytes of a node's name.
pub const NODE_NAME_BYTES_MAX: usize = 64;

// ---- links ----

/// Maximum bytes of the messages in one packet, unless a single message is longer. NATS allows 1 MiB by default.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one link that are not acknowledged, past which deliveries to that node wait in the topics' histories. As many may be on their
/// way from the shards to the link.
pub const LINK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Shortest time without an acknowledgement after which the oldest packet is sent again: the time that a busy machine
/// may need to acknowledge it. A loss that a later packet shows is repaired without waiting.
pub const RETRANSMIT_AFTER_MIN: Nanos = 100 * MILLISECOND;
/// Longest such time, the first one before the round trip is known, and the interval at which a session is announced. Short enough
/// for a member to be tried again before it is taken for dead, and for a link to be whole a second after its path is.
pub const RETRANSMIT_AFTER_MAX: Nanos = SECOND;
/// Age of the oldest message that a node has not acknowledged, from which on this node is not ready: five times the longest interval
/// of retransmissions, and longer than the silence of a node that is dead.
pub const LINK_BEHIND_AFTER: Nanos = 5 * SECOND;

// ---- topics ----

/// Delay before a node that did not own a topic is asked again, or its current owner: a change of owners takes a round
/// trip.
pub const RETRY_DELAY: Nanos = 50 * MILLISECOND;
/// Time for which a node remembers that a topic's owner may not know of messages: as long as it remembers the position of a topic
/// that nobody uses.
pub const DIVERGED_AGE: Nanos = echoring_topics::limits::REMEMBERED_AGE;
/// Time that a publication may wait for an owner that can be reached. After that it is refused.
pub const PUBLISH_TIMEOUT: Nanos = 5 * SECOND;
/// Maximum bytes of the publications in one batch, unless a single one is longer.
pub const BATCH_BYTES_MAX: usize = 64 * 1024;
/// Maximum bytes of the publications of one shard that wait for owners on other nodes.
pub const OUTGOING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Time that a publication may wait at the owner of a durable topic for the topic's stream: shorter than its publisher's node waits, so
/// that a publication that never reached the stream is known not to be published.
pub const DURABLE_TIMEOUT: Nanos = 4 * SECOND;
/// Delay before the stream of a durable topic is asked again, if it has not answered.
pub const STREAM_RETRY_DELAY: Nanos = 250 * MILLISECOND;
/// Time without a stream for a durable topic after which publications are told so and no longer wait: a restarted
/// server has its streams back sooner.
pub const STREAM_UNUSABLE_AFTER: Nanos = 2 * SECOND;
/// Time for which a durable topic has had no stream, after which its node no longer asks for one if nobody subscribes or publishes:
/// five times as long, so that most publications in a row are refused without waiting.
pub const STREAM_UNUSED_AFTER: Nanos = 5 * STREAM_UNUSABLE_AFTER;
/// Maximum bytes of publications that are stored together, unless those of one node are longer. With a single long one they
/// stay below a packet.
pub const DURABLE_BATCH_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// Publications past which no more are stored together.
pub const DURABLE_BATCH_PUBLICATIONS_MAX: u64 = 1_000;
/// Time in which a node that has followed a topic before must follow it again, at its next owner or over another link, before its
/// members have left. The owner changes in a few round trips.
pub const MEMBERS_STAY: Nanos = SECOND;
/// Time after which a node counts as gone, if its link was lost and no other was made: links change at once.
pub const MEMBERS_STAY_WITHOUT_LINK: Nanos = RETRY_DELAY;
/// Maximum time for which subscribers wait for the next page of a member list when their node begins to follow a topic. They
/// then subscribe without it, and learn of further members as of joins.
pub const MEMBERS_WAIT: Nanos = SECOND;
/// Departed members of one topic that subscribers are told of in one turn, when a node has ended: about 20 KB of JSON,
/// far less than a subscriber may lag.
pub const MEMBERS_LEAVE_MAX: usize = 128;
/// Maximum bytes of members in one message.
pub const MEMBERS_PART_BYTES: usize = 64 * 1024;
/// Maximum bytes of history in one message.
pub const HISTORY_PART_BYTES: usize = 64 * 1024;
