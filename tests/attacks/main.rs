//! An attack catalogue: what peers do that break the rules, by mistake or on purpose, and what it gets them.
//!
//! Every test runs the real binary and talks to it over real sockets, on both drivers, by code of its own that
//! shares nothing with the crate's. What a test waits for is something the server says or does; a deadline of the
//! test's own only ends a test that would hang.
#![forbid(unsafe_code)]

#[path = "../support/certificate.rs"]
mod certificate;
mod compression;
mod draining;
mod frames;
mod handshake;
mod memory;
#[path = "../support/patient.rs"]
mod patient;
mod peer;
mod resources;
mod server;
mod tls;
