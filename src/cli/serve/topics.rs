//! `[[topics]]` and `[topic_defaults]` of a configuration file: settings of topics, by patterns of their names.
//!
//! A table overrides `[topic_defaults]`, which overrides the defaults and the flags. Contradictions are errors with the
//! line of the table. [`keys`] declares the keys.

pub(crate) mod keys;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::keys::{HOOK, KEYS, PATTERN};
use super::backends::BackendTable;
use super::hooks::tables::HookTables;
use super::routes::RouteTable;
use super::webhooks::WebhookTable;

use crate::Failure;
use crate::common::file::{Entry, Place, Source};
use crate::common::values;
use echoring_auth::hooks_id;
use echoring_topics::limits::TOPIC_BYTES_MAX;
use echoring_topics::{Pattern, Permission, Relay, Right, Rules, SlowConsumerPolicy, TopicSettings};

/// The settings of topics by pattern, in the order in which the patterns are tried, and the default.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    pub(super) rules: Vec<(String, Topic)>,
    pub(super) default: Topic,
}

/// The settings of a topic.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) settings: TopicSettings,
    /// The name of the hooks that are asked; `None` for those without.
    pub(super) hook: Option<String>,
    /// The keys that a file gives.
    pub(super) places: BTreeMap<&'static str, Place>,
}

impl Topics {
    /// The same as the hub reads it.
    pub(super) fn rules(&self) -> Rules {
        let rules = self
            .rules
            .iter()
            .map(|(pattern, topic)| (Pattern::new(pattern), stored(pattern, kept(topic.settings))));
        Rules::new(rules.collect(), stored("", kept(self.default.settings)))
    }

    /// Refuses settings that have no effect without something else.
    ///
    /// # Errors
    /// [`Failure::Usage`], with the place of the first one.
    pub(super) fn check(&self, beside: &Beside, hooks: &HookTables) -> Result<(), Failure> {
        let Beside { relays, cluster, subscribe_hook, publish_hook, identities } = *beside;
        let asks = |right: Right, permission| {
            move |settings: &TopicSettings| settings.access.of(right) == permission
        };
        if !relays {
            let needed = "has no effect without cluster.nats_clients";
            self.refuse("nats", |settings| settings.relay != Relay::Off, needed)?;
        }
        if !cluster {
            let needed = "has no effect without a cluster (cluster.servers)";
            self.refuse("durable", |settings| settings.durable.is_on, needed)?;
        }
        for (right, is_there, hook) in [
            (Right::Subscribe, subscribe_hook, "hooks.subscribe"),
            (Right::Publish, publish_hook, "hooks.publish"),
        ] {
            if !is_there {
                let needed = format!("\"hook\" needs {hook}, the URL to ask");
                let asks = asks(right, Permission::Hook);
                let named =
                    |topic: &Topic| topic.hook.as_deref().is_some_and(|name| hooks.asks(name, right.word()));
                self.refuse_topic(right.word(), |topic| asks(&topic.settings) && !named(topic), &needed)?;
            }
        }
        let is_unknown = |topic: &Topic| topic.hook.as_deref().is_some_and(|name| !hooks.has(name));
        self.refuse_topic(HOOK.0, is_unknown, "there is no table [hooks.NAME] of this name")?;
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
        is_so: impl Fn(&TopicSettings) -> bool,
        explanation: &str,
    ) -> Result<(), Failure> {
        self.refuse_topic(key, |topic| is_so(&topic.settings), explanation)
    }

    /// The same, of topics.
    fn refuse_topic(
        &self,
        key: &'static str,
        is_so: impl Fn(&Topic) -> bool,
        explanation: &str,
    ) -> Result<(), Failure> {
        let mut all = self.rules.iter().map(|(_, topic)| topic).chain([&self.default]);
        let Some(found) = all.find(|topic| is_so(topic)) else { return Ok(()) };
        let named = || Failure::Usage(format!("{key}: {explanation}"));
        Err(found.places.get(key).map_or_else(named, |place| place.wrong(explanation)))
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

/// `settings` with a history of 0 messages if any of its bounds is 0:
/// the hub's logs keep their latest message whatever their bound in bytes.
fn kept(mut settings: TopicSettings) -> TopicSettings {
    if settings.history.bytes == 0 || settings.history.age == 0 {
        settings.history.messages = 0;
    }
    settings
}

/// `settings` with the stream of this pattern, if its topics are durable: the pattern's FNV-1a hash, the same on any
/// node and in any version.
fn stored(pattern: &str, mut settings: TopicSettings) -> TopicSettings {
    if !settings.durable.is_on {
        return settings;
    }
    let hash = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    settings.durable.stream = pattern.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    settings
}

/// The tables as they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    defaults: Option<Table>,
    topics: Vec<(String, Table)>,
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
    /// Reads `[topic_defaults]`.
    pub(super) fn read_defaults(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        let mut table = Table::new(entry.source, entry.place.at);
        for entry in entry.table()? {
            match entry.key {
                "pattern" => {
                    return Err(
                        entry.wrong("the defaults apply to all topics; patterns belong in [[topics]]")
                    );
                }
                _ => table.read(&entry)?,
            }
        }
        self.defaults = Some(table);
        Ok(())
    }

    /// Reads all of `[[topics]]`.
    pub(super) fn read_topics(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        // Patterns, and the lines where they stand.
        let mut before: Vec<(Pattern, &str, usize)> = Vec::new();
        for (at, entries) in entry.tables()? {
            let mut table = Table::new(entry.source, at);
            let mut pattern = None;
            for entry in entries {
                match entry.key {
                    "pattern" => pattern = Some((read_pattern(&entry)?, entry)),
                    _ => table.read(&entry)?,
                }
            }
            let Some((pattern, entry)) = pattern else {
                let hint = "say which topics it is for, such as pattern = \"prices.*\"";
                return Err(table.source.wrong(at, &format!("topics.pattern: missing; {hint}")));
            };
            // A star of the later pattern can only be one of the characters that a star of the earlier stands for: no
            // other part of a pattern has stars. So the earlier fits all names of the later if it fits the later itself.
            if let Some((_, earlier, line)) = before.iter().find(|(earlier, ..)| earlier.fits(pattern)) {
                return Err(entry.wrong(&format!(
                    "\"{pattern}\" is never tried: \"{earlier}\" in line {line} matches all its topics; put it first"
                )));
            }
            before.push((Pattern::new(pattern), pattern, entry.source.place(entry.place.at).0));
            self.topics.push((pattern.to_owned(), table));
        }
        Ok(())
    }

    /// The settings of topics, with `base` for those that no table covers. Logs and histories have
    /// to fit in `memory_budget_bytes`.
    ///
    /// # Errors
    /// If a table contradicts other settings.
    pub(super) fn over(&self, base: TopicSettings, memory_budget_bytes: u64) -> Result<Topics, Failure> {
        let resolve = |table: &Table, base: &Topic| {
            let topic = table.over(base);
            table.check(&topic.settings, memory_budget_bytes).map(|()| topic)
        };
        let base = Topic { settings: base, hook: None, places: BTreeMap::new() };
        let default = match &self.defaults {
            Some(table) => resolve(table, &base)?,
            None => base,
        };
        let rules =
            self.topics.iter().map(|(pattern, table)| Ok((pattern.clone(), resolve(table, &default)?)));
        Ok(Topics { rules: rules.collect::<Result<_, Failure>>()?, default })
    }
}

fn read_pattern<'a>(entry: &Entry<'a>) -> Result<&'a str, Failure> {
    let pattern = entry.text("names of topics such as \"prices.*\"")?;
    if pattern.bytes().filter(|&byte| byte != b'*').count() > TOPIC_BYTES_MAX {
        return Err(entry.wrong(&format!("matches no topic: names have at most {TOPIC_BYTES_MAX} bytes")));
    }
    Ok(pattern)
}

/// One table: its settings and their places.
#[derive(Clone, Debug)]
struct Table {
    source: Arc<Source>,
    /// The byte at which it begins.
    at: usize,
    /// The keys that it has.
    places: BTreeMap<&'static str, Place>,
    /// The name of the hooks that are asked.
    hook: Option<String>,
    /// The values of those keys; the other fields have no meaning.
    values: TopicSettings,
}

impl Table {
    fn new(source: &Arc<Source>, at: usize) -> Table {
        let values = TopicSettings::default();
        Table { source: source.clone(), at, places: BTreeMap::new(), hook: None, values }
    }

    /// Reads one key.
    fn read(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        if entry.key == HOOK.0 {
            self.hook = Some(entry.text("the name of a table [hooks.NAME]")?.to_owned());
            self.places.insert(HOOK.0, entry.place.clone());
            return Ok(());
        }
        let Some(key) = KEYS.iter().find(|key| key.name == entry.key) else {
            let keys = KEYS.iter().map(|key| key.name);
            let known = std::iter::once(PATTERN.0).chain(keys).chain([HOOK.0]);
            return Err(entry.unknown(&known.collect::<Vec<_>>()));
        };
        key.read(entry, &mut self.values)?;
        self.places.insert(key.name, entry.place.clone());
        Ok(())
    }

    /// Its settings over those of `base`.
    fn over(&self, base: &Topic) -> Topic {
        let mut topic = base.clone();
        for key in KEYS.iter().filter(|key| self.places.contains_key(key.name)) {
            key.copy(self.values, &mut topic.settings);
        }
        if let Some(name) = &self.hook {
            topic.settings.hooks = hooks_id(name);
            topic.hook = Some(name.clone());
        }
        topic.places.extend(self.places.iter().map(|(key, place)| (*key, place.clone())));
        topic
    }

    /// Refuses contradictions: `settings` is the result of this table.
    fn check(&self, settings: &TopicSettings, memory_budget_bytes: u64) -> Result<(), Failure> {
        if settings.coalesce >= settings.lag {
            return Err(self.wrong(
                ["coalesce", "lag"],
                &format!(
                    "messages held back for {} would already be late: lag is {}",
                    values::shown_time(settings.coalesce),
                    values::shown_time(settings.lag)
                ),
            ));
        }
        for (key, bytes) in [("lag_bytes", settings.lag_bytes), ("history_bytes", settings.history.bytes)] {
            if bytes as u64 > memory_budget_bytes {
                let budget = values::shown_bytes(memory_budget_bytes);
                let explanation = format!("must be at most memory_budget, {budget}");
                return Err(self.wrong([key, key], &explanation));
            }
        }
        if settings.durable.is_on && settings.slow == SlowConsumerPolicy::Conflate {
            let explanation = "keeps every message, and slow = \"conflate\" only the latest of each key";
            return Err(self.wrong(["durable", "slow"], explanation));
        }
        if settings.durable.is_on && settings.local_epochs {
            let explanation = "accepts only what is stored, so it has no local_epochs";
            return Err(self.wrong(["durable", "local_epochs"], explanation));
        }
        self.check_history(settings)
    }

    /// Refuses a history that is requested but bounded to 0, and a snapshot larger than the history.
    fn check_history(&self, settings: &TopicSettings) -> Result<(), Failure> {
        if settings.snapshot > settings.history.messages {
            let explanation =
                format!("must be at most history_messages, {}; raise that too", settings.history.messages);
            return Err(self.wrong(["snapshot", "history_messages"], &explanation));
        }
        let bounds = [
            ("history_messages", settings.history.messages == 0),
            ("history_bytes", settings.history.bytes == 0),
            ("history_age", settings.history.age == 0),
        ];
        let Some((nothing, _)) = bounds.into_iter().find(|(_, is_zero)| *is_zero) else { return Ok(()) };
        for (key, is_zero) in bounds {
            if !is_zero && self.places.contains_key(key) {
                let explanation =
                    format!("has no effect: {nothing} is 0, which keeps no message; raise that too");
                return Err(self.wrong([key, key], &explanation));
            }
        }
        Ok(())
    }

    /// An error in the first of `keys` that the table has.
    fn wrong(&self, keys: [&str; 2], explanation: &str) -> Failure {
        match keys.into_iter().find_map(|key| self.places.get(key)) {
            Some(place) => place.wrong(explanation),
            None => self.source.wrong(self.at, &format!("{}: {explanation}", keys[0])),
        }
    }
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
