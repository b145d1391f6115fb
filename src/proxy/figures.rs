//! The counters of a proxy, and the metrics that report them.
//!
//! Never: a wait for a counter.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters that all threads of a proxy share.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Open connections of clients.
    pub(crate) open: AtomicU64,
    pub(crate) accepted: AtomicU64,
    /// By class of status, from 1xx. One of the first class is a WebSocket.
    pub(crate) responses: [AtomicU64; 5],
    /// Bytes read from clients and written to them, without those of TLS.
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

/// Figures of an upstream.
#[derive(Debug, Default)]
pub(crate) struct UpstreamFigures {
    /// `None` if it was removed.
    pub(crate) is_up: Option<bool>,
    pub(crate) connections: u64,
    /// Connections to it, and health checks, that failed.
    pub(crate) failures: u64,
}

/// A metric of a proxy: a counter if its name ends with `_total`, otherwise a gauge.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// The name of its label; empty without one.
    pub label: &'static str,
    /// Its meaning, a sentence.
    pub help: &'static str,
    /// Its values by label.
    pub samples: Vec<(String, u64)>,
}

/// All metrics, with those of the upstreams by URL. `docs/guide/proxy.md` lists them.
pub(crate) fn metrics(counters: &Counters, upstreams: BTreeMap<String, UpstreamFigures>) -> Vec<Metric> {
    let row = |name, label, help, samples| Metric { name, label, help, samples };
    let read = |label: &str, counter: &AtomicU64| (label.to_owned(), counter.load(Relaxed));
    let one = |counter: &AtomicU64| vec![read("", counter)];
    let Counters { open, accepted, responses, bytes_in, bytes_out } = counters;
    let [upgrades, others @ ..] = responses;
    let classes = ["2xx", "3xx", "4xx", "5xx"].iter().zip(others);
    let classes = classes.map(|(class, count)| read(class, count)).collect();
    let bytes = vec![read("in", bytes_in), read("out", bytes_out)];
    let (mut up, mut connections, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for (url, figures) in upstreams {
        up.extend(figures.is_up.map(|is_up| (url.clone(), is_up.into())));
        connections.push((url.clone(), figures.connections));
        failures.push((url, figures.failures));
    }
    vec![
        row("echoring_proxy_connections", "", "Current connections of clients.", one(open)),
        row("echoring_proxy_connections_accepted_total", "", "Connections accepted.", one(accepted)),
        row("echoring_proxy_upgrades_total", "", "WebSockets opened (101).", one(upgrades)),
        row("echoring_proxy_responses_total", "class", "Other responses, by class of status.", classes),
        row("echoring_proxy_bytes_total", "direction", "Bytes from clients (in) and to them (out).", bytes),
        row("echoring_proxy_upstream_up", "upstream", "1 while the upstream is up, otherwise 0.", up),
        row("echoring_proxy_upstream_connections", "upstream", "Current connections to it.", connections),
        row("echoring_proxy_upstream_failures_total", "upstream", "Failed connections and checks.", failures),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_lists_every_metric() {
        let upstream = UpstreamFigures { is_up: Some(true), ..UpstreamFigures::default() };
        let metrics = metrics(&Counters::default(), BTreeMap::from([("ws://a/".to_owned(), upstream)]));
        let rows = metrics.iter().map(|Metric { name, label, help, samples }| {
            assert!(help.ends_with('.') && !samples.is_empty(), "{name}");
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let label = if label.is_empty() { "–".to_owned() } else { format!("`{label}`") };
            format!("| `{name}` | {kind} | {label} | {help} |\n")
        });
        let table: String = rows.collect();
        let guide = include_str!("../../docs/guide/proxy.md");
        assert!(guide.contains(&table), "docs/guide/proxy.md lacks\n{table}");
    }
}
