//! Broadcast without I/O: topics, the logs their frames lie in, the cursors of their subscribers, and the
//! homes that give messages their order.
//!
//! A topic has one home shard. What is published goes there, gets its offset, and is forwarded once to each
//! shard with subscribers, whose log of the topic keeps the encoded frame once for all of them. This module
//! knows neither sockets nor threads nor how messages travel between shards: it is told, and it answers.
#![forbid(unsafe_code)]

mod home;
mod log;
mod topic;

pub use home::{HomeId, Homes, home_shard};
pub use log::{Log, Origin, OutOfMemory, Position, Stretch};
pub use topic::{Bounds, MemberId, Sink, TopicId, Topics};
