//! Changes the configuration of a running server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crate::commands::{ShardCommand, blocking};
use crate::node::config::ServerConfig;
use crate::node::handle::{ClientLimits, Handle};
use echoring_broker::publications::OnShard;
use echoring_proto::buffer::Budget;
use echoring_runtime::shard::{ControlMessage, LiveConfig};

/// A setting that keeps its value because its new one exceeds the server's reservation at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedsRestart {
    /// The key of the setting in a configuration file of the program, such as `max_message`.
    pub setting: &'static str,
    /// The largest value that a running server can apply.
    pub most: u64,
}

/// Limits of the node that change while it runs, and the reservations of its start for them.
#[derive(Debug)]
pub struct LiveLimits {
    /// Maximum message size in bytes.
    pub max_message: AtomicU64,
    /// The same, as far as the mailboxes between shards have room.
    pub message_bytes_most: u64,
    /// Connections that are open, and their maximum.
    pub connections: Arc<Budget>,
    /// Maximum connections that the drivers have room for.
    pub connections_most: u64,
    /// Topics that exist, and their maximum.
    pub topics: Arc<Budget>,
}

impl Handle {
    /// The settings of `config` that exceed the server's reservations at its start.
    #[doc(hidden)]
    pub fn needs_restart(&self, config: &ServerConfig) -> Vec<NeedsRestart> {
        self.limits.exceeded_by(config).collect()
    }

    /// Applies the part of `config` that a running server can change: limits on request heads, messages, queues,
    /// connections, topics and subscriptions, timeouts, origins, hosts, subprotocols, settings of topics, and the
    /// certificate. Everything else of `config` is ignored, and so are limits that [need a
    /// restart](Handle::needs_restart). Open connections stay open and use the new limits; TLS sessions keep their
    /// certificate, and existing topics keep `slow`, `lag_bytes` and `presence`.
    ///
    /// Blocks until every shard uses the new settings, at most three seconds for each; a stalled shard applies them
    /// when it continues.
    ///
    /// # Errors
    /// On the thread of a shard; nothing has changed.
    #[doc(hidden)]
    pub fn reconfigure(&self, config: &ServerConfig) -> Result<(), OnShard> {
        blocking::check()?;
        let mut config = config.clone();
        self.limits.take_over(&mut config);
        let config = Arc::new(config);
        // First all shards expect messages of the new size, and then connections accept them.
        self.commands.ask_all(|reply| ShardCommand::Configure(Arc::clone(&config), reply))?;
        let live = LiveConfig {
            connection: config.of_connections(),
            tls: config.tls.clone(),
            limits: config.peer_limits(),
            times: config.times(),
        };
        *self.client_limits.lock().unwrap_or_else(PoisonError::into_inner) = ClientLimits::of(&config);
        self.backends.replace(&config.backends);
        self.readiness.set_auth(config.auth.as_ref());
        self.set_rebalance(config.rebalance);
        self.send_all(|| ControlMessage::Configure(Box::new(live.clone())));
        // Control messages are taken in order.
        self.stalled_shards()?;
        if let Some(node) = self.cluster() {
            node.set_topics(&config.topics);
        }
        Ok(())
    }

    /// Maximum message size in bytes.
    pub fn max_message(&self) -> u64 {
        self.limits.max_message.load(Ordering::Relaxed)
    }
}

impl LiveLimits {
    fn exceeded_by(&self, config: &ServerConfig) -> impl Iterator<Item = NeedsRestart> {
        let connections = config.max_connections.map_or(0, u64::from);
        let limits = [
            ("max_message", config.connection.max_message, self.message_bytes_most),
            ("max_connections", connections, self.connections_most),
        ];
        let exceeded = limits.into_iter().filter(|(_, value, most)| value > most);
        exceeded.map(|(setting, _, most)| NeedsRestart { setting, most })
    }

    /// Applies the limits of the node, as far as there is room for them. `config` then has the maximum message size in
    /// effect.
    fn take_over(&self, config: &mut ServerConfig) {
        if config.connection.max_message > self.message_bytes_most {
            config.connection.max_message = self.max_message.load(Ordering::Relaxed);
        }
        self.max_message.store(config.connection.max_message, Ordering::Relaxed);
        let connections = config.max_connections.map_or(self.connections_most, u64::from);
        if connections <= self.connections_most {
            self.connections.resize(connections);
        }
        self.topics.resize(u64::from(config.max_topics));
    }
}
