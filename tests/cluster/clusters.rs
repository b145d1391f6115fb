//! Whole clusters on a simulated backbone: nodes, links, partitions, restarts, and clients that check what they are told. `nats` has
//! nodes on a real nats-server.
//!
//! Every test on the simulated backbone runs 1,000 seeds; `SIMULATION_SEEDS` sets another number, `SIMULATION_FIRST_SEED` the first one,
//! and `SIMULATION_SEED` runs a single one, which is how a failure is replayed. `scripts/cluster-simulation` runs many.

mod backbone;
mod diverged;
mod faults;
mod lost;
mod nats;
mod node;
mod planned;
mod presence;
mod repair;
#[path = "../support/seeds.rs"]
mod seeds;
mod store;
mod streams;
mod takeover;
mod truth;
mod world;

/// Runs `test` with each seed and prints how to replay the first failure.
fn for_each_seed(name: &str, test: impl Fn(u64)) {
    seeds::for_each(&format!("--test cluster {name}"), test);
}
