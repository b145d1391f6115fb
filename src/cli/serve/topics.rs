//! `[[topics]]` and `[topic_defaults]` of a configuration file: settings of topics, by patterns of their names.
//!
//! A table overrides `[topic_defaults]`, which overrides the defaults and the flags. Contradictions are errors with the
//! line of the table. [`keys`] declares the keys.

pub(crate) mod keys;

use self::keys::{KEYS, TopicKeys};
use super::backends::BackendTable;
use super::hooks::tables::HookTables;
use super::keys::Table;
use super::routes::RouteTable;
use super::webhooks::WebhookTable;

use crate::Failure;
use crate::common::file::{Entry, Place};
use crate::common::values;
use echoring_auth::hooks_id;
use echoring_topics::limits::TOPIC_BYTES_MAX;
use echoring_topics::{Pattern, Permission, Relay, Right, Rules, SlowConsumerPolicy, TopicSettings};

/// The settings of the topics of a pattern, and the keys that a file gives.
pub(super) type Topic = Table<TopicKeys>;

/// The settings of topics by pattern, in the order in which the patterns are tried, and the default.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    pub(super) rules: Vec<Topic>,
    pub(super) default: Topic,
}

impl Topics {
    /// The same as the hub reads it.
    pub(super) fn rules(&self) -> Rules {
        let rules =
            self.rules.iter().map(|topic| (Pattern::new(&topic.value.pattern), effective(&topic.value)));
        Rules::new(rules.collect(), effective(&self.default.value))
    }

    /// Refuses settings that have no effect without something else.
    ///
    /// # Errors
    /// [`Failure::Usage`], with the place of the first one.
    pub(super) fn check(&self, beside: &Beside, hooks: &HookTables) -> Result<(), Failure> {
        let Beside { relays, cluster, subscribe_hook, publish_hook, identities } = *beside;
        let asks =
            |right: Right, permission| move |topic: &TopicKeys| topic.settings.access.of(right) == permission;
        if !relays {
            let needed = "has no effect without cluster.nats_clients";
            self.refuse("nats", |topic| topic.settings.relay != Relay::Off, needed)?;
        }
        if !cluster {
            let needed = "has no effect without a cluster (cluster.servers)";
            self.refuse("durable", |topic| topic.settings.durable.is_on, needed)?;
        }
        for (right, is_there, hook) in [
            (Right::Subscribe, subscribe_hook, "hooks.subscribe"),
            (Right::Publish, publish_hook, "hooks.publish"),
        ] {
            if !is_there {
                let needed = format!("\"hook\" needs {hook}, the URL to ask");
                let asks = asks(right, Permission::Hook);
                let named = |topic: &TopicKeys| {
                    topic.hook.as_deref().is_some_and(|name| hooks.asks(name, right.word()))
                };
                self.refuse(right.word(), |topic| asks(topic) && !named(topic), &needed)?;
            }
        }
        let is_unknown = |topic: &TopicKeys| topic.hook.as_deref().is_some_and(|name| !hooks.has(name));
        self.refuse("hook", is_unknown, "there is no table [hooks.NAME] of this name")?;
        if !identities {
            for (permission, word) in [
                (Permission::Claim, "claim"),
                (Permission::Authenticated, "authenticated"),
                (Permission::Named, "named"),
            ] {
                let needed = format!("\"{word}\" lets nobody in without [auth]");
                Right::ALL
                    .iter()
                    .try_for_each(|right| self.refuse(right.word(), asks(*right, permission), &needed))?;
            }
        }
        Ok(())
    }

    /// An error in `key`, where the first settings are of which this is true.
    fn refuse(
        &self,
        key: &'static str,
        is_so: impl Fn(&TopicKeys) -> bool,
        explanation: &str,
    ) -> Result<(), Failure> {
        let found = self.rules.iter().chain([&self.default]).find(|topic| is_so(&topic.value));
        found.map_or(Ok(()), |topic| Err(topic.wrong_in(&[key], explanation)))
    }
}

/// The parts of the configuration that some settings of topics need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    /// Other clients of NATS.
    pub(super) relays: bool,
    pub(super) cluster: bool,
    /// The hook that is asked about subscriptions, and the one about publications.
    pub(super) subscribe_hook: bool,
    pub(super) publish_hook: bool,
    /// A source of client identities, even if it identifies nobody.
    pub(super) identities: bool,
}

/// The settings that topics have. A history is of 0 messages if any of its bounds is 0: the hub's logs keep their latest message
/// whatever their bound in bytes. The stream of durable topics is the pattern's FNV-1a hash, the same on any node and in any version.
fn effective(topic: &TopicKeys) -> TopicSettings {
    let TopicKeys { pattern, hook, mut settings } = topic.clone();
    if settings.history.bytes == 0 || settings.history.age == 0 {
        settings.history.messages = 0;
    }
    if let Some(name) = hook {
        settings.hooks = hooks_id(&name);
    }
    if settings.durable.is_on {
        let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        settings.durable.stream = pattern.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    }
    settings
}

/// The tables as they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    defaults: Option<Topic>,
    topics: Vec<Topic>,
    /// `[[routes]]`.
    pub(super) routes: Vec<RouteTable>,
    /// `[[backends]]`.
    pub(super) backends: Vec<BackendTable>,
    /// What `[hooks]` has beside options.
    pub(super) hooks: HookTables,
    /// `[[webhooks]]`.
    pub(super) webhooks: Vec<WebhookTable>,
}

impl Tables {
    pub(super) fn are_empty(&self) -> bool {
        let Tables { defaults, topics, routes, backends, hooks, webhooks } = self;
        defaults.is_none()
            && hooks.is_empty()
            && [topics.len(), routes.len(), backends.len(), webhooks.len()] == [0; 4]
    }

    /// Reads `[topic_defaults]`.
    pub(super) fn read_defaults(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        let table = Table::read(KEYS, &entry.table()?, entry.place.clone(), TopicKeys::default())?;
        if let Some(place) = table.given.get("pattern") {
            return Err(place.wrong("the defaults apply to all topics; patterns belong in [[topics]]"));
        }
        self.defaults = Some(table);
        Ok(())
    }

    /// Reads all of `[[topics]]`.
    pub(super) fn read_topics(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        self.topics = Table::read_all(entry, KEYS, usize::MAX, TopicKeys::default, check_pattern)?;
        Ok(())
    }

    /// The settings of topics, with `base` for those that no table covers. Logs and histories have
    /// to fit in `memory_budget`.
    ///
    /// # Errors
    /// If a table contradicts other settings.
    pub(super) fn over(&self, base: TopicSettings, memory_budget: u64) -> Result<Topics, Failure> {
        let resolve = |table: &Topic, base: &Topic| {
            let topic = table.over(base);
            check(table, &topic.value.settings, memory_budget).map(|()| topic)
        };
        let base = Table::none(KEYS, TopicKeys { settings: base, ..TopicKeys::default() });
        let default = match &self.defaults {
            Some(table) => resolve(table, &base)?,
            None => base,
        };
        let rules = self.topics.iter().map(|table| resolve(table, &default)).collect::<Result<_, _>>()?;
        Ok(Topics { rules, default })
    }
}

/// Refuses a table that is for no topic.
fn check_pattern(before: &[Topic], table: &Topic) -> Result<(), Failure> {
    let pattern = &table.value.pattern;
    let Some(place) = table.given.get("pattern") else {
        let hint = "say which topics it is for, such as pattern = \"prices.*\"";
        return Err(table.wrong_in(&["pattern"], &format!("missing; {hint}")));
    };
    if pattern.bytes().filter(|&byte| byte != b'*').count() > TOPIC_BYTES_MAX {
        return Err(place.wrong(&format!("matches no topic: names have at most {TOPIC_BYTES_MAX} bytes")));
    }
    // A star of the later pattern can only be one of the characters that a star of the earlier stands for: no
    // other part of a pattern has stars. So the earlier fits all names of the later if it fits the later itself.
    let Some(earlier) = before.iter().find(|earlier| Pattern::new(&earlier.value.pattern).fits(pattern))
    else {
        return Ok(());
    };
    let line = earlier.given.get("pattern").map_or(0, Place::line_number);
    let earlier = &earlier.value.pattern;
    Err(place.wrong(&format!(
        "\"{pattern}\" is never tried: \"{earlier}\" in line {line} matches all its topics; put it first"
    )))
}

/// Refuses contradictions: `settings` is the result of `table`.
fn check(table: &Topic, settings: &TopicSettings, memory_budget: u64) -> Result<(), Failure> {
    if settings.coalesce >= settings.lag {
        return Err(table.wrong_in(
            &["coalesce", "lag"],
            &format!(
                "messages held back for {} would already be late: lag is {}",
                values::shown_time(settings.coalesce),
                values::shown_time(settings.lag)
            ),
        ));
    }
    for (key, bytes) in [("lag_bytes", settings.lag_bytes), ("history_bytes", settings.history.bytes)] {
        if bytes as u64 > memory_budget {
            let budget = values::shown_bytes(memory_budget);
            return Err(table.wrong_in(&[key], &format!("must be at most memory_budget, {budget}")));
        }
    }
    if settings.durable.is_on && settings.slow == SlowConsumerPolicy::Conflate {
        let explanation = "keeps every message, and slow = \"conflate\" only the latest of each key";
        return Err(table.wrong_in(&["durable", "slow"], explanation));
    }
    if settings.durable.is_on && settings.local_epochs {
        let explanation = "accepts only what is stored, so it has no local_epochs";
        return Err(table.wrong_in(&["durable", "local_epochs"], explanation));
    }
    check_history(table, settings)
}

/// Refuses a history that is requested but bounded to 0, and a snapshot larger than the history.
fn check_history(table: &Topic, settings: &TopicSettings) -> Result<(), Failure> {
    if settings.snapshot > settings.history.messages {
        let explanation =
            format!("must be at most history_messages, {}; raise that too", settings.history.messages);
        return Err(table.wrong_in(&["snapshot", "history_messages"], &explanation));
    }
    let bounds = [
        ("history_messages", settings.history.messages == 0),
        ("history_bytes", settings.history.bytes == 0),
        ("history_age", settings.history.age == 0),
    ];
    let Some((nothing, _)) = bounds.into_iter().find(|(_, is_zero)| *is_zero) else { return Ok(()) };
    let useless = bounds.into_iter().find(|(key, is_zero)| !is_zero && table.has(key));
    let explanation = || format!("has no effect: {nothing} is 0, which keeps no message; raise that too");
    useless.map_or(Ok(()), |(key, _)| Err(table.wrong_in(&[key], &explanation())))
}

#[cfg(test)]
mod tests {
    use crate::Failure;
    use crate::common::file::Source;
    use crate::serve::config::ConfigFile;

    fn read(text: &str) -> Result<ConfigFile, Failure> {
        ConfigFile::read(Source::new("f", text.into())?)
    }

    fn complaint(text: &str) -> String {
        let base = echoring_topics::TopicSettings::default();
        match read(text).and_then(|file| file.tables.over(base, 16 << 20)) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn what_a_topic_cannot_have_is_told_with_its_place() {
        for (body, line) in [
            (
                "slow = \"drop\"",
                "slow: expected \"disconnect\" or \"drop-oldest\" or \"conflate\", found \"drop\"",
            ),
            ("lag_bytes = \"1KiB\"", "lag_bytes: must be from 4KiB to 1GiB"),
            ("lag_bytes = \"32MiB\"", "lag_bytes: must be at most memory_budget, 16MiB"),
            ("lag = 5", "lag: expected a time such as \"5s\", found 5"),
            ("lag = \"10ms\"", "lag: must be from 100ms to 1h"),
            ("coalesce = \"2s\"", "coalesce: must be from 0s to 1s"),
            (
                "coalesce = \"500ms\"\nlag = \"200ms\"",
                "coalesce: messages held back for 500ms would already be late",
            ),
            (
                "history_messages = \"ten\"",
                "history_messages: expected a number from 0 to 1000000, found \"ten\"",
            ),
            ("history_messages = -1", "history_messages: expected a number from 0 to 1000000, found -1"),
            ("history_bytes = \"32MiB\"", "history_bytes: must be at most"),
            (
                "history_age = \"0s\"\nhistory_messages = 5",
                "history_messages: has no effect: history_age is 0",
            ),
            ("snapshot = 101", "snapshot: must be at most history_messages, 100; raise that too"),
            ("durable = true\nslow = \"conflate\"", "durable: keeps every message, and slow"),
            ("durable = true\nlocal_epochs = true", "durable: accepts only what is stored"),
            ("durable = \"yes\"", "durable: expected true or false"),
            ("durable_age = \"1s\"", "durable_age: must be from 1m"),
            ("presence = 1", "presence: expected \"nobody\" or \"everybody\" or \"authenticated\""),
            ("publish = \"anybody\"", "publish: expected \"nobody\" or \"everybody\""),
            ("heartbeat = \"100ms\"", "heartbeat: must be from 1s to 1h"),
            ("lag_byte = 1", "lag_byte: there is no such key; did you mean `lag_bytes`?"),
            ("colour = 1", "colour: there is no such key; the keys here are pattern, slow, "),
        ] {
            let complaint = complaint(&format!("[[topics]]\npattern = \"a\"\n{body}"));
            assert!(
                complaint.contains(&format!(": topics.{line}")) || complaint.contains(&format!(": {line}"))
            );
            assert!(complaint.starts_with("f:3:") || complaint.starts_with("f:4:"), "{complaint}");
        }
    }

    #[test]
    fn a_pattern_that_is_never_tried_is_refused() {
        for (earlier, later) in [("a", "a"), ("*", "a"), ("a.*", "a.b.*"), ("*", "**"), ("a*c", "a*b*c")] {
            let text = format!("[[topics]]\npattern = \"{earlier}\"\n[[topics]]\npattern = \"{later}\"");
            let complaint = complaint(&text);
            let never = format!(
                "f:4:11: topics.pattern: \"{later}\" is never tried: \"{earlier}\" in line 2 matches"
            );
            assert!(complaint.starts_with(&never), "{complaint}");
        }
        for (earlier, later) in [("a", "a.*"), ("a.*", "*.a"), ("a.b.*", "a.*"), ("a*b", "*b")] {
            let text = format!("[[topics]]\npattern = \"{earlier}\"\n[[topics]]\npattern = \"{later}\"");
            read(&text).expect("both are tried");
        }
    }

    #[test]
    fn a_table_of_topics_says_which_it_is_for() {
        let missing = complaint("log = \"info\"\n  [[topics]]\nslow = \"conflate\"");
        assert!(missing.starts_with("f:2:3: topics.pattern: missing; say which topics"), "{missing}");
        assert!(
            complaint("[[topics]]\npattern = \"\"").starts_with("f:2:11: topics.pattern: expected names")
        );
        let long = format!("[[topics]]\npattern = \"{}*\"", "x".repeat(256));
        assert!(complaint(&long).contains("matches no topic: names have at most 255 bytes"));
        let defaults = complaint("[topic_defaults]\npattern = \"a\"");
        assert!(
            defaults.starts_with("f:2:11: topic_defaults.pattern: the defaults apply to all topics"),
            "{defaults}"
        );
    }

    #[test]
    fn a_history_bounded_to_nothing_keeps_no_message() {
        for bound in ["history_messages = 0", "history_bytes = 0", "history_age = \"0s\""] {
            let text = format!("[topic_defaults]\n{bound}\n[[topics]]\npattern = \"a\"\nlag = \"1s\"");
            let file = read(&text).expect("valid");
            let topics =
                file.tables.over(echoring_topics::TopicSettings::default(), 16 << 20).expect("valid");
            for name in ["a", "b"] {
                assert_eq!(topics.rules().of(name).history.messages, 0, "{bound}");
            }
        }
    }

    #[test]
    fn defaults_that_a_topic_contradicts_are_told_at_the_topic() {
        let text = "[topic_defaults]\ncoalesce = \"500ms\"\n[[topics]]\npattern = \"a\"\nlag = \"200ms\"";
        assert!(complaint(text).starts_with("f:5:7: topics.lag: messages held back"), "{}", complaint(text));
        let text =
            "[topic_defaults]\nhistory_messages = 0\n[[topics]]\npattern = \"a\"\nhistory_age = \"1h\"";
        assert!(
            complaint(text).starts_with("f:5:15: topics.history_age: has no effect: history_messages is 0")
        );
    }
}
