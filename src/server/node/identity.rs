//! The common parts of all shards of a node that its topics and clients are known by.

use crate::node::config::ServerConfig;
use crate::node::randomness::Randomness;
use echoring_broker::broadcast::{BroadcastSettings, Ids};
use echoring_proto::buffer::Lease;
use echoring_proto::connection::Entropy;
use echoring_topics::{Creators, Placement};

/// The common parts of all shards of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeIdentity {
    /// Maps topics to owner shards.
    pub(crate) placement: Placement,
    /// The number of the first shard.
    pub(crate) first_number: u8,
    /// The ids of connections and clients.
    pub(crate) ids: Ids,
    /// Of the digests of publications with idempotency keys.
    pub(crate) digest_seed: u64,
}

/// What a server continues of the one before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Continued {
    /// The number of its first shard.
    pub(crate) first_number: u8,
    /// The number of the node in the ids of connections and clients.
    pub(crate) node: u64,
    /// Of the digests of publications with idempotency keys.
    pub(crate) digest_seed: u64,
}

impl NodeIdentity {
    pub(crate) fn new(
        config: &ServerConfig,
        continued: Option<Continued>,
        randomness: &mut Randomness,
    ) -> NodeIdentity {
        let number = match (&config.cluster, continued) {
            (Some(cluster), _) => Some(cluster.node.0),
            (None, continued) => continued.map(|continued| continued.node),
        };
        NodeIdentity {
            placement: Placement::new(randomness.seed()),
            first_number: continued.map_or(0, |continued| continued.first_number),
            ids: Ids::new(number, &mut Entropy::new(randomness.entropy())),
            digest_seed: match (continued, &config.cluster) {
                (Some(continued), _) => continued.digest_seed,
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
            max_subscriptions: config.max_subscriptions,
            age_sample: config.age_sample,
            creators,
            creation: config.creation,
            max_message: config.connection.max_message,
            seed,
            placement: self.placement,
            first_number: self.first_number,
            ids: self.ids,
            digest_seed: self.digest_seed,
        }
    }
}
