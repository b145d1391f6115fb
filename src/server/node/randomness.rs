//! Seeds of a server: unpredictable for peers, or in tests derived from one seed.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use echoring_proto::connection::Seed;
#[cfg(any(test, feature = "testing"))]
use echoring_proto::random::SplitMix64;

/// Where the seeds of a server come from.
#[derive(Debug)]
pub enum Randomness {
    /// The random source of the system.
    System,
    /// A number, for tests.
    #[cfg(any(test, feature = "testing"))]
    Seeded(SplitMix64),
}

impl Randomness {
    /// The next seed, of placements, epochs and digests.
    pub(crate) fn seed(&mut self) -> u64 {
        match self {
            Randomness::System => RandomState::new().build_hasher().finish(),
            #[cfg(any(test, feature = "testing"))]
            Randomness::Seeded(numbers) => numbers.next_u64(),
        }
    }

    /// The seed of a shard's masking keys and nonces.
    pub(crate) fn entropy(&mut self) -> Seed {
        match self {
            Randomness::System => Seed::System,
            #[cfg(any(test, feature = "testing"))]
            Randomness::Seeded(numbers) => Seed::Fixed(numbers.next_u64()),
        }
    }
}
