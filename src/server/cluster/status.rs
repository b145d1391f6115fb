//! The cluster as a node sees it, for operators.

use echoring_cluster::limits::LINK_BEHIND_AFTER;
use echoring_cluster::{LinkFigures, Phase, Traffic};
use echoring_proto::limits::MILLISECOND;
use serde::Serialize;

/// A node's view of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// The name of this node.
    pub node: String,
    /// The id of this run of it.
    pub id: String,
    /// How far it is: `joining`, `active`, `leaving` or `left`.
    pub phase: &'static str,
    /// Whether the connection to the backbone is established.
    pub connected: bool,
    /// Whether the node may begin topics that it owns.
    pub open: bool,
    /// The other nodes.
    pub members: Vec<NodeStatus>,
    /// Packets and heartbeats sent over the backbone.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets and heartbeats received.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Times that the connection was made.
    pub connects: u64,
    /// Packets that could not be sent in time. They are sent again.
    pub dropped: u64,
    /// Messages not relayed to other NATS clients because too many were waiting.
    pub relay_dropped: u64,
    /// Requests to the streams of durable topics that were answered.
    pub stream_requests: u64,
    /// Those of them that failed, and were made again.
    pub stream_failures: u64,
    /// Messages of streams that no node has written. They are skipped.
    pub stream_foreign: u64,
    /// Publications of other NATS clients not answered because their reply subject is not an inbox.
    pub replies_refused: u64,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// The id of its run.
    pub id: String,
    /// How far it is.
    pub phase: &'static str,
    /// Bytes that wait for the link to it.
    pub staged_bytes: u64,
    /// Whether that link has no room for deliveries.
    pub full: bool,
    /// Bytes of messages that the node has not acknowledged.
    pub unacknowledged_bytes: u64,
    /// Milliseconds since the oldest of them was first sent; 0 if there are none.
    pub unacknowledged_ms: u64,
    /// Whether that is long enough that this node is not ready.
    pub behind: bool,
    /// Packets retransmitted since the node appeared.
    pub retransmissions: u64,
    /// Restarts of the link since then.
    pub resets: u64,
    /// The estimated round trip in microseconds; `null` before the first acknowledgement.
    pub round_trip_us: Option<u64>,
    /// Whether its settings of topics differ from this node's.
    pub settings_differ: bool,
    /// Whether the key that places its topics differs from this node's.
    pub key_differs: bool,
}

impl NodeStatus {
    pub(super) fn set_link(&mut self, link: &LinkFigures) {
        let LinkFigures { unacknowledged_bytes, unacknowledged_age, retransmissions, resets, round_trip } =
            *link;
        self.unacknowledged_bytes = unacknowledged_bytes;
        self.unacknowledged_ms = unacknowledged_age / MILLISECOND;
        self.behind = unacknowledged_age >= LINK_BEHIND_AFTER;
        (self.retransmissions, self.resets) = (retransmissions, resets);
        self.round_trip_us = round_trip.map(|time| time / 1_000);
    }
}

impl ClusterStatus {
    pub(super) fn set_traffic(&mut self, traffic: &Traffic) {
        let Traffic { packets_out, bytes_out, packets_in, bytes_in, connects, dropped } = *traffic;
        (self.packets_out, self.bytes_out) = (packets_out, bytes_out);
        (self.packets_in, self.bytes_in) = (packets_in, bytes_in);
        (self.connects, self.dropped) = (connects, dropped);
    }
}

pub(super) fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Joining => "joining",
        Phase::Active => "active",
        Phase::Leaving => "leaving",
        Phase::Left => "left",
    }
}
