//! The bounds, deadlines and defaults of this crate, with their units and reasons. Nothing here is logic.

use std::ops::RangeInclusive;
use std::time::Duration;

use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_server::limits::{LAST_MAIL_TIMEOUT, SHUTDOWN_END_TIMEOUT};

// ---- broadcast ----

/// The longest time that messages may be made to wait for others.
pub(crate) const COALESCE_MAX: Nanos = SECOND;

// ---- clusters ----

/// Maximum bytes of a message in a cluster: NATS allows payloads of 64 MiB at most, and a packet has more than the message.
pub(crate) const CLUSTER_MESSAGE_BYTES_MAX: u64 = 63 * 1024 * 1024;
/// Bytes that nodes add to a message of a topic: its publisher, its keys, and times.
pub(crate) const CLUSTER_ENTRY_OVERHEAD: usize = 2 * 1024;
/// Maximum bytes of a file with a password, a token or a key.
pub(crate) const SECRET_BYTES: u64 = 4 * 1024;
/// Minimum bytes of the secret that places topics.
pub(crate) const SECRET_KEY_BYTES_MIN: usize = 16;

// ---- routes ----

/// Tables of routes. A shard numbers them and the addresses that they name, over all reloads, with a byte.
pub(crate) const ROUTES_MAX: usize = 100;

// ---- configurations of Centrifugo ----

/// Maximum size of a configuration to import in bytes, like that of a file of `--config`: enough for thousands of namespaces.
pub(crate) const IMPORT_BYTES_MAX: u64 = 1024 * 1024;

// ---- requests to the admin address ----

/// Time for one request, its answer included. A reload takes the longest.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum size of an answer in bytes: a list of 10,000 topics is the longest.
pub(crate) const ADMIN_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

// ---- health ----

/// Time for the answer to a health check. A server needs a second to find that a shard is stalled, and ends a request after
/// ten.
pub(crate) const HEALTH_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);

// ---- top ----

/// How often `top` may ask: a snapshot costs the server more than nothing.
pub(crate) const TOP_INTERVAL_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);
/// The intervals that its keys step through.
pub(crate) const TOP_INTERVALS: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// The time in seconds whose closes are recent.
pub(crate) const TOP_WINDOW_S: f64 = 60.0;
/// Rates that its charts have at most: more than a wide terminal has columns.
pub(crate) const TOP_HISTORY: usize = 300;
/// Topics and consumers that it asks for: more than most terminals have lines for.
pub(crate) const TOP_ROWS_MAX: usize = 20;
/// Characters of a topic, an identity or a path. Longer ones are cut.
pub(crate) const TOP_NAME_CHARS_MAX: usize = 60;
/// How soon it notices an answer, a signal or the terminal's new size.
pub(crate) const TOP_TICK: Duration = Duration::from_millis(100);

// ---- the log ----

/// Records that wait to be written to stderr; past it they are dropped and counted.
pub(crate) const LOG_QUEUE_RECORDS: usize = 1_024;
/// Bytes of them, likewise.
pub(crate) const LOG_QUEUE_BYTES: usize = 1024 * 1024;
/// Bytes of a record's message.
pub(crate) const LOG_MESSAGE_BYTES_MAX: usize = 1024;
/// Records of one cause in a second; of the others only the number is logged.
pub(crate) const LOG_RECORDS_PER_SECOND: u32 = 10;
/// The same for the levels `debug` and `trace`, which somebody asked for.
pub(crate) const LOG_RECORDS_PER_SECOND_DEBUG: u32 = 1_000;
/// Maximum distinguishable causes; the program has fewer.
pub(crate) const LOG_CAUSES_MAX: usize = 256;
/// Interval of the line that tells how many records the access log has lost.
pub(crate) const ACCESS_DROPS_LOG_INTERVAL: Nanos = 10 * SECOND;
/// From the first record that was left out to the line that tells how many were.
pub(crate) const LOG_SUMMARY_INTERVAL: Nanos = SECOND;
/// How long the end of the process waits for a stderr that nobody reads.
pub(crate) const LOG_FLUSH_TIMEOUT: Nanos = 250 * MILLISECOND;
/// How soon a write that would block is tried again.
pub(crate) const LOG_RETRY: Nanos = 5 * MILLISECOND;

/// Permissions of log files: the group may read them.
pub(crate) const LOG_FILE_MODE: u32 = 0o640;

// ---- the access log ----

/// Records that wait to be written; past it they are dropped and counted. A shard ends a few thousand connections in a
/// tick.
pub(crate) const ACCESS_QUEUE_RECORDS: usize = 16 * 1024;
/// Bytes of them, likewise.
pub(crate) const ACCESS_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a path in a record. Longer ones are cut.
pub(crate) const ACCESS_PATH_BYTES_MAX: usize = 1024;

// ---- traces ----

/// Time for one request, its answer included: the default of OpenTelemetry.
#[cfg(feature = "otel")]
pub(crate) const TRACE_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

// ---- the proxy ----

/// Bytes of a message that the proxy inflates; others pass through it whatever their length.
pub(crate) const RECODED_MESSAGE_BYTES_DEFAULT: u64 = 1024 * 1024;

// ---- the end of a server ----

/// The time during which a draining server is not ready and still accepts connections: a share of `--drain`, and at most
/// this. Load balancers check every few seconds.
pub(crate) const LAME_DUCK_TIME_MAX: Duration = Duration::from_secs(5);
/// That share is one of this many parts.
pub(crate) const LAME_DUCK_PARTS: u32 = 10;
/// Time from the deadline of a drain to the end of the process: the shards end, their last mail leaves for a successor, and the last log
/// lines are written.
pub(crate) const EXIT_GRACE: Duration = Duration::from_millis(1_900);
const _: () = assert!(
    EXIT_GRACE.as_nanos() >= (LAST_MAIL_TIMEOUT + SHUTDOWN_END_TIMEOUT) as u128,
    "the last mail would be lost"
);
/// After this time a server that listens has done what belongs to its start.
pub(crate) const START_DURATION_MAX: Duration = Duration::from_secs(2);

// ---- agents ----

/// Silence after which an agent is lost, or a coordinator is gone. A machine under full load is slow to tell.
pub(crate) const AGENT_TIMEOUT: Nanos = 10 * SECOND;
/// Interval of the signs of life of a coordinator.
pub(crate) const AGENT_ALIVE_INTERVAL: Nanos = SECOND;
/// From an order to the time that it names, so that it has reached every agent by then.
pub(crate) const AGENT_START_LEAD: Nanos = SECOND;
/// Interval at which an agent tells how its run goes.
pub(crate) const AGENT_PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How far behind the others, or the time of a run, an agent is named as awaited: twice the interval of its reports.
pub(crate) const AGENT_LATE_AFTER: Nanos = SECOND;
/// Interval of the question which agents there are.
pub(crate) const AGENT_FIND_INTERVAL: Duration = Duration::from_millis(500);
/// The longest wait for a message.
pub(crate) const AGENT_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Comparisons of clocks before a load begins, their interval, and that of later ones. Clocks drift by microseconds a second.
pub(crate) const AGENT_COMPARISONS_MIN: usize = 8;
pub(crate) const AGENT_CLOCK_FAST: Nanos = 20 * MILLISECOND;
pub(crate) const AGENT_CLOCK_INTERVAL: Nanos = 2 * SECOND;
