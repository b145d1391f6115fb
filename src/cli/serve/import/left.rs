//! Keys that are not carried over, and what to do about them.

use std::collections::BTreeSet;

use super::given::{Given, is_below};
use super::written::Written;

/// When a table or a key has an effect in Centrifugo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// It is there.
    There,
    /// Its `enabled` is on.
    Enabled,
}

use When::{Enabled, There};

/// Nothing to do: it is so here, or there is nothing to set.
const NOTHING: &str = "";

/// Keys and tables; those of a namespace begin with `channel.namespaces`, whatever its name.
const HINTS: &[(&str, When, &str)] = &[
    (
        "admin",
        Enabled,
        "the operator's page is at the admin address, and asks for the token of `admin_token_file`",
    ),
    (
        "engine",
        There,
        "no Redis: nodes share topics over NATS, set `servers` in [cluster]; histories that survive the nodes are `durable`",
    ),
    (
        "broker",
        There,
        "nodes share topics over NATS, set `servers` in [cluster]; other programs on NATS need `nats_clients` there",
    ),
    (
        "presence_manager",
        There,
        "presence is kept by the nodes, which share it over NATS: set `servers` in [cluster]",
    ),
    ("controller", There, "nodes find one another over NATS: set `servers` in [cluster]"),
    ("map_broker", There, "subscriptions to maps are not there"),
    ("shared_poll", There, "subscriptions to shared polls are not there"),
    ("consumers", There, "no consumers: a program of yours reads the queue, and publishes by the HTTP API"),
    ("grpc_api", Enabled, "no gRPC: back ends use the HTTP API"),
    ("sse", Enabled, "clients need WebSocket: remove this transport from those of the SDKs"),
    ("http_stream", Enabled, "clients need WebSocket: remove this transport from those of the SDKs"),
    ("emulation", There, NOTHING),
    ("webtransport", Enabled, "clients need WebSocket: remove this transport from those of the SDKs"),
    ("uni_websocket", Enabled, "no unidirectional WebSocket: use uni_sse or uni_http_stream, or an SDK"),
    ("uni_sse.handler_prefix", There, "clients request /connection/uni_sse"),
    (
        "uni_sse.connect_code_to_http_response",
        Enabled,
        "a stream whose connect command is refused ends with a disconnect push, after status 200",
    ),
    ("uni_sse", Enabled, NOTHING),
    ("uni_http_stream.handler_prefix", There, "clients request /connection/uni_http_stream"),
    (
        "uni_http_stream.connect_code_to_http_response",
        Enabled,
        "a stream whose connect command is refused ends with a disconnect push, after status 200",
    ),
    ("uni_http_stream", Enabled, NOTHING),
    ("uni_grpc", Enabled, "no gRPC: use an SDK"),
    ("websocket.disabled", There, "set `listen` only for clients that use WebSocket"),
    ("websocket.handler_prefix", There, "clients connect to /connection/websocket"),
    ("websocket", There, NOTHING),
    ("prometheus", Enabled, "metrics are at GET /metrics of the admin address, with other names"),
    ("health", Enabled, "ask GET /healthz and /readyz of the admin address"),
    ("swagger", Enabled, NOTHING),
    ("debug", Enabled, NOTHING),
    ("init", Enabled, "there is no such endpoint"),
    ("graphite", Enabled, "let a collector read GET /metrics of the admin address"),
    ("opentelemetry", Enabled, "set `trace_sample` and `trace_endpoint`, in a build with that feature"),
    ("usage_stats", There, NOTHING),
    ("node", There, "set `node` in [cluster], if there is one"),
    ("pid_file", There, "run it as a service, or read the pid in the line `listening` on stdout"),
    ("log.file", There, "set `log_file`, or let the service manager keep what stderr says"),
    ("shutdown", There, NOTHING),
    ("enable_unreleased_features", There, NOTHING),
    (
        "http_api.error_mode",
        There,
        "errors of the HTTP API have status 200: requests ask for others with X-Centrifugo-Error-Mode: transport",
    ),
    (
        "http_server.tls_external",
        There,
        "the admin address has no TLS: leave it on this machine, or put a proxy in front",
    ),
    (
        "http_server.internal_tls",
        Enabled,
        "the admin address has no TLS: leave it on this machine, or put a proxy in front",
    ),
    ("http_server.http3", Enabled, "there is no HTTP/3"),
    ("http_server.h2c_external", There, "there is no HTTP/2"),
    ("client.proxy.connect", Enabled, "[hooks] has no such setting"),
    ("client.proxy.refresh", Enabled, "[hooks] has no such setting"),
    (
        "client.token.audience_regex",
        There,
        "set `audience` in [auth] to each audience; until then tokens with one are refused",
    ),
    (
        "client.token.issuer_regex",
        There,
        "set `issuer` in [auth] to each issuer; until then no token is accepted",
    ),
    ("client.token.user_id_claim", There, "the user is in `sub`: issue tokens with it"),
    (
        "client.token.hmac_previous_secret_key_valid_until",
        There,
        "remove the previous key from `jwt_key` in [auth] at that time",
    ),
    ("client.token", There, "[auth] has no such setting"),
    (
        "client.subscription_token",
        There,
        "tokens of subscriptions have `subscription_jwt_key` in [auth], and the rest of connections",
    ),
    ("client.user_id_http_header", There, "set `hook` in [auth] to a service that answers who the client is"),
    (
        "client.user_connection_limit",
        There,
        "set `max_connections_per_address`, or let the connect proxy refuse",
    ),
    ("client.history_max_publication_limit", There, NOTHING),
    ("client.recovery_max_publication_limit", There, NOTHING),
    ("client", There, NOTHING),
    ("channel.publication_data_format", There, "publications may be JSON, text or bytes, and may be empty"),
    ("channel.max_length", There, NOTHING),
    ("channel.history_meta_ttl", There, NOTHING),
    ("channel.proxy.subscribe_stream", There, "there are no subscription streams"),
    ("channel.proxy.subscribe", There, "[hooks] has no such setting"),
    ("channel.proxy.publish", There, "[hooks] has no such setting"),
    ("channel.proxy.sub_refresh", There, "[hooks] has no such setting"),
    ("channel.proxy", There, NOTHING),
    ("rpc.ping", Enabled, "answer the method `ping` in the application"),
    ("rpc.proxy", There, "[hooks] has no such setting"),
    ("config", There, "pass the part below this key as a file of its own: these are values of a Helm chart"),
];

/// Options of channels.
const OPTIONS: &[(&str, &str)] = &[
    ("force_push_join_leave", "clients ask for joins and leaves: set `joinLeave` in the options of SDKs"),
    (
        "force_recovery_mode",
        "recovery gives all that was missed; `snapshot = 1` gives new subscribers the latest message",
    ),
    ("auto_cache_recover", "`snapshot = 1` gives new subscribers the latest message"),
    ("channel_regex", "names are not checked: write a narrower `pattern`"),
    ("publication_data_format", "publications may be JSON, text or bytes, and may be empty"),
    ("subscribe_stream_proxy_enabled", "there are no subscription streams"),
    ("subscribe_stream_proxy", NOTHING),
    ("subscription_type", "there are only streams"),
    ("map", NOTHING),
    ("shared_poll", NOTHING),
    ("history_meta_ttl", NOTHING),
];

/// Lists the keys that are left, one line for each table.
pub(super) fn list(given: Given, written: &mut Written) {
    let off: BTreeSet<&str> = HINTS
        .iter()
        .filter(|(key, when, _)| *when == Enabled && !given.has(&format!("{key}.enabled")))
        .map(|(key, ..)| *key)
        .collect();
    let mut listed = BTreeSet::new();
    for path in given.left() {
        let (key, hint) = match option_of(&path) {
            Some((key, hint)) => (key, hint),
            None => match HINTS.iter().find(|(key, ..)| is_below(&path, key)) {
                Some((key, ..)) if off.contains(key) => continue,
                Some((key, _, hint)) => ((*key).to_owned(), *hint),
                None => (path, "is no setting of Centrifugo 6 that this program knows"),
            },
        };
        if hint != NOTHING && listed.insert(key.clone()) {
            written.leave(key, hint);
        }
    }
}

/// An option of channels, with what to do.
fn option_of(path: &str) -> Option<(String, &'static str)> {
    let name = path.strip_prefix("channel.without_namespace.").or_else(|| Some(path.rsplit_once("].")?.1))?;
    let known =
        OPTIONS.iter().find(|(option, _)| is_below(name, option) || name.starts_with(&format!("{option}_")));
    Some((
        path.to_owned(),
        known.map_or("is no option of channels that this program knows", |(_, hint)| hint),
    ))
}
