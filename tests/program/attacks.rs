//! An attack catalogue: violations of the protocol, by mistake or on purpose, and the server's reactions.
//!
//! Every test runs the real binary and talks to it over real sockets, on both drivers, with client code that shares
//! nothing with the crate's. Tests wait for events of the server; a test's own deadline only ends a test that would
//! hang.
use crate::support::{certificate, deflate, patient};
pub mod auth;
pub mod centrifuge;
mod compression;
mod draining;
mod event_streams;
mod frames;
mod handshake;
mod lifetimes;
mod limits;
mod memory;
mod paced_drain;
mod peak;
pub mod peer;
mod resources;
pub mod server;
mod tls;
