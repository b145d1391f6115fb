//! `serve --check`: what the server would run with, as a configuration file that says the same.
//!
//! Everything is said, defaults included, so that two such files tell where two servers differ. What only the host
//! decides, such as how many connections its descriptors allow, stands above it as a comment.

use std::fmt::{self, Write as _};
use std::path::Path;

use clap::ValueEnum as _;

use super::Admin;
use super::settings::Settings;
use super::topics::{PUBLISH, SLOW};
use crate::cli::compress::Compress;
use crate::cli::values::{shown_bytes, shown_time};
use crate::hub;
use crate::protocol::handshake::{HostPolicy, OriginPolicy, SubprotocolPreference};
use crate::server::{Config, DriverChoice, Resolved};

/// The settings, below what they come to on this host.
pub(super) fn text(settings: &Settings, resolved: &Resolved) -> String {
    let Resolved { shards, cpus, connections_max } = resolved;
    let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    format!(
        "# On this host: shards = {shards}, on CPUs {}; max_connections = {connections_max}\n{settings}",
        cpus.join(", ")
    )
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = &self.server;
        if let Some(profile) = self.profile.to_possible_value() {
            writeln!(f, "profile = \"{}\"", profile.get_name())?;
        }
        writeln!(f, "log = {}", quoted(&self.log))?;
        self.write_addresses(f)?;
        write_shards(f, server)?;
        write_sizes(f, server)?;
        write_handshake(f, server)?;
        let compress = Compress { compression: server.compression, memory_bytes: server.compression_bytes };
        writeln!(f, "compress = \"{compress}\"")?;
        if let Some(congestion) = &server.congestion {
            writeln!(f, "congestion = {}", quoted(congestion))?;
        }
        writeln!(f, "demo = \"{}\"", if server.test_endpoints { "on" } else { "off" })?;
        writeln!(f, "takeover = {}", server.takeover)?;
        writeln!(f, "\n[topic_defaults]")?;
        write_topic(f, &self.topics.default)?;
        for (pattern, settings) in &self.topics.rules {
            writeln!(f, "\n[[topics]]\npattern = {}", quoted(pattern))?;
            write_topic(f, settings)?;
        }
        Ok(())
    }
}

impl Settings {
    fn write_addresses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listen = {}", list(self.server.listen.iter().map(ToString::to_string)))?;
        match self.admin {
            Admin::Off => writeln!(f, "admin = \"off\"")?,
            Admin::At(address) => writeln!(f, "admin = \"{address}\"")?,
        }
        let shown = |path: &Path| quoted(&path.to_string_lossy());
        if let Some(token) = &self.admin_token_file {
            writeln!(f, "admin_token_file = {}", shown(token))?;
        }
        if let Some((cert, key)) = &self.tls_files {
            writeln!(f, "tls_cert = {}\ntls_key = {}", shown(cert), shown(key))?;
        }
        Ok(())
    }
}

fn write_shards(f: &mut fmt::Formatter<'_>, server: &Config) -> fmt::Result {
    match server.shards {
        Some(shards) => writeln!(f, "shards = {shards}")?,
        None => writeln!(f, "shards = \"auto\"")?,
    }
    if !server.cpus.is_empty() {
        writeln!(f, "cpus = {:?}", server.cpus)?;
    }
    let driver = match server.driver {
        DriverChoice::Uring => "uring",
        DriverChoice::Epoll => "epoll",
        _ => "auto",
    };
    writeln!(f, "driver = \"{driver}\"")
}

fn write_sizes(f: &mut fmt::Formatter<'_>, server: &Config) -> fmt::Result {
    writeln!(f, "max_message = \"{}\"", shown_bytes(server.message_bytes_max))?;
    if let Some(connections) = server.connections_max {
        writeln!(f, "max_connections = {connections}")?;
    }
    writeln!(f, "queue_bytes = \"{}\"", shown_bytes(server.queue_bytes.into()))?;
    writeln!(f, "memory_budget = \"{}\"", shown_bytes(server.memory_budget_bytes))?;
    writeln!(f, "max_topics = {}", server.topics_max)?;
    writeln!(f, "max_subscriptions = {}", server.subscriptions_max)
}

fn write_handshake(f: &mut fmt::Formatter<'_>, server: &Config) -> fmt::Result {
    writeln!(f, "handshake_timeout = \"{}\"", shown_time(server.handshake_timeout))?;
    writeln!(f, "send_timeout = \"{}\"", shown_time(server.send_timeout))?;
    match &server.origins {
        OriginPolicy::SameHost => {}
        OriginPolicy::Any => writeln!(f, "allow_origin = [\"*\"]")?,
        OriginPolicy::List(origins) => writeln!(f, "allow_origin = {}", list(origins))?,
    }
    match &server.hosts {
        HostPolicy::Local(names) if names.is_empty() => {}
        HostPolicy::Local(names) => writeln!(f, "allow_host = {}", list(names))?,
        _ => writeln!(f, "allow_host = [\"*\"]")?,
    }
    if !server.subprotocols.is_empty() {
        writeln!(f, "subprotocol = {}", list(&server.subprotocols))?;
    }
    let preference = match server.subprotocol_preference {
        SubprotocolPreference::Server => "server",
        SubprotocolPreference::Client => "client",
    };
    writeln!(f, "subprotocol_preference = \"{preference}\"")
}

fn write_topic(f: &mut fmt::Formatter<'_>, settings: &hub::Settings) -> fmt::Result {
    writeln!(f, "slow = \"{}\"", word_for(&SLOW, settings.slow))?;
    writeln!(f, "lag_bytes = \"{}\"", shown_bytes(settings.lag_bytes as u64))?;
    writeln!(f, "lag = \"{}\"", shown_time(settings.lag))?;
    writeln!(f, "coalesce = \"{}\"", shown_time(settings.coalesce))?;
    let history = settings.history;
    // Beside a bound of 0, which keeps no message, others have no effect and would be refused.
    let is_kept = history.messages > 0 && history.bytes > 0 && history.age > 0;
    if is_kept || history.messages == 0 {
        writeln!(f, "history_messages = {}", history.messages)?;
    }
    if is_kept || history.bytes == 0 {
        writeln!(f, "history_bytes = \"{}\"", shown_bytes(history.bytes as u64))?;
    }
    if is_kept || history.age == 0 {
        writeln!(f, "history_age = \"{}\"", shown_time(history.age))?;
    }
    writeln!(f, "snapshot = {}", settings.snapshot)?;
    writeln!(f, "presence = {}", settings.presence)?;
    writeln!(f, "publish = \"{}\"", word_for(&PUBLISH, settings.clients_publish))?;
    writeln!(f, "heartbeat = \"{}\"", shown_time(settings.heartbeat))
}

fn word_for<T: PartialEq>(words: &[(&'static str, T)], meaning: T) -> &'static str {
    words.iter().find(|(_, word_meaning)| *word_meaning == meaning).map_or("", |(word, _)| word)
}

fn list<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
    format!("[{}]", quoted.join(", "))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            // Writing to a string does not fail.
            _ if character.is_control() => drop(write!(quoted, "\\u{:04X}", u32::from(character))),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use crate::cli::serve::config::tests::settings;

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
                "log = 'warn,echoring::shard=debug'\nsubprotocol = ['b', 'a']\nlisten = ['unix:/a\"b\\c']",
                &["--admin=off", "--subprotocol-preference=client", "--allow-origin=https://a.example"],
            ),
            (
                "[topic_defaults]\nhistory_bytes = 0\nslow = 'drop-oldest'\nlag = '1500ms'\n\
                 [[topics]]\npattern = 'ä\"*'\nhistory_bytes = 5000\nhistory_messages = 3\ncoalesce = '1.5ms'\n\
                 [[topics]]\npattern = '*'\nhistory_messages = 0\npublish = 'operator'\npresence = true",
                &[
                    "--no-test-endpoints",
                    "--takeover",
                    "--handshake-timeout=250ms",
                    "--send-timeout=90s",
                    "--queue-bytes=5000",
                ],
            ),
        ] {
            let shown = settings(text, flags).expect("valid").to_string();
            let again = settings(&shown, &[]).unwrap_or_else(|wrong| panic!("{wrong:?}\n{shown}"));
            assert_eq!(again.to_string(), shown);
        }
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
