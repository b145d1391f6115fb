//! The bounds and deadlines of this crate, with their units and reasons. No logic.

use std::time::Duration;

use crate::limits::{HISTORY_PART_BYTES, PACKET_BYTES_MAX};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

// ---- options ----

/// Maximum bytes of a subject prefix.
pub(crate) const PREFIX_BYTES_MAX: usize = 64;
/// Maximum bytes of a file with a key, a JWT or certificates.
pub(crate) const FILE_BYTES_MAX: u64 = 1024 * 1024;

// ---- the connection ----

/// Interval of NATS pings. A connection that is silent for three intervals counts as broken, about when the other nodes
/// declare this one dead.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Time for a connection to one address of a server to be made: TCP, TLS, and authentication.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Delay between attempts to connect. The first attempt after a connection broke is made at once.
pub(crate) const RECONNECT_DELAY: Duration = Duration::from_millis(250);
/// Delay before another connection is tried because this one cannot be used: it denies a subject, or allows too short packets.
pub(crate) const REFUSED_RETRY_DELAY: Nanos = 10 * SECOND;
/// Events of the connection that wait for the loop. Further ones are left out: they are for the log, and the connection's state is
/// looked up.
pub(crate) const EVENTS_WAITING_MAX: usize = 128;
/// Interval at which the connection's state is looked up if nothing happens.
pub(crate) const STATE_INTERVAL: Nanos = SECOND;
/// Time to send the remaining packets when the node ends.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

// ---- packets in ----

/// Messages of one subscription that the client holds until the loop runs. The client reads up to 8 MiB before the loop has its
/// turn; these are as many packets of 512 bytes.
pub(crate) const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;
/// Bytes of packets that wait for the tables. Further packets are dropped.
pub(crate) const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The cost of a packet in the inbox besides its own bytes.
pub(crate) const INBOX_PACKET_OVERHEAD: usize = 128;
/// Maximum packets that are taken before others are sent, so that acknowledgements are not late.
pub(crate) const PACKETS_PER_ROUND: usize = 256;
/// The same for commands.
pub(crate) const COMMANDS_PER_ROUND: usize = 256;
/// Interval at which tables without room are asked again while packets wait for them.
pub(crate) const ROOM_INTERVAL: Nanos = 5 * MILLISECOND;

// ---- packets out ----

/// Packets that wait for the connection's writer: 64 MiB of the longest.
pub(crate) const SENDER_CAPACITY: usize = 256;
/// Time after which a packet that the writer does not take is dropped.
pub(crate) const SEND_TIMEOUT: Nanos = SECOND;
/// Interval at which the loop continues while the writer accepts nothing.
pub(crate) const STALLED_INTERVAL: Nanos = 10 * MILLISECOND;
/// Bytes that a packet may have besides one message of a topic: its head, a topic's name, positions, and messages before it that make
/// up a part of a history.
pub(crate) const PACKET_OVERHEAD: usize = HISTORY_PART_BYTES + 1_024;
/// Bytes of a packet of several messages.
pub(crate) const PACKET_BYTES: usize = PACKET_BYTES_MAX + 1_024;

// ---- other clients of NATS ----

/// Publications of clients that wait until a node takes them, at most 64 MiB of the longest that NATS allows by default. Further ones
/// are dropped, and their publishers get no answer.
pub(crate) const CLIENT_PUBLICATIONS_WAITING_MAX: usize = 64;
/// Messages for clients that wait for the connection's writer.
pub(crate) const CLIENT_SENDER_CAPACITY: usize = 64;

// ---- requests of other nodes ----

/// Time for the whole answer of another node, less than that of an admin connection.
pub(crate) const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of an answer: 10,000 topics.
pub(crate) const CONTROL_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of one message of an answer, less than the `max_payload` that packets need.
pub(crate) const CONTROL_PART_BYTES: usize = 128 * 1024;

// ---- the thread ----

/// Threads for blocking work: name lookups, and reading certificates.
pub(crate) const BLOCKING_THREADS: usize = 2;

// ---- the streams of durable topics ----

/// Time for a request to JetStream.
pub(crate) const STREAM_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a request of a node; of one that reads much, the time in which nothing comes before it is given up.
pub(crate) const STREAM_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before a step of such a request is tried again.
pub(crate) const STREAM_STEP_DELAY: Duration = Duration::from_millis(250);
/// Age of the publications that a node loads when it begins to own a topic: that of the idempotency keys that it must know.
pub(crate) const STREAM_LOAD_AGE: Duration = Duration::from_secs(300);
/// Maximum number of them: that of the idempotency keys of a topic.
pub(crate) const STREAM_LOAD_PUBLICATIONS: u64 = 8_192;
/// Bytes of publications past which no more are loaded. Subscribers learn that the others are missing, and read them as
/// history.
pub(crate) const STREAM_LOAD_BYTES: usize = 8 * 1024 * 1024;
/// The same for a page of history: as many as a client's page has.
pub(crate) const STREAM_PAGE_BYTES: usize = 32 * 1024;
/// Bytes of messages that are fetched from a stream at once, as far as their sizes are known: a few pages.
pub(crate) const STREAM_FETCH_BYTES: usize = 128 * 1024;
/// The most messages that are fetched at once.
pub(crate) const STREAM_READ_MESSAGES: usize = 1_024;
/// Time after which the server deletes a consumer that its reader has not deleted.
pub(crate) const STREAM_CONSUMER_AGE: Duration = Duration::from_secs(10);
/// Readers of history that are kept for the next page, each with what it has fetched beyond the last one: twice as many as read at one
/// time.
pub(crate) const STREAM_READERS_KEPT_MAX: usize = 64;
/// Messages in streams that no node has written, each of which is reported once; further ones are skipped silently.
pub(crate) const STREAM_FOREIGN_TOLD_MAX: usize = 1_024;

// ---- exchanges of other programs ----

/// Maximum bytes of a part of a message: well below the default `max_payload` of NATS.
pub(crate) const EXCHANGE_PART_BYTES: usize = 512 * 1024;
/// Maximum bytes of a message: the results of a long run with many stages, or a file of data.
pub(crate) const EXCHANGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Messages in parts that may have begun. They are of as many senders.
pub(crate) const EXCHANGE_PARTIAL_MAX: usize = 1_024;
/// Messages that wait to be sent; their senders wait for room.
pub(crate) const EXCHANGE_WAITING_MAX: usize = 64;
