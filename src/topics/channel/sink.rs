//! [`Sink`]: the receiver of a topic's messages and gaps.

use bytes::Bytes;

use super::keyed::Keyed;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;

/// Identifies a subscriber while it is subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriberId {
    /// The channel, on its shard.
    pub(crate) channel: u32,
    /// The index in the channel.
    pub(crate) index: u32,
}

echoring_proto::plain!(for SubscriberId { channel, index });

impl SubscriberId {
    /// The id as a number, used as the tag of sends.
    pub fn tag(self) -> u64 {
        u64::from(self.channel) << 32 | u64::from(self.index)
    }

    /// The subscriber with this number.
    pub fn from_tag(tag: u64) -> SubscriberId {
        SubscriberId { channel: (tag >> 32) as u32, index: tag as u32 }
    }
}

/// Messages that a subscriber missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first message.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// Why they were missed.
    pub reason: GapReason,
}

/// Why a subscriber missed messages.
///
/// ```
/// # mod echoring { pub use echoring_topics as server; }
/// use echoring::server::GapReason;
///
/// assert_eq!(GapReason::History.word(), "history");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapReason {
    /// The subscriber exceeded its lag bound.
    Slow,
    /// It resubscribed after the messages had expired.
    History,
    /// Out of memory.
    Memory,
    /// The server shut down before they could be sent.
    Drain,
}

impl GapReason {
    /// The name in events.
    pub fn word(self) -> &'static str {
        match self {
            GapReason::Slow => "slow",
            GapReason::History => "history",
            GapReason::Memory => "memory",
            GapReason::Drain => "drain",
        }
    }
}

/// The latest messages of keys that a subscriber was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentLatest {
    /// The offset of the last one.
    pub reached: u64,
    /// Their number.
    pub messages: u32,
    /// Bytes of their frames.
    pub bytes: usize,
}

/// Receives a topic's frames. Implemented by the shard; `K` identifies a connection.
pub trait Sink<K> {
    /// Whether a send would be accepted now.
    fn is_writable(&self, key: K) -> bool;
    /// Sends encoded frames with `messages` messages. `tag` is passed back with the part that could not be sent, see
    /// [`Topics::take_back`](crate::Topics::take_back).
    ///
    /// # Errors
    /// The frames, if the connection does not accept them now.
    fn send(&mut self, key: K, frames: Bytes, messages: u32, tag: u64) -> Result<(), Bytes>;
    /// Reports a gap, in order with the messages. False if it is not accepted now.
    fn tell_gap(&mut self, key: K, topic: &str, gap: Gap) -> bool;
    /// Reports that presence events were missed, in order with the messages. False if it is not accepted now.
    fn tell_stale(&mut self, key: K, subscriber: SubscriberId, topic: &str) -> bool;
    /// Sends the latest messages of some keys, which replace earlier ones, in order with the messages. `None` if nothing is
    /// accepted now. It may send only a part of them.
    fn send_latest(&mut self, key: K, topic: &str, latest: &Keyed, after: u64) -> Option<SentLatest>;
    /// The subscriber exceeded its lag bound and is removed from the topic. It was sent everything up to the offset
    /// `reached`, and was not notified that there is more.
    fn fell_behind(&mut self, key: K, subscriber: SubscriberId, reached: u64, reason: GapReason);
    /// A subscriber continues under another id.
    fn changed_id(&mut self, key: K, from: SubscriberId, to: SubscriberId);
    /// The pool that receives the memory of logs without readers.
    fn pool(&mut self) -> &mut Pool;

    /// Messages of a topic are about to be sent, the oldest of which was received at `since`.
    fn delivered(&mut self, since: Nanos, messages: u32) {
        let _ = (since, messages);
    }
}
