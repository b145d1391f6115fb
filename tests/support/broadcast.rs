//! The settings of the topics of one shard, for tests that run shards themselves.

use std::sync::Arc;

use echoring_broker::broadcast::Ids;
use echoring_proto::buffer::{Budget, Lease};
use echoring_proto::connection::Entropy;
use echoring_server::BroadcastSettings;
use echoring_topics::{CreationLimits, Creators, Placement, Rules};

/// Settings of the shard with the number `shard` of a server. Its topics are taken of `topics`, which all shards share.
pub fn settings(
    rules: Rules,
    topics: &Arc<Budget>,
    max_message: u64,
    seed: u64,
    shard: usize,
) -> BroadcastSettings {
    BroadcastSettings {
        rules,
        topics: Lease::new(Arc::clone(topics), 1),
        max_subscriptions: 100,
        age_sample: 3,
        creators: Creators::default(),
        creation: CreationLimits::default(),
        max_message,
        seed: seed ^ shard as u64,
        placement: Placement::new(seed),
        first_number: 0,
        ids: Ids::new(Some(1), &mut Entropy::new(seed)),
        digest_seed: 0,
    }
}
