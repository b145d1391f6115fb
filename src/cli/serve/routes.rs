//! `[[routes]]` of a configuration file: times of connections by their path, by the address that accepted them, or by both.
//!
//! A table overrides the keys of the same names. [`KEYS`] declares its own.

use super::keys::{Custom, Key, Shown, Table, UrlPath, bytes, keys, time, time_or_none};
use super::server_options::{LIFETIMES, MESSAGE_PROGRESS_TIME, PING_TIMES};
use super::toml_text::quoted;
use crate::Failure;
use crate::common::file::Entry;
use crate::limits::ROUTES_MAX;
use crate::serve::args::listen_address;
use echoring_proto::connection::{ConnectionConfig, MessageProgress};
use echoring_proto::limits::{MESSAGE_BYTES_MAX, Nanos};
use echoring_runtime::shard::RouteTimes;
use echoring_server::{ConnectionTimes, ListenAddress};

/// The keys of a table. A running server takes over changes of all of them.
pub(crate) const KEYS: &[Key<RouteKeys>] = keys!(RouteKeys {
    /// Paths of the connections that the table is for. {NAME} is one segment, and {*NAME} at the end all that are left
    path: UrlPath("/broadcast/{topic}") => path;
    /// Address at which the connections were accepted. With path, both must fit
    listen: Custom {
        text: || "an address of `listen`".to_owned(),
        read: |entry| read_address(entry).map(Some),
        shown: |address: &Option<ListenAddress>| Some(Shown::Value(quoted(&address.as_ref()?.to_string()))),
    } => listen;
    /// As the flag of the same name, for these connections
    ping_interval: time(PING_TIMES) => times.ping_interval;
    /// As the flag of the same name, for these connections
    pong_timeout: time(PING_TIMES) => times.pong_timeout;
    /// As the flag of the same name, for these connections
    idle_timeout: time_or_none(LIFETIMES) => times.idle_timeout;
    /// As the flag of the same name, for these connections
    max_lifetime: time_or_none(LIFETIMES) => times.max_lifetime;
    /// As the flag of the same name, for these connections
    message_progress: bytes(0..=MESSAGE_BYTES_MAX) => progress.0;
    /// As the flag of the same name, for these connections
    message_progress_time: time(MESSAGE_PROGRESS_TIME) => progress.1;
});

/// What the keys of a table set.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteKeys {
    path: Option<String>,
    listen: Option<ListenAddress>,
    times: RouteTimes,
    /// The bytes and the time of `times`.
    progress: (Option<u32>, Option<Nanos>),
}

/// The table of some connections.
pub(super) type RouteTable = Table<RouteKeys>;

impl RouteKeys {
    /// The times of its connections.
    pub(super) fn over(&self, server: &ConnectionConfig) -> ConnectionTimes {
        let progress = |(bytes, time): (Option<u32>, Option<Nanos>)| MessageProgress {
            bytes: bytes.unwrap_or(server.message_progress.bytes),
            time: time.unwrap_or(server.message_progress.time),
        };
        let is_set = self.progress != (None, None);
        let message_progress = is_set.then(|| progress(self.progress));
        self.of().with(RouteTimes { message_progress, ..self.times })
    }

    fn of(&self) -> ConnectionTimes {
        let of = ConnectionTimes::default();
        let of = self.path.iter().fold(of, |of, path| of.path(path));
        self.listen.iter().cloned().fold(of, ConnectionTimes::listener)
    }

    /// Its path and its address.
    pub(super) fn name(&self) -> String {
        self.of().name()
    }
}

/// Refuses an address that is none of `listen`.
pub(super) fn check(table: &RouteTable, listen: &[ListenAddress]) -> Result<(), Failure> {
    match &table.value.listen {
        Some(address) if !listen.contains(address) => {
            Err(table.wrong_in(&["listen"], &format!("the server does not listen on {address}")))
        }
        _ => Ok(()),
    }
}

/// Reads all of `[[routes]]`.
pub(super) fn read(entry: &Entry<'_>) -> Result<Vec<RouteTable>, Failure> {
    Table::read_all(entry, KEYS, ROUTES_MAX, RouteKeys::default, |before, table| {
        let name = table.value.name();
        if name.is_empty() {
            return Err(table.wrong("say which connections it is for, by path, listen, or both"));
        }
        table.refuse_second(before, RouteKeys::name)
    })
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
