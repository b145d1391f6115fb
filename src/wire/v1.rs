//! The codec of `echoring.v1.json`: with this subprotocol one connection subscribes to many topics, publishes to them, and
//! learns of gaps. `docs/reference/broadcast.md` describes the protocol.
//!
//! A [`Command`] is a client's request, and an [`Event`] what a server sends. Each has one description, which one side writes from and
//! the other reads into. [`ProtocolError`] says why a command is rejected. The codec has no state between messages, and never changes a
//! published JSON value.

mod command;
mod error;
mod event;
mod subjects;
mod value;

pub use command::{Command, Rules};
pub use error::{ErrorEvent, ProtocolError, is_temporary};
pub use event::{
    Authenticated, Direct, Event, Gap, Heartbeat, HistoryPage, MembersPage, Message, Pong, Presence,
    PresenceChange, Published, Subscribed, TokenExpires, Unsubscribed,
};
pub use subjects::Subjects;
pub use value::{Digits, Payload, Position, Value};

/// The name of the subprotocol, which a client must offer.
pub const SUBPROTOCOL: &str = "echoring.v1.json";

#[cfg(test)]
mod tests;
