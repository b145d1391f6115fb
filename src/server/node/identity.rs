//! The common parts of all shards of a node that its topics and clients are known by.

use crate::handover::Predecessor;
use crate::node::config::ServerConfig;
use crate::node::randomness::Randomness;
use echoring_broker::broadcast::BroadcastSettings;
use echoring_proto::buffer::Lease;
use echoring_topics::{Creators, Placement};

/// The common parts of all shards of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeIdentity {
    /// Maps topics to owner shards.
    pub(crate) placement: Placement,
    /// The number of the first shard, in the numbers of clients.
    pub(crate) first_number: u8,
    /// Of the digests of publications with idempotency keys.
    pub(crate) digest_seed: u64,
}

impl NodeIdentity {
    pub(crate) fn new(
        config: &ServerConfig,
        predecessor: Option<&Predecessor>,
        randomness: &mut Randomness,
    ) -> NodeIdentity {
        NodeIdentity {
            placement: Placement::new(randomness.seed()),
            first_number: predecessor.map_or(0, Predecessor::next_number),
            digest_seed: match (predecessor, &config.cluster) {
                (Some(predecessor), _) => predecessor.digest_seed(),
                // A publication may be repeated at any node.
                (None, Some(cluster)) => cluster.key,
                (None, None) => randomness.seed(),
            },
        }
    }

    /// The settings of topics on one shard.
    pub(crate) fn broadcast(
        self,
        config: &ServerConfig,
        topics: Lease,
        creators: Creators,
        seed: u64,
    ) -> BroadcastSettings {
        BroadcastSettings {
            rules: config.topics.clone(),
            topics,
            subscriptions_max: config.subscriptions_max,
            age_sample: config.age_sample,
            creators,
            creation: config.creation,
            message_bytes_max: config.message_bytes_max,
            seed,
            placement: self.placement,
            first_number: self.first_number,
            digest_seed: self.digest_seed,
        }
    }
}
