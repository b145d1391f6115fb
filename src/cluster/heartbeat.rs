//! The state that a node announces to all others, again and again.

use crate::cluster::Phase;
use crate::limits::NODE_NAME_BYTES_MAX;
use crate::view::NodeId;
use crate::wire::Wire;

/// The version of heartbeats, packets and messages. Nodes of different versions ignore one another.
pub(crate) const VERSION: u8 = 2;

/// Where earlier versions had the node that the sender replaced.
const RESERVED: u64 = 0;

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat<'a> {
    /// The sender.
    pub node: NodeId,
    /// Its name, which outlives restarts.
    pub name: &'a str,
    /// When it started, in milliseconds of the wall clock. Of two nodes with one name, the later one stays.
    pub started_ms: u64,
    /// How far it is.
    pub phase: Phase,
    /// Digests that all nodes should have in common; `None` for a node of an earlier version.
    pub digests: Option<Digests>,
}

/// Digests of the settings that all nodes of a cluster should share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Of the settings of topics; 0 if they are not known.
    pub settings: u64,
    /// Of the secret that places topics; it does not reveal the secret.
    pub key: u64,
}

impl<'a> Heartbeat<'a> {
    /// Appends the heartbeat.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        VERSION.put(bytes);
        (self.phase as u8).put(bytes);
        self.node.put(bytes);
        self.started_ms.put(bytes);
        RESERVED.put(bytes);
        self.name.put(bytes);
        // Nodes that do not know the fields behind the name ignore them.
        if let Some(Digests { settings, key }) = self.digests {
            settings.put(bytes);
            key.put(bytes);
        }
    }

    /// Reads a heartbeat.
    pub fn read(mut bytes: &'a [u8]) -> Option<Heartbeat<'a>> {
        let bytes = &mut bytes;
        if u8::take(bytes)? != VERSION {
            return None;
        }
        let phase = Phase::of(u8::take(bytes)?)?;
        let (node, started_ms) = (NodeId::take(bytes)?, u64::take(bytes)?);
        let _reserved = u64::take(bytes)?;
        let name = <&str>::take(bytes)?;
        let is_named = (1..=NODE_NAME_BYTES_MAX).contains(&name.len());
        let digests = u64::take(bytes).zip(u64::take(bytes)).map(|(settings, key)| Digests { settings, key });
        is_named.then_some(Heartbeat { node, name, started_ms, phase, digests })
    }
}
