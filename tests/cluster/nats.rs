//! Nodes on a real nats-server: they see each other, follow each other's topics, and survive the loss of the server.
//!
//! The tests need Debian's package `nats-server`. Without it they are skipped, and fail where `CI` is `true`.

mod access;
mod clients;
mod connections;
mod following;
mod node;
#[path = "../support/ports.rs"]
mod ports;
mod raw_client;
mod server;
mod store;
mod streams;
