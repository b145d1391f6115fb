//! The state that a node announces to all others, again and again.

use echoring_proto::{Plain as _, plain};

use crate::cluster::Phase;
use crate::limits::NODE_NAME_BYTES_MAX;
use crate::view::NodeId;

/// The version of heartbeats, packets and messages. Nodes of different versions ignore one another.
pub(crate) const VERSION: u8 = 4;

plain! {
    /// A heartbeat.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Heartbeat<'a> {
        /// The sender.
        pub node: NodeId,
        /// Its name, which outlives restarts.
        pub name: &'a str where |name| is_node_name(name),
        /// When it started, in milliseconds of the wall clock. Of two nodes with one name, the later one stays.
        pub started_ms: u64,
        /// How far it is.
        pub phase: Phase,
        /// Digests that all nodes should have in common.
        pub digests: Digests,
    }
}

plain! {
    /// Digests of the settings that all nodes of a cluster should share.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Digests {
        /// Of the settings of topics; 0 if they are not known.
        pub settings: u64,
        /// Of the secret that places topics; it does not reveal the secret.
        pub key: u64,
    }
}

/// Whether a node can have this name.
pub(crate) fn is_node_name(name: &str) -> bool {
    (1..=NODE_NAME_BYTES_MAX).contains(&name.len())
}

impl<'a> Heartbeat<'a> {
    /// Appends the heartbeat.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(VERSION);
        self.put(bytes);
    }

    /// Reads a heartbeat.
    pub fn read(bytes: &'a [u8]) -> Option<Heartbeat<'a>> {
        Heartbeat::take(&mut bytes.strip_prefix(&[VERSION])?)
    }
}
