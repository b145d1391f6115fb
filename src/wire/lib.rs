//! The codecs of the protocols that sessions speak above WebSocket: [`v1`] is `echoring.v1.json`, [`centrifuge`] Centrifuge's client
//! protocol, and [`event_stream`] the events of `/sse/TOPIC`. Servers and clients use the same descriptions.
//!
//! A codec has no state between messages. It knows topics by their names, and positions by their numbers.
//!
//! Never: I/O, clocks, topics, sessions.
#![forbid(unsafe_code)]

pub mod centrifuge;
pub mod event_stream;
mod json_depth;
pub mod limits;
pub mod v1;

pub use json_depth::is_too_deep;
