//! The options that are limits and times of the server, as [`ServerConfig`] has them.

use std::ops::RangeInclusive;

use super::args::LIMITS;
use super::keys::{bytes, count, time, wide};
use super::options::{ConfigOption, Configurable, options};
use super::peers::HEADING as PEERS;
use echoring_proto::limits::{self, MILLISECOND, Nanos, SECOND};
use echoring_server::ServerConfig;
use echoring_server::limits::{
    CONNECTIONS_RANGE, HEAD_BYTES_RANGE, MESSAGE_BYTES_RANGE, QUEUE_BYTES_RANGE, SUBSCRIPTIONS_RANGE,
    TOPICS_RANGE,
};

/// From a second, a round trip of the slowest network and a retransmission, to a time that no link survives.
pub(super) const MESSAGE_PROGRESS_TIME: RangeInclusive<Nanos> = SECOND..=3_600 * SECOND;
/// Values of `--ping-interval` and `--pong-timeout`.
pub(super) const PING_TIMES: RangeInclusive<Nanos> = SECOND..=3_600 * SECOND;
/// Values of `--idle-timeout` and `--max-lifetime`.
pub(super) const LIFETIMES: RangeInclusive<Nanos> = SECOND..=30 * 86_400 * SECOND;

impl Configurable for ServerConfig {
    const OPTIONS: &'static [ConfigOption<ServerConfig>] = options!(ServerConfig {
        /// Maximum number of connections; further ones are refused with 503 [default: 100000]
        ///
        /// The default is lower if the limit on open files is lower. On io_uring with Linux 6.8 or later each shard has that limit for itself,
        /// so more can be asked for.
        max_connections [Live "N"]: count(CONNECTIONS_RANGE) => max_connections;
        /// Maximum size of a request head in bytes; a larger head is refused with 431
        max_header [Live "BYTES" LIMITS]: bytes(*HEAD_BYTES_RANGE.start() as u64..=*HEAD_BYTES_RANGE.end() as u64) => connection.max_header;
        /// Maximum message size in bytes; a larger message closes its connection with 1009
        max_message [Live "BYTES"]: bytes(MESSAGE_BYTES_RANGE) => connection.max_message;
        /// Maximum bytes of buffers and topic logs, of the whole server
        ///
        /// At least --queue-bytes. See docs/memory.md.
        memory_budget [Restart "BYTES"]: bytes(limits::MEMORY_BUDGET_MIN..=u64::MAX) => memory_budget;
        /// Maximum unsent bytes of a connection before the server stops reading from it
        ///
        /// It is also the default of lag_bytes, the maximum lag of a subscriber behind its topic.
        queue_bytes [Live "BYTES" LIMITS]: bytes(wide(&QUEUE_BYTES_RANGE)) => connection.queue_bytes;
        /// Maximum number of topics; subscriptions and messages to a further one are refused
        ///
        /// Topics without subscribers make room for new ones.
        max_topics [Live "N" LIMITS]: count(TOPICS_RANGE) => max_topics;
        /// Maximum number of topics that one connection subscribes to
        max_subscriptions [Live "N" LIMITS]: count(SUBSCRIPTIONS_RANGE) => max_subscriptions;
        /// Close connections whose handshake takes longer than this
        ///
        /// The handshake starts when the connection is accepted. It includes the TLS handshake.
        handshake_timeout [Live "TIME" LIMITS]: time(100 * MILLISECOND..=300 * SECOND) => connection.handshake_timeout;
        /// Close connections whose sends make no progress for this long
        // The server looks at unfinished sends once a second.
        send_timeout [Live "TIME" LIMITS]: time(SECOND..=3_600 * SECOND) => connection.send_timeout;
        /// Ping clients that were not heard for this long
        ///
        /// A session of Centrifuge's protocol is pinged at this interval in its own way, and an event stream gets a comment. Proxies
        /// close connections that are silent for longer than they allow. See docs/guide/operate.md#lives-of-connections.
        ping_interval [Live "TIME" LIMITS]: time(PING_TIMES) => connection.ping_interval;
        /// Close connections of which nothing is heard for this long after a ping
        ///
        /// More than --ping-interval has no effect.
        pong_timeout [Live "TIME" LIMITS]: time(PING_TIMES) => connection.pong_timeout;
        /// Close connections without a message in either direction for this long, with 1001
        ///
        /// Pings and pongs are no messages. A connection is closed at most a quarter of the time late.
        idle_timeout [Live "TIME" LIMITS]: time(LIFETIMES) => lifetime.idle_timeout;
        /// Close connections that have lasted for this long, with 1001
        ///
        /// Each lasts for up to a tenth less, at random. It is closed once it has got what it is to be sent, and not in the middle of
        /// a message.
        max_lifetime [Live "TIME" LIMITS]: time(LIFETIMES) => lifetime.max_lifetime;
        /// Tell clients to wait for up to this long before they return
        ///
        /// Each is told another time, at random: the reason of a Close with 1001, 1012, 1013 or 4008 to 4010, and of Centrifuge's 3000 to 3499,
        /// ends with "retry after N ms", and an event stream has it as retry. The clients of this project wait. 0s for nothing about that.
        reconnect_delay [Live "TIME" LIMITS]: time(0..=3_600 * SECOND) => connection.reconnect_delay;
        /// Minimum bytes of an unfinished message that must arrive within --message-progress-time
        ///
        /// A slower message closes its connection with 4009. The total time of a message is not limited, unless this is more
        /// than --max-message. 0 for no limit.
        message_progress [Live "BYTES" LIMITS]: bytes(0..=limits::MESSAGE_BYTES_MAX) => connection.message_progress.bytes;
        /// Time in which --message-progress must arrive
        ///
        /// Time in which the server does not read, for example because of a rate limit, does not count.
        message_progress_time [Live "TIME" LIMITS]: time(MESSAGE_PROGRESS_TIME) => connection.message_progress.time;
        /// Maximum number of existing topics that all connections of an identity have created
        max_topics_per_identity [Live "N" PEERS]: count(1..=16_777_216) => creation.max_topics_per_identity;
    });
}
