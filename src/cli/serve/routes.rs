//! `[[routes]]` of a configuration file: times of connections by their path, by the address that accepted them, or by both.
//!
//! A table overrides the keys of the same names. [`KEYS`] declares its own.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::Failure;
use crate::common::file::{Entry, Place};
use crate::common::values::{shown_bytes, shown_range, shown_time};
use crate::limits::ROUTES_MAX;
use crate::serve::args::{Args, LIFETIMES, MESSAGE_PROGRESS_TIME, PING_TIMES, listen_address};
use echoring_proto::connection::{MessageProgress, nanos};
use echoring_proto::limits::{MESSAGE_BYTES_MAX, Nanos};
use echoring_runtime::shard::RouteTimes;
use echoring_server::{ConnectionTimes, ListenAddress};

/// The keys that say which connections a table is for, and their help.
pub(crate) const MATCHES: [(&str, &str, &str); 2] = [
    (
        "path",
        "a path such as /broadcast/{topic}",
        "Paths of the connections that the table is for. {NAME} is one segment, and {*NAME} at the end all that are left",
    ),
    (
        "listen",
        "an address of `listen`",
        "Address at which the connections were accepted. With path, both must fit",
    ),
];

/// The keys of a table. A running server takes over changes of all of them.
pub(crate) const KEYS: [Key; 6] = [
    Key { name: "ping_interval", value: Value::Time(&PING_TIMES, |times| &mut times.ping_interval) },
    Key { name: "pong_timeout", value: Value::Time(&PING_TIMES, |times| &mut times.pong_timeout) },
    Key { name: "idle_timeout", value: Value::Limit(|times| &mut times.idle_timeout) },
    Key { name: "max_lifetime", value: Value::Limit(|times| &mut times.max_lifetime) },
    Key { name: "message_progress", value: Value::Bytes },
    Key {
        name: "message_progress_time",
        value: Value::Time(&MESSAGE_PROGRESS_TIME, |times| &mut times.message_progress_time),
    },
];

/// A key of a table. It has the meaning of the key of the same name outside of tables.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Time(&'static RangeInclusive<Duration>, fn(&mut Times) -> &mut Option<Nanos>),
    /// A time of [`LIFETIMES`], or 0s for no limit, where there is one for other connections.
    Limit(fn(&mut Times) -> &mut Option<Nanos>),
    /// The bytes of `message_progress`.
    Bytes,
}

/// The times that a table sets.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    ping_interval: Option<Nanos>,
    pong_timeout: Option<Nanos>,
    idle_timeout: Option<Nanos>,
    max_lifetime: Option<Nanos>,
    message_progress: Option<usize>,
    message_progress_time: Option<Nanos>,
}

/// The table of some connections.
#[derive(Clone, Debug)]
pub(super) struct RouteTable {
    of: ConnectionTimes,
    listen: Option<(ListenAddress, Place)>,
    times: Times,
    /// The keys with their values as a file has them.
    pub(super) shown: Vec<(&'static str, String, Place)>,
}

impl Key {
    fn read(&self, entry: &Entry<'_>, times: &mut Times) -> Result<String, Failure> {
        let in_nanos = |range: &RangeInclusive<Duration>| nanos(*range.start())..=nanos(*range.end());
        match self.value {
            Value::Time(range, field) => {
                let time = entry.time(&in_nanos(range))?;
                *field(times) = Some(time);
                Ok(format!("\"{}\"", shown_time(time)))
            }
            Value::Limit(field) => {
                let range = in_nanos(&LIFETIMES);
                let time = entry.time(&(0..=*range.end()))?;
                if time > 0 && time < *range.start() {
                    return Err(entry.wrong(&format!(
                        "must be 0s, or {}",
                        shown_range(&range, |time| shown_time(*time))
                    )));
                }
                *field(times) = Some(time);
                Ok(format!("\"{}\"", shown_time(time)))
            }
            Value::Bytes => {
                let bytes = entry.bytes(&(0..=MESSAGE_BYTES_MAX as usize))?;
                times.message_progress = Some(bytes);
                Ok(format!("\"{}\"", shown_bytes(bytes as u64)))
            }
        }
    }

    /// The values that it can have.
    pub(crate) fn values(&self) -> String {
        let shown = |range: &RangeInclusive<Duration>| shown_range(range, |time| shown_time(nanos(*time)));
        match self.value {
            Value::Time(range, _) => format!("time {}", shown(range)),
            Value::Limit(_) => format!("0s for no limit, or time {}", shown(&LIFETIMES)),
            Value::Bytes => {
                format!("bytes {}", shown_range(&(0..=MESSAGE_BYTES_MAX), |bytes| shown_bytes(*bytes)))
            }
        }
    }
}

impl RouteTable {
    /// The times of its connections.
    pub(super) fn over(&self, args: &Args) -> ConnectionTimes {
        let Times {
            ping_interval,
            pong_timeout,
            idle_timeout,
            max_lifetime,
            message_progress,
            message_progress_time,
        } = self.times;
        let sets_progress = message_progress.is_some() || message_progress_time.is_some();
        let progress = || MessageProgress {
            // The parsers accept at most 2 GiB.
            bytes: message_progress.unwrap_or(args.message_progress as usize) as u32,
            time: message_progress_time.unwrap_or(nanos(args.message_progress_time)),
        };
        let message_progress = sets_progress.then(progress);
        let times = RouteTimes { message_progress, ping_interval, pong_timeout, max_lifetime, idle_timeout };
        self.of.clone().with(times)
    }

    /// Its path and its address.
    pub(super) fn name(&self) -> String {
        self.of.name()
    }

    /// Refuses an address that is none of `listen`.
    pub(super) fn check(&self, listen: &[ListenAddress]) -> Result<(), Failure> {
        match &self.listen {
            Some((address, place)) if !listen.contains(address) => {
                Err(place.wrong(&format!("the server does not listen on {address}")))
            }
            _ => Ok(()),
        }
    }
}

/// The keys as `serve --help` explains them.
pub(crate) fn help() -> String {
    let mut text = "Keys of [[routes]] in the file of --config:\n".to_owned();
    for (name, values, help) in MATCHES {
        text += &format!("  {name}\n          {help} [{values}]\n");
    }
    for key in &KEYS {
        text += &format!("  {}\n          As the flag, for these connections [{}]\n", key.name, key.values());
    }
    text
}

/// Reads all of `[[routes]]`.
pub(super) fn read(entry: &Entry<'_>) -> Result<Vec<RouteTable>, Failure> {
    let mut tables: Vec<RouteTable> = Vec::new();
    for (at, entries) in entry.tables()? {
        let table = read_table(&entries)?;
        let name = table.name();
        let wrong = |explanation: &str| entry.source.wrong(at, &format!("routes: {explanation}"));
        if name.is_empty() {
            return Err(wrong("say which connections it is for, by path, listen, or both"));
        }
        if tables.iter().any(|other| other.name() == name) {
            return Err(wrong(&format!("there is a table for {name} already")));
        }
        if tables.len() == ROUTES_MAX {
            return Err(wrong(&format!("at most {ROUTES_MAX} tables are possible")));
        }
        tables.push(table);
    }
    Ok(tables)
}

fn read_table(entries: &[Entry<'_>]) -> Result<RouteTable, Failure> {
    let mut table = RouteTable {
        of: ConnectionTimes::default(),
        listen: None,
        times: Times::default(),
        shown: Vec::new(),
    };
    for entry in entries {
        let (name, shown) = match entry.key {
            "path" => {
                let path = read_path(entry)?;
                table.of = table.of.path(path);
                ("path", format!("{path:?}"))
            }
            "listen" => {
                let address = read_address(entry)?;
                table.of = table.of.listener(address.clone());
                let shown = format!("\"{address}\"");
                table.listen = Some((address, entry.place.clone()));
                ("listen", shown)
            }
            other => {
                let Some(key) = KEYS.iter().find(|key| key.name == other) else {
                    let known = MATCHES.iter().map(|(name, ..)| *name).chain(KEYS.iter().map(|key| key.name));
                    return Err(entry.unknown(&known.collect::<Vec<_>>()));
                };
                (key.name, key.read(entry, &mut table.times)?)
            }
        };
        table.shown.push((name, shown, entry.place.clone()));
    }
    Ok(table)
}

fn read_path<'a>(entry: &Entry<'a>) -> Result<&'a str, Failure> {
    let expected = "a path such as \"/broadcast/{topic}\"";
    let path = entry.text(expected)?;
    if path.starts_with('/') { Ok(path) } else { Err(entry.wrong(&format!("expected {expected}"))) }
}

fn read_address(entry: &Entry<'_>) -> Result<ListenAddress, Failure> {
    let address = listen_address(entry.text("an address of `listen`")?).map_err(|line| entry.wrong(&line))?;
    match address {
        // Which one that will be is not known here.
        ListenAddress::Tcp(tcp) if tcp.port() == 0 => {
            Err(entry.wrong("needs the port, which is chosen at the start here"))
        }
        _ => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::config::tests::settings;
    use echoring_proto::limits::SECOND;

    fn complaint(text: &str) -> String {
        match settings(text, &[]) {
            Err(Failure::Usage(line)) => line,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_table_sets_times_over_those_of_the_server() {
        let text = "message_progress_time = '7s'\n[[routes]]\npath = '/broadcast/{topic}'\nping_interval = '50s'\n\
                    message_progress = '2KiB'\n[[routes]]\nlisten = '127.0.0.1:9001'\nmax_lifetime = '1h'\nidle_timeout = '0s'";
        let server = settings(text, &[]).expect("valid").server;
        let [feeds, listener] = &server.times[..] else { panic!("two tables: {:?}", server.times) };
        assert_eq!(feeds.name(), "/broadcast/{topic}");
        let progress = MessageProgress { bytes: 2_048, time: 7 * SECOND };
        let expected = RouteTimes {
            ping_interval: Some(50 * SECOND),
            message_progress: Some(progress),
            ..RouteTimes::default()
        };
        assert_eq!(feeds.times(), expected);
        assert_eq!(listener.name(), "127.0.0.1:9001");
        let expected =
            RouteTimes { max_lifetime: Some(3_600 * SECOND), idle_timeout: Some(0), ..RouteTimes::default() };
        assert_eq!(listener.times(), expected);
    }

    #[test]
    fn what_a_table_cannot_have_is_told_with_its_place() {
        for (body, line) in [
            ("ping_interval = '5s'", "f.toml:1:1: routes: say which connections it is for"),
            ("path = 'echo'", "f.toml:2:8: routes.path: expected a path such as"),
            ("listen = '127.0.0.1:0'", "f.toml:2:10: routes.listen: needs the port"),
            (
                "listen = '127.0.0.1:7'",
                "f.toml:2:10: routes.listen: the server does not listen on 127.0.0.1:7",
            ),
            (
                "path = '/'\nidle_timeout = '10ms'",
                "f.toml:3:16: routes.idle_timeout: must be 0s, or from 1s to",
            ),
            ("path = '/'\npong_timeout = '0s'", "f.toml:3:16: routes.pong_timeout: must be from 1s to 1h"),
            ("path = '/'\nmax_life = '1h'", "f.toml:3:1: routes.max_life: there is no such key"),
            ("path = '/'\n[[routes]]\npath = '/'", "f.toml:3:1: routes: there is a table for / already"),
        ] {
            let complaint = complaint(&format!("[[routes]]\n{body}"));
            assert!(complaint.contains(line), "{complaint}");
        }
    }
}
