//! The service of one shard with all defaults, for tests that run shards themselves.

use std::sync::Arc;

use echoring_broker::broadcast::Ids;
use echoring_broker::limits::{AGE_SAMPLE_DEFAULT, SUBSCRIPTIONS_DEFAULT};
use echoring_proto::buffer::{Budget, Lease};
use echoring_proto::connection::Entropy;
use echoring_server::limits::TOPICS_DEFAULT;
use echoring_server::{BroadcastSettings, ServerConfig, Service};
use echoring_topics::{CreationLimits, Creators, Placement, Rules, TopicSettings};

/// The built-in routes. A subscriber may lag `queue_bytes` behind its topic.
pub fn service(max_message: u64, queue_bytes: u32) -> Service {
    let settings = TopicSettings { lag_bytes: queue_bytes as usize, ..TopicSettings::default() };
    let max_topics = u64::from(TOPICS_DEFAULT);
    with_broadcast(BroadcastSettings {
        rules: Rules::new(Vec::new(), settings),
        topics: Lease::new(Budget::new(max_topics), max_topics),
        max_subscriptions: SUBSCRIPTIONS_DEFAULT,
        age_sample: AGE_SAMPLE_DEFAULT,
        creators: Creators::default(),
        creation: CreationLimits::default(),
        max_message,
        seed: 0,
        placement: Placement::new(0),
        first_number: 0,
        ids: Ids::new(None, &mut Entropy::new(0)),
        digest_seed: 0,
    })
}

/// The built-in routes, with these settings of topics.
pub fn with_broadcast(settings: BroadcastSettings) -> Service {
    let config = ServerConfig { test_endpoints: false, ..ServerConfig::default() };
    Service::new(&config, settings, Arc::default())
}
