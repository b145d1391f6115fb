//! Broadcast without I/O: topics, the logs of their frames, the cursors of their subscribers, and the owner shards that
//! give messages their order.
//!
//! A topic has one owner shard. A publication is sent there, gets its offset, and is forwarded once to each shard with
//! subscribers. That shard has a *channel* for each format that its subscribers use, uncompressed or compressed with a
//! window size: a log of frames, each encoded once, and a cursor into it for each subscriber. Where a compressor continues from
//! message to message, the channel owns it, because only the channel knows what its subscribers have been sent. This crate
//! knows neither sockets nor threads, nor how messages travel between shards: the caller passes events in, encodes frames on
//! request, and gets results back.
#![forbid(unsafe_code)]

mod access;
mod accounts;
mod channel;
mod client;
mod collections;
pub mod limits;
mod message;
mod owner;
mod settings;
mod topic;

pub use access::{Access, Permission, Right, names};
pub use accounts::{Deliveries, HubReport, OwnerReport, Passed, PatternCounts, Publications, TopicReport};
pub use channel::format::{Base, CodecId, Compression, Deltas, Encode, Encoding, Format};
pub use channel::keyed::Keyed;
pub use channel::log::{Log, LogRange, Origin, OutOfMemory, Parts, Sequence};
pub use channel::sink::{Gap, GapReason, SentLatest, Sink, SubscriberId};
pub use channel::tag_filter::{FilterBuilder, Group as FilterGroup, TagFilter, Test as FilterTest};
pub use client::{ClientId, Profile};
pub use message::{
    Author, Content, Keeping, Position, PositionError, Publication, Refused, Submission, Tags, Version,
    is_topic_name, parse_epoch,
};
pub use owner::creators::{CreationLimits, Creator, Creators};
pub use owner::owned_topics::{Accepted, OwnedTopicId, OwnedTopics, Shards, Subscribed, TopicChanges};
pub use owner::placement::Placement;
pub use owner::replay::{
    Members, Page, Replay, append_member, append_message, entries, is_members, member_bytes, members,
};
pub use owner::transfer::{ExportCursor, Exported, ImportError, Importer, Record};
pub use settings::{
    AllowedDelta, DEFAULT_PATTERN, Durable, HistoryBounds, Pattern, Relay, Rules, SlowConsumerPolicy,
    TopicSettings,
};
pub use topic::{AcceptedMessage, LogMemory, TopicId, Topics};

#[cfg(test)]
mod tests;
