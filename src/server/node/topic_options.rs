//! [`TopicOptions`]: the settings of topics that an embedding program chooses. It knows no shard and no topic.

use std::time::Duration;

use echoring_proto::connection::nanos;
use echoring_topics::{HistoryBounds, Permission, SlowConsumerPolicy, TopicSettings};

/// Settings of the topics whose names match a pattern of [`Builder::topics`](crate::Builder::topics).
///
/// By default a subscriber that lags more than 256 KiB or five seconds behind loses its subscription, 100 messages, 64 KiB and
/// one minute of history are kept for clients that return, and everybody may publish.
///
/// ```
/// use std::time::Duration;
/// use echoring::server::{Server, TopicOptions};
///
/// let prices = TopicOptions::new().conflate().lag_bytes(64 * 1024).only_program_publishes();
/// let builder = Server::builder()
///     .topics("prices.*", prices)
///     .topics("*", TopicOptions::new().history(1_000, 1 << 20, Duration::from_secs(600)).snapshot(20));
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "options have an effect when they are given to a builder"]
pub struct TopicOptions {
    settings: TopicSettings,
}

impl TopicOptions {
    /// The defaults.
    pub fn new() -> TopicOptions {
        TopicOptions::default()
    }

    /// A subscriber that lags past the bounds gets the latest message of each key instead of the older ones, and the
    /// number of those. New subscribers get the latest message of each key first. Messages without a key are refused.
    /// Slow subscribers that cannot receive that, on raw routes and handlers, lose their subscription as by default.
    pub fn conflate(mut self) -> TopicOptions {
        self.settings.slow = SlowConsumerPolicy::Conflate;
        self
    }

    /// A subscriber that lags past the bounds loses the oldest messages, and learns which. Those of raw routes and
    /// handlers lose their subscription as by default.
    pub fn drop_oldest(mut self) -> TopicOptions {
        self.settings.slow = SlowConsumerPolicy::DropOldest;
        self
    }

    /// Maximum encoded bytes that a subscriber may lag behind.
    pub fn lag_bytes(mut self, bytes: usize) -> TopicOptions {
        self.settings.lag_bytes = bytes;
        self
    }

    /// Maximum age of the oldest message not yet sent to a subscriber.
    pub fn lag(mut self, age: Duration) -> TopicOptions {
        self.settings.lag = nanos(age);
        self
    }

    /// The messages kept for clients that return: at most this many messages, bytes, and this age. Zero messages keep
    /// none.
    pub fn history(mut self, messages: u32, bytes: usize, age: Duration) -> TopicOptions {
        self.settings.history = HistoryBounds { messages, bytes, age: nanos(age) };
        self
    }

    /// Number of stored messages that a new subscriber is sent first, if its protocol can mark them; none by default.
    pub fn snapshot(mut self, messages: u32) -> TopicOptions {
        self.settings.snapshot = messages;
        self
    }

    /// Subscribers whose protocol supports it are notified when clients join and leave.
    pub fn presence(mut self) -> TopicOptions {
        self.settings.access.presence = Permission::Everybody;
        self
    }

    /// Clients may not publish. The program may, by its handlers and [`Handle`](crate::Handle)s.
    pub fn only_program_publishes(mut self) -> TopicOptions {
        self.settings.access.publish = Permission::Operator;
        self
    }

    pub(crate) fn settings(self) -> TopicSettings {
        self.settings
    }
}
