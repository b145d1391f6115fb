//! The bodies of the fuzz targets: functions of bytes that panic when something does not hold. libFuzzer runs
//! them by way of the package in this folder's parent; the test beside it replays the corpus through them.
//!
//! Never: randomness, time, or state that outlives a call.
#![forbid(unsafe_code)]

pub mod connection;
mod cursor;
pub mod deflate;
pub mod differential;
pub mod frame;
pub mod handshake;
mod inflate;
mod peer;
mod reference;
pub mod utf8;
pub mod v1;
mod wire;
