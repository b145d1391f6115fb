//! The conformance suite of the drivers: it tests the contract of `driver` from outside.

#![allow(dead_code, reason = "not every test binary uses every part")]

pub mod moving;
pub mod simulated;
pub mod sockets;
pub mod suite;
pub mod taking_back;
pub mod world;
