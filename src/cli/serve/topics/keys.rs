//! The keys of `[topic_defaults]` and `[[topics]]`, each declared once.
//!
//! The reader of the file, `--check`, `serve --help` and the table of docs/reference/configuration.md use these
//! declarations. A new key is an entry of [`KEYS`] and a field of [`TopicSettings`].

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::Failure;
use crate::common::file::Entry;
use crate::common::values::{shown_bytes, shown_range, shown_time};
use crate::limits::COALESCE_MAX;
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_topics::{AllowedDelta, Permission, Relay, SlowConsumerPolicy, TopicSettings};

/// The key of `[[topics]]` that says which topics a table is for, and its help.
pub(crate) const PATTERN: (&str, &str) = (
    "pattern",
    "Names of the topics that the table configures; * matches any characters, or none; every other \
     character matches itself",
);

/// The key that chooses hooks, and its help.
pub(crate) const HOOK: (&str, &str) = (
    "hook",
    "Name of the table [hooks.NAME] whose URLs are asked about these topics; those of [hooks] where it has none",
);

/// The keys of both kinds of tables. A running server takes over changes of all of them.
pub(crate) const KEYS: [Key; 24] = [
    Key {
        name: "slow",
        value: Value::Slow(|settings| &mut settings.slow),
        help: "Policy for slow consumers",
    },
    Key {
        name: "lag_bytes",
        // As of `--queue-bytes`, and for the same reasons.
        value: Value::Bytes(4 * 1024..=1 << 30, |settings| &mut settings.lag_bytes),
        help: "Maximum lag of a subscriber in encoded bytes, by default queue_bytes; also the size of a topic's log, for \
               each shard and format in use. At most memory_budget",
    },
    Key {
        name: "lag",
        // A busy network takes less than the minimum; above the maximum it would be history.
        value: Value::Time(100 * MILLISECOND..=HOUR, |settings| &mut settings.lag),
        help: "Maximum age of the oldest message not yet sent to a subscriber",
    },
    Key {
        name: "coalesce",
        value: Value::Time(0..=COALESCE_MAX, |settings| &mut settings.coalesce),
        help: "Maximum time to hold back messages while the shard is busy, so that one send carries more of \
               them. Less than lag",
    },
    Key {
        name: "history_messages",
        // More messages than a client would read to catch up.
        value: Value::Count(MESSAGES, |settings| &mut settings.history.messages),
        help: "Number of messages kept for clients that resume from an earlier position",
    },
    Key {
        name: "history_bytes",
        value: Value::Bytes(0..=1 << 30, |settings| &mut settings.history.bytes),
        help: "Maximum bytes of those messages, at most memory_budget",
    },
    Key {
        name: "history_age",
        value: Value::Time(0..=1_000 * HOUR, |settings| &mut settings.history.age),
        help: "Maximum age of those messages",
    },
    Key {
        name: "snapshot",
        value: Value::Count(MESSAGES, |settings| &mut settings.snapshot),
        help: "Number of the latest kept messages that a new subscriber of echoring.v1.json gets first, at most \
               history_messages. Where slow is \"conflate\" it gets the latest message of each key instead",
    },
    Key {
        name: "subscribe",
        value: Value::Permission(&SUBSCRIBE, &[], |settings| &mut settings.access.subscribe),
        help: "Who may subscribe. authenticated: clients with credentials; claim: clients whose credentials \
               name the topic; named: clients that the topic names behind its last #, as in chat:7#alice,bob; \
               operator: the admin address; hook: clients of Centrifuge's client protocol that --hooks-subscribe \
               allows",
    },
    Key {
        name: "publish",
        value: Value::Permission(&PUBLISH, &CLIENTS, |settings| &mut settings.access.publish),
        help: "Who may publish. The operator always may, except with nobody. subscriber: clients that subscribe to \
               the topic; hook: clients that --hooks-publish allows; clients is an older name of everybody",
    },
    Key {
        name: "presence",
        value: Value::Permission(&READ, &SWITCH, |settings| &mut settings.access.presence),
        help: "Which subscribers of echoring.v1.json are told who joins and leaves; true means everybody, \
               and false nobody",
    },
    Key {
        name: "history",
        value: Value::Permission(&READ, &[], |settings| &mut settings.access.history),
        help: "Which subscribers of echoring.v1.json are sent messages from before their subscription",
    },
    Key {
        name: "heartbeat",
        // More often is a load; more rarely tells nobody in time.
        value: Value::Time(SECOND..=HOUR, |settings| &mut settings.heartbeat),
        help: "Idle time after which subscribers of echoring.v1.json get the latest offset, which reveals a \
               loss of the last messages",
    },
    Key {
        name: "nats",
        value: Value::Relay(|settings| &mut settings.relay),
        help: "How messages are relayed to other NATS clients: not at all, as payload, or as a JSON event. Needs \
               --cluster-nats-clients",
    },
    Key {
        name: "delta",
        value: Value::Delta(|settings| &mut settings.delta),
        help: "Deltas that subscribers of Centrifuge's client protocol may request instead of whole \
               publications",
    },
    Key {
        name: "allow_tags_filter",
        value: Value::Switch(|settings| &mut settings.allow_tags_filter),
        help: "Whether subscribers of Centrifuge's client protocol may request publications with certain tags only. \
               It saves bandwidth, and keeps nothing secret",
    },
    Key {
        name: "compression_context",
        value: Value::Switch(|settings| &mut settings.compression_context),
        help: "Whether compressed messages may refer to earlier messages of the topic. Needs --compress shared. With it, the \
               length of a compressed message tells something about those before it",
    },
    Key {
        name: "publisher_info",
        value: Value::Switch(|settings| &mut settings.publisher_info),
        help: "Whether messages of clients name their publisher to subscribers of Centrifuge's client protocol: its user, its \
               id, and the application's data about it",
    },
    Key {
        name: "local_epochs",
        value: Value::Switch(|settings| &mut settings.local_epochs),
        help: "Whether a cluster node that cannot reach the topic's owner accepts messages for its own \
               clients meanwhile, in a local epoch (an even number)",
    },
    Key {
        name: "durable",
        value: Value::Switch(|settings| &mut settings.durable.is_on),
        help: "Whether a message is accepted only once JetStream has stored it, so that messages and \
               positions survive the nodes. Needs --cluster. Topics of one pattern share a stream",
    },
    Key {
        name: "durable_messages",
        value: Value::Count(1..=1_000_000_000, |settings| &mut settings.durable.messages),
        help: "Number of latest messages of each topic kept in its stream",
    },
    Key {
        name: "durable_bytes",
        value: Value::Bytes(1024 * 1024..=1 << 50, |settings| &mut settings.durable.bytes),
        help: "Maximum bytes of the stream",
    },
    Key {
        name: "durable_age",
        // A stream that forgets sooner than a client is taken for dead would be of no use.
        value: Value::Time(MINUTE..=10_000 * HOUR, |settings| &mut settings.durable.age),
        help: "Maximum age of the messages in the stream",
    },
    Key {
        name: "durable_replicas",
        value: Value::Count(1..=5, |settings| &mut settings.durable.replicas),
        help: "Number of NATS servers that store the stream",
    },
];

const MINUTE: Nanos = 60 * SECOND;
const HOUR: Nanos = 3_600 * SECOND;
const MESSAGES: RangeInclusive<u32> = 0..=1_000_000;
const SLOW: [(&str, SlowConsumerPolicy); 3] = [
    ("disconnect", SlowConsumerPolicy::Disconnect),
    ("drop-oldest", SlowConsumerPolicy::DropOldest),
    ("conflate", SlowConsumerPolicy::Conflate),
];
const DELTAS: [(&str, AllowedDelta); 2] = [("off", AllowedDelta::Off), ("fossil", AllowedDelta::Fossil)];
const RELAYS: [(&str, Relay); 3] = [("off", Relay::Off), ("raw", Relay::Raw), ("json", Relay::Json)];
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
/// An older word of `publish`.
const CLIENTS: [(&str, Permission); 1] = [("clients", Permission::Everybody)];
/// Older values of `presence`, which was a switch.
const SWITCH: [(&str, Permission); 2] = [("true", Permission::Everybody), ("false", Permission::Nobody)];

/// A key, its values, and its effect.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    value: Value,
    pub(crate) help: &'static str,
}

/// The values of a key, and the field that they set.
#[derive(Debug)]
enum Value {
    Slow(Field<SlowConsumerPolicy>),
    Relay(Field<Relay>),
    Switch(Field<bool>),
    Delta(Field<AllowedDelta>),
    /// Its words, and older ones for some of them.
    Permission(&'static [Word], &'static [Word], Field<Permission>),
    Bytes(RangeInclusive<usize>, Field<usize>),
    Time(RangeInclusive<Nanos>, Field<Nanos>),
    Count(RangeInclusive<u32>, Field<u32>),
}

/// A word for a permission.
type Word = (&'static str, Permission);
type Field<T> = fn(&mut TopicSettings) -> &mut T;

impl Key {
    /// Sets the field to the value of `entry`.
    pub(super) fn read(&self, entry: &Entry<'_>, settings: &mut TopicSettings) -> Result<(), Failure> {
        match &self.value {
            Value::Slow(field) => *field(settings) = entry.word(&SLOW)?,
            Value::Relay(field) => *field(settings) = entry.word(&RELAYS)?,
            Value::Switch(field) => *field(settings) = entry.boolean()?,
            Value::Delta(field) => *field(settings) = entry.word(&DELTAS)?,
            Value::Permission(words, older, field) => *field(settings) = permission(entry, older, words)?,
            Value::Bytes(range, field) => *field(settings) = entry.bytes(range)?,
            Value::Time(range, field) => *field(settings) = entry.time(range)?,
            Value::Count(range, field) => *field(settings) = entry.number(range)?,
        }
        Ok(())
    }

    /// Sets the field to its value in `from`.
    pub(super) fn copy(&self, mut from: TopicSettings, to: &mut TopicSettings) {
        match self.value {
            Value::Slow(field) => *field(to) = *field(&mut from),
            Value::Relay(field) => *field(to) = *field(&mut from),
            Value::Switch(field) => *field(to) = *field(&mut from),
            Value::Delta(field) => *field(to) = *field(&mut from),
            Value::Permission(.., field) => *field(to) = *field(&mut from),
            Value::Bytes(_, field) => *field(to) = *field(&mut from),
            Value::Time(_, field) => *field(to) = *field(&mut from),
            Value::Count(_, field) => *field(to) = *field(&mut from),
        }
    }

    /// The value of the field as a file has it.
    pub(crate) fn show(&self, mut settings: TopicSettings) -> String {
        match self.value {
            Value::Slow(field) => format!("\"{}\"", word_for(&SLOW, *field(&mut settings))),
            Value::Relay(field) => format!("\"{}\"", word_for(&RELAYS, *field(&mut settings))),
            Value::Switch(field) => field(&mut settings).to_string(),
            Value::Delta(field) => format!("\"{}\"", word_for(&DELTAS, *field(&mut settings))),
            Value::Permission(words, _, field) => format!("\"{}\"", word_for(words, *field(&mut settings))),
            Value::Bytes(_, field) => format!("\"{}\"", shown_bytes(*field(&mut settings) as u64)),
            Value::Time(_, field) => format!("\"{}\"", shown_time(*field(&mut settings))),
            Value::Count(_, field) => field(&mut settings).to_string(),
        }
    }

    /// The values that the key can have.
    pub(crate) fn values(&self) -> String {
        match &self.value {
            Value::Slow(_) => words(&SLOW),
            Value::Relay(_) => words(&RELAYS),
            Value::Switch(_) => "true, false".to_owned(),
            Value::Delta(_) => words(&DELTAS),
            Value::Permission(of_key, ..) => words(of_key),
            Value::Bytes(range, _) => {
                format!("bytes {}", shown_range(range, |bytes| shown_bytes(*bytes as u64)))
            }
            Value::Time(range, _) => format!("time {}", shown_range(range, |time| shown_time(*time))),
            Value::Count(range, _) => format!("number {}", shown_range(range, ToString::to_string)),
        }
    }
}

/// A permission, perhaps by an older word for it, or by a truth value.
fn permission(entry: &Entry<'_>, older: &[Word], words: &[Word]) -> Result<Permission, Failure> {
    if let Ok(is_on) = entry.boolean()
        && let Some((_, permission)) = older.iter().find(|(word, _)| *word == is_on.to_string())
    {
        return Ok(*permission);
    }
    // An error names the present words only.
    entry.word(older).or_else(|_| entry.word(words))
}

fn words<T>(words: &[(&str, T)]) -> String {
    words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}

fn word_for<T: PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, word_meaning)| *word_meaning == meaning).map_or("", |(word, _)| word)
}

/// The keys as `serve --help` explains them.
pub(crate) fn help() -> String {
    let (pattern, pattern_help) = PATTERN;
    let mut text = format!(
        "Keys of [[topics]] and [topic_defaults] in the file of --config:\n  {pattern}\n          {pattern_help}\n"
    );
    let (hook, hook_help) = HOOK;
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {hook}\n          {hook_help}");
    for key in &KEYS {
        let (name, help, values) = (key.name, key.help, key.values());
        let default = key.show(TopicSettings::default());
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {name} = {default}\n          {help} [{values}]");
    }
    text
}
