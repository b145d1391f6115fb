//! The codec of `echoring.v1.json`: with this subprotocol one connection subscribes to many topics, publishes to them, and
//! learns of gaps. `docs/reference/broadcast.md` describes the protocol.
//!
//! `command` parses requests, `protocol_error` says why one is rejected, and `server_event` writes events. The codec has no
//! state between messages, and never changes a published JSON value.

mod command;
mod protocol_error;
pub mod server_event;

pub use command::{Command, parse};
pub use protocol_error::ProtocolError;

/// The name of the subprotocol, which a client must offer.
pub const SUBPROTOCOL: &str = "echoring.v1.json";

#[cfg(test)]
mod tests;
