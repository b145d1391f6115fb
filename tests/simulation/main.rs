//! Whole shards of the server on a simulated network, against a reference model of its clients.
//!
//! Every test runs 1,000 seeds; `ECHORING_SEEDS` says another number, and `ECHORING_SEED` runs a single one,
//! which is how a failure is replayed.

mod broadcast;
#[path = "../support/broadcast.rs"]
mod broadcast_settings;
mod centrifuge;
#[path = "../support/certificate.rs"]
mod certificate;
mod client;
mod drain_notices;
mod draining;
mod echo;
#[path = "../support/echo_client.rs"]
mod echo_client;
mod fragments;
mod handlers;
mod handover;
mod held;
mod hub;
mod inflate;
mod last_messages;
mod limits;
mod memory;
mod newcomers;
mod order;
mod pauses;
#[path = "../support/reports.rs"]
mod reports;
mod retries;
mod rooms;
#[path = "../support/seeds.rs"]
mod seeds;
mod senders;
mod sessions;
mod taking_back;
mod topics;
mod tunnels;
mod world;

use broadcast_settings::settings as broadcast_settings;

/// Runs `test` with each seed and prints how to replay the first failure.
fn for_each_seed(name: &str, test: impl Fn(u64)) {
    seeds::for_each(&format!("--test simulation {name}"), test);
}
