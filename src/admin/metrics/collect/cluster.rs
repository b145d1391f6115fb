//! The node's part in its cluster.

use std::collections::BTreeMap;

use crate::metrics::family::{Families, Labels};
use echoring_server::{ClusterStatus, NodeStatus};

/// Nothing without a cluster.
pub(super) fn collect(out: &mut Families, status: Option<&ClusterStatus>) {
    out.gauges("echoring_cluster_connected")
        .samples(sample(status, |status| status.connected.into()))
        .help("1 while the node is connected to the cluster's backbone.");
    out.gauges("echoring_cluster_open")
        .samples(sample(status, |status| status.open.into()))
        .help("1 while the node may start topics that it owns, because all nodes agree on the members.");
    let members = status.map(|status| &status.members[..]).unwrap_or_default();
    let phases = ["joining", "active", "leaving", "left"];
    out.gauges("echoring_cluster_members")
        .by(
            "phase",
            phases.iter().filter(|_| status.is_some()).map(|phase| {
                let count = members.iter().filter(|member| member.phase == *phase).count();
                (phase, count as u64)
            }),
        )
        .help("The other nodes of the cluster, by phase.");
    collect_traffic(out, status);
    collect_streams(out, status);
    collect_links(out, members);
}

fn collect_traffic(out: &mut Families, status: Option<&ClusterStatus>) {
    let directions = |sent: fn(&ClusterStatus) -> u64, received: fn(&ClusterStatus) -> u64| {
        status.map(|status| [("out", sent(status)), ("in", received(status))]).into_iter().flatten()
    };
    out.counters("echoring_cluster_packets_total")
        .by("direction", directions(|status| status.packets_out, |status| status.packets_in))
        .help("Packets and heartbeats over the backbone.");
    out.counters("echoring_cluster_bytes_total")
        .by("direction", directions(|status| status.bytes_out, |status| status.bytes_in))
        .help("Bytes of packets and heartbeats over the backbone.");
    out.counters("echoring_cluster_connects_total")
        .samples(sample(status, |status| status.connects))
        .help("Connections made to the backbone.");
    out.counters("echoring_cluster_packets_dropped_total")
        .samples(sample(status, |status| status.dropped))
        .help("Packets that could not be sent in time. They are sent again.");
    out.counters("echoring_cluster_relay_dropped_total")
        .samples(sample(status, |status| status.relay_dropped))
        .help("Messages not relayed to other NATS clients because too many were waiting.");
}

fn collect_streams(out: &mut Families, status: Option<&ClusterStatus>) {
    out.counters("echoring_cluster_stream_requests_total")
        .samples(sample(status, |status| status.stream_requests))
        .help("Requests to the streams of durable topics that were answered.");
    out.counters("echoring_cluster_stream_failures_total")
        .samples(sample(status, |status| status.stream_failures))
        .help("Requests to the streams of durable topics that failed and were repeated.");
    out.counters("echoring_cluster_stream_foreign_messages_total")
        .samples(sample(status, |status| status.stream_foreign))
        .help("Messages in the streams of durable topics that are skipped because no node wrote them.");
    out.counters("echoring_cluster_replies_refused_total")
        .samples(sample(status, |status| status.replies_refused))
        .help("Publications of other NATS clients not answered because their reply subject is not an inbox.");
}

/// The only sample of a family, of a node in a cluster.
fn sample(status: Option<&ClusterStatus>, value: fn(&ClusterStatus) -> u64) -> Option<(Labels, u64)> {
    status.map(|status| (Labels::new(), value(status)))
}

fn collect_links(out: &mut Families, members: &[NodeStatus]) {
    let links = links(members);
    let of_each = |value: fn(&NodeStatus) -> u64| {
        links.iter().map(move |(peer, link)| (*peer, value(link))).collect::<Vec<_>>()
    };
    out.gauges("echoring_cluster_link_staged_bytes")
        .by("peer", of_each(|link| link.staged_bytes))
        .help("Bytes waiting for the link to another node.");
    out.gauges("echoring_cluster_link_full")
        .by("peer", of_each(|link| link.full.into()))
        .help("1 while the link to another node is full: deliveries to it wait in the topics' histories.");
    out.gauges("echoring_cluster_link_unacknowledged_bytes")
        .by("peer", of_each(|link| link.unacknowledged_bytes))
        .help("Bytes of messages that another node has not acknowledged.");
    out.gauges("echoring_cluster_link_unacknowledged_age_seconds").by("peer", links.iter().map(|(peer, link)| (peer, link.unacknowledged_ms as f64 / 1e3)))
    .help(
        "Age of the oldest message that another node has not acknowledged. From 5 seconds on, the node is \
         not ready.",
    );
    out.counters("echoring_cluster_link_retransmissions_total")
        .by("peer", of_each(|link| link.retransmissions))
        .help("Packets retransmitted to another node since it joined.");
    out.counters("echoring_cluster_link_resets_total")
        .by("peer", of_each(|link| link.resets))
        .help("Restarts of the link to another node since it joined.");
    let measured = links.iter().filter_map(|(peer, link)| Some((peer, link.round_trip_us?)));
    out.gauges("echoring_cluster_link_round_trip_seconds")
        .by("peer", measured.map(|(peer, time)| (peer, time as f64 / 1e6)))
        .help("Estimated round trip to another node, which includes the work of both.");
    out.gauges("echoring_cluster_settings_differ")
        .by("peer", members.iter().map(|member| (&member.node, u64::from(member.settings_differ))))
        .help("1 while another node's topic settings differ from this node's.");
    out.gauges("echoring_cluster_key_differs")
        .by("peer", members.iter().map(|member| (&member.node, u64::from(member.key_differs))))
        .help(
            "1 while another node's key differs from this node's: they never agree on the owner of a topic.",
        );
}

/// The links by the names of the nodes. Two processes have one name while one takes over from the other.
fn links(members: &[NodeStatus]) -> BTreeMap<&str, NodeStatus> {
    let mut links: BTreeMap<&str, NodeStatus> = BTreeMap::new();
    for member in members {
        let link = links.entry(&member.node).or_default();
        link.staged_bytes += member.staged_bytes;
        link.full |= member.full;
        link.unacknowledged_bytes += member.unacknowledged_bytes;
        link.unacknowledged_ms = link.unacknowledged_ms.max(member.unacknowledged_ms);
        link.retransmissions += member.retransmissions;
        link.resets += member.resets;
        link.round_trip_us = link.round_trip_us.max(member.round_trip_us);
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_of_one_name_have_one_series() {
        let member = |staged_bytes, unacknowledged_ms, round_trip_us| NodeStatus {
            node: "a".into(),
            staged_bytes,
            unacknowledged_ms,
            round_trip_us,
            ..NodeStatus::default()
        };
        let members = [member(3, 9, None), member(4, 7, Some(5)), NodeStatus::default()];
        let links = links(&members);
        assert_eq!(links.len(), 2);
        let link = &links["a"];
        assert_eq!((link.staged_bytes, link.unacknowledged_ms, link.round_trip_us), (7, 9, Some(5)));
    }
}
