//! Message counts whose sums are consistent between any two ticks.

use std::collections::BTreeMap;

use echoring_proto::summed;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

summed! {
    /// Publication counts: `published = accepted + refused`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
    pub struct Publications {
        /// Publications that were decided.
        pub published: u64,
        /// Accepted: they got an offset.
        pub accepted: u64,
        /// Refused.
        pub refused: u64,
    }
}

summed! {
    /// Delivery counts: `offered = sent + dropped + queued`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct Deliveries {
        /// Messages times their subscribers.
        pub offered: u64,
        /// Copied by the kernel.
        pub sent: u64,
        /// Waiting in a log, or being sent.
        pub queued: u64,
        /// Messages dropped because the subscriber left or was disconnected first.
        pub dropped_disconnect: u64,
        /// Evicted before a slow consumer got them.
        pub dropped_oldest: u64,
        /// Replaced by a later message of the same key.
        pub dropped_conflated: u64,
        /// Dropped for lack of memory.
        pub dropped_memory: u64,
        /// Not wanted by the filter of the subscriber.
        pub filtered: u64,
    }
}

summed! {
    /// Messages between shards. The difference of sent and received counts is in mailboxes.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
    pub struct Passed {
        /// Publications sent to the owners of their topics.
        pub publications_out: u64,
        /// Publications received for topics that this shard owns.
        pub publications_in: u64,
        /// Messages sent to other shards for their subscribers.
        pub messages_out: u64,
        /// Messages received for subscribers of this shard.
        pub messages_in: u64,
    }
}

impl Publications {
    /// Counts one that was decided.
    pub(crate) fn count(&mut self, is_accepted: bool) {
        self.published += 1;
        self.accepted += u64::from(is_accepted);
        self.refused += u64::from(!is_accepted);
    }

    /// Whether every message is accounted for.
    pub fn add_up(&self) -> bool {
        self.published == self.accepted + self.refused
    }
}

impl Deliveries {
    /// Counts messages that were sent. Of a single pattern there may be fewer than were taken back, where a topic has got another one;
    /// the sum of all is right.
    #[inline]
    pub(crate) fn send(&mut self, messages: u64) {
        self.sent = self.sent.wrapping_add(messages);
    }

    /// Counts messages that were taken back.
    pub(crate) fn unsend(&mut self, messages: u64) {
        self.sent = self.sent.wrapping_sub(messages);
    }

    /// Messages that were dropped, for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops().map(|(_, count)| count).iter().sum()
    }

    /// The same by reason.
    pub fn drops(&self) -> [(&'static str, u64); 4] {
        [
            ("disconnect", self.dropped_disconnect),
            ("oldest", self.dropped_oldest),
            ("conflated", self.dropped_conflated),
            ("memory", self.dropped_memory),
        ]
    }

    /// Whether every message is accounted for.
    pub fn add_up(&self) -> bool {
        self.offered == self.sent + self.dropped() + self.queued + self.filtered
    }
}

/// Deliveries that were dropped, by reason.
struct Drops([(&'static str, u64); 4]);

impl Serialize for Drops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0)
    }
}

impl Serialize for Deliveries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut figures = serializer.serialize_struct("Deliveries", 5)?;
        figures.serialize_field("offered", &self.offered)?;
        figures.serialize_field("sent", &self.sent)?;
        figures.serialize_field("queued", &self.queued)?;
        figures.serialize_field("filtered", &self.filtered)?;
        figures.serialize_field("dropped", &Drops(self.drops()))?;
        figures.end()
    }
}

summed! {
    /// Counts of the topics of one pattern, since the shard's start.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    #[non_exhaustive]
    pub struct PatternCounts {
        /// Publication counts of the topics that this shard owns.
        pub publications: Publications,
        /// Payload bytes of accepted messages.
        pub published_bytes: u64,
        /// Subscriptions of this shard's connections now.
        pub subscribers: u64,
        /// Delivery counts of these subscribers. `queued` is not known by pattern, and 0.
        pub deliveries: Deliveries,
        /// Bytes of the frames that they were sent, before TLS.
        pub delivered_bytes: u64,
        /// Histories that were evicted for lack of memory.
        pub histories_evicted: u64,
    }
}

impl Serialize for PatternCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut figures = serializer.serialize_struct("PatternCounts", 7)?;
        figures.serialize_field("publications", &self.publications)?;
        figures.serialize_field("published_bytes", &self.published_bytes)?;
        figures.serialize_field("subscribers", &self.subscribers)?;
        figures.serialize_field("delivered", &self.deliveries.sent)?;
        figures.serialize_field("delivered_bytes", &self.delivered_bytes)?;
        figures.serialize_field("dropped", &Drops(self.deliveries.drops()))?;
        figures.serialize_field("histories_evicted", &self.histories_evicted)?;
        figures.end()
    }
}

impl PatternCounts {
    /// Takes back bytes that were counted as delivered, as [`Deliveries::unsend`] does.
    pub(crate) fn unsend_bytes(&mut self, bytes: u64) {
        self.delivered_bytes = self.delivered_bytes.wrapping_sub(bytes);
    }

    /// The counts for a reader: none is less than nothing.
    pub(crate) fn reported(mut self) -> PatternCounts {
        let Deliveries { sent, filtered, .. } = &mut self.deliveries;
        for count in [sent, filtered, &mut self.delivered_bytes] {
            *count = u64::try_from(count.cast_signed()).unwrap_or(0);
        }
        self
    }
}

/// The owner shard's report of a topic.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct OwnerReport {
    /// The topic's epoch.
    pub epoch: u64,
    /// Offset of the latest message.
    pub offset: u64,
    /// Publication counts.
    pub publications: Publications,
    /// Payload bytes of accepted messages.
    pub payload_bytes: u64,
    /// Messages per second, over about the last ten seconds.
    pub rate: f64,
    /// Messages kept for replay.
    pub history_messages: u64,
    /// Bytes of these messages.
    pub history_bytes: u64,
    /// Members, of a topic with presence: in a cluster, at all nodes.
    pub members: Option<u64>,
}

/// One shard's report of a topic.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct TopicReport {
    /// The topic's name.
    pub name: String,
    /// The owner's report, on the owner shard.
    pub owner: Option<OwnerReport>,
    /// Subscribers on this shard.
    pub subscribers: u64,
    /// Delivery counts of these subscribers.
    pub deliveries: Deliveries,
    /// Bytes of the logs that they read.
    pub log_bytes: u64,
    /// The pattern that decides about it, in the report about one topic.
    pub pattern: String,
}

impl TopicReport {
    /// The report of a topic that the shard owns, and whose other figures it does not know.
    #[doc(hidden)]
    pub fn of_owner(name: &str, owner: OwnerReport) -> TopicReport {
        TopicReport { name: name.to_owned(), owner: Some(owner), ..TopicReport::default() }
    }
}

/// One shard's report of all topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HubReport {
    /// Topics that have a log on this shard.
    pub topics: u64,
    /// Subscriptions of this shard's connections.
    pub subscriptions: u64,
    /// Publication counts of the topics that this shard owns.
    pub publications: Publications,
    /// Delivery counts of this shard's subscribers.
    pub deliveries: Deliveries,
    /// Messages to and from other shards.
    pub passed: Passed,
    /// Topics that this shard owns.
    pub owned_topics: u64,
    /// The most topics that the node's shards ever leased.
    pub topics_peak: u64,
    /// The most topics that the node may have.
    pub topics_limit: u64,
    /// Publications that wait for room in a mailbox.
    pub held_publications: u64,
    /// Compression contexts of the topics on this shard.
    pub compression_contexts: u64,
    /// Histories of this shard's topics that were evicted for lack of memory.
    pub histories_evicted: u64,
    /// Counts by the pattern that decides about a topic, [`DEFAULT_PATTERN`](crate::DEFAULT_PATTERN) among them.
    pub patterns: BTreeMap<Box<str>, PatternCounts>,
}
