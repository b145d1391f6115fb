//! The seeds of simulations: 1,000, or the number in `SIMULATION_SEEDS`, from 0 or the one in `SIMULATION_FIRST_SEED` on; or the single
//! one in `SIMULATION_SEED`, which replays a failure.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A number that the environment gives.
pub fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// The one that is run, where it is a single one.
pub fn single() -> Option<u64> {
    variable("SIMULATION_SEED")
}

/// Runs `test` with each seed and says how to replay the first that fails: `cargo test` with the words `replay`.
pub fn for_each(replay: &str, test: impl Fn(u64)) {
    let seeds = match single() {
        Some(seed) => seed..seed + 1,
        None => {
            let first = variable("SIMULATION_FIRST_SEED").unwrap_or(0);
            first..first + variable("SIMULATION_SEEDS").unwrap_or(1_000)
        }
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("replay with: SIMULATION_SEED={seed} cargo test {replay}");
            resume_unwind(panic);
        }
    }
}
