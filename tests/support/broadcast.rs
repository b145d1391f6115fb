//! The settings of the topics of one shard, for tests that run shards themselves.

use std::sync::Arc;

use echoring_proto::buffer::{Budget, Lease};
use echoring_server::BroadcastSettings;
use echoring_topics::{CreationLimits, Creators, Placement, Rules};

/// Settings of the shard with the number `shard` of a server. Its topics are taken of `topics`, which all shards share.
pub fn settings(
    rules: Rules,
    topics: &Arc<Budget>,
    message_bytes_max: u64,
    seed: u64,
    shard: usize,
) -> BroadcastSettings {
    BroadcastSettings {
        rules,
        topics: Lease::new(Arc::clone(topics), 1),
        subscriptions_max: 100,
        age_sample: 3,
        creators: Creators::default(),
        creation: CreationLimits::default(),
        message_bytes_max,
        seed: seed ^ shard as u64,
        placement: Placement::new(seed),
        first_number: 0,
        digest_seed: 0,
    }
}
