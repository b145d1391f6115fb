//! Broadcast without I/O: topics, the logs their frames lie in, the cursors of their subscribers, and the
//! homes that give messages their order.
//!
//! A topic has one home shard. What is published goes there, gets its offset, and is forwarded once to each
//! shard with subscribers. There the topic has a *channel* for each format that its subscribers take, plain or
//! compressed within a window of some size: a log, which keeps the frame encoded once for all of them, and a cursor
//! into it for each. This module knows neither sockets nor threads, nor how messages travel between shards, nor how
//! they are compressed: it is told, it asks for a frame in a format, and it answers.
#![forbid(unsafe_code)]

mod accounts;
mod by_size;
mod channel;
mod home;
mod idempotency;
mod keyed;
mod log;
mod message;
mod remembered;
mod settings;
mod topic;

pub use accounts::{Deliveries, Passed, Publications, TopicHome, TopicReport};
pub use channel::{Dialect, Encode, Format, Gap, GapReason, MemberId, Sink};
pub use home::{
    Accepted, HomeId, Homes, Members, Page, Placement, Replay, Shards, Subscribed, entries, members,
};
pub use keyed::Keyed;
pub use log::{Log, Origin, OutOfMemory, Parts, Sequence, Stretch};
pub use message::{Content, Position, Publication, Refused, is_topic_name};
pub use settings::{HistoryBounds, Pattern, Rules, Settings, Slow};
pub use topic::{TopicId, Topics};

#[cfg(test)]
mod tests;
