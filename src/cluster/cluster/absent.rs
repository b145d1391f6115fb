//! Members that were taken for dead. One of the others tells that each is lost, and that it has returned: a member that was only cut off
//! still has its connections.
//!
//! The one that has been there for longest tells, as it has surely known the other. If it is lost itself a little later, the next one
//! tells again, because nobody knows whether it had the time.

use echoring_proto::limits::Nanos;

use super::{Absent, Cluster, Event, Peer, Phase};
use crate::limits::MEMBERS_MAX;
use crate::view::NodeId;

impl Cluster {
    /// A member is taken for dead.
    pub(super) fn lose(&mut self, node: NodeId, now: Nanos) {
        let name = self.peers.get(&node).map(|peer| peer.name.clone());
        self.drop_peer(node);
        if let Some(name) = name {
            if self.absent.len() >= MEMBERS_MAX {
                self.absent.remove(0);
            }
            let told_until = now + 2 * self.config.member_timeout;
            self.absent.push(Absent { node, name, teller: None, told_until });
        }
    }

    /// Members were lost: tells of those that are this node's to tell of.
    pub(super) fn tell_lost(&mut self, now: Nanos) {
        for index in 0..self.absent.len() {
            let Absent { teller, told_until, .. } = self.absent[index];
            if teller.is_some_and(|teller| self.is_there(teller)) {
                continue;
            }
            let next = self.teller();
            self.absent[index].teller = next;
            if next == Some(self.config.node) && now < told_until {
                self.events.push_back(Event::Lost(self.absent[index].name.clone()));
            }
        }
    }

    /// A node has appeared. It may be one that was lost, or have the name of one.
    pub(super) fn find(&mut self, node: NodeId, name: &str) {
        let Some(index) = self.absent.iter().position(|absent| *absent.name == *name) else { return };
        let absent = self.absent.remove(index);
        let teller = absent.teller.filter(|teller| self.is_there(*teller)).or_else(|| self.teller());
        // Another process with its name has told by itself that it has started.
        if absent.node == node && teller == Some(self.config.node) {
            self.events.push_back(Event::Returned(absent.name));
        }
    }

    fn is_there(&self, node: NodeId) -> bool {
        node == self.config.node || self.peers.contains_key(&node)
    }

    /// The node that has been a member for longest, and stays.
    fn teller(&self) -> Option<NodeId> {
        let of_peer = |(node, peer): (&NodeId, &Peer)| (peer.phase, peer.started_ms, *node);
        let own = (self.phase, self.config.started_ms, self.config.node);
        let members = self.peers.iter().map(of_peer).chain([own]);
        let serving = members.filter(|(phase, ..)| matches!(phase, Phase::Active | Phase::Leaving));
        let first = serving.min_by_key(|(phase, started_ms, node)| (phase.leaves(), *started_ms, *node));
        first.map(|(.., node)| node)
    }
}
