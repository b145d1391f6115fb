//! The node's part in its cluster.

use std::collections::BTreeMap;

use super::{Families, label};
use crate::metrics::family::Labels;
use echoring_server::{ClusterStatus, NodeStatus};

/// Nothing without a cluster.
pub(super) fn collect(out: &mut Families, status: Option<&ClusterStatus>) {
    out.gauges(
        "echoring_cluster_connected",
        "1 while the node is connected to the cluster's backbone.",
        sample(status, |status| status.connected.into()),
    );
    out.gauges(
        "echoring_cluster_open",
        "1 while the node may start topics that it owns, because all nodes agree on the members.",
        sample(status, |status| status.open.into()),
    );
    let members = status.map(|status| &status.members[..]).unwrap_or_default();
    let phases = ["joining", "active", "leaving", "left"];
    out.gauges(
        "echoring_cluster_members",
        "The other nodes of the cluster, by phase.",
        phases.iter().filter(|_| status.is_some()).map(|phase| {
            let count = members.iter().filter(|member| member.phase == *phase).count();
            (label("phase", phase), count as u64)
        }),
    );
    collect_traffic(out, status);
    collect_streams(out, status);
    collect_links(out, members);
}

fn collect_traffic(out: &mut Families, status: Option<&ClusterStatus>) {
    let directions = |sent: fn(&ClusterStatus) -> u64, received: fn(&ClusterStatus) -> u64| {
        let both = |status| {
            [(label("direction", "out"), sent(status)), (label("direction", "in"), received(status))]
        };
        status.map(both).into_iter().flatten()
    };
    out.counters(
        "echoring_cluster_packets_total",
        "Packets and heartbeats over the backbone.",
        directions(|status| status.packets_out, |status| status.packets_in),
    );
    out.counters(
        "echoring_cluster_bytes_total",
        "Bytes of packets and heartbeats over the backbone.",
        directions(|status| status.bytes_out, |status| status.bytes_in),
    );
    out.counters(
        "echoring_cluster_connects_total",
        "Connections made to the backbone.",
        sample(status, |status| status.connects),
    );
    out.counters(
        "echoring_cluster_packets_dropped_total",
        "Packets that could not be sent in time. They are sent again.",
        sample(status, |status| status.dropped),
    );
    out.counters(
        "echoring_cluster_relay_dropped_total",
        "Messages not relayed to other NATS clients because too many were waiting.",
        sample(status, |status| status.relay_dropped),
    );
}

fn collect_streams(out: &mut Families, status: Option<&ClusterStatus>) {
    out.counters(
        "echoring_cluster_stream_requests_total",
        "Requests to the streams of durable topics that were answered.",
        sample(status, |status| status.stream_requests),
    );
    out.counters(
        "echoring_cluster_stream_failures_total",
        "Requests to the streams of durable topics that failed and were repeated.",
        sample(status, |status| status.stream_failures),
    );
    out.counters(
        "echoring_cluster_stream_foreign_messages_total",
        "Messages in the streams of durable topics that are skipped because no node wrote them.",
        sample(status, |status| status.stream_foreign),
    );
    out.counters(
        "echoring_cluster_replies_refused_total",
        "Publications of other NATS clients not answered because their reply subject is not an inbox.",
        sample(status, |status| status.replies_refused),
    );
}

/// The only sample of a family, of a node in a cluster.
fn sample(status: Option<&ClusterStatus>, value: fn(&ClusterStatus) -> u64) -> Option<(Labels, u64)> {
    status.map(|status| (Labels::new(), value(status)))
}

fn collect_links(out: &mut Families, members: &[NodeStatus]) {
    let links = links(members);
    let of_each = |value: fn(&NodeStatus) -> u64| {
        links.iter().map(move |(peer, link)| (label("peer", peer), value(link))).collect::<Vec<_>>()
    };
    out.gauges(
        "echoring_cluster_link_staged_bytes",
        "Bytes waiting for the link to another node.",
        of_each(|link| link.staged_bytes),
    );
    out.gauges(
        "echoring_cluster_link_full",
        "1 while the link to another node is full: deliveries to it wait in the topics' histories.",
        of_each(|link| link.full.into()),
    );
    out.gauges(
        "echoring_cluster_link_unacknowledged_bytes",
        "Bytes of messages that another node has not acknowledged.",
        of_each(|link| link.unacknowledged_bytes),
    );
    out.gauges(
        "echoring_cluster_link_unacknowledged_age_seconds",
        "Age of the oldest message that another node has not acknowledged. From 5 seconds on, the node is not ready.",
        links.iter().map(|(peer, link)| (label("peer", peer), link.unacknowledged_ms as f64 / 1e3)),
    );
    out.counters(
        "echoring_cluster_link_retransmissions_total",
        "Packets retransmitted to another node since it joined.",
        of_each(|link| link.retransmissions),
    );
    out.counters(
        "echoring_cluster_link_resets_total",
        "Restarts of the link to another node since it joined.",
        of_each(|link| link.resets),
    );
    let measured = links.iter().filter_map(|(peer, link)| Some((peer, link.round_trip_us?)));
    out.gauges(
        "echoring_cluster_link_round_trip_seconds",
        "Estimated round trip to another node, which includes the work of both.",
        measured.map(|(peer, time)| (label("peer", peer), time as f64 / 1e6)),
    );
    out.gauges(
        "echoring_cluster_settings_differ",
        "1 while another node's topic settings differ from this node's.",
        members.iter().map(|member| (label("peer", &member.node), u64::from(member.settings_differ))),
    );
    out.gauges(
        "echoring_cluster_key_differs",
        "1 while another node's key differs from this node's: they never agree on the owner of a topic.",
        members.iter().map(|member| (label("peer", &member.node), u64::from(member.key_differs))),
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
