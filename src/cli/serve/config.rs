//! `serve --config`: a file that says in TOML what flags say on the command line, and what holds for topics.
//!
//! The keys are the flags themselves, read by the same parsers, so that neither can have what the other lacks. What is
//! wrong is told with the line and column where it stands. This module never decides what a value means: it gives back
//! [`Args`], as if they had been typed.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, CommandFactory as _, Parser as _};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Args;
use super::topics::Tables;
use crate::cli::{Failure, one_line, values};
use crate::limits::Nanos;

/// Bytes of a configuration file, at most: ten thousand patterns. Past it somebody has named the wrong file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Flags that are no keys: they are about the file.
const NO_KEYS: [&str; 3] = ["config", "check", "help"];
/// The tables beside the keys.
const TABLES: [&str; 2] = ["topic_defaults", "topics"];

/// What a configuration file says.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// What it says in place of flags.
    pub(super) args: Args,
    /// Where it says so.
    pub(super) places: Places,
    /// What it says about topics.
    pub(super) tables: Tables,
}

impl ConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Failure::Environment`] when it cannot be read, [`Failure::Usage`] when something in it is wrong.
    pub(super) fn read(path: &Path) -> Result<ConfigFile, Failure> {
        ConfigFile::of(Source::read("--config", path)?)
    }

    #[cfg(test)]
    pub(super) fn parse(name: &str, bytes: Vec<u8>) -> Result<ConfigFile, Failure> {
        ConfigFile::of(Source::new(name, bytes)?)
    }

    fn of(source: Rc<Source>) -> Result<ConfigFile, Failure> {
        let root = source.root()?;
        let mut file = ConfigFile {
            args: no_args(),
            places: Places { source: Some(source.clone()), keys: BTreeMap::new() },
            tables: Tables::default(),
        };
        let command = Line::command();
        for entry in entries(&source, "", root.get_ref()) {
            match entry.key {
                "topics" => file.tables.read_topics(&entry)?,
                "topic_defaults" => file.tables.read_defaults(&entry)?,
                key => {
                    let flag =
                        command.get_arguments().find(|arg| key_of(arg).is_some_and(|name| name == key));
                    let Some(flag) = flag else {
                        let known: Vec<String> = command.get_arguments().filter_map(key_of).collect();
                        let known = known.iter().map(String::as_str).chain(TABLES).collect::<Vec<_>>();
                        return Err(entry.unknown(&known));
                    };
                    let args = entry.typed(flag)?;
                    file.args = file.args.over(args, &mut Places::default());
                    file.places.keys.insert(key.to_owned(), entry.at);
                }
            }
        }
        Ok(file)
    }
}

/// Flags alone, for reading a key's value as if it had been typed.
#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn no_args() -> Args {
    Line::parse_from(std::iter::empty::<&str>()).args
}

/// What a flag is called in a file. A flag that turns something off is the key of that something.
fn key_of(arg: &Arg) -> Option<String> {
    let name = arg.get_long().filter(|name| !NO_KEYS.contains(name))?;
    Some(name.strip_prefix("no-").unwrap_or(name).replace('-', "_"))
}

/// Which keys of a file have a say, and where they stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    source: Option<Rc<Source>>,
    keys: BTreeMap<String, usize>,
}

impl Places {
    /// The value of a flag, or that of the file's `key`, which has no say where the flag is given.
    pub(super) fn one<T>(&mut self, key: &str, flag: Option<T>, file: Option<T>) -> Option<T> {
        if flag.is_some() {
            self.keys.remove(key);
        }
        flag.or(file)
    }

    /// The same for a flag that may be repeated: given once, it stands for the whole list.
    pub(super) fn list<T>(&mut self, key: &str, flag: Vec<T>, file: Vec<T>) -> Vec<T> {
        if flag.is_empty() {
            return file;
        }
        self.keys.remove(key);
        flag
    }

    /// What is wrong with the value of `flag`, told with where that stands.
    pub(super) fn wrong(&self, flag: &str, explanation: &str) -> Failure {
        let key = flag.trim_start_matches('-').replace('-', "_");
        match (self.keys.get(&key), &self.source) {
            (Some(&at), Some(source)) => source.wrong(at, &format!("{key}: {explanation}")),
            _ => Failure::Usage(format!("{flag}: {explanation}")),
        }
    }
}

/// A file's text, and what it is called.
#[derive(Debug)]
pub(in crate::cli) struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads the file at `path`, which `flag` named.
    ///
    /// # Errors
    /// [`Failure::Environment`] when it cannot be read, [`Failure::Usage`] when it is too long or no text.
    pub(in crate::cli) fn read(flag: &str, path: &Path) -> Result<Rc<Source>, Failure> {
        let name = path.display();
        let unreadable = |error: std::io::Error| {
            let cure = "name a file that this user may read";
            Failure::Environment(format!("{flag}: cannot read {name}: {error}; {cure}"))
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Failure::Usage(format!("{flag}: {name} is longer than 1MiB: is it the right file?")));
        }
        Source::new(&name.to_string(), bytes)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it is none.
    pub(in crate::cli) fn new(name: &str, bytes: Vec<u8>) -> Result<Rc<Source>, Failure> {
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let readable = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            Source { name: name.to_owned(), text: readable }.wrong(valid, "not UTF-8, as TOML is")
        })?;
        Ok(Rc::new(Source { name: name.to_owned(), text }))
    }

    /// The table that the file is.
    ///
    /// # Errors
    /// [`Failure::Usage`] when it is no TOML.
    pub(in crate::cli) fn root(&self) -> Result<Spanned<DeTable<'_>>, Failure> {
        DeTable::parse(&self.text).map_err(|error| {
            let at = error.span().map_or(self.text.len(), |span| span.start);
            let is_bare = self.text.get(at..).is_some_and(|rest| rest.starts_with(char::is_alphabetic));
            let cure = if is_bare { "; text stands in quotes" } else { "" };
            self.wrong(at, &format!("{}{cure}", error.message()))
        })
    }

    /// What is wrong at the byte `at`.
    pub(in crate::cli) fn wrong(&self, at: usize, explanation: &str) -> Failure {
        let (line, column) = self.place(at);
        // Keys and values may hold line ends, and what is told is one line.
        let place_and_all = format!("{}:{line}:{column}: {explanation}", self.name);
        Failure::Usage(place_and_all.replace(char::is_control, " "))
    }

    /// Line and column, in characters, from 1.
    pub(super) fn place(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

/// A key and its value.
pub(in crate::cli) struct Entry<'a> {
    /// Where it stands.
    pub(super) source: &'a Rc<Source>,
    /// The key.
    pub(in crate::cli) key: &'a str,
    /// The key with those of the tables around it.
    path: String,
    /// The byte at which the value begins; for a table, its header.
    pub(super) at: usize,
    key_at: usize,
    value: &'a DeValue<'a>,
}

/// What is in a table called `path`, from top to bottom.
pub(in crate::cli) fn entries<'a>(
    source: &'a Rc<Source>,
    path: &str,
    table: &'a DeTable<'a>,
) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = table
        .iter()
        .map(|(key, value)| {
            let name: &str = key.get_ref();
            let dot = if path.is_empty() { "" } else { "." };
            Entry {
                source,
                key: name,
                path: format!("{path}{dot}{name}"),
                at: value.span().start,
                key_at: key.span().start,
                value: value.get_ref(),
            }
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_at);
    entries
}

impl<'a> Entry<'a> {
    /// What is wrong with the value.
    pub(in crate::cli) fn wrong(&self, explanation: &str) -> Failure {
        self.source.wrong(self.at, &format!("{}: {explanation}", self.path))
    }

    fn expected(&self, what: &str) -> Failure {
        self.wrong(&format!("expected {what}, found {}", found(self.value)))
    }

    /// That there is no such key, and which there are.
    pub(in crate::cli) fn unknown(&self, known: &[&str]) -> Failure {
        let nearest = known.iter().map(|name| (distance(self.key, name), name)).min();
        let cure = match nearest {
            Some((changes, name)) if changes <= 2 || 3 * changes <= name.len() => {
                format!("did you mean `{name}`?")
            }
            _ => format!("the keys here are {}", known.join(", ")),
        };
        self.source.wrong(self.key_at, &format!("{}: there is no such key; {cure}", self.path))
    }

    /// The entries of a table.
    pub(super) fn table(&self) -> Result<Vec<Entry<'a>>, Failure> {
        match self.value {
            DeValue::Table(table) => Ok(entries(self.source, &self.path, table)),
            _ => Err(self.expected(&format!("a table [{}]", self.path))),
        }
    }

    /// The tables of an array of them, each with where it begins.
    pub(in crate::cli) fn tables(&self) -> Result<Vec<(usize, Vec<Entry<'a>>)>, Failure> {
        let expected = || self.expected(&format!("tables [[{}]]", self.path));
        let DeValue::Array(array) = self.value else { return Err(expected()) };
        let one = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Table(table) => Ok((item.span().start, entries(self.source, &self.path, table))),
            _ => Err(expected()),
        };
        array.iter().map(one).collect()
    }

    /// A string.
    pub(super) fn text(&self, expected: &str) -> Result<&'a str, Failure> {
        self.value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| self.expected(expected))
    }

    /// One of `words`, each with what it stands for.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Failure> {
        let written = self.value.as_str();
        words.iter().find(|(word, _)| Some(*word) == written).map(|&(_, meaning)| meaning).ok_or_else(|| {
            let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.expected(&quoted.join(" or "))
        })
    }

    /// `true` or `false`.
    pub(in crate::cli) fn boolean(&self) -> Result<bool, Failure> {
        self.value.as_bool().ok_or_else(|| self.expected("true or false"))
    }

    /// A number.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Failure> {
        let number = integer(self.value).and_then(|number| u32::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.expected(&format!("a number from {} to {}", range.start(), range.end())))
    }

    /// Bytes: a number, or a string such as `"64KiB"`.
    pub(super) fn bytes(&self, range: RangeInclusive<usize>) -> Result<usize, Failure> {
        let word = self.scalar("bytes such as \"64KiB\"")?;
        let bytes = values::bytes(&word).map_err(|wrong| self.wrong(&wrong))?;
        usize::try_from(bytes).ok().filter(|bytes| range.contains(bytes)).ok_or_else(|| {
            let [least, most] = [*range.start(), *range.end()].map(|bytes| values::shown_bytes(bytes as u64));
            self.wrong(&format!("must be from {least} to {most}"))
        })
    }

    /// A time: a string such as `"5s"`.
    pub(super) fn time(&self, range: RangeInclusive<Nanos>) -> Result<Nanos, Failure> {
        let time =
            values::duration(self.text("a time such as \"5s\"")?).map_err(|wrong| self.wrong(&wrong))?;
        // At most a thousand hours: below 2^62 ns.
        let time = time.as_nanos() as Nanos;
        if range.contains(&time) {
            return Ok(time);
        }
        let [least, most] = [*range.start(), *range.end()].map(values::shown_time);
        Err(self.wrong(&format!("must be from {least} to {most}")))
    }

    /// A string or a number, as it would be typed.
    fn scalar(&self, expected: &str) -> Result<String, Failure> {
        typed_word(self.value).ok_or_else(|| self.expected(expected))
    }

    /// The value as `flag` would be given on the command line, read as it is there.
    fn typed(&self, flag: &Arg) -> Result<Args, Failure> {
        let name = flag.get_long().unwrap_or_default();
        let mut words = Vec::new();
        if matches!(flag.get_action(), ArgAction::SetTrue) {
            if self.boolean()? != name.starts_with("no-") {
                words.push(format!("--{name}"));
            }
        } else {
            for word in self.flag_words(flag)? {
                words.push(format!("--{name}={word}"));
            }
        }
        let line = Line::try_parse_from(words).map_err(|error| self.wrong(&reason(&error)))?;
        Ok(line.args)
    }

    /// The values of `flag`, which takes some, as they would be typed.
    pub(in crate::cli) fn flag_words(&self, flag: &Arg) -> Result<Vec<String>, Failure> {
        let repeatable = matches!(flag.get_action(), ArgAction::Append);
        let value_name =
            flag.get_value_names().and_then(<[_]>::first).map_or("a value", |name| name.as_str());
        // A list of one flag's values, such as CPUs.
        let is_list = value_name == "LIST";
        let expected = match (repeatable, is_list) {
            (true, _) => format!("\"{value_name}\", or a list of them"),
            (_, true) => "a string such as \"0-3\", or a list of numbers".to_owned(),
            _ => format!("{value_name} as a string or a number"),
        };
        let DeValue::Array(array) = self.value else { return Ok(vec![self.scalar(&expected)?]) };
        let words: Option<Vec<String>> = array.iter().map(|item| typed_word(item.get_ref())).collect();
        match words {
            Some(words) if is_list && !words.is_empty() => Ok(vec![words.join(",")]),
            Some(words) if repeatable && !words.is_empty() => Ok(words),
            Some(words) if words.is_empty() => {
                Err(self.wrong(&format!("expected {expected}; leave the key out for the default")))
            }
            _ => Err(self.expected(&expected)),
        }
    }
}

/// A string or a number as it would be typed; an empty string is neither.
fn typed_word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(word) if !word.is_empty() => Some(word.to_string()),
        DeValue::Integer(_) => integer(value).map(|number| number.to_string()),
        _ => None,
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value as an error shows it.
fn found(value: &DeValue<'_>) -> String {
    /// Characters of a string that are shown.
    const SHOWN_MAX: usize = 40;
    match value {
        DeValue::String(text) if text.chars().count() <= SHOWN_MAX => format!("{text:?}"),
        DeValue::String(_) => "a long string".to_owned(),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Float(float) => float.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Why clap did not take a value.
pub(in crate::cli) fn reason(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) if !words.is_empty() => format!("expected {}", words.join(", ")),
        _ => one_line(error),
    }
}

/// Characters to insert, delete or replace to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::serve::settings::Settings;
    use crate::limits::{MILLISECOND, SECOND};
    use crate::protocol::handshake::{HostPolicy, OriginPolicy, SubprotocolPreference};
    use crate::server::DriverChoice;

    /// What comes of a file with this text and of flags beside it.
    pub(in super::super) fn settings(text: &str, flags: &[&str]) -> Result<Settings, Failure> {
        let ConfigFile { args, mut places, tables } = ConfigFile::parse("f.toml", text.into())?;
        let line = Line::try_parse_from(flags).expect("valid flags");
        Settings::new(line.args.over(args, &mut places), &places, &tables)
    }

    fn complaint(text: &str, flags: &[&str]) -> String {
        match settings(text, flags) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_flag_is_a_key_but_those_about_the_file() {
        let command = Line::command();
        let keys: Vec<String> = command.get_arguments().filter_map(key_of).collect();
        assert!(keys.iter().any(|key| key == "test_endpoints"), "{keys:?}");
        for flag in command.get_arguments() {
            let long = flag.get_long().expect("long flags only");
            assert!(key_of(flag).is_some() || NO_KEYS.contains(&long), "{long} cannot be said in a file");
        }
        let documentation = include_str!("../../../docs/configuration.md");
        for key in keys.iter().map(String::as_str).chain(super::super::topics::KEYS) {
            assert!(documentation.contains(&format!("`{key}`")), "{key} is not documented");
        }
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let text = r#"
            listen = ["127.0.0.1:0", "unix:/run/e.sock"]
            admin = "off"
            shards = 2
            cpus = [0, 1]
            driver = "epoll"
            max_message = "1MiB"
            max_connections = 1_000
            queue_bytes = 0x10000
            max_topics = 70
            max_subscriptions = 7
            memory_budget = "64MiB"
            allow_origin = "https://a.example"
            compress = "on"
            subprotocol = ["b", "a"]
            subprotocol_preference = "client"
            handshake_timeout = "2s"
            send_timeout = "3s"
            congestion = "reno"
            log = "warn"
            profile = "benchmark"
            allow_host = "b.example"
            demo = "off"
            test_endpoints = false
            takeover = true
        "#;
        let Settings { server, log, .. } = settings(text, &[]).expect("valid");
        assert_eq!(server.listen.len(), 2);
        assert_eq!((server.shards, &server.cpus[..]), (Some(2), &[0, 1][..]));
        assert_eq!(server.driver, DriverChoice::Epoll);
        assert_eq!((server.message_bytes_max, server.queue_bytes), (1 << 20, 1 << 16));
        assert_eq!(server.connections_max, Some(1_000));
        assert_eq!((server.topics_max, server.subscriptions_max), (70, 7));
        assert_eq!(server.memory_budget_bytes, 64 << 20);
        assert_eq!(server.origins, OriginPolicy::List(vec!["https://a.example".to_owned()]));
        let hosts = ["b.example", "a.example"].map(str::to_owned).to_vec();
        assert_eq!(server.hosts, HostPolicy::Local(hosts));
        assert!(server.compression.is_some());
        assert_eq!(server.subprotocols, ["b", "a"]);
        assert_eq!(server.subprotocol_preference, SubprotocolPreference::Client);
        assert_eq!((server.handshake_timeout, server.send_timeout), (2 * SECOND, 3 * SECOND));
        assert_eq!(server.congestion.as_deref(), Some("reno"));
        assert_eq!(log, "warn");
        assert!(server.autotune_sockets && server.takeover && !server.test_endpoints);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let text = "max_message = '1MiB'\nlisten = ['127.0.0.1:1', '127.0.0.1:2']\ntest_endpoints = true\n\
                    profile = 'conformance'\nlog = 'warn'";
        let flags = ["--max-message=2MiB", "--listen=127.0.0.1:3", "--no-test-endpoints", "--log=debug"];
        let Settings { server, log, .. } = settings(text, &flags).expect("valid");
        assert_eq!(server.message_bytes_max, 2 << 20);
        assert_eq!(server.listen.len(), 1, "a list given by flags stands for all of it");
        assert!(!server.test_endpoints);
        assert_eq!(log, "debug");
        assert_eq!(server.queue_bytes, 1 << 20, "the profile of the file holds");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_its_key_and_what_would_be_right() {
        for (text, line) in [
            (
                "max_message = \"lots\"",
                "f.toml:1:15: max_message: expected bytes such as 65536, 64KiB or 1MiB",
            ),
            ("\n  max_message = 0", "f.toml:2:17: max_message: must be from 1 byte to 2GiB"),
            ("max_message = -1", "f.toml:1:15: max_message: expected bytes such as"),
            (
                "max_message = true",
                "f.toml:1:15: max_message: expected BYTES as a string or a number, found true",
            ),
            (
                "max_message = [1]",
                "f.toml:1:15: max_message: expected BYTES as a string or a number, found a list",
            ),
            ("max_message = 1.5", "found 1.5"),
            ("max_mesage = 1", "f.toml:1:1: max_mesage: there is no such key; did you mean `max_message`?"),
            ("max-message = 1", "did you mean `max_message`?"),
            ("[topic]\nx = 1", "f.toml:1:2: topic: there is no such key; did you mean `topics`?"),
            ("config = \"g\"", "f.toml:1:1: config: there is no such key; the keys here are listen, "),
            ("no_test_endpoints = true", "there is no such key; did you mean `test_endpoints`?"),
            ("takeover = \"yes\"", "f.toml:1:12: takeover: expected true or false, found \"yes\""),
            ("driver = \"kqueue\"", "f.toml:1:10: driver: expected auto, uring, epoll"),
            (
                "congestion = \"two words\"",
                "f.toml:1:14: congestion: expected the name of an algorithm such as cubic",
            ),
            ("handshake_timeout = 5", "f.toml:1:21: handshake_timeout: expected a duration such as"),
            ("send_timeout = \"2h\"", "f.toml:1:16: send_timeout: must be from 1s to 1h"),
            ("handshake_timeout = \"1ms\"", "f.toml:1:21: handshake_timeout: must be from 100ms to 5m"),
            ("max_topics = 0", "f.toml:1:14: max_topics: 0 is not in 1..=16777216"),
            (
                "listen = []",
                "f.toml:1:10: listen: expected \"ADDR:PORT\", or a list of them; leave the key out",
            ),
            ("listen = [\"nowhere\"]", "f.toml:1:10: listen: expected ADDR:PORT such as"),
            (
                "listen = [[1]]",
                "f.toml:1:10: listen: expected \"ADDR:PORT\", or a list of them, found a list",
            ),
            ("log = \"\"", "f.toml:1:7: log: expected LEVEL as a string or a number, found \"\""),
            ("cpus = []", "f.toml:1:8: cpus: expected a string such as \"0-3\", or a list of numbers"),
            ("shards = 3\ncpus = [0, 1]", "f.toml:1:10: shards: 3 shards need as many CPUs"),
            ("tls_cert = \"c\"", "f.toml:1:12: tls_cert: needs its private key, --tls-key"),
            ("admin = \"127.0.0.1:9001\"", "f.toml:1:9: admin: 127.0.0.1:9001 is taken by --listen"),
            ("shards = 1\nshards = 2", "f.toml:2:1: duplicate key"),
            ("log = \"ä\" x", "f.toml:1:11: "),
            ("log = \"warn", "f.toml:1:"),
            ("log = info", "; text stands in quotes"),
            ("log = warn", "f.toml:1:7: "),
            ("\"a\\nb\" = 1", "f.toml:1:1: a b: there is no such key"),
            ("compress = \"a\\nb\"", "f.toml:1:12: compress: a b is no parameter"),
            ("topics = 1", "f.toml:1:10: topics: expected tables [[topics]], found 1"),
            ("[topics]", "f.toml:1:1: topics: expected tables [[topics]], found a table"),
            (
                "topic_defaults = []",
                "f.toml:1:18: topic_defaults: expected a table [topic_defaults], found a list",
            ),
        ] {
            let complaint = complaint(text, &[]);
            assert!(complaint.contains(line), "{text:?}\n  {complaint}\n  {line}");
            assert!(!complaint.contains('\n'), "{complaint}");
        }
    }

    #[test]
    fn what_a_flag_has_said_is_told_as_the_flags() {
        let text = "cpus = [0]\nshards = 1";
        assert!(complaint(text, &["--shards=2"]).starts_with("--shards: 2 shards need"));
        assert!(
            complaint("queue_bytes = \"32MiB\"", &["--memory-budget=16MiB"]).starts_with("--memory-budget:")
        );
        assert!(complaint("tls_key = \"k\"", &[]).starts_with("f.toml:1:11: tls_key: "));
        assert!(complaint("log = \"warn\"", &["--tls-key=k"]).starts_with("--tls-key: "));
    }

    #[test]
    fn a_file_in_another_encoding_is_told_where() {
        match ConfigFile::parse("f.toml", b"log = 'info'\n# \xe4".to_vec()) {
            Err(Failure::Usage(line)) => assert_eq!(line, "f.toml:2:3: not UTF-8, as TOML is"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn topics_take_what_they_do_not_say_from_the_defaults_and_those_from_the_flags() {
        let text = r#"
            [[topics]]
            pattern = "prices.*"
            slow = "conflate"
            lag = "1s"
            coalesce = "2ms"
            history_messages = 0

            [[topics]]
            pattern = "*"
            publish = "operator"
            presence = false

            [topic_defaults]
            slow = "drop-oldest"
            history_bytes = "1MiB"
            history_age = "5m"
            presence = true
            heartbeat = "10s"
        "#;
        let rules = settings(text, &["--queue-bytes=64KiB"]).expect("valid").server.topics;
        let prices = rules.of("prices.eur");
        assert_eq!(prices.slow, crate::hub::Slow::Conflate);
        assert_eq!((prices.lag, prices.coalesce, prices.lag_bytes), (SECOND, 2 * MILLISECOND, 64 * 1024));
        assert_eq!((prices.history.messages, prices.history.bytes), (0, 1 << 20));
        assert!(prices.presence && prices.clients_publish);
        let others = rules.of("news");
        assert_eq!(others.slow, crate::hub::Slow::DropOldest);
        assert_eq!((others.history.age, others.heartbeat), (300 * SECOND, 10 * SECOND));
        assert!(!others.presence && !others.clients_publish);
        let plain = settings("", &[]).expect("valid").server.topics;
        assert_eq!(plain.of("x"), &crate::hub::Settings::default());
    }
}
