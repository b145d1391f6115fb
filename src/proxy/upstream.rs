//! The servers behind the proxy: chooses one for each request, and connects to it.
//!
//! An upstream is down after a connect or a health check failed: until a check succeeds, or, without health checks, for
//! a fixed time. A single upstream is always tried, and the client is told the result.
//!
//! Never: a retry of a request of which any byte was sent.

#![forbid(unsafe_code)]

pub(crate) mod health;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::figures::UpstreamFigures;
use super::transport::{self, Transport};
use echoring_proto::Url;
use echoring_proto::url::BadUrl;

/// One upstream server.
#[derive(Debug)]
pub(super) struct Upstream {
    url: Url,
    /// Path in front of every request's path; empty or without a trailing slash.
    prefix: String,
    name: ServerName<'static>,
    /// When it went down; `None` while it is up.
    down_since: Mutex<Option<Instant>>,
    /// Connections that the proxy has to it.
    connections: AtomicUsize,
    /// Connections to it, and health checks, that failed.
    failures: AtomicU64,
    /// Whether a health check is under way.
    pub(super) is_checked: AtomicBool,
}

/// The URL of an upstream: `ws://` is the same as `http://`, `wss://` the same as `https://`. Its path is put in front
/// of the path of each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamUrl(Url);

impl std::str::FromStr for UpstreamUrl {
    type Err = String;

    fn from_str(word: &str) -> Result<UpstreamUrl, String> {
        const EXPECTED: &str = "expected a URL such as ws://127.0.0.1:8002 or https://app.example";
        let (scheme, rest) = word.split_once("://").ok_or(EXPECTED)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => "ws",
            "wss" | "https" => "wss",
            _ => return Err(EXPECTED.to_owned()),
        };
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|error: BadUrl| error.to_string())?;
        if url.path.contains('?') {
            return Err("an upstream's URL must not have a query (?...): clients send their own".to_owned());
        }
        if ServerName::try_from(url.host.clone()).is_err() {
            return Err(format!("{} is not a valid host name", url.host));
        }
        Ok(UpstreamUrl(url))
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl UpstreamUrl {
    /// Whether it uses TLS.
    pub fn is_secure(&self) -> bool {
        self.0.secure
    }
}

impl Upstream {
    fn new(UpstreamUrl(url): UpstreamUrl) -> Option<Upstream> {
        let name = ServerName::try_from(url.host.clone()).ok()?;
        let prefix = url.path.trim_end_matches('/').to_owned();
        Some(Upstream {
            url,
            prefix,
            name,
            down_since: Mutex::default(),
            connections: AtomicUsize::default(),
            failures: AtomicU64::default(),
            is_checked: AtomicBool::default(),
        })
    }

    /// Host and port in the format of the `Host` field.
    pub(super) fn authority(&self) -> String {
        self.url.authority()
    }

    /// The request target at the upstream for a client's `path_and_query`.
    pub(super) fn target(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.prefix)
    }

    /// Whether it is down, and went down less than `retry_after` ago.
    fn is_down(&self, retry_after: Option<Duration>) -> bool {
        let down_since = *self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        down_since.is_some_and(|since| retry_after.is_none_or(|after| since.elapsed() < after))
    }

    /// Sets whether it is down; a change is logged.
    pub(super) fn set_down(&self, down: bool, why: &dyn fmt::Display) {
        self.failures.fetch_add(down.into(), Ordering::Relaxed);
        let now = down.then(Instant::now);
        let before = {
            let mut down_since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *down_since, now)
        };
        match (before, now) {
            (None, Some(_)) => tracing::warn!("upstream {} is down: {why}", self.url),
            (Some(_), None) => tracing::info!("upstream {} is up again", self.url),
            _ => {}
        }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// [`ConnectError`], after `timeout` at the latest.
    pub(super) async fn connect(
        &self,
        tls: Option<TlsConnector>,
        timeout: Duration,
    ) -> Result<Transport, ConnectError> {
        let connecting = async {
            let stream = transport::connect(&self.url.host, self.url.port).await?;
            match tls {
                Some(connector) if self.url.secure => {
                    let stream = connector.connect(self.name.clone(), stream).await?;
                    Ok(Box::new(stream) as Transport)
                }
                _ if self.url.secure => Err(io::Error::other("TLS is not configured")),
                _ => Ok(stream),
            }
        };
        match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(ConnectError::Failed(error)),
            Err(_) => Err(ConnectError::Timeout(timeout)),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// Why connecting to an upstream failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The connection was refused, the name is unknown, the certificate is not trusted, or similar.
    #[error("{0}")]
    Failed(io::Error),
    /// There was no connection within this time.
    #[error("no connection was made within {0:?}")]
    Timeout(Duration),
}

/// Load balancing over the upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Balance {
    /// The upstream with the fewest connections from this proxy; round-robin among equals.
    #[default]
    LeastConnections,
    /// One after the other.
    RoundRobin,
}

/// All upstreams.
#[derive(Debug)]
pub(super) struct Upstreams {
    pub(super) all: Vec<Arc<Upstream>>,
    /// Upstreams of earlier configurations that still had connections.
    removed: Vec<Arc<Upstream>>,
    balance: Balance,
    /// Time after which an upstream that is down is tried again; `None` with health checks.
    retry_after: Option<Duration>,
    rotation: AtomicUsize,
}

impl Upstreams {
    /// The upstreams with these URLs. Those that `before` has keep their state, also one that was removed and returns while it
    /// has connections.
    pub(super) fn new(
        urls: &[UpstreamUrl],
        balance: Balance,
        retry_after: Option<Duration>,
        before: Option<&Upstreams>,
    ) -> Upstreams {
        let known = before.map(|before| before.all.iter().chain(&before.removed).cloned().collect());
        let mut known: Vec<Arc<Upstream>> = known.unwrap_or_default();
        let known_or_new = |url: &UpstreamUrl| match known.iter().position(|known| known.url == url.0) {
            Some(place) => Some(known.remove(place)),
            None => Upstream::new(url.clone()).map(Arc::new),
        };
        let all = urls.iter().filter_map(known_or_new).collect();
        known.retain(|removed| removed.connections.load(Ordering::Relaxed) > 0);
        let rotation = before.map_or(0, |before| before.rotation.load(Ordering::Relaxed));
        Upstreams { all, removed: known, balance, retry_after, rotation: AtomicUsize::new(rotation) }
    }

    /// Figures of each upstream by URL.
    pub(super) fn figures(&self) -> BTreeMap<String, UpstreamFigures> {
        let all = self.all.iter().map(|upstream| (upstream, Some(!upstream.is_down(self.retry_after))));
        let mut by_url: BTreeMap<String, UpstreamFigures> = BTreeMap::new();
        for (upstream, is_up) in all.chain(self.removed.iter().map(|removed| (removed, None))) {
            let sum = by_url.entry(upstream.to_string()).or_default();
            sum.is_up = sum.is_up.max(is_up);
            sum.connections += upstream.connections.load(Ordering::Relaxed) as u64;
            sum.failures += upstream.failures.load(Ordering::Relaxed);
        }
        by_url
    }

    /// Whether all are down.
    pub(super) fn are_down(&self) -> bool {
        self.all.iter().all(|upstream| upstream.is_down(self.retry_after))
    }

    /// The upstream for the next connection, which is counted for as long as the pick lives. Upstreams that are down or
    /// in `tried` are skipped; `None` if no other is left.
    pub(super) fn pick(&self, tried: &[Arc<Upstream>]) -> Option<Pick> {
        let rotation = self.rotation.fetch_add(1, Ordering::Relaxed);
        let only = self.all.len() == 1;
        let candidates =
            (0..self.all.len()).map(|i| &self.all[(rotation + i) % self.all.len()]).filter(|upstream| {
                (only || !upstream.is_down(self.retry_after))
                    && !tried.iter().any(|other| Arc::ptr_eq(other, upstream))
            });
        let picked = match self.balance {
            Balance::RoundRobin => candidates.into_iter().next(),
            // The first of those with the fewest.
            Balance::LeastConnections => {
                candidates.min_by_key(|upstream| upstream.connections.load(Ordering::Relaxed))
            }
        };
        picked.map(|upstream| {
            upstream.connections.fetch_add(1, Ordering::Relaxed);
            Pick(Arc::clone(upstream))
        })
    }
}

/// Counts one connection towards its upstream's load.
#[derive(Debug)]
pub(super) struct Pick(pub(super) Arc<Upstream>);

impl Drop for Pick {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(words: &[&str]) -> Vec<UpstreamUrl> {
        words.iter().map(|word| word.parse().expect("a URL")).collect()
    }

    fn upstreams(words: &[&str], balance: Balance, retry_after: Option<Duration>) -> Upstreams {
        Upstreams::new(&urls(words), balance, retry_after, None)
    }

    /// The upstreams after a reload of this list.
    fn reloaded(before: &Upstreams, words: &[&str]) -> Upstreams {
        Upstreams::new(&urls(words), Balance::default(), None, Some(before))
    }

    #[test]
    fn http_and_ws_mean_the_same() {
        for (word, shown) in [
            ("http://127.0.0.1:8002", "ws://127.0.0.1:8002/"),
            ("WS://localhost/app/", "ws://localhost/app/"),
            ("https://app.example", "wss://app.example/"),
            ("wss://[::1]:8443", "wss://[::1]:8443/"),
        ] {
            assert_eq!(word.parse::<UpstreamUrl>().expect("a URL").to_string(), shown);
        }
        for wrong in ["", "127.0.0.1:8002", "ftp://a", "ws://", "ws://a?b=c", "ws://a#b", "ws://a:0"] {
            assert!(wrong.parse::<UpstreamUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_path_of_an_upstream_is_prefixed() {
        for (url, asked, target) in [
            ("ws://a", "/ws?x=1", "/ws?x=1"),
            ("ws://a/", "/", "/"),
            ("ws://a/app", "/ws", "/app/ws"),
            ("ws://a/app/", "/ws", "/app/ws"),
        ] {
            let upstreams = upstreams(&[url], Balance::default(), None);
            assert_eq!(upstreams.all[0].target(asked), target);
        }
    }

    #[test]
    fn connections_are_balanced_over_the_upstreams_that_are_up() {
        for balance in [Balance::RoundRobin, Balance::LeastConnections] {
            let upstreams = upstreams(&["ws://a", "ws://b", "ws://c"], balance, None);
            upstreams.all[1].set_down(true, &"a test");
            let picks: Vec<Pick> = (0..8).filter_map(|_| upstreams.pick(&[])).collect();
            let of = |i: usize| picks.iter().filter(|pick| Arc::ptr_eq(&pick.0, &upstreams.all[i])).count();
            assert_eq!(of(1), 0, "{balance:?}");
            if balance == Balance::LeastConnections {
                assert_eq!((of(0), of(2)), (4, 4));
            } else {
                assert!(of(0) >= 2 && of(2) >= 2, "{} and {}", of(0), of(2));
            }
            drop(picks);
            assert!(upstreams.all.iter().all(|one| one.connections.load(Ordering::Relaxed) == 0));
        }
    }

    #[test]
    fn the_least_loaded_upstream_is_picked() {
        let upstreams = upstreams(&["ws://a", "ws://b"], Balance::LeastConnections, None);
        let first = upstreams.pick(&[]).expect("both are up");
        let second = upstreams.pick(&[]).expect("both are up");
        assert!(!Arc::ptr_eq(&first.0, &second.0));
        let gone = Arc::clone(&second.0);
        drop(second);
        for _ in 0..3 {
            assert!(Arc::ptr_eq(&upstreams.pick(&[]).expect("both are up").0, &gone));
        }
    }

    #[test]
    fn a_single_upstream_is_always_tried_and_several_only_while_they_are_up() {
        let alone = upstreams(&["ws://a"], Balance::default(), None);
        alone.all[0].set_down(true, &"a test");
        let pick = alone.pick(&[]).expect("tried");
        assert!(alone.pick(&[Arc::clone(&pick.0)]).is_none(), "but once");
        let both = upstreams(&["ws://a", "ws://b"], Balance::default(), None);
        for upstream in &both.all {
            upstream.set_down(true, &"a test");
        }
        assert!(both.pick(&[]).is_none());
        let unchecked = upstreams(&["ws://a", "ws://b"], Balance::default(), Some(Duration::ZERO));
        for upstream in &unchecked.all {
            upstream.set_down(true, &"a test");
        }
        assert!(unchecked.pick(&[]).is_some(), "without health checks, they are tried again");
    }

    #[test]
    fn an_upstream_that_stays_keeps_its_state_wherever_it_is_in_the_list() {
        let before = upstreams(&["ws://a", "ws://b", "ws://c"], Balance::default(), None);
        before.all[1].set_down(true, &"a test");
        let picks: Vec<Pick> = (0..4).filter_map(|_| before.pick(&[])).collect();
        let after = reloaded(&before, &["ws://d", "ws://c/", "http://b", "ws://a/other"]);
        assert!(Arc::ptr_eq(&after.all[1], &before.all[2]) && Arc::ptr_eq(&after.all[2], &before.all[1]));
        assert_eq!(after.all[1].connections.load(Ordering::Relaxed), 2);
        assert!(after.all[2].is_down(None), "it was down");
        for new in [&after.all[0], &after.all[3]] {
            assert_eq!((new.connections.load(Ordering::Relaxed), new.is_down(None)), (0, false));
        }
        // The least loaded ones first: not the one that was removed, which has two connections.
        let removed = Arc::clone(&before.all[0]);
        let more: Vec<Pick> = (0..4).filter_map(|_| after.pick(&[])).collect();
        assert!(more.iter().all(|pick| !Arc::ptr_eq(&pick.0, &removed)));
        assert_eq!(removed.connections.load(Ordering::Relaxed), 2);
        drop((picks, more));
        assert_eq!(removed.connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_upstream_that_returns_is_the_same_while_it_has_connections() {
        let first = upstreams(&["ws://a", "ws://b"], Balance::RoundRobin, None);
        let picks: Vec<Pick> = (0..2).filter_map(|_| first.pick(&[])).collect();
        let without = reloaded(&first, &["ws://c"]);
        let with = reloaded(&reloaded(&without, &["ws://d"]), &["ws://b", "ws://c"]);
        assert!(Arc::ptr_eq(&with.all[0], &first.all[1]));
        assert_eq!(with.all[0].connections.load(Ordering::Relaxed), 1);
        assert!(!Arc::ptr_eq(&with.all[1], &without.all[0]), "nothing was left of it");
        drop(picks);
        assert_eq!(with.all[0].connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_url_that_is_listed_twice_is_two_upstreams_before_and_after() {
        let before = upstreams(&["ws://a", "ws://a"], Balance::default(), None);
        let after = reloaded(&before, &["ws://a", "ws://a", "ws://a"]);
        assert!(Arc::ptr_eq(&after.all[0], &before.all[0]) && Arc::ptr_eq(&after.all[1], &before.all[1]));
        assert!(!Arc::ptr_eq(&after.all[2], &after.all[0]) && !Arc::ptr_eq(&after.all[2], &after.all[1]));
    }
}
