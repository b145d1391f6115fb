//! Connections, handshakes and traffic.

use std::collections::BTreeMap;

use super::sum::sum;
use crate::metrics::family::Families;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Cause, Compressed, TlsFault};
use echoring_runtime::stats::Counters;
use echoring_server::{CLASS_NAMES, Snapshot};
use echoring_wire::centrifuge::Disconnect;

pub(super) fn collect(out: &mut Families, bans: u64, snapshots: &[Snapshot], counters: &Counters) {
    out.gauges("echoring_connections")
        .by("shard", snapshots.iter().map(|snapshot| (snapshot.shard, snapshot.connections)))
        .help("Current connections in any state, by shard.");
    out.counter("echoring_connections_accepted_total", counters.accepted).help("Connections accepted.");
    out.counter("echoring_accept_failures_total", counters.accept_failures)
        .help("Failures to accept, for lack of descriptors or memory.");
    moves(out, counters);
    limits(out, bans, counters);
    handshakes(out, counters);
    ends(out, counters);
    out.counter("echoring_handler_failures_total", counters.handler_failures)
        .help("Connections closed by an error or panic of their handler.");
    traffic(out, counters);
    tcp(out, counters);
    compression(out, snapshots);
    tls(out, snapshots, counters);
}

fn moves(out: &mut Families, counters: &Counters) {
    let results = [
        ("taken_in", counters.moved_in),
        ("left", counters.moved_out),
        ("refused", counters.moves_refused),
        ("kept", counters.moves_kept),
    ];
    out.counters("echoring_connection_moves_total").by("result", results).help(
        "Open connections that moved between shards, or between a server and its successor, by result: taken_in and left \
             count both ends; refused by the other end, or kept by the driver, they went on where they were.",
    );
    out.histogram("echoring_connection_move_seconds", counters.move_stall.clone())
        .help("How long connections that were taken in were not read while they moved.");
}

fn limits(out: &mut Families, bans: u64, counters: &Counters) {
    out.counters("echoring_limited_total").by("limit", counters.limited()).help(
        "Refusals, slowdowns and closes of clients that exceeded a limit, by limit. See \
             docs/reference/limits.md.",
    );
    out.counter("echoring_bans_total", bans).help("Bans of addresses; an address banned twice counts twice.");
    out.counter("echoring_proxy_headers_total", counters.proxy_headers)
        .help("Connections that began with a header of the PROXY protocol.");
}

fn handshakes(out: &mut Families, counters: &Counters) {
    let mut outcomes: BTreeMap<&str, u64> = Cause::ROWS.iter().map(|row| (row.outcome, 0)).collect();
    for (end, count) in counters.ends.iter().filter(|(end, _)| end.code.is_none()) {
        *outcomes.entry(end.outcome).or_default() += count;
    }
    outcomes.insert("opened", counters.opened);
    outcomes.insert("refused", counters.refusals.values().sum());
    outcomes.insert("answered", counters.answers.values().sum());
    out.counters("echoring_handshakes_total").by("outcome", outcomes).help(
        "Connections by the outcome of their request: opened (101, or an event stream), answered (plain \
             HTTP), refused (an HTTP error), timeout, abandoned by the client, not_admitted (closed without \
             an answer: banned, or no PROXY header), tls_failed, failed.",
    );
    let mut statuses: BTreeMap<u16, u64> = KNOWN_STATUSES.map(|status| (status, 0)).into();
    for (status, count) in counters.answers.iter().chain(&counters.refusals) {
        *statuses.entry(*status).or_default() += count;
    }
    out.counters("echoring_http_responses_total")
        .by("code", statuses)
        .help("Responses other than 101 and event streams, by HTTP status.");
}

fn ends(out: &mut Families, counters: &Counters) {
    let mut closes: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for (cause, codes) in known_ends() {
        closes.extend(codes.iter().map(|code| ((code_label(*code), cause), 0)));
    }
    for (end, count) in &counters.ends {
        if let Some(code) = end.code {
            *closes.entry((code_label(code), end.cause)).or_default() += count;
        }
    }
    out.counters("echoring_closes_total")
        .by_both(["code", "cause"], closes.into_iter().map(|((code, cause), count)| (code, cause, count)))
        .help(
            "WebSockets and event streams that ended, by close code (1006: without a Close frame) and cause. \
             Application codes count as 3xxx and 4xxx.",
        );
}

/// The ends whose series exist from the start, with 0: a series that appears with its first events hides them from `rate` and
/// `increase`. All ends that the server decides on by itself are here.
fn known_ends() -> impl Iterator<Item = (&'static str, &'static [u16])> {
    let of_tls = [TlsFault::Alert, TlsFault::Record].map(|fault| (fault.name(), &[1006][..]));
    Cause::ROWS.iter().map(|row| (row.name, row.codes)).chain(of_tls)
}

/// The statuses that the server answers with by itself. They exist from the start too.
const KNOWN_STATUSES: [u16; 12] = [200, 400, 401, 403, 404, 405, 408, 426, 429, 431, 500, 503];

/// Peers choose codes from 3000 on, so those are not distinguished, except for our own.
fn code_label(code: u16) -> String {
    let is_own = code == Disconnect::Slow.code() || CloseCode::NAMED.iter().any(|(_, own, _)| own.0 == code);
    if code < 3000 || is_own { code.to_string() } else { format!("{}xxx", code / 1000) }
}

fn traffic(out: &mut Families, counters: &Counters) {
    let (mut messages, mut bytes) = (Vec::new(), Vec::new());
    for (class, route) in CLASS_NAMES {
        let traffic = counters.traffic.of(class);
        messages.extend([(route, "in", traffic.messages_in), (route, "out", traffic.messages_out)]);
        bytes.extend([(route, "in", traffic.bytes_in), (route, "out", traffic.bytes_out)]);
    }
    out.counters("echoring_messages_total").by_both(["route", "direction"], messages).help(
        "Messages by route and direction: received completely, or passed to the kernel or queued for it. \
             Each copy of a broadcast message counts.",
    );
    out.counters("echoring_bytes_total").by_both(["route", "direction"], bytes).help(
        "Bytes on connections by route and direction. The route none counts requests, and responses that \
             end the connection.",
    );
}

fn tcp(out: &mut Families, counters: &Counters) {
    out.histogram("echoring_tcp_round_trip_seconds", counters.tcp_round_trip.clone()).help(
        "Smoothed round-trip time of the kernel's TCP, of a sample: each request for /metrics or /stats has every shard \
             look at 16 connections in turn, at most once a second.",
    );
    let segments =
        [("sent", counters.tcp_segments_sent), ("retransmitted", counters.tcp_segments_retransmitted)];
    out.counters("echoring_tcp_sampled_segments_total").by("kind", segments).help(
        "Segments with data that the connections of the same sample had sent since they began, and those of them that \
             were retransmitted. The quotient of the rates is the share of retransmissions.",
    );
}

fn compression(out: &mut Families, snapshots: &[Snapshot]) {
    let figure = |figure: fn(&Compressed) -> u64| sum(snapshots, |snapshot| figure(&snapshot.compressed));
    let bytes = [
        ("in", "compressed", figure(|done| done.bytes_in)),
        ("in", "plain", figure(|done| done.bytes_in_inflated)),
        ("out", "compressed", figure(|done| done.bytes_out)),
        ("out", "plain", figure(|done| done.bytes_out_plain)),
    ];
    out.counters("echoring_compression_bytes_total")
        .by_both(["direction", "form"], bytes)
        .help("Bytes of compressed messages by direction, before and after compression.");
    out.counters("echoring_compression_messages_total")
        .by("direction", [("in", figure(|done| done.messages_in)), ("out", figure(|done| done.messages_out))])
        .help(
            "Messages compressed or decompressed. A broadcast message is compressed once per shard and \
             format.",
        );
    out.counter("echoring_compression_declined_total", figure(|done| done.declined))
        .help("Compression contexts declined because their memory budget was used up.");
}

fn tls(out: &mut Families, snapshots: &[Snapshot], counters: &Counters) {
    out.gauge("echoring_tls_sessions", sum(snapshots, |snapshot| snapshot.tls_sessions))
        .help("Current TLS sessions.");
    out.counters("echoring_tls_handshakes_total")
        .by(
            "kind",
            [("full", counters.tls_handshakes - counters.tls_resumed), ("resumed", counters.tls_resumed)],
        )
        .help("Completed TLS handshakes, full or resumed.");
    let causes = counters.causes();
    let faults = TlsFault::ALL.map(TlsFault::name);
    out.counters("echoring_tls_failures_total")
        .by("fault", faults.map(|fault| (fault, causes.get(fault).copied().unwrap_or(0))))
        .help(
            "Connections ended by a TLS failure: in the handshake, by an alert from the client, or by a bad \
             record.",
        );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use echoring_proto::ProtocolError;

    use super::*;

    /// The list has no end that becomes the same series as another.
    #[test]
    fn known_ends_are_series_of_their_own() {
        let mut families = Families::default();
        ends(&mut families, &Counters::default());
        let samples = &families.0[0].samples;
        assert_eq!(samples.len(), known_ends().map(|(_, codes)| codes.len()).sum::<usize>());
        // A code without a series would be missed.
        let known: BTreeSet<u16> = known_ends().flat_map(|(_, codes)| codes.iter().copied()).collect();
        assert!(CloseCode::NAMED.iter().all(|(_, code, _)| known.contains(&code.0)));
        assert!(ProtocolError::ALL.iter().all(|error| known.contains(&error.close_code().0)));
        assert!(known.contains(&Disconnect::Slow.code()));
    }

    #[test]
    fn codes_of_peers_make_no_series_of_their_own() {
        for (code, expected) in [
            (1000, "1000"),
            (1015, "1015"),
            (3000, "3xxx"),
            (3008, "3008"),
            (3999, "3xxx"),
            (4008, "4008"),
            (4009, "4009"),
            (4011, "4xxx"),
            (4999, "4xxx"),
        ] {
            assert_eq!(code_label(code), expected);
        }
    }
}
