//! The response of `GET /limits`: the limits on clients in effect, how often clients were over them, and the addresses
//! that were refused most.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::Reply;
use crate::limits::{ADMIN_ADDRESSES_MAX, ADMIN_BLOCKS_MAX};
use echoring_broker::gate::quotas::default_subscribe_rate;
use echoring_proto::limits::SECOND;
use echoring_runtime::admission::{AdmissionReport, PeerLimits, Rate, RateAction};
use echoring_runtime::driver::monotonic_now;
use echoring_runtime::stats::Counters;
use echoring_server::machinery::{self, ClientLimits};
use echoring_server::{Block, Handle, Snapshot};

const SCHEMA: &str = "echoring.limits/1";

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// The limits; null where there is none.
    limits: Value,
    /// Times that clients were over them.
    limited: BTreeMap<&'static str, u64>,
    bans: u64,
    addresses: Addresses,
    /// Banned addresses first, then by the number of refusals.
    most_refused: Vec<Address>,
    /// Number of blocks that operators have added.
    blocks: usize,
    /// The first of them.
    blocked: Vec<Blocked>,
}

#[derive(Debug, Serialize)]
struct Blocked {
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    /// In seconds since 1970; null for never.
    until: Option<u64>,
}

/// Addresses that the server remembers.
#[derive(Debug, Serialize)]
struct Addresses {
    known: u64,
    connected: u64,
    banned: u64,
}

#[derive(Debug, Serialize)]
struct Address {
    address: String,
    connections: u32,
    refused: u64,
    banned_s: u64,
}

/// The response.
pub(crate) fn reply(server: &Handle, snapshots: &[Snapshot]) -> Reply {
    let AdmissionReport { addresses: known, connected, banned, bans, worst } =
        machinery::admission(server).report(ADMIN_ADDRESSES_MAX, monotonic_now());
    let mut counters = Counters::default();
    snapshots.iter().for_each(|snapshot| counters.add(&snapshot.counters));
    let most_refused = worst.into_iter().map(|report| Address {
        address: report.key.to_string(),
        connections: report.connections,
        refused: report.refused,
        banned_s: report.banned_s,
    });
    let blocks = server.blocks();
    let report = Report {
        schema: SCHEMA,
        limits: limits(server),
        limited: counters.limited(),
        bans,
        addresses: Addresses { known, connected, banned },
        most_refused: most_refused.collect(),
        blocks: blocks.len(),
        blocked: blocks.iter().take(ADMIN_BLOCKS_MAX).map(Blocked::of).collect(),
    };
    Reply::json(StatusCode::OK, serde_json::to_vec(&report))
}

impl Blocked {
    fn of(block: &Block) -> Blocked {
        let named = |is_token| (block.who.is_token() == is_token).then(|| block.who.name().to_owned());
        Blocked { subject: named(false), token_id: named(true), until: block.until }
    }
}

/// The limits by the keys of the configuration.
fn limits(server: &Handle) -> Value {
    let ClientLimits { peers, max_header, message_progress, lifetime, max_subscriptions, creation } =
        machinery::client_limits(server);
    let live = machinery::live_limits(server);
    let PeerLimits { addresses, traffic, topics, proxies, .. } = &*peers;
    let rate = |rate: Option<Rate>| rate.map(Rate::get);
    let trusted = proxies.blocks.iter().map(ToString::to_string);
    let trusted: Vec<String> = trusted.chain(proxies.unix.then(|| "unix".to_owned())).collect();
    json!({
        "trusted_proxy": trusted,
        "proxy_protocol": proxies.proxy_protocol,
        "max_connections": live.connections.units(),
        "max_connections_per_address": addresses.max_connections_per_address,
        "handshake_rate": rate(addresses.handshake_rate),
        "handshake_rate_per_address": rate(addresses.handshake_rate_per_address),
        "message_rate": rate(traffic.message_rate),
        "byte_rate": rate(traffic.byte_rate),
        "rate_action": if traffic.rate_action == RateAction::Pause { "pause" } else { "close" },
        "publish_rate": rate(topics.publish_rate),
        "publish_rate_per_identity": rate(topics.publish_rate_per_identity),
        "subscribe_rate": rate(topics.subscribe_rate).unwrap_or(default_subscribe_rate(max_subscriptions)),
        "subscribe_rate_per_identity": rate(topics.subscribe_rate_per_identity),
        "max_subscriptions": max_subscriptions,
        "max_subscriptions_per_identity": topics.max_subscriptions_per_identity,
        "max_connections_per_identity": topics.max_connections_per_identity,
        "ban_after": addresses.bans.map(|policy| policy.after),
        "ban_window_s": addresses.bans.map(|policy| policy.window / SECOND),
        "ban_time_s": addresses.bans.map(|policy| policy.time / SECOND),
        "max_header": max_header,
        "max_message": live.max_message.load(Relaxed),
        "idle_timeout_s": (lifetime.idle_timeout > 0).then_some(lifetime.idle_timeout / SECOND),
        "max_lifetime_s": (lifetime.max_lifetime > 0).then_some(lifetime.max_lifetime / SECOND),
        "message_progress": message_progress.bytes,
        "message_progress_time_s": message_progress.time / SECOND,
        "max_topics": live.topics.units(),
        "max_topics_per_connection": creation.max_topics_per_connection,
        "max_topics_per_identity": creation.max_topics_per_identity,
    })
}
