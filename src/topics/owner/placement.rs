//! The owner shard of a topic, by a keyed hash of its name.

use std::hash::{DefaultHasher, Hasher as _};

/// Chooses the owner shard of each topic. All shards of a process make the same choice. Processes choose differently,
/// so that a client cannot construct many names with the same owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement(u64);

impl Placement {
    /// A placement with this seed, which must be secret.
    pub fn new(seed: u64) -> Placement {
        Placement(seed)
    }

    /// The owner of the topic `name` among `shards` shards.
    pub fn owner(self, name: &str, shards: usize) -> usize {
        if shards == 1 {
            return 0;
        }
        // SipHash with a fixed key; the seed in front of the name acts as the key.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher.write(name.as_bytes());
        (hasher.finish() % shards as u64) as usize
    }
}
