//! The codec of Centrifuge's client protocol, in JSON and in protobuf.
//!
//! A server reads the [commands](Command) of a frame with [`decode`], and answers with [`reply`] and [`push`]. A client writes
//! commands with [`encode`], and reads the answers with [`received`]. [`delta`]
//! creates the data for a subscriber with delta compression. [`ErrorCode`], [`Disconnect`] and [`UnsubscribeCode`] list
//! the protocol's codes.
//!
//! The codec has no state between frames. A field that the protocol's definition does not have is ignored.
//!
//! Never: I/O, clocks, or knowledge of topics.

mod codes;
mod command;
pub mod delta;
mod encoding;
mod fields;
mod frame;
mod json;
mod malformed;
mod messages;
mod payload;
mod protobuf;
pub mod push;
pub mod received;
pub mod reply;
mod tags_filter;
mod texts;

pub use codes::{Disconnect, ErrorCode, UnsubscribeCode};
pub use command::{
    Command, Commands, Connect, History, Position, Publish, Request, Rpc, SubRefresh, Subscribe, decode,
    decode_connect, encode,
};
pub use encoding::Encoding;
pub use malformed::Malformed;
pub use messages::{
    ClientInfo, ConnectResult, Error, HistoryResult, Member, PresenceStats, Publication, RefreshResult,
    SubscribeResult, Subscribed,
};
pub use payload::{Body, Payload};
pub use tags_filter::FilterNode;
pub use texts::{TakeText, Texts};

#[cfg(test)]
mod tests;
