//! [`MemoryPeak`]: the most memory that a node takes, computed from its configuration. docs/memory.md explains the formula.

use std::sync::Arc;

use crate::limits::{
    MAILBOX_BYTES_MIN, PEAK_ACCESS_BYTES, PEAK_ADDRESS_BYTES, PEAK_ALLOCATOR_BYTES, PEAK_CLIENT_BYTES,
    PEAK_CONNECTION_BYTES, PEAK_DECISIONS_BYTES, PEAK_MAILBOX_BYTES, PEAK_PROGRAM_BYTES, PEAK_SESSION_BYTES,
    PEAK_SHARD_BYTES, PEAK_SHARD_BYTES_WITHOUT_INCREMENTAL, PEAK_SOCKET_BYTES, PEAK_SUBSCRIPTION_BYTES,
    PEAK_TOLD_BYTES, PEAK_TOPIC_BYTES, PEAK_TOPIC_SHARD_BYTES, PEAK_TOPIC_USE_BYTES, SOCKET_RECEIVE_BYTES,
    SOCKET_SEND_BYTES,
};
use crate::node::config::ServerConfig;
use crate::node::host::Resolved;
use echoring_auth::limits::{BACKEND_ANSWER_BYTES_MAX, CACHE_IDENTITIES_BYTES_MAX};
use echoring_auth::{Backend, WebhookKinds};
use echoring_broker::broadcast::MAIL_OVERHEAD_BYTES;
use echoring_runtime::limits::ADDRESSES_REMEMBERED_MAX;
use echoring_topics::limits::TOPIC_BYTES_MAX;

/// The host's additions to the formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMemory {
    /// Whether receive buffers are provided incrementally (Linux 6.12); without, receive regions are larger.
    pub incremental_buffers: bool,
    /// The largest send buffer that the kernel chooses by itself (`net.ipv4.tcp_wmem`), in bytes.
    pub autotuned_send_bytes: u64,
    /// The largest receive buffer that the kernel chooses by itself (`net.ipv4.tcp_rmem`), in bytes.
    pub autotuned_receive_bytes: u64,
}

impl Default for HostMemory {
    /// A recent kernel with its own defaults.
    fn default() -> HostMemory {
        HostMemory {
            incremental_buffers: true,
            autotuned_send_bytes: 4 << 20,
            autotuned_receive_bytes: 6 << 20,
        }
    }
}

/// One summand of the formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// The user of the memory.
    pub name: &'static str,
    /// Its maximum in bytes.
    pub bytes: u64,
}

/// The most memory that a node takes, however slow or hostile its peers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPeak {
    /// Memory of the process.
    pub user: Vec<MemoryPart>,
    /// Memory of the kernel for the node's sockets, if all peers stop reading with data in flight in both directions.
    pub kernel: Vec<MemoryPart>,
}

impl MemoryPeak {
    /// The peak of a server with this configuration. It saturates where the sum exceeds 64 bits.
    pub fn of(config: &ServerConfig, resolved: &Resolved, host: HostMemory) -> MemoryPeak {
        MemoryPeak { user: user(config, resolved, host), kernel: kernel(config, resolved, host) }
    }

    /// Bytes of the process.
    pub fn user_bytes(&self) -> u64 {
        sum(&self.user)
    }

    /// Bytes of the kernel.
    pub fn kernel_bytes(&self) -> u64 {
        sum(&self.kernel)
    }
}

fn sum(parts: &[MemoryPart]) -> u64 {
    parts.iter().fold(0, |sum: u64, part| sum.saturating_add(part.bytes))
}

fn user(config: &ServerConfig, resolved: &Resolved, host: HostMemory) -> Vec<MemoryPart> {
    let (shards, connections) = (resolved.shards as u64, u64::from(resolved.max_connections));
    let subscriptions = connections.saturating_mul(u64::from(config.max_subscriptions));
    // Back ends may name clients.
    let has_auth = config.auth.is_some() || !config.backends.0.is_empty();
    let (has_auth, has_topic_limits) = (has_auth, !config.peers.topics.is_none());
    // Any connection may be one of the sample.
    let has_access_log = config.access_log.as_ref().is_some_and(|log| log.sample > 0.0);
    let told = config.webhooks.kinds().overlap(WebhookKinds::CONNECTIONS);
    let decisions_bytes = PEAK_DECISIONS_BYTES + CACHE_IDENTITIES_BYTES_MAX as u64;
    let shard_bytes =
        if host.incremental_buffers { PEAK_SHARD_BYTES } else { PEAK_SHARD_BYTES_WITHOUT_INCREMENTAL };
    vec![
        part("memory_budget", config.memory_budget, 1),
        part("compression windows", window_bytes(config), 1),
        part("connections", connections, PEAK_CONNECTION_BYTES),
        part("sessions", connections, PEAK_SESSION_BYTES),
        part("subscriptions", subscriptions, PEAK_SUBSCRIPTION_BYTES),
        part("topics", u64::from(config.max_topics), topic_bytes(shards)),
        part("addresses", addresses(config, connections), PEAK_ADDRESS_BYTES),
        part("clients with credentials", if has_auth { connections } else { 0 }, PEAK_CLIENT_BYTES),
        part("remembered decisions", u64::from(has_auth), decisions_bytes),
        part("use of topics", if has_topic_limits { connections } else { 0 }, PEAK_TOPIC_USE_BYTES),
        part("notes for the access log", if has_access_log { connections } else { 0 }, PEAK_ACCESS_BYTES),
        part("queues of webhooks", config.webhooks.memory_bytes(), 1),
        part("notes for webhooks", if told { connections } else { 0 }, PEAK_TOLD_BYTES),
        part("receive regions, rings and codecs", shards, shard_bytes),
        part("unfilled pages of the allocator", shards, PEAK_ALLOCATOR_BYTES),
        part("back ends", 1, backend_bytes(config)),
        part("mailboxes", 2 * shards * shards.saturating_sub(1), mailbox_bytes(config)),
        part("program and admin address", 1, PEAK_PROGRAM_BYTES),
    ]
}

fn kernel(config: &ServerConfig, resolved: &Resolved, host: HostMemory) -> Vec<MemoryPart> {
    let connections = u64::from(resolved.max_connections);
    // The kernel doubles what is asked for, for its own bookkeeping.
    let (send_bytes, receive_bytes) = if config.autotune_sockets {
        (host.autotuned_send_bytes, host.autotuned_receive_bytes)
    } else {
        (2 * SOCKET_SEND_BYTES as u64, 2 * SOCKET_RECEIVE_BYTES as u64)
    };
    vec![
        part("sockets", connections, PEAK_SOCKET_BYTES),
        part("send buffers", connections, send_bytes),
        part("receive buffers", connections, receive_bytes),
    ]
}

fn part(name: &'static str, count: u64, bytes_each: u64) -> MemoryPart {
    MemoryPart { name, bytes: count.saturating_mul(bytes_each) }
}

/// Those of connections, and those that are remembered; nothing without limits on them.
fn addresses(config: &ServerConfig, connections: u64) -> u64 {
    let remembered = ADDRESSES_REMEMBERED_MAX as u64;
    if config.peers.addresses.is_none() { 0 } else { connections.saturating_add(remembered) }
}

/// The events that wait for back ends, and the answers that arrive, as text and as read.
fn backend_bytes(config: &ServerConfig) -> u64 {
    let bytes = |backend: &Arc<Backend>| {
        let settings = backend.settings();
        let events = settings.queue_bytes + settings.queue_bytes / 4;
        (events + settings.requests_max * 2 * BACKEND_ANSWER_BYTES_MAX) as u64
    };
    config.backends.0.iter().map(bytes).sum()
}

/// Windows are kept only where a direction may keep its context.
fn window_bytes(config: &ServerConfig) -> u64 {
    let keeps = |compression: &crate::Compression| {
        let preferences = &compression.preferences;
        preferences.client.context_takeover || preferences.server.context_takeover && !compression.shared
    };
    if config.connection.compression.as_ref().is_some_and(keeps) { config.compression_bytes } else { 0 }
}

/// At its owner shard, and at each shard with subscribers; the name twice at each.
fn topic_bytes(shards: u64) -> u64 {
    let name_bytes = 2 * TOPIC_BYTES_MAX as u64;
    PEAK_TOPIC_BYTES + name_bytes + shards * (PEAK_TOPIC_SHARD_BYTES + name_bytes)
}

/// One lane in one direction between two shards; a pair has two lanes in each direction.
fn mailbox_bytes(config: &ServerConfig) -> u64 {
    let messages_bytes =
        config.connection.max_message.saturating_add(MAIL_OVERHEAD_BYTES as u64).saturating_mul(2);
    messages_bytes.max(MAILBOX_BYTES_MIN as u64).saturating_add(PEAK_MAILBOX_BYTES)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use std::time::Duration;

    use echoring_auth::{Authenticator, Settings, SigningSecrets, Webhook, Webhooks};
    use echoring_runtime::admission::{AddressLimits, PeerLimits, TopicUseLimits};
    use echoring_runtime::shard::AccessLog;

    const MIB: u64 = 1 << 20;

    fn peak(config: &ServerConfig, shards: usize, max_connections: u32) -> MemoryPeak {
        let resolved = Resolved::new(shards, Vec::new(), max_connections, u64::MAX);
        MemoryPeak::of(config, &resolved, HostMemory::default())
    }

    /// The worked example of docs/memory.md.
    #[test]
    fn the_worked_example_of_the_documentation_is_computed() {
        let config = ServerConfig {
            memory_budget: 512 * MIB,
            max_topics: 1_000,
            max_subscriptions: 1,
            ..ServerConfig::default()
        };
        let peak = peak(&config, 2, 20_000);
        let mebibytes: Vec<u64> = peak.user.iter().map(|part| part.bytes.div_ceil(MIB)).collect();
        assert_eq!(mebibytes, [512, 0, 5, 5, 4, 5, 0, 0, 0, 0, 0, 0, 0, 6, 8, 0, 5, 6]);
        assert_eq!(peak.user_bytes().div_ceil(MIB), 555);
        assert_eq!(peak.kernel_bytes() / MIB, 10_078);
    }

    #[test]
    fn windows_count_only_where_they_are_kept() {
        let none = ServerConfig::default();
        let mut on = none.clone();
        on.connection.compression = Some(crate::Compression::default());
        let without_context_takeover = peak(&on, 1, 10).user_bytes();
        assert_eq!(without_context_takeover, peak(&none, 1, 10).user_bytes());
        on.connection.compression.as_mut().expect("set above").preferences.server.context_takeover = true;
        assert_eq!(peak(&on, 1, 10).user_bytes() - without_context_takeover, on.compression_bytes);
        on.connection.compression.as_mut().expect("set above").shared = true;
        assert_eq!(
            peak(&on, 1, 10).user_bytes(),
            without_context_takeover,
            "topics have contexts, in the memory budget"
        );
    }

    #[test]
    fn clients_are_in_the_peak_as_far_as_something_is_kept_of_them() {
        let plain = ServerConfig::default();
        let more = |config: ServerConfig| {
            peak(&config, 2, 1_000).user_bytes() - peak(&ServerConfig::default(), 2, 1_000).user_bytes()
        };
        let limited = |peers: PeerLimits| ServerConfig { peers: Arc::new(peers), ..plain.clone() };
        let addresses = AddressLimits { max_connections_per_address: Some(1), ..AddressLimits::NONE };
        let addresses = PeerLimits { addresses, ..PeerLimits::default() };
        assert_eq!(more(limited(addresses)), (1_000 + 65_536) * 384);
        let topics = TopicUseLimits { max_subscriptions_per_identity: Some(1), ..TopicUseLimits::default() };
        assert_eq!(more(limited(PeerLimits { topics, ..PeerLimits::default() })), 1_000 * 896);
        let auth = Arc::new(Authenticator::load(&Settings::default()).expect("nothing to read"));
        let auth = ServerConfig { auth: Some(auth), ..plain.clone() };
        assert_eq!(more(auth), 1_000 * 192 + 16_384 * 256 + 16 * MIB);
        for (sample, expected) in [(0.0, 0), (0.01, 1_000 * 1_408)] {
            let log = AccessLog { sample, write: Arc::new(|_| {}) };
            assert_eq!(more(ServerConfig { access_log: Some(log), ..plain.clone() }), expected);
        }
        let webhook = Webhook {
            url: "http://a/".to_owned(),
            secrets: SigningSecrets::parse("a secret of twenty-four bytes").expect("a secret"),
            events: WebhookKinds::CONNECTIONS,
            topics: None,
            path: None,
            queue_bytes: 5 * MIB,
            batch: 1,
            timeout: Duration::from_secs(1),
            give_up_after: Duration::from_secs(1),
        };
        let webhooks = Arc::new(Webhooks::load(&[webhook], "").expect("a URL"));
        assert_eq!(more(ServerConfig { webhooks, ..plain.clone() }), 5 * MIB + 512 * 1024 + 1_000 * 768);
    }

    #[test]
    fn the_kernel_decides_on_buffers_that_it_tunes_by_itself() {
        let fixed = peak(&ServerConfig::default(), 1, 1).kernel_bytes();
        assert_eq!(fixed, 4 * 128 * 1024 + PEAK_SOCKET_BYTES);
        let config = ServerConfig { autotune_sockets: true, ..ServerConfig::default() };
        assert_eq!(peak(&config, 1, 1).kernel_bytes(), 10 * MIB + PEAK_SOCKET_BYTES);
    }

    #[test]
    fn absurd_configurations_saturate() {
        let config = ServerConfig { memory_budget: u64::MAX, ..ServerConfig::default() };
        assert_eq!(peak(&config, 1_024, u32::MAX).user_bytes(), u64::MAX);
    }
}
