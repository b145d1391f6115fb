//! A chat room: who is there, who says what to whom, and the web page for it.
//!
//! `message` and `room` know the rules and nothing else, so that a program of any other shape can have the same
//! room; `shards` is the room of `serve`, over all its shards. `docs/chat.md` has the protocol.
//!
//! It must never take a name or an address from what a client says about itself, and never let one member's
//! silence cost another anything.

mod message;
mod page;
mod room;
mod shards;

pub use message::{Input, Kind, Message, Refused};
pub use page::page;
pub use room::{Rate, Room};
pub(super) use shards::Chat;
pub use shards::{Guest, Mail};

/// The subprotocol that is named to clients that offer it.
pub const SUBPROTOCOL: &str = "chat";
