//! `serve --check`: the effective settings as a configuration file.
//!
//! It has every option, defaults included, so that two servers differ where two such files differ, comments aside. A comment
//! above them has the numbers that only the host determines, such as the connections that its descriptors allow. A comment
//! behind a value tells which source gave it.

use std::collections::BTreeMap;
use std::fmt;

use clap::Arg;

use super::args::Args;
use super::config;
use super::keys::{Line, Shown};
use super::options::value;
use super::settings::Settings;
use super::toml_text::{list, quoted};
use super::topics::{Tables, Topic};
use crate::common::file::Place;
use crate::common::file::flags::{self, Origins};
use crate::doctor::check::shown_size;
use crate::doctor::plan::peak_here;
use echoring_server::Resolved;

/// The settings, below their results on this host and the environment variables that are not used.
pub(super) fn text(settings: &Settings, resolved: &Resolved, unused: &[String]) -> String {
    let Resolved { shards, cpus, max_connections, .. } = resolved;
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    let host = format!(
        "# On this host: shards = {shards}, on CPUs {}; max_connections = {max_connections}\n",
        cpus.join(", ")
    );
    format!("{host}{}{}{}{settings}", memory(settings, resolved), node(settings), not_used(unused))
}

/// The name of the node, which may be of this host.
fn node(settings: &Settings) -> String {
    let name = settings.cluster.as_ref().map(|cluster| cluster.node.replace(char::is_control, " "));
    name.map(|name| format!("# Name of the node in its cluster: {name}\n")).unwrap_or_default()
}

/// The peak of docs/memory.md.
fn memory(settings: &Settings, resolved: &Resolved) -> String {
    let peak = peak_here(&settings.planned(), resolved);
    let (user, kernel) = (shown_size(peak.user_bytes()), shown_size(peak.kernel_bytes()));
    format!("# Peak of memory: {user} of the process, {kernel} of the kernel's sockets\n")
}

fn not_used(variables: &[String]) -> String {
    if variables.is_empty() {
        return String::new();
    }
    let names = variables.join(", ").replace(char::is_control, " ");
    format!("# Ignored environment variables, because no key has that name: {names}\n")
}

impl Settings {
    /// The value of each key as a file has it, defaults included. The keys of topics are `topic_defaults.lag` and
    /// `topics."PATTERN".lag`; `topics` has the patterns in their order.
    pub(super) fn values(&self) -> BTreeMap<String, String> {
        let command = flags::command::<Args>();
        let options =
            config::keys(&command).filter_map(|arg| Some((arg.get_id().to_string(), self.shown(arg)?)));
        let default = ("topic_defaults".to_owned(), &self.topics.default);
        let rules =
            self.topics.rules.iter().map(|topic| (format!("topics.{}", quoted(&topic.value.pattern)), topic));
        let topics = [default].into_iter().chain(rules).flat_map(|(table, topic)| {
            let keys = topic.values().filter(|(key, _)| *key != "pattern");
            keys.map(move |(key, shown)| (format!("{table}.{key}"), shown.text()))
        });
        let named = self.named_tables().into_iter().flat_map(|(kind, name, lines)| {
            lines
                .into_iter()
                .map(move |(key, shown, _)| (format!("{kind}.{}.{key}", quoted(&name)), shown.text()))
        });
        let patterns = list(self.topics.rules.iter().map(|topic| &topic.value.pattern));
        let names = ["routes", "backends", "webhooks"].map(|kind| {
            let of_kind = self.named_tables().into_iter().filter(|(of, ..)| *of == kind);
            (kind.to_owned(), list(of_kind.map(|(_, name, _)| name)))
        });
        let hooks = self.tables.hooks.values();
        let lists = [("topics".to_owned(), patterns)].into_iter().chain(names);
        options.chain(lists).chain(hooks).chain(topics).chain(named).collect()
    }

    /// The tables of which only what they give is shown, each with its kind, its name, and its lines.
    fn named_tables(&self) -> Vec<(&'static str, String, Vec<Line>)> {
        let Tables { routes, backends, webhooks, .. } = &self.tables;
        let routes = routes.iter().map(|table| ("routes", table.value.name(), table.lines()));
        let backends = backends.iter().map(|table| ("backends", table.value.path.clone(), table.lines()));
        let webhooks = webhooks.iter().map(|table| ("webhooks", table.value.url.clone(), table.lines()));
        routes.chain(backends).chain(webhooks).collect()
    }

    /// The value of an option; `None` where it has none.
    fn shown(&self, arg: &Arg) -> Option<String> {
        // `auto` depends on what else is said.
        if arg.get_id() == "demo" {
            let value = if self.server.test_endpoints { "on" } else { "off" };
            return Some(quoted(value));
        }
        // It follows from another one where it is not set.
        if arg.get_id() == "max_topics_per_connection" {
            return self.server.creation.max_topics_per_connection.map(|most| most.to_string());
        }
        value(arg, &self.matches)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = flags::command::<Args>();
        for arg in config::keys(&command).filter(|arg| config::table_of(arg).is_none()) {
            write_option(f, arg.get_id().as_str(), arg, self.shown(arg), &self.origins)?;
        }
        for table in config::OPTION_TABLES {
            writeln!(f, "\n[{table}]")?;
            for arg in config::keys(&command) {
                let Some((_, key)) = config::table_of(arg).filter(|(own, _)| *own == table) else { continue };
                write_option(f, key, arg, value(arg, &self.matches), &self.origins)?;
            }
            if table == config::HOOKS {
                f.write_str(&self.tables.hooks.text())?;
            }
        }
        writeln!(f, "\n[topic_defaults]")?;
        write_topic(f, &self.topics.default)?;
        for topic in &self.topics.rules {
            writeln!(f, "\n[[topics]]")?;
            write_topic(f, topic)?;
        }
        for (kind, _, lines) in self.named_tables() {
            writeln!(f, "\n[[{kind}]]")?;
            for (key, shown, origin) in lines.into_iter().filter(|(.., origin)| origin.is_some()) {
                f.write_str(&shown.line(key, origin))?;
            }
        }
        Ok(())
    }
}

/// The line of an option. One without a value is a comment, with the value in effect, as its help says.
pub(crate) fn write_option(
    f: &mut impl fmt::Write,
    key: &str,
    arg: &Arg,
    value: Option<String>,
    origins: &Origins,
) -> fmt::Result {
    if let Some(value) = value {
        return f.write_str(&Shown::Value(value).line(key, origins.shown(arg)));
    }
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    match help.split_once("[default: ").and_then(|(_, rest)| rest.split_once(']')) {
        Some((default, _)) => writeln!(f, "# {key} is not set: {default}"),
        None => writeln!(f, "# {key} is not set"),
    }
}

fn write_topic(f: &mut fmt::Formatter<'_>, topic: &Topic) -> fmt::Result {
    let history = topic.value.settings.history;
    // Beside a bound of 0, which keeps no message, others have no effect and would be refused.
    let is_kept = history.messages > 0 && history.bytes > 0 && history.age > 0;
    for (key, shown) in topic.values() {
        let has_effect = match key {
            "history_messages" => is_kept || history.messages == 0,
            "history_bytes" => is_kept || history.bytes == 0,
            "history_age" => is_kept || history.age == 0,
            _ => true,
        };
        let origin = topic.given.get(key).filter(|_| key != "pattern").map(Place::line);
        match has_effect {
            true => f.write_str(&shown.line(key, origin))?,
            false => writeln!(f, "# {key} has no effect: no message is kept")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::not_used;
    use crate::serve::config::tests::{settings, settings_beside};

    #[test]
    fn what_is_shown_says_the_same_when_it_is_read() {
        for (text, flags) in [
            ("", &[][..]),
            (
                "profile = 'conformance'",
                &["--max-connections=7", "--driver=uring", "--allow-origin=*", "--congestion=reno"],
            ),
            ("compress = 'level=9; client_no_context_takeover; memory=3MiB'\ncpus = [1, 0]\nshards = 2", &[]),
            (
                "log = 'warn,echoring_runtime::shard=debug'\nsubprotocol = ['b', 'a']\nlisten = ['unix:/a\"b\\c']",
                &["--admin=off", "--subprotocol-preference=client", "--allow-origin=https://a.example"],
            ),
            (
                "[topic_defaults]\nhistory_bytes = 0\nslow = 'drop-oldest'\nlag = '1500ms'\n\
                 [[topics]]\npattern = 'ä\"*'\nhistory_bytes = 5000\nhistory_messages = 3\ncoalesce = '1.5ms'\n\
                 [[topics]]\npattern = '*'\nhistory_messages = 0\npublish = 'operator'\npresence = 'everybody'",
                &["--takeover", "--handshake-timeout=250ms", "--send-timeout=90s", "--queue-bytes=5000"],
            ),
        ] {
            let shown = settings(text, flags).expect("valid").to_string();
            let again = settings(&shown, &[]).unwrap_or_else(|wrong| panic!("{wrong:?}\n{shown}"));
            assert_eq!(values(&again.to_string()), values(&shown));
        }
    }

    /// The lines without comments.
    fn values(shown: &str) -> Vec<&str> {
        shown.lines().map(|line| line.split("  # ").next().unwrap_or_default()).collect()
    }

    #[test]
    fn a_value_that_is_no_default_is_shown_with_its_origin() {
        let text = "queue_bytes = '1MiB'\nmax_message = 5\ntakeover = false\n\
                    [topic_defaults]\nlag = '2s'\n[[topics]]\npattern = 'a'\ncoalesce = '1ms'";
        let variables = [("ECHORING_MAX_MESSAGE", "2MiB"), ("ECHORING_SUBPROTOCOL", "b,a")];
        let flags = ["--profile=conformance", "--shards=2", "--no-cluster-wait"];
        let shown = settings_beside(text, &variables, &flags).expect("valid").to_string();
        for line in [
            "queue_bytes = \"1MiB\"  # f.toml:1",
            "takeover = false  # f.toml:3",
            "max_message = \"2MiB\"  # ECHORING_MAX_MESSAGE",
            "subprotocol = [\"b\", \"a\"]  # ECHORING_SUBPROTOCOL",
            "shards = 2  # --shards",
            "wait = false  # --no-cluster-wait",
            "profile = \"conformance\"  # --profile",
            "memory=256MiB\"  # profile\n",
            "max_topics = 65536\n",
            "max_topics_per_connection = 4096\n",
            "# congestion is not set: the kernel's\n",
            "# drain is not set: 60s in a takeover, else 8s, all at once\n",
            "[auth]\n# tokens is not set\n",
            "[topic_defaults]\nslow = \"disconnect\"\nlag_bytes = \"1MiB\"\nlag = \"2s\"  # f.toml:5\n",
            "coalesce = \"1ms\"  # f.toml:8\n",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
        assert_eq!(shown.matches("lag = \"2s\"  # f.toml:5").count(), 2, "{shown}");
    }

    #[test]
    fn variables_that_are_not_used_are_listed() {
        assert_eq!(not_used(&[]), "");
        let names = ["ECHORING_PORT".to_owned(), "ECHORING_A\nB".to_owned()];
        assert!(not_used(&names).ends_with(": ECHORING_PORT, ECHORING_A B\n"), "{}", not_used(&names));
    }

    #[test]
    fn what_is_shown_is_what_was_asked_for() {
        let text = "max_message = '3MiB'\n[[topics]]\npattern = 'a.*'\nslow = 'conflate'\ncoalesce = '2ms'";
        let shown = settings(text, &["--shards=3", "--compress=on"]).expect("valid").to_string();
        for line in [
            "max_message = \"3MiB\"",
            "shards = 3",
            "compress = \"on\"",
            "lag_bytes = \"256KiB\"",
            "pattern = \"a.*\"\nslow = \"conflate\"",
            "coalesce = \"2ms\"",
        ] {
            assert!(shown.contains(line), "{line} is not in\n{shown}");
        }
    }
}
