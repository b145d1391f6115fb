//! Whole shards of the server on a simulated network, against a reference model of its clients.
//!
//! Every test runs 1,000 seeds; `ECHORING_SEEDS` says another number, and `ECHORING_SEED` runs a single one,
//! which is how a failure is replayed.

mod broadcast;
#[path = "../support/certificate.rs"]
mod certificate;
mod chat;
mod client;
mod draining;
mod echo;
mod handlers;
mod hub;
mod inflate;
mod newcomers;
mod order;
mod pauses;
mod retries;
mod sessions;
mod taking_back;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `test` with each seed and says how to replay the first that fails.
fn for_each_seed(name: &str, test: impl Fn(u64)) {
    let number =
        |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect(variable));
    let seeds = match number("ECHORING_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ECHORING_SEEDS").unwrap_or(1_000),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("replay with: ECHORING_SEED={seed} cargo test --test simulation {name}");
            resume_unwind(panic);
        }
    }
}
