//! [`ConnectionTimes`]: the times of connections by their path and their listener, whichever route serves them.

use std::sync::Arc;
use std::time::Duration;

use super::pattern::Pattern;
use crate::node::listen_address::ListenAddress;
use echoring_proto::connection::{MessageProgress, nanos};
use echoring_runtime::shard::RouteTimes;

/// The times of some connections, instead of those of the server: of a path, of a listen address, or of both. Where it sets none, those of
/// the server apply. See [`Builder::times`](crate::Builder::times).
///
/// ```
/// use std::time::Duration;
///
/// use echoring::server::{ConnectionTimes, Server};
///
/// let dashboards = ConnectionTimes::default().path("/broadcast/{topic}").max_lifetime(Duration::from_secs(3_600));
/// let server = Server::builder().listen(([127, 0, 0, 1], 0)).builtin_routes(true).times(dashboards);
/// # drop(server);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTimes {
    path: Option<Pattern>,
    listener: Option<ListenAddress>,
    times: RouteTimes,
}

impl ConnectionTimes {
    /// Of connections to these paths only. A segment `{name}` is any segment, and `{*name}` the rest, as in
    /// [`Route::new`](crate::Route::new).
    #[must_use]
    pub fn path(mut self, pattern: &str) -> ConnectionTimes {
        self.path = Some(Pattern::new(pattern));
        self
    }

    /// Of connections that a listener has accepted only. A TCP address needs its port.
    #[must_use]
    pub fn listener(mut self, address: ListenAddress) -> ConnectionTimes {
        self.listener = Some(address);
        self
    }

    /// See [`Builder::pings`](crate::Builder::pings).
    #[must_use]
    pub fn pings(mut self, interval: Duration, timeout: Duration) -> ConnectionTimes {
        (self.times.ping_interval, self.times.pong_timeout) = (Some(nanos(interval)), Some(nanos(timeout)));
        self
    }

    /// See [`Builder::idle_timeout`](crate::Builder::idle_timeout).
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> ConnectionTimes {
        self.times.idle_timeout = Some(nanos(time));
        self
    }

    /// See [`Builder::max_lifetime`](crate::Builder::max_lifetime).
    #[must_use]
    pub fn max_lifetime(mut self, time: Duration) -> ConnectionTimes {
        self.times.max_lifetime = Some(nanos(time));
        self
    }

    /// See [`Builder::message_progress`](crate::Builder::message_progress).
    #[must_use]
    pub fn message_progress(mut self, bytes: u32, time: Duration) -> ConnectionTimes {
        self.times.message_progress = Some(MessageProgress::new(bytes, time));
        self
    }

    /// Sets all times.
    #[doc(hidden)]
    #[must_use]
    pub fn with(self, times: RouteTimes) -> ConnectionTimes {
        ConnectionTimes { times, ..self }
    }

    /// The times that are set.
    #[doc(hidden)]
    pub fn times(&self) -> RouteTimes {
        self.times
    }

    /// What distinguishes it from others: its listener, its path, or both.
    #[doc(hidden)]
    pub fn name(&self) -> String {
        let parts =
            [self.listener.as_ref().map(ToString::to_string), self.path.as_ref().map(ToString::to_string)];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    fn has(&self, path: &str, listener: Option<&str>) -> bool {
        let has_path = || self.path.as_ref().is_none_or(|pattern| pattern.matches(path));
        let has_listener = |address: &ListenAddress| listener == Some(&*address.to_string());
        has_path() && self.listener.as_ref().is_none_or(has_listener)
    }
}

/// All of a server, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimesTable(Vec<(Arc<str>, ConnectionTimes)>);

impl TimesTable {
    pub(crate) fn new(all: &[ConnectionTimes]) -> TimesTable {
        TimesTable(all.iter().map(|times| (times.name().into(), times.clone())).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of the first one for a request.
    pub(crate) fn find(&self, path: &str, listener: Option<&str>) -> Option<&Arc<str>> {
        self.0.iter().find(|(_, times)| times.has(path, listener)).map(|(name, _)| name)
    }

    /// The times by their names. Each listener that is named has a place, so that it is known when the request comes.
    pub(crate) fn by_name(&self) -> Vec<(Arc<str>, RouteTimes)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, times)| (Arc::clone(name), times.times)).collect();
        for address in self.0.iter().filter_map(|(_, times)| times.listener.as_ref()) {
            let address: Arc<str> = address.to_string().into();
            if all.iter().all(|(name, _)| *name != address) {
                all.push((address, RouteTimes::default()));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_path_and_listener_is_found() {
        let address = |port| ListenAddress::Tcp(([127, 0, 0, 1], port).into());
        let all = [
            ConnectionTimes::default().path("/broadcast/{topic}").listener(address(1)),
            ConnectionTimes::default().path("/broadcast/{topic}"),
            ConnectionTimes::default().listener(address(1)),
        ];
        let table = TimesTable::new(&all);
        for (path, listener, found) in [
            ("/broadcast/a", Some("127.0.0.1:1"), Some("127.0.0.1:1 /broadcast/{topic}")),
            ("/broadcast/a", Some("127.0.0.1:2"), Some("/broadcast/{topic}")),
            ("/broadcast/a", None, Some("/broadcast/{topic}")),
            ("/echo", Some("127.0.0.1:1"), Some("127.0.0.1:1")),
            ("/echo", Some("127.0.0.1:2"), None),
        ] {
            assert_eq!(table.find(path, listener).map(|name| &**name), found, "{path} at {listener:?}");
        }
    }
}
