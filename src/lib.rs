//! `echoring`: a WebSocket echo and broadcast server for Linux on io_uring, and the load generator that
//! proves its numbers.
//!
//! The floors, lowest first; a module imports only from those above it in this list (see ARCHITECTURE.md):
//! `limits`, `tls`, `protocol`, `buffer`, `connection`, `hub`, `stats`, `recording`, `driver`, `shard`, `aio`,
//! `server`, `load`, `control`, `proxy`, `connect`, `cli`.

pub mod limits;

pub mod tls;

pub mod protocol;

pub mod buffer;

pub mod connection;

pub mod hub;

pub mod stats;

pub mod recording;

pub mod driver;

pub mod shard;

pub mod aio;

pub mod server;

pub mod load;

pub mod control;

pub mod proxy;

pub mod connect;

pub mod cli;

// Its code is compiled with the documentation's tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/from-gorilla.md")]
mod from_gorilla {}
