//! Channels: namespaces and their options, as tables of topics.
//!
//! A channel is private (its name begins with `$`), limited to users (its name has `#`), of a namespace (`chat:…`), or none of
//! these. Each kind of each namespace is a pattern; the tables stand in the order in which Centrifugo tells the kinds apart.

use super::given::Given;
use super::hooks::Proxy;
use super::server::Surroundings;
use super::written::{Line, Written};
use crate::common::values::{shown_bytes, shown_time};
use crate::serve::toml_text::quoted;
use crate::serve::topics::keys::{HISTORY_AGES, MESSAGES};
use echoring_proto::limits::Nanos;

/// Bytes that are assumed of a message, because Centrifugo's histories have no bound in bytes.
const HISTORY_MESSAGE_BYTES: i64 = 1024;
/// The bound in bytes at most: several histories have to fit into the default memory budget.
const HISTORY_BYTES: std::ops::RangeInclusive<i64> = 64 * 1024..=16 * 1024 * 1024;

/// The characters that tell channels apart.
#[derive(Debug)]
struct Marks {
    private: String,
    namespace: String,
    /// Whether limited channels are written as here, as `…#alice,bob`.
    has_usual_users: bool,
}

/// The options of a namespace.
#[derive(Clone, Debug, Default)]
struct Options {
    subscribe: &'static str,
    publish: &'static str,
    presence: &'static str,
    history: &'static str,
    /// Messages, and their age; `None` without a history.
    kept: Option<(i64, Nanos)>,
    has_deltas: bool,
    has_filters: bool,
    has_user_limited: bool,
    /// The table of hooks that are asked.
    hook: Option<String>,
}

pub(super) fn translate(
    given: &mut Given,
    surroundings: &Surroundings,
    written: &mut Written,
) -> Result<(), String> {
    let marks = marks(given, written)?;
    let mut reader = Reader {
        subscribe: Proxy::read(given, "channel.proxy.subscribe.")?,
        publish: Proxy::read(given, "channel.proxy.publish.")?,
        sub_refresh: Proxy::read(given, "channel.proxy.sub_refresh.")?,
        surroundings,
        written,
    };
    let defaults = reader.options(given, "channel.without_namespace.")?;
    reader.written.defaults = lines(&defaults);
    let namespaces = given.tables("channel.namespaces")?;
    for (name, mut keys) in namespaces {
        let options = reader.options(&mut keys, "")?;
        super::left::list(keys, reader.written);
        let is_reached = !marks.namespace.is_empty() && !name.is_empty() && !name.contains('*');
        if !is_reached {
            reader.written.leave(
                format!("channel.namespaces[{name}]"),
                "no channel can be in a namespace of this name",
            );
            continue;
        }
        add_tables(
            &format!("{name}{}", marks.namespace),
            &format!("The namespace {name}"),
            &options,
            &marks,
            reader.written,
        );
    }
    if !marks.namespace.is_empty() {
        let pattern = format!("*{}*", marks.namespace);
        reader.written.table(pattern, "Namespaces that are not configured".to_owned(), lines(&unknown()));
    }
    add_tables("", "Channels without a namespace", &defaults, &marks, reader.written);
    Ok(())
}

fn marks(given: &mut Given, written: &mut Written) -> Result<Marks, String> {
    let mut mark = |key: &str, default: &str| -> Result<String, String> {
        // An empty text switches the mark off.
        let is_off = given.is_empty_text(key);
        Ok(given.text(key)?.unwrap_or_else(|| if is_off { String::new() } else { default.to_owned() }))
    };
    let marks = Marks {
        private: mark("channel.private_prefix", "$")?,
        namespace: mark("channel.namespace_boundary", ":")?,
        has_usual_users: mark("channel.user_boundary", "#")? == "#"
            && mark("channel.user_separator", ",")? == ",",
    };
    if marks.private.contains('*') || marks.namespace.contains('*') {
        return Err(
            "channel: * in private_prefix or namespace_boundary cannot be written as a pattern".to_owned()
        );
    }
    if !marks.has_usual_users {
        written.leave(
            "channel.user_boundary",
            "channels of users need their names as in `chat:7#alice,bob`; others are open to tokens only",
        );
    }
    Ok(marks)
}

/// The tables for the channels that begin with `prefix`; without one, their last table is that of the defaults.
fn add_tables(prefix: &str, what: &str, options: &Options, marks: &Marks, written: &mut Written) {
    let closed = if options.subscribe == "operator" { "operator" } else { "claim" };
    if !marks.private.is_empty() {
        let private = Options { subscribe: closed, ..options.clone() };
        written.table(
            format!("{}{prefix}*", marks.private),
            format!("{what}: private channels"),
            lines(&private),
        );
    }
    if options.has_user_limited {
        let users = if marks.has_usual_users { "named" } else { closed };
        let limited = Options { subscribe: users, ..options.clone() };
        written.table(format!("{prefix}*#*"), format!("{what}: channels of users"), lines(&limited));
    }
    if !prefix.is_empty() {
        written.table(format!("{prefix}*"), what.to_owned(), lines(options));
    }
}

/// What an unknown namespace may be used for.
fn unknown() -> Options {
    Options {
        subscribe: "nobody",
        publish: "nobody",
        presence: "nobody",
        history: "nobody",
        ..Options::default()
    }
}

/// All keys of a table, so that it does not depend on the defaults.
fn lines(options: &Options) -> Vec<Line> {
    let Options { subscribe, publish, presence, history, kept, has_deltas, has_filters, hook, .. } = options;
    let mut lines: Vec<Line> =
        [("subscribe", subscribe), ("publish", publish), ("presence", presence), ("history", history)]
            .map(|(key, word)| (key, quoted(word)))
            .into();
    match *kept {
        None => lines.push(("history_messages", "0".to_owned())),
        Some((messages, age)) => {
            let bytes =
                (messages * HISTORY_MESSAGE_BYTES).clamp(*HISTORY_BYTES.start(), *HISTORY_BYTES.end());
            lines.push(("history_messages", messages.to_string()));
            lines.push(("history_bytes", quoted(&shown_bytes(bytes as u64))));
            lines.push(("history_age", quoted(&shown_time(age))));
        }
    }
    lines.push(("delta", quoted(if *has_deltas { "fossil" } else { "off" })));
    lines.extend(hook.iter().map(|name| ("hook", quoted(name))));
    if !["operator", "nobody"].contains(publish) {
        // There, publications of clients always say whose they are.
        lines.push(("publisher_info", true.to_string()));
    }
    lines.push(("allow_tags_filter", has_filters.to_string()));
    lines
}

/// Reads options of namespaces.
struct Reader<'a> {
    subscribe: Proxy,
    publish: Proxy,
    sub_refresh: Proxy,
    surroundings: &'a Surroundings,
    written: &'a mut Written,
}

impl Reader<'_> {
    /// The options behind `prefix`.
    fn options(&mut self, given: &mut Given, prefix: &str) -> Result<Options, String> {
        let key = |name: &str| format!("{prefix}{name}");
        let (asked, hook) = self.hooks(given, prefix)?;
        let (asks_subscribe, asks_publish) = (asked.contains(&"subscribe"), asked.contains(&"publish"));
        let subscribe = self.allowed(given, &key("allow_subscribe"))?;
        let subscribe = if asks_subscribe { "hook" } else { subscribe.unwrap_or(self.word("claim")) };
        let publish = self.used(given, &key("allow_publish"), subscribe)?;
        let publish = if asks_publish { "hook" } else { publish };
        let reads = self.used(given, &key("allow_presence"), subscribe)?;
        let presence = if given.switch(&key("presence"))? { reads } else { "nobody" };
        if given.switch(&key("join_leave"))? && presence == "nobody" {
            self.written.leave(given.path(&key("join_leave")), "joins and leaves need `presence` here");
        }
        let history = self.history(given, prefix, subscribe)?;
        let deltas = given.texts(&key("allowed_delta_types"))?;
        given.forget(
            &["force_positioning", "allow_positioning", "delta_publish"]
                .map(key)
                .each_ref()
                .map(String::as_str),
        );
        let kept = self.kept(given, prefix)?;
        let has_user_limited = given.switch(&key("allow_user_limited_channels"))?;
        let has_filters = given.switch(&key("allow_tags_filter"))?;
        let has_deltas = deltas.iter().any(|kind| kind == "fossil");
        Ok(Options {
            subscribe,
            publish,
            presence,
            history,
            kept,
            has_deltas,
            has_filters,
            has_user_limited,
            hook,
        })
    }

    /// The hooks that are asked about channels, and the name of their table.
    fn hooks(
        &mut self,
        given: &mut Given,
        prefix: &str,
    ) -> Result<(Vec<&'static str>, Option<String>), String> {
        let mut chosen: Vec<(&'static str, Option<String>, &Proxy)> = Vec::new();
        for (hook, default) in
            [("subscribe", &self.subscribe), ("publish", &self.publish), ("sub_refresh", &self.sub_refresh)]
        {
            let name = given.text(&format!("{prefix}{hook}_proxy_name"))?;
            let key = format!("{prefix}{hook}_proxy_enabled");
            if !given.switch(&key)? {
                continue;
            }
            if hook == "sub_refresh" && chosen.first().is_none_or(|(first, ..)| *first != "subscribe") {
                let hint = "is asked about what a subscribe proxy allows; others refresh their tokens";
                self.written.leave(given.path(&key), hint);
                continue;
            }
            chosen.push((hook, name, default));
        }
        Ok(self.surroundings.proxies.choose(chosen, self.written))
    }

    /// A word of a permission for clients, who may not be known at all.
    fn word(&self, word: &'static str) -> &'static str {
        if self.surroundings.has_identities { word } else { "operator" }
    }

    /// Who has the right of the options that begin with `option`; `None` if they open it to nobody.
    fn allowed(&self, given: &mut Given, option: &str) -> Result<Option<&'static str>, String> {
        let has_anonymous = given.switch(&format!("{option}_for_anonymous"))?;
        let is_open = given.switch(&format!("{option}_for_client"))?;
        Ok(is_open.then(|| if has_anonymous { "everybody" } else { self.word("authenticated") }))
    }

    /// The same for a right that subscribers may have.
    fn used(&self, given: &mut Given, option: &str, subscribe: &str) -> Result<&'static str, String> {
        let is_of_subscribers = given.switch(&format!("{option}_for_subscriber"))?;
        let has_anonymous = given.switch(&format!("{option}_for_anonymous"))?;
        let others = given.switch(&format!("{option}_for_client"))?;
        Ok(match (is_of_subscribers || others, others || subscribe == "everybody") {
            (false, _) => "operator",
            (true, true) if has_anonymous => "everybody",
            (true, true) => self.word("authenticated"),
            (true, false) => "subscriber",
        })
    }

    /// Who reads a history: to recover, or on request.
    fn history(&self, given: &mut Given, prefix: &str, subscribe: &str) -> Result<&'static str, String> {
        let key = |name: &str| format!("{prefix}{name}");
        let reads = self.used(given, &key("allow_history"), subscribe)?;
        let is_forced = given.switch(&key("force_recovery"))?;
        let recovers = given.switch(&key("allow_recovery"))? || is_forced;
        Ok(if recovers { "subscriber" } else { reads })
    }

    /// The bounds of a history.
    fn kept(&mut self, given: &mut Given, prefix: &str) -> Result<Option<(i64, Nanos)>, String> {
        let key = |name: &str| format!("{prefix}{name}");
        let messages = given.number(&key("history_size"))?.unwrap_or(0);
        let age = Nanos::try_from(given.time(&key("history_ttl"))?.unwrap_or(0)).unwrap_or(0);
        if messages <= 0 || age == 0 {
            return Ok(None);
        }
        let (most, oldest) = (i64::from(*MESSAGES.end()), *HISTORY_AGES.end());
        for (name, is_more, most) in [
            ("history_size", messages > most, most.to_string()),
            ("history_ttl", age > oldest, shown_time(oldest)),
        ] {
            if is_more {
                self.written.leave(given.path(&key(name)), format!("a history has at most {most} here"));
            }
        }
        Ok(Some((messages.min(most), age.min(oldest))))
    }
}
