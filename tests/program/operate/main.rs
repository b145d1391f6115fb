//! A running server as its operator changes it. The real binary over real sockets, on both drivers.
#![forbid(unsafe_code)]

mod admin;
#[path = "../../support/authority.rs"]
mod authority;
#[path = "../../support/certificate.rs"]
mod certificate;
mod connections;
mod health;
mod identities;
#[path = "../../support/patient.rs"]
mod patient;
#[allow(dead_code, reason = "not every test uses all of it")]
#[path = "../attacks/peer.rs"]
mod peer;
mod reload;
#[allow(dead_code, reason = "not every test uses all of it")]
#[path = "../attacks/server.rs"]
mod server;
