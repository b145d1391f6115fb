//! The keys of `[topic_defaults]` and `[[topics]]`, each declared once. A new key is a row of [`KEYS`] and a field of [`TopicSettings`].

use std::ops::RangeInclusive;

use crate::limits::COALESCE_MAX;
use crate::serve::keys::{Key, OneOf, Switch, Text, bytes, count, keys, time, word_for};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_topics::{AllowedDelta, Permission, Relay, SlowConsumerPolicy, TopicSettings};

/// The keys of both kinds of tables. A running server takes over changes of all of them.
pub(crate) const KEYS: &[Key<TopicKeys>] = keys!(TopicKeys {
    /// Names of the topics that the table configures; * matches any characters, or none; every other
    /// character matches itself
    pattern: Text("text; required in [[topics]]", "names of topics such as \"prices.*\"") => pattern;
    /// Policy for slow consumers
    slow: OneOf(&SLOW) => settings.slow;
    /// Maximum lag of a subscriber in encoded bytes, by default queue_bytes; also the size of a topic's log, for
    /// each shard and format in use. At most memory_budget
    // As of `--queue-bytes`, and for the same reasons.
    lag_bytes: bytes(4 * 1024..=1 << 30) => settings.lag_bytes;
    /// Maximum age of the oldest message not yet sent to a subscriber
    // A busy network takes less than the minimum; above the maximum it would be history.
    lag: time(100 * MILLISECOND..=HOUR) => settings.lag;
    /// Maximum time to hold back messages while the shard is busy, so that one send carries more of
    /// them. Less than lag
    coalesce: time(0..=COALESCE_MAX) => settings.coalesce;
    /// Number of messages kept for clients that resume from an earlier position
    // More messages than a client would read to catch up.
    history_messages: count(MESSAGES) => settings.history.messages;
    /// Maximum bytes of those messages, at most memory_budget
    history_bytes: bytes(0..=1 << 30) => settings.history.bytes;
    /// Maximum age of those messages
    history_age: time(HISTORY_AGES) => settings.history.age;
    /// Number of the latest kept messages that a new subscriber of echoring.v1.json gets first, at most
    /// history_messages. Where slow is "conflate" it gets the latest message of each key instead
    snapshot: count(MESSAGES) => settings.snapshot;
    /// Who may subscribe. authenticated: clients with credentials; claim: clients whose credentials
    /// name the topic; named: clients that the topic names behind its last #, as in chat:7#alice,bob;
    /// operator: the admin address; hook: clients of Centrifuge's client protocol that --hooks-subscribe
    /// allows
    subscribe: OneOf(&SUBSCRIBE) => settings.access.subscribe;
    /// Who may publish. The operator always may, except with nobody. subscriber: clients that subscribe to
    /// the topic; hook: clients that --hooks-publish allows
    publish: OneOf(&PUBLISH) => settings.access.publish;
    /// Which subscribers of echoring.v1.json are told who joins and leaves
    presence: OneOf(&READ) => settings.access.presence;
    /// Which subscribers of echoring.v1.json are sent messages from before their subscription
    history: OneOf(&READ) => settings.access.history;
    /// Idle time after which subscribers of echoring.v1.json get the latest offset, which reveals a
    /// loss of the last messages
    // More often is a load; more rarely tells nobody in time.
    heartbeat: time(SECOND..=HOUR) => settings.heartbeat;
    /// How messages are relayed to other NATS clients: not at all, as payload, or as a JSON event. Needs
    /// --cluster-nats-clients
    nats: OneOf(&[("off", Relay::Off), ("raw", Relay::Raw), ("json", Relay::Json)]) => settings.relay;
    /// Deltas that subscribers of Centrifuge's client protocol may request instead of whole
    /// publications
    delta: OneOf(&[("off", AllowedDelta::Off), ("fossil", AllowedDelta::Fossil)]) => settings.delta;
    /// Whether subscribers of Centrifuge's client protocol may request publications with certain tags only.
    /// It saves bandwidth, and keeps nothing secret
    allow_tags_filter: Switch => settings.allow_tags_filter;
    /// Whether compressed messages may refer to earlier messages of the topic. Needs --compress shared. With it, the
    /// length of a compressed message tells something about those before it
    compression_context: Switch => settings.compression_context;
    /// Whether messages of clients name their publisher to subscribers of Centrifuge's client protocol: its user, its
    /// id, and the application's data about it
    publisher_info: Switch => settings.publisher_info;
    /// Whether a cluster node that cannot reach the topic's owner accepts messages for its own
    /// clients meanwhile, in a local epoch (an even number)
    local_epochs: Switch => settings.local_epochs;
    /// Whether a message is accepted only once JetStream has stored it, so that messages and
    /// positions survive the nodes. Needs --cluster. Topics of one pattern share a stream
    durable: Switch => settings.durable.is_on;
    /// Number of latest messages of each topic kept in its stream
    durable_messages: count(1..=1_000_000_000) => settings.durable.messages;
    /// Maximum bytes of the stream
    durable_bytes: bytes(1024 * 1024..=1 << 50) => settings.durable.bytes;
    /// Maximum age of the messages in the stream
    // A stream that forgets sooner than a client is taken for dead would be of no use.
    durable_age: time(60 * SECOND..=10_000 * HOUR) => settings.durable.age;
    /// Number of NATS servers that store the stream
    durable_replicas: count(1..=5) => settings.durable.replicas;
    /// Name of the table [hooks.NAME] whose URLs are asked about these topics; those of [hooks] where it has none
    hook: Text("text", "the name of a table [hooks.NAME]") => hook;
});

const HOUR: Nanos = 3_600 * SECOND;
/// Values of `history_messages` and `snapshot`.
pub(crate) const MESSAGES: RangeInclusive<u32> = 0..=1_000_000;
/// Values of `history_age`.
pub(crate) const HISTORY_AGES: RangeInclusive<Nanos> = 0..=1_000 * HOUR;
const SLOW: [(&str, SlowConsumerPolicy); 3] = [
    ("disconnect", SlowConsumerPolicy::Disconnect),
    ("drop-oldest", SlowConsumerPolicy::DropOldest),
    ("conflate", SlowConsumerPolicy::Conflate),
];
/// Who may subscribe.
const SUBSCRIBE: [Word; 7] = [
    ("nobody", Permission::Nobody),
    ("everybody", Permission::Everybody),
    ("authenticated", Permission::Authenticated),
    ("claim", Permission::Claim),
    ("named", Permission::Named),
    ("operator", Permission::Operator),
    ("hook", Permission::Hook),
];
/// Who may publish.
const PUBLISH: [Word; 8] = [
    ("nobody", Permission::Nobody),
    ("everybody", Permission::Everybody),
    ("authenticated", Permission::Authenticated),
    ("subscriber", Permission::Subscriber),
    ("claim", Permission::Claim),
    ("named", Permission::Named),
    ("operator", Permission::Operator),
    ("hook", Permission::Hook),
];
/// The values of the other rights, about which no hook is asked.
const READ: [Word; 7] = *PUBLISH.first_chunk().expect("seven of eight");

/// What the keys of a table set.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicKeys {
    /// Empty for the defaults.
    pub(crate) pattern: String,
    /// The name of the hooks that are asked; `None` for those without.
    pub(crate) hook: Option<String>,
    pub(crate) settings: TopicSettings,
}

/// A word for a permission.
type Word = (&'static str, Permission);

/// The word for `permission`.
pub(in super::super) fn word(permission: Permission) -> &'static str {
    word_for(&PUBLISH, permission)
}
