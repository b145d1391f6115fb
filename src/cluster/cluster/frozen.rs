//! A node that another process continues: its members, its views and its links, as bytes.
//!
//! ```text
//! freeze ─ bytes ─> FrozenCluster::read ─> resume, in the other process
//!    └───────────── if that fails ───────> speak_again, in this one
//! ```
//!
//! From `freeze` on, the node is silent: it sends nothing and takes nothing. Its links send again what was lost meanwhile. So the other
//! nodes notice nothing, as long as one of the two processes speaks before they take the node for dead. Both must never speak.

use std::collections::BTreeMap;

use echoring_proto::limits::Nanos;

use super::{Cluster, Event, Peer, Phase};
use crate::heartbeat::Digests;
use crate::limits::{MEMBERS_MAX, NODE_NAME_BYTES_MAX};
use crate::link::Link;
use crate::view::{NodeId, View};
use crate::wire::Wire;

/// A node of another process.
#[derive(Debug)]
pub struct FrozenCluster {
    name: Box<str>,
    started_ms: u64,
    number: u64,
    sessions: u64,
    peers: BTreeMap<NodeId, Peer>,
}

impl FrozenCluster {
    /// The node with this state. `None` if that is malformed.
    pub fn read(mut bytes: &[u8]) -> Option<FrozenCluster> {
        let from = &mut bytes;
        let (name, started_ms) = (name(from)?, Wire::take(from)?);
        let (number, sessions, count) = (Wire::take(from)?, Wire::take(from)?, u32::take(from)?);
        let count = Some(count as usize).filter(|count| *count <= MEMBERS_MAX)?;
        let peers: Option<BTreeMap<NodeId, Peer>> = (0..count).map(|_| peer(from)).collect();
        let peers = peers.filter(|peers| peers.len() == count && from.is_empty())?;
        Some(FrozenCluster { name, started_ms, number, sessions, peers })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Cluster {
    /// The state of the node, which is silent from now on. `None`, and nothing done, while the node does not own topics together with
    /// all other members, or waits for its tables.
    pub fn freeze(&mut self) -> Option<Vec<u8>> {
        let is_at_rest =
            self.phase == Phase::Active && self.is_open && !self.is_away && self.events.is_empty();
        if !is_at_rest || self.is_silent {
            return None;
        }
        self.is_silent = true;
        let mut out = Vec::new();
        (&*self.config.name).put(&mut out);
        for number in [self.config.started_ms, self.number, self.sessions] {
            number.put(&mut out);
        }
        (self.peers.len() as u32).put(&mut out);
        for (node, peer) in &self.peers {
            node.put(&mut out);
            (&*peer.name).put(&mut out);
            peer.started_ms.put(&mut out);
            (peer.phase as u8).put(&mut out);
            let Digests { settings, key } = peer.digests.unwrap_or_default();
            peer.digests.is_some().put(&mut out);
            settings.put(&mut out);
            key.put(&mut out);
            peer.view.put(&mut out);
            let (view, number) = peer.announced.unwrap_or_default();
            view.put(&mut out);
            number.put(&mut out);
            peer.link.freeze(&mut out);
        }
        Some(out)
    }

    /// This process goes on with the node that it has frozen.
    pub fn speak_again(&mut self, now: Nanos) {
        if std::mem::take(&mut self.is_silent) {
            self.peers.values_mut().for_each(|peer| peer.link.send_again(now));
            self.begin_to_speak(now);
        }
    }

    /// This process is the node from now on, which must be [silent](super::ClusterConfig::resumes) so far.
    pub fn resume(&mut self, frozen: FrozenCluster, now: Nanos) {
        let FrozenCluster { name, started_ms, number, sessions, peers } = frozen;
        (self.config.name, self.config.started_ms) = (name, started_ms);
        (self.number, self.sessions, self.peers) = (number, sessions, peers);
        (self.phase, self.is_silent) = (Phase::Active, false);
        self.events.extend(self.peers.keys().map(|node| Event::Joined(*node)));
        let active = self.peers.iter().filter(|(_, peer)| peer.phase == Phase::Active);
        self.view = View::new(active.map(|(node, _)| *node).chain([self.config.node]), self.config.key);
        self.events.push_back(Event::View(self.view.clone()));
        self.peers.values_mut().for_each(|peer| peer.link.resume(now));
        self.begin_to_speak(now);
        self.update_open();
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.answer(node));
    }

    /// Nobody has been heard meanwhile, and others may have begun to wait for this node.
    fn begin_to_speak(&mut self, now: Nanos) {
        self.heartbeat_at = now;
        self.away_at = (!self.is_connected).then(|| now + self.config.member_timeout);
        self.peers.values_mut().for_each(|peer| peer.heard_at = now);
    }
}

fn name(from: &mut &[u8]) -> Option<Box<str>> {
    let name = <&str>::take(from)?;
    (1..=NODE_NAME_BYTES_MAX).contains(&name.len()).then(|| name.into())
}

fn peer(from: &mut &[u8]) -> Option<(NodeId, Peer)> {
    let (node, name, started_ms) = (Wire::take(from)?, name(from)?, Wire::take(from)?);
    let phase = Phase::of(u8::take(from)?)?;
    let has_digests = bool::take(from)?;
    let digests = Digests { settings: Wire::take(from)?, key: Wire::take(from)? };
    let (view, announced) = (Wire::take(from)?, (u64::take(from)?, u64::take(from)?));
    let peer = Peer {
        name,
        started_ms,
        phase,
        digests: has_digests.then_some(digests),
        heard_at: 0,
        link: Link::thaw(from)?,
        view,
        // Views are counted from 1.
        announced: Some(announced).filter(|(_, number)| *number != 0),
        has_settled: true,
    };
    Some((node, peer))
}
