//! A node that another process continues: its members, its views and its links, as bytes.
//!
//! ```text
//! suspend ─ bytes ─> PlainCluster::read ─> resume, in the other process
//!    └───────────── if that fails ───────> speak_again, in this one
//! ```
//!
//! From `suspend` on, the node is silent: it sends nothing and takes nothing. Its links send again what was lost meanwhile. So the other
//! nodes notice nothing, as long as one of the two processes speaks before they take the node for dead. Both must never speak.

use std::collections::BTreeMap;

use echoring_proto::limits::Nanos;

use echoring_proto::{Plain as _, plain};

use super::{Absent, Cluster, Event, Peer, Phase};
use crate::heartbeat::{Digests, is_node_name};
use crate::limits::MEMBERS_MAX;
use crate::link::{Link, PlainLink};
use crate::view::{NodeId, View};

plain! {
    /// A node of another process.
    #[derive(Debug)]
    pub struct PlainCluster {
        name: Box<str> where |name| is_node_name(name),
        started_ms: u64,
        number: u64,
        sessions: u64,
        absent: Vec<PlainAbsent> where |absent| absent.len() <= MEMBERS_MAX,
        peers: BTreeMap<NodeId, PlainPeer> where |peers| peers.len() <= MEMBERS_MAX,
    }
}

plain! {
    #[derive(Debug)]
    struct PlainAbsent {
        node: NodeId,
        name: Box<str> where |name| is_node_name(name),
        teller: Option<NodeId>,
    }
}

plain! {
    #[derive(Debug)]
    struct PlainPeer {
        name: Box<str> where |name| is_node_name(name),
        started_ms: u64,
        phase: Phase,
        digests: Digests,
        view: Option<u64>,
        announced: Option<(u64, u64)>,
        link: PlainLink,
    }
}

impl PlainCluster {
    /// The node with this state. `None` if that is malformed.
    pub fn read(bytes: &[u8]) -> Option<PlainCluster> {
        PlainCluster::decode(bytes)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Cluster {
    /// The state of the node, which is silent from now on. `None`, and nothing done, while the node does not own topics together with
    /// all other members, or waits for its tables.
    pub fn suspend(&mut self) -> Option<Vec<u8>> {
        let is_at_rest =
            self.phase == Phase::Active && self.is_open && !self.is_away && self.events.is_empty();
        if !is_at_rest || self.is_silent {
            return None;
        }
        self.is_silent = true;
        let absent = |Absent { node, name, teller, .. }: &Absent| PlainAbsent {
            node: *node,
            name: name.clone(),
            teller: *teller,
        };
        let plain = PlainCluster {
            name: self.config.name.clone(),
            started_ms: self.config.started_ms,
            number: self.number,
            sessions: self.sessions,
            absent: self.absent.iter().map(absent).collect(),
            peers: self.peers.iter().map(|(node, peer)| (*node, peer.plain())).collect(),
        };
        Some(plain.encode())
    }

    /// This process goes on with the node that it has suspended.
    pub fn speak_again(&mut self, now: Nanos) {
        if std::mem::take(&mut self.is_silent) {
            self.peers.values_mut().for_each(|peer| peer.link.send_again(now));
            self.begin_to_speak(now);
        }
    }

    /// This process is the node from now on, which must be [silent](super::ClusterConfig::continues) so far.
    pub fn continue_node(&mut self, plain: PlainCluster, now: Nanos) {
        let PlainCluster { name, started_ms, number, sessions, absent, peers } = plain;
        (self.config.name, self.config.started_ms) = (name, started_ms);
        (self.number, self.sessions) = (number, sessions);
        // They have been told.
        let absent = absent.into_iter();
        let absent =
            absent.map(|PlainAbsent { node, name, teller }| Absent { node, name, teller, told_until: 0 });
        self.absent = absent.collect();
        self.peers = peers.into_iter().map(|(node, peer)| (node, Peer::continued(peer, now))).collect();
        (self.phase, self.is_silent) = (Phase::Active, false);
        self.events.extend(self.peers.keys().map(|node| Event::Joined(*node)));
        let active = self.peers.iter().filter(|(_, peer)| peer.phase == Phase::Active);
        self.view = View::new(active.map(|(node, _)| *node).chain([self.config.node]), self.config.key);
        self.events.push_back(Event::View(self.view.clone()));
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

impl Peer {
    fn plain(&self) -> PlainPeer {
        PlainPeer {
            name: self.name.clone(),
            started_ms: self.started_ms,
            phase: self.phase,
            digests: self.digests,
            view: self.view,
            announced: self.announced,
            link: self.link.plain(),
        }
    }

    fn continued(plain: PlainPeer, now: Nanos) -> Peer {
        let PlainPeer { name, started_ms, phase, digests, view, announced, link } = plain;
        let (link, heard_at, has_settled) = (Link::continued(link, now), now, true);
        Peer { name, started_ms, phase, digests, heard_at, link, view, announced, has_settled }
    }
}
