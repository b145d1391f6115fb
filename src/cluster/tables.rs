//! The carrier of a cluster's packets, and its interface to the node's owner tables.

use echoring_proto::limits::Nanos;

use crate::cluster::{Cluster, Event};

/// The owner tables of a node, as the carrier of its cluster's packets sees them.
pub trait Tables {
    /// The requests of other threads.
    type Command;

    /// Takes an event, in order.
    fn handle(&mut self, cluster: &mut Cluster, event: Event, now: Nanos);

    /// Takes a command.
    fn command(&mut self, cluster: &mut Cluster, command: Self::Command, now: Nanos);

    /// The connection to the backbone has been made or lost. Called after
    /// [`Cluster::handle_connected`](crate::Cluster::handle_connected).
    fn connected(&mut self, is_connected: bool);

    /// Handles due timers. Called after each round.
    fn run(&mut self, cluster: &mut Cluster, traffic: &Traffic, now: Nanos);

    /// When [`run`](Tables::run) has something to do, if nothing happens before.
    fn deadline(&self) -> Option<Nanos>;

    /// Whether packets are taken now. Those that wait stay at the backbone's client, and are sent again if that drops them.
    fn has_room(&self) -> bool;

    /// Whether the node has ended.
    fn has_ended(&self, cluster: &Cluster) -> bool;
}

/// A node's traffic over the backbone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets and heartbeats sent.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets and heartbeats received.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Times that the connection was made.
    pub connects: u64,
    /// Packets that could not be sent, or were not taken in time. Their links send them again.
    pub dropped: u64,
}
