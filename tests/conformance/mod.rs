//! The conformance suite of the drivers: what `driver`'s contract promises, tested from outside.

#![allow(dead_code, reason = "not every test binary uses every part")]

pub mod simulated;
pub mod sockets;
pub mod suite;
pub mod taking_back;
pub mod world;
