//! Whole shards of the server on a simulated network, against a reference model of its clients.
//!
//! Every test runs 1,000 seeds; `SIMULATION_SEEDS` sets another number, and `SIMULATION_SEED` runs a single one,
//! which is how a failure is replayed.

#[path = "../support"]
#[allow(dead_code, reason = "other test programs use the rest")]
mod support {
    pub mod broadcast;
    pub mod certificate;
    pub mod echo_client;
    pub mod reports;
    pub mod seeds;
    pub mod service;
}

mod broadcast;
mod centrifuge;
mod client;
mod drain_notices;
mod draining;
mod echo;
mod elsewhere;
mod fragments;
mod handlers;
mod handover;
mod held;
mod hub;
mod inflate;
mod last_messages;
mod limits;
mod memory;
mod migrate;
mod newcomers;
mod order;
mod pauses;
mod presence;
mod rehearsal;
mod retries;
mod rooms;
mod senders;
mod sessions;
mod takeover;
mod taking_back;
mod topics;
mod transfer;
mod tunnels;
mod world;

use broadcast_settings::settings as broadcast_settings;
use support::{broadcast as broadcast_settings, certificate, echo_client, reports, seeds, service};

/// Runs `test` with each seed and prints how to replay the first failure.
fn for_each_seed(name: &str, test: impl Fn(u64)) {
    seeds::for_each(&format!("--test simulation {name}"), test);
}
