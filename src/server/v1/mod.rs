//! The words of the subprotocol `echoring.v1.json`, by which one connection subscribes to many topics, publishes to them,
//! and is told what it missed. `docs/broadcast.md` has the protocol.
//!
//! `command` reads what clients ask for, `complaint` is why it was not done, and `notice` writes what clients are told.
//! They must never keep anything from one message to the next, and never change a JSON value on its way.

mod command;
mod complaint;
pub mod notice;

pub use command::{Command, parse};
pub use complaint::Complaint;

/// The name of the subprotocol, which a client must offer.
pub const SUBPROTOCOL: &str = "echoring.v1.json";

#[cfg(test)]
mod tests;
