//! [`TopicWorld`]: how a world is set up whose shards are servers with topics.

use std::rc::Rc;

use echoring_proto::buffer::Budget;
use echoring_proto::connection::ConnectionConfig;
use echoring_server::{Routes, Service};
use echoring_topics::{Rules, TopicSettings};

use super::broadcast_settings;
use super::service::with_broadcast;
use super::world::{Memory, World, config};

pub const MESSAGE_BYTES_MAX: u64 = 8 * 1024;
/// More topics than any test has.
const TOPICS_MAX: u64 = 1_000;

/// The settings of all shards of a world.
#[derive(Clone)]
pub struct TopicWorld {
    pub rules: Rules,
    pub routes: Routes,
    pub max_message: u64,
    pub mailbox_bytes: usize,
    /// The shards speak TLS.
    pub secured: bool,
    /// Without it, a random one.
    pub memory: Option<Memory>,
}

impl TopicWorld {
    /// Topics on the built-in routes. A mailbox holds two of the longest messages.
    pub fn new(rules: Rules) -> TopicWorld {
        TopicWorld {
            rules,
            routes: Routes::default(),
            max_message: MESSAGE_BYTES_MAX,
            mailbox_bytes: 2 * MESSAGE_BYTES_MAX as usize + 1024,
            secured: false,
            memory: None,
        }
    }

    /// Topics of handlers, without limits that handlers reach.
    pub fn of_handlers(settings: TopicSettings, routes: Routes) -> TopicWorld {
        TopicWorld {
            routes,
            max_message: config().max_message,
            mailbox_bytes: 4 << 20,
            ..TopicWorld::new(Rules::new(Vec::new(), settings))
        }
    }

    /// Starts `shards` shards.
    pub fn start(self, seed: u64, shards: usize) -> Rc<World<Service>> {
        let TopicWorld { rules, routes, max_message, mailbox_bytes, secured, memory } = self;
        let connection = ConnectionConfig { max_message, ..config() };
        let topics = Budget::new(TOPICS_MAX);
        let memory = memory.unwrap_or_else(|| Memory::random(seed));
        World::with_memory(seed, shards, connection, mailbox_bytes, secured, memory, |shard| {
            let settings = broadcast_settings(rules.clone(), &topics, max_message, seed, shard);
            with_broadcast(settings).with_routes(routes.clone())
        })
    }
}
