//! The bounds, deadlines and defaults of the admin address, with their units and reasons. No logic.

use std::time::Duration;

use echoring_broker::limits::{OUTSIDE_BYTES_MAX, OUTSIDE_BYTES_PER_TICK, OUTSIDE_MESSAGES_MAX};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};

/// Concurrent connections to the admin address. A further one replaces the one that has waited longest for a request.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Concurrent requests, except for `/healthz`, which has connections reserved. Further ones are answered 429.
pub const ADMIN_REQUESTS_MAX: usize = 48;
/// Time from accept to the end of the request's head.
pub const ADMIN_HEAD_TIMEOUT: Nanos = 2 * SECOND;
/// The part of it that every connection is granted, even if many others arrive. A head is sent at once, so it takes
/// less than a round trip.
pub const ADMIN_IDLE_MIN: Nanos = 100 * MILLISECOND;
/// Bytes of a log level that the admin address takes: a few directives.
pub(crate) const ADMIN_LOG_LEVEL_BYTES_MAX: u64 = 1024;
/// How often watched files are looked at. A change is taken over after two looks.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// How long a signal or a request waits for a reload, which waits for each shard for three seconds at most.
pub(crate) const RELOAD_TIMEOUT: Duration = Duration::from_secs(9);
/// Time for a request behind its head, with its response.
pub const ADMIN_TIMEOUT: Nanos = 10 * SECOND;
/// Time that an admin connection waits for another request: longer than clients keep theirs, such as Go's 90 s, so that they do not
/// send a request while the connection is closed.
pub const ADMIN_KEPT_TIMEOUT: Nanos = 120 * SECOND;
/// The part of [`ADMIN_TIMEOUT`] for the body of a request.
pub const ADMIN_BODY_TIMEOUT: Nanos = 5 * SECOND;
/// Maximum bytes of a batch of messages; two messages of the maximum size if that is more.
pub const ADMIN_BATCH_BYTES_MAX: u64 = 1024 * 1024;
/// Messages of a batch for several topics. Its answer has some 100 bytes for each.
pub const ADMIN_BROADCAST_MESSAGES_MAX: usize = 10_000;
/// Maximum bytes of such a batch; two messages of the maximum size if that is more. It is read and published in blocks, so this only
/// bounds the work of a request.
pub const ADMIN_BROADCAST_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Bytes of its lines that are read before their messages are published: as many as a topic publishes in a tick.
pub(crate) const ADMIN_BROADCAST_BLOCK_BYTES: u64 = OUTSIDE_BYTES_PER_TICK as u64;
/// Messages of it that are published at once. Four such batches leave others no room of [`OUTSIDE_MESSAGES_MAX`].
pub(crate) const ADMIN_BROADCAST_BLOCK_MESSAGES: usize = OUTSIDE_MESSAGES_MAX as usize / 4;
/// Time after which no further block of it is begun. With the wait for one, below [`ADMIN_TIMEOUT`].
pub const ADMIN_BROADCAST_TIME: Nanos = 7 * SECOND;
/// Bytes of the answers to the commands of one request of Centrifugo's API after which no further one is run: a batch of
/// publications has some 60 KiB of answers. The last answer may be longer.
pub(crate) const ADMIN_ANSWERS_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the bodies of all requests; a single body may be longer. Further publishers are answered 429.
pub const ADMIN_BODIES_BYTES_MAX: u64 = OUTSIDE_BYTES_MAX;
/// Bytes of an unwanted body that are read and discarded, so that its sender sees the response.
pub const ADMIN_DISCARD_BYTES_MAX: u64 = 1024 * 1024;
/// Time for discarding them, and for a further request while no connection is kept.
pub const ADMIN_LINGER: Nanos = SECOND;
/// Time for requests in progress when the control thread stops, below [`SNAPSHOT_TIMEOUT`](echoring_broker::limits::SNAPSHOT_TIMEOUT).
pub const ADMIN_STOP_TIMEOUT: Nanos = SECOND;
/// Default length of a list of topics.
pub const ADMIN_TOPICS_DEFAULT: usize = 1_000;
/// Maximum length of a list of topics: about 6 MB of JSON.
pub const ADMIN_TOPICS_MAX: usize = 10_000;
/// Default length of a page of connections.
pub const ADMIN_CONNECTIONS_LISTED_DEFAULT: usize = 100;
/// Concurrent requests about connections. Each may hold a page; further ones are answered 429.
pub const ADMIN_CONNECTION_REQUESTS_MAX: usize = 4;
/// Traces at once: each has a shard look at what it follows fifty times a second. Further ones are answered 429.
pub(crate) const TRACES_MAX: usize = 4;
/// Default length of a trace in seconds.
pub(crate) const TRACE_TIME_DEFAULT_S: u64 = 60;
/// Maximum length of a trace in seconds: somebody watches it.
pub(crate) const TRACE_TIME_MAX_S: u64 = 600;
/// Bytes of a request for a trace: the longest name of a topic, each byte escaped.
pub(crate) const TRACE_BODY_BYTES_MAX: u64 = 4 * 1024;
/// Lines of a trace that wait for its client; further ones are counted. A line has some 150 bytes, and with the longest names of a topic
/// and an error 4 KB: 2 MB at most.
pub(crate) const TRACE_LINES_MAX: usize = 512;
/// Interval of lines that find out whether the client of a trace is still there.
pub(crate) const TRACE_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time after which the connection of a trace is cut, if that is not over.
pub(crate) const ADMIN_STREAM_TIMEOUT: Nanos = (TRACE_TIME_MAX_S + 10) * SECOND;
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
/// Blocks that `GET /limits` names: about 100 KB of JSON.
pub(crate) const ADMIN_BLOCKS_MAX: usize = 1_000;
/// Addresses that `GET /limits` names: about 10 KB of JSON.
pub(crate) const ADMIN_ADDRESSES_MAX: usize = 100;
/// Certificates in the metrics, those that expire first: about 15 KB of text. A bundle of authorities may have more.
pub(crate) const ADMIN_CERTIFICATES_MAX: usize = 128;
/// Minimum bytes of the admin token: a shorter one may be guessed.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;
/// Maximum bytes of the admin token: it fits a request head.
pub const ADMIN_TOKEN_BYTES_MAX: usize = 1_024;
/// Time after which no further shard is asked for a page. With one more shard, below [`ADMIN_TIMEOUT`].
pub(crate) const CONNECTION_GATHER_TIME: Nanos = 4 * SECOND;
/// Pause before the shards are asked again for a connection that may be on its way from another shard or process.
pub(crate) const CONNECTION_MOVE_TIME: Duration = Duration::from_millis(20);
/// Concurrent requests to the control thread that do not come through the admin address.
pub const ADMIN_PASSED_ON_MAX: usize = 64;
/// Time that a node of a cluster has to hand its topics over before it drains, and to tell the others that it has left: many round
/// trips between nodes.
pub const CLUSTER_LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval at which a start that does not wait for the backbone checks for the connection.
#[cfg(feature = "cluster")]
pub(crate) const CLUSTER_CONNECT_INTERVAL: Duration = Duration::from_millis(10);
/// Publications of NATS clients that are in progress at a time. Those of one topic are in one lane, one after the other.
#[cfg(feature = "cluster")]
pub(crate) const NATS_CLIENT_LANES: usize = 32;
/// Publications that wait for one in progress.
#[cfg(feature = "cluster")]
pub(crate) const NATS_CLIENT_LANE_PUBLICATIONS: usize = 4;
/// Interval at which publications are given to other nodes, or taken, as this one is ready.
#[cfg(feature = "cluster")]
pub(crate) const NATS_CLIENT_READINESS_INTERVAL: Duration = Duration::from_millis(20);
/// Time for which a node continues to take publications of clients of NATS while it is not active in its cluster. After
/// a restart of NATS, the nodes have found one another within a few seconds.
#[cfg(feature = "cluster")]
pub(crate) const NATS_CLIENT_UNREADY_MAX: Duration = Duration::from_secs(10);
/// Publications of the owners of durable topics that are stored in JetStream at one time. Each is for another topic.
#[cfg(feature = "cluster")]
pub(crate) const STREAM_REQUESTS_MAX: usize = 256;
/// Durable topics that are loaded from JetStream at one time, as when many have lost their node. Others are stored meanwhile.
#[cfg(feature = "cluster")]
pub(crate) const STREAM_LOADS_MAX: usize = 64;
/// Pages of history that are read from JetStream at one time.
#[cfg(feature = "cluster")]
pub(crate) const STREAM_READERS_MAX: usize = 32;
/// Spans that wait to be sent; past it they are dropped and counted. The default of `OTEL_BSP_MAX_QUEUE_SIZE`.
#[cfg(feature = "traces")]
pub(crate) const TRACE_QUEUE_SPANS: usize = 2_048;
/// Spans of one request. The default of `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
#[cfg(feature = "traces")]
pub(crate) const TRACE_BATCH_SPANS: usize = 512;
/// Time from one request to the next. The default of `OTEL_BSP_SCHEDULE_DELAY`.
#[cfg(feature = "traces")]
pub(crate) const TRACE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last request.
#[cfg(feature = "traces")]
pub(crate) const TRACE_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
