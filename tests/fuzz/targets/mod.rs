//! The fuzz targets: functions that take bytes and panic if an invariant breaks. The package in the parent folder runs them
//! under libFuzzer; the test there replays the corpus.
//!
//! Never: randomness, time, or state that outlives a call.
#![forbid(unsafe_code)]

pub mod auth;
pub mod centrifuge;
pub mod conn;
pub mod connection;
mod cursor;
pub mod deflate;
pub mod differential;
pub mod frame;
pub mod handover;
pub mod handshake;
mod inflate;
pub mod moved;
mod peer;
pub mod plain_connection;
pub mod proxy_header;
mod reference;
pub mod utf8;
pub mod v1;
mod wire;
