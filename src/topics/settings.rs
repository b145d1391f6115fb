//! Settings of topics: bounds on lag and the slow-consumer policy, bounds on history, and the permission to publish.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use super::access::{Access, Permission, Right};
use crate::limits::{
    COUNTED_PATTERNS_MAX, DURABLE_AGE_DEFAULT, DURABLE_BYTES_DEFAULT, DURABLE_MESSAGES_DEFAULT,
    HEARTBEAT_INTERVAL, HISTORY_AGE_DEFAULT, HISTORY_BYTES_DEFAULT, HISTORY_MESSAGES_DEFAULT, LAG_MAX,
};
use echoring_proto::limits::{Nanos, QUEUE_BYTES_DEFAULT};

/// The policy for subscribers above their lag bound. Raw routes cannot report a gap, so they always disconnect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowConsumerPolicy {
    /// The connection is closed with 4008.
    #[default]
    Disconnect,
    /// The subscriber loses the oldest messages, and is notified which.
    DropOldest,
    /// Of the messages that it would lose, the subscriber gets the latest of each key, and the number of the others.
    Conflate,
}

/// Whether the messages of a topic are also published for other programs at the backbone of a cluster, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Relay {
    /// They are not.
    #[default]
    Off,
    /// As their payloads.
    Raw,
    /// As events in JSON.
    Json,
}

echoring_proto::plain!(for enum Relay { Off, Raw, Json });

/// The deltas that subscribers of Centrifuge's client protocol may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedDelta {
    /// None.
    #[default]
    Off,
    /// Those in Fossil's format.
    Fossil,
}

/// Bounds on a topic's history. All three apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Maximum number of messages; 0 keeps none.
    pub messages: u32,
    /// Maximum bytes.
    pub bytes: usize,
    /// Maximum age.
    pub age: Nanos,
}

impl Default for HistoryBounds {
    fn default() -> HistoryBounds {
        HistoryBounds {
            messages: HISTORY_MESSAGES_DEFAULT,
            bytes: HISTORY_BYTES_DEFAULT,
            age: HISTORY_AGE_DEFAULT,
        }
    }
}

/// Whether messages of topics are accepted once a stream at the backbone of a cluster has stored them, and how it keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Whether they are.
    pub is_on: bool,
    /// Identifies the stream. Topics of one pattern share one.
    pub stream: u64,
    /// Maximum messages of a topic, from its last one back.
    pub messages: u32,
    /// Maximum bytes of the stream.
    pub bytes: usize,
    /// Maximum age.
    pub age: Nanos,
    /// Servers that keep the stream.
    pub replicas: u32,
}

impl Default for Durable {
    fn default() -> Durable {
        Durable {
            is_on: false,
            stream: 0,
            messages: DURABLE_MESSAGES_DEFAULT,
            bytes: DURABLE_BYTES_DEFAULT,
            age: DURABLE_AGE_DEFAULT,
            replicas: 1,
        }
    }
}

/// The settings of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// The policy for subscribers above their lag bound.
    pub slow: SlowConsumerPolicy,
    /// Maximum encoded bytes that a subscriber may lag behind, in each format.
    pub lag_bytes: usize,
    /// Maximum age of the oldest message not yet sent to a subscriber.
    pub lag: Nanos,
    /// Maximum time that messages wait for others while the shard is busy, so that more of them are sent together; 0
    /// disables waiting.
    pub coalesce: Nanos,
    /// Bounds on the history.
    pub history: HistoryBounds,
    /// Number of stored messages that a new subscriber is sent first, if its protocol supports it. On a conflated
    /// topic, new subscribers always get the latest message of each key.
    pub snapshot: u32,
    /// The permissions.
    pub access: Access,
    /// Interval at which subscribers of an idle topic are sent its last offset, if their protocol supports it.
    pub heartbeat: Nanos,
    /// The form for other programs at the backbone.
    pub relay: Relay,
    /// Whether a node of a cluster orders the topic for its own clients while it does not reach its owner.
    pub local_epochs: bool,
    /// Whether and how its messages outlive the node.
    pub durable: Durable,
    /// Deltas that subscribers may ask for.
    pub delta: AllowedDelta,
    /// Whether subscribers may ask for messages with certain tags only.
    pub allow_tags_filter: bool,
    /// Whether compressed messages may refer to earlier ones, where the server's compression has shared contexts. Whoever may publish
    /// to the topic and sees the lengths of what others are sent can then guess at other messages of it.
    pub compression_context: bool,
    /// Whether messages of sessions name their publisher.
    pub publisher_info: bool,
    /// Identifies the application's hooks that are asked; 0 for those without a name.
    pub hooks: u64,
}

impl TopicSettings {
    /// Whether new subscribers are sent stored messages first.
    pub fn has_snapshot(&self) -> bool {
        self.slow == SlowConsumerPolicy::Conflate || self.snapshot > 0
    }

    /// These settings for a topic that exists and has settings `used`. It keeps its policy and the size of its logs, on
    /// which the accounts of its subscribers are built, whether it tracks presence, and whether and where it is durable.
    pub(super) fn renewing(&self, used: &TopicSettings) -> TopicSettings {
        let TopicSettings { slow, lag_bytes, durable: Durable { is_on, stream, .. }, .. } = *used;
        let durable = Durable { is_on, stream, ..self.durable };
        let mut access = self.access;
        if self.has_presence() != used.has_presence() {
            access.presence = used.access.presence;
        }
        TopicSettings { slow, lag_bytes, access, durable, ..*self }
    }

    /// Whether the topic counts its subscribers, and the subscribers that are notified of joins and leaves.
    pub fn has_presence(&self) -> bool {
        self.access.presence != Permission::Nobody
    }

    /// Whether messages without a key, or from clients, are refused: raw routes cannot receive the reason.
    pub fn refuses_raw(&self) -> bool {
        self.slow == SlowConsumerPolicy::Conflate || !self.access.publish.includes_clients()
    }
}

impl Default for TopicSettings {
    fn default() -> TopicSettings {
        TopicSettings {
            slow: SlowConsumerPolicy::Disconnect,
            lag_bytes: QUEUE_BYTES_DEFAULT as usize,
            lag: LAG_MAX,
            coalesce: 0,
            history: HistoryBounds::default(),
            snapshot: 0,
            access: Access::default(),
            heartbeat: HEARTBEAT_INTERVAL,
            relay: Relay::Off,
            local_epochs: false,
            durable: Durable::default(),
            delta: AllowedDelta::Off,
            allow_tags_filter: false,
            compression_context: true,
            publisher_info: false,
            hooks: 0,
        }
    }
}

/// Stands for the default settings, which apply where no pattern matches.
pub const DEFAULT_PATTERN: &str = "*";

/// Settings by the names of topics. The first matching pattern decides.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Arc<[(Pattern, TopicSettings)]>,
    default: TopicSettings,
    /// The rights that everybody has on all topics, in the order of [`Right::ALL`].
    for_everybody: [bool; 4],
    /// Whether messages of some topic name their publishers.
    some_name_publishers: bool,
    /// The beginning of the names of personal topics; `None` for none.
    personal: Option<Arc<str>>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules::new(Vec::new(), TopicSettings::default())
    }
}

impl Rules {
    /// Rules in the order in which they are tried, and the default.
    pub fn new(rules: Vec<(Pattern, TopicSettings)>, default: TopicSettings) -> Rules {
        let for_everybody = Right::ALL.map(|right| {
            let mut all = rules.iter().map(|(_, settings)| settings).chain([&default]);
            all.all(|settings| settings.access.of(right) == Permission::Everybody)
        });
        let some_name_publishers = rules
            .iter()
            .map(|(_, settings)| settings)
            .chain([&default])
            .any(|settings| settings.publisher_info);
        Rules { rules: rules.into(), default, for_everybody, some_name_publishers, personal: None }
    }

    /// These rules where clients have personal topics: `prefix` with a client's subject behind it. `None` for none.
    #[must_use]
    pub fn with_personal(self, prefix: Option<&str>) -> Rules {
        Rules { personal: prefix.map(Arc::from), ..self }
    }

    /// The name of the personal topic of a client; `None` if clients have none.
    pub fn personal_topic(&self, subject: &str) -> Option<String> {
        self.personal.as_ref().map(|prefix| format!("{prefix}{subject}"))
    }

    /// Identifies the part of the rules that all nodes of a cluster should share: the patterns, the stored messages,
    /// and the permissions. It is never 0.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let rules = self.rules.iter().map(|(pattern, settings)| (pattern.text(), settings));
        for (pattern, settings) in rules.chain([("", &self.default)]) {
            let TopicSettings { slow, history, snapshot, access, relay, .. } = settings;
            let TopicSettings { local_epochs, durable, delta, .. } = settings;
            let kept = (slow, history, snapshot, local_epochs, durable);
            hasher.write(format!("{pattern:?} {kept:?} {access:?} {relay:?} {delta:?}\n").as_bytes());
        }
        hasher.finish().max(1)
    }

    /// These rules with one more, which is tried after them and before the default.
    #[must_use]
    pub fn with(&self, pattern: Pattern, settings: TopicSettings) -> Rules {
        let mut rules = self.rules.to_vec();
        rules.push((pattern, settings));
        Rules { personal: self.personal.clone(), ..Rules::new(rules, self.default) }
    }

    /// Whether everybody has a right on all topics, so that nothing need be looked up.
    #[inline]
    pub fn is_for_everybody(&self, right: Right) -> bool {
        self.for_everybody[right as usize]
    }

    /// Whether messages of some topic name their publishers.
    #[inline]
    pub fn some_name_publishers(&self) -> bool {
        self.some_name_publishers
    }

    /// The settings of the topic `name`.
    pub fn of(&self, name: &str) -> &TopicSettings {
        self.rule(name).map_or(&self.default, |(_, settings)| settings)
    }

    /// The pattern whose settings the topic `name` has, or [`DEFAULT_PATTERN`].
    pub fn pattern(&self, name: &str) -> &str {
        self.rule(name).map_or(DEFAULT_PATTERN, |(pattern, _)| pattern.text())
    }

    /// The pattern under which the topic `name` is counted: its own, or [`DEFAULT_PATTERN`] if too many are before it.
    pub fn counted_pattern(&self, name: &str) -> &str {
        match self.counted_number(name).checked_sub(1) {
            Some(rule) => self.rules[rule].0.text(),
            None => DEFAULT_PATTERN,
        }
    }

    /// All patterns of [`counted_pattern`](Self::counted_pattern), the default first.
    pub fn counted_patterns(&self) -> impl Iterator<Item = &str> {
        let counted = self.rules.iter().take(COUNTED_PATTERNS_MAX);
        [DEFAULT_PATTERN].into_iter().chain(counted.map(|(pattern, _)| pattern.text()))
    }

    /// The number of the topic's pattern among the counted ones.
    pub(crate) fn counted_number(&self, name: &str) -> usize {
        let rule = self.rules.iter().position(|(pattern, _)| pattern.fits(name));
        rule.filter(|rule| *rule < COUNTED_PATTERNS_MAX).map_or(0, |rule| rule + 1)
    }

    fn rule(&self, name: &str) -> Option<&(Pattern, TopicSettings)> {
        self.rules.iter().find(|(pattern, _)| pattern.fits(name))
    }

    /// All settings, including the default.
    pub fn all(&self) -> impl Iterator<Item = &TopicSettings> {
        self.rules.iter().map(|(_, settings)| settings).chain([&self.default])
    }
}

/// A pattern for topic names: `*` matches any characters, also none; all others match themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern that `written` is.
    pub fn new(written: &str) -> Pattern {
        Pattern(written.into())
    }

    /// The pattern as text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches `name`.
    pub fn fits(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        // `split` gives at least one part.
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The earliest match of each part leaves the most for those behind it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_does() {
        for (pattern, fitting, others) in [
            ("a", &["a"][..], &["", "b", "aa", "A"][..]),
            ("*", &["", "a", "a*b"], &[]),
            ("prices.*", &["prices.", "prices.EUR.USD"], &["prices", "x.prices.a"]),
            ("*.raw", &[".raw", "a.raw", "a.raw.raw"], &["raw", "a.raw.b"]),
            ("a*b*c", &["abc", "axbyc", "abbcc", "abcbc"], &["ab", "acb", "bc"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("ä*", &["äö"], &["ö"]),
            ("a?", &["a?"], &["ab"]),
        ] {
            let pattern = Pattern::new(pattern);
            for name in fitting {
                assert!(pattern.fits(name), "{pattern:?} matches {name}");
            }
            for name in others {
                assert!(!pattern.fits(name), "{pattern:?} does not match {name}");
            }
        }
    }

    #[test]
    fn rules_have_another_digest_if_something_differs_that_nodes_should_have_in_common() {
        let default = TopicSettings::default();
        let rules = |pattern: &str, settings| Rules::new(vec![(Pattern::new(pattern), settings)], default);
        let digest = rules("a.*", default).digest();
        let durable = Durable { is_on: true, ..default.durable };
        let history = HistoryBounds { messages: 7, ..default.history };
        for others in [
            rules("b.*", default),
            rules("a.*", TopicSettings { durable, ..default }),
            rules("a.*", TopicSettings { history, ..default }),
            Rules::new(Vec::new(), default),
            rules("a.*", default).with(Pattern::new("b"), default),
        ] {
            assert_ne!(others.digest(), digest, "{others:?}");
        }
        assert_eq!(rules("a.*", default).digest(), digest);
        let local = TopicSettings { lag_bytes: 7, ..default };
        assert_eq!(rules("a.*", local).digest(), digest, "how much a subscriber may lag is a node's own");
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let settings = |lag_bytes| TopicSettings { lag_bytes, ..TopicSettings::default() };
        let rules = Rules::new(
            vec![(Pattern::new("a.b"), settings(1)), (Pattern::new("a.*"), settings(2))],
            settings(3),
        );
        assert_eq!(["a.b", "a.c", "b"].map(|name| rules.of(name).lag_bytes), [1, 2, 3]);
        assert_eq!(rules.all().count(), 3);
        let more = rules.with(Pattern::new("*"), settings(4));
        assert_eq!(["a.b", "a.c", "b"].map(|name| more.of(name).lag_bytes), [1, 2, 4]);
    }

    #[test]
    fn a_right_is_everybodys_where_no_pattern_restricts_it() {
        let access = Access { publish: Permission::Claim, ..Access::default() };
        let restricted = TopicSettings { access, ..TopicSettings::default() };
        let rules = Rules::new(vec![(Pattern::new("a"), restricted)], TopicSettings::default());
        let everybodys = |rules: &Rules| Right::ALL.map(|right| rules.is_for_everybody(right));
        assert_eq!(everybodys(&rules), [true, false, false, true]);
        assert_eq!(everybodys(&Rules::default()), [true, true, false, true]);
    }
}
