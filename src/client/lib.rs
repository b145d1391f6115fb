//! A client of topics: it subscribes, resumes by position after each loss of the connection, reports gaps, and publishes
//! with acknowledgements. It speaks `echoring.v1.json`, and Centrifuge's client protocol in JSON and in protobuf.
//!
//! `session` is the state machine: messages and the time go in, requests and events come out. `codec` has the two
//! protocols. `task` opens connections, and connects the state machine with one that reconnects.
//!
//! Never: losing a message without an event that says so; delivering one twice; a queue without a bound.
#![forbid(unsafe_code)]

mod builder;
mod client;
mod codec;
mod command;
mod error;
mod event;
pub mod limits;
mod options;
mod protocol;
mod session;
mod subscription;
mod task;
#[cfg(test)]
mod tests;
mod token;

pub use builder::Builder;
pub use client::Client;
pub use error::{ClientError, Refusal, RequestError, SubscribeError};
pub use event::payload::{FromPayload, Payload, Publication};
pub use event::{
    Ended, Event, Gap, GapReason, History, HistoryQuery, Member, Members, Message, Missed, Position,
    PositionError, Published, Subscribed,
};
pub use options::SubscribeOptions;
pub use protocol::Protocol;
pub use session::state::State;
pub use subscription::Subscription;
pub use token::{TokenSource, Unauthorized};
