//! The node's part in its cluster.

use super::{Families, label};
use crate::cluster::ClusterStatus;

/// Nothing without a cluster.
pub(super) fn collect(out: &mut Families, status: Option<&ClusterStatus>) {
    let sample = |value: fn(&ClusterStatus) -> u64| status.map(|status| (Vec::new(), value(status)));
    out.gauges(
        "echoring_cluster_connected",
        "1 while the connection to the backbone of the cluster is there.",
        sample(|status| status.connected.into()),
    );
    out.gauges(
        "echoring_cluster_open",
        "1 while the node may begin topics that it owns: every other node knows the same members.",
        sample(|status| status.open.into()),
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
        "Times that the connection to the backbone was made.",
        sample(|status| status.connects),
    );
    out.counters(
        "echoring_cluster_packets_dropped_total",
        "Packets that could not be sent in time. They are sent again.",
        sample(|status| status.dropped),
    );
    out.counters(
        "echoring_cluster_relay_dropped_total",
        "Messages that other clients of NATS do not get, because too many waited.",
        sample(|status| status.relay_dropped),
    );
    out.counters(
        "echoring_cluster_stream_requests_total",
        "Requests to the streams of durable topics that were answered.",
        sample(|status| status.stream_requests),
    );
    out.counters(
        "echoring_cluster_stream_failures_total",
        "Those of them that failed: the stream had to be asked again, or a page of history has a gap.",
        sample(|status| status.stream_failures),
    );
    out.gauges(
        "echoring_cluster_link_staged_bytes",
        "Bytes that wait for the link to another node.",
        members.iter().map(|member| (label("peer", &member.node), member.staged_bytes)),
    );
    out.gauges(
        "echoring_cluster_link_full",
        "1 while the link to another node has no room: deliveries to it wait in the topics' histories.",
        members.iter().map(|member| (label("peer", &member.node), u64::from(member.full))),
    );
}
