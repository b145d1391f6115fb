//! Topics that have had messages in an epoch of which their owner may not know.
//!
//! A node that learns of such a topic is obliged to have its subscribers told. It tells them itself if it orders the topic: by a new
//! epoch. Otherwise it passes the obligation to the node that owns the topic, and keeps it until that node has answered. A node
//! that is told and does not order the topic takes the obligation over: it is done once this node begins or receives the topic.

use super::{FollowedRange, OwnerTable, Role, Shard};
use crate::limits::DIVERGED_AGE;
use crate::message::Message;
use crate::store::TopicStore;
use crate::view::NodeId;

impl OwnerTable {
    /// Messages of this topic may be unknown to its owner.
    pub(super) fn note_diverged(&mut self, shard: &mut Shard<'_>, name: &str) {
        self.keep_diverged(shard, name);
        self.has_reports = !self.diverged.is_empty();
    }

    /// A node passes such a topic on.
    pub(super) fn take_diverged(&mut self, shard: &mut Shard<'_>, from: NodeId, name: &str) {
        shard.peers.send(from, &Message::Taken { topic: name });
        // If this node passed it on at once, two nodes with different views could send it to and fro.
        self.keep_diverged(shard, name);
    }

    fn keep_diverged(&mut self, shard: &mut Shard<'_>, name: &str) {
        if self.is_owner(name) {
            return self.merge(shard, name);
        }
        let until = shard.now + DIVERGED_AGE;
        self.diverged.insert(name.into(), until);
        self.timers.insert((until, name.into()));
    }

    /// Forgets topics that were unused for so long that their positions are forgotten as well.
    pub(super) fn expire_diverged(&mut self, shard: &Shard<'_>, name: &str) {
        if self.diverged.get(name).is_some_and(|until| *until <= shard.now) {
            self.diverged.remove(name);
        }
    }

    /// Passes topics to the nodes that own them, as far as the links have room.
    pub(super) fn report_diverged(&mut self, shard: &mut Shard<'_>) {
        if !std::mem::take(&mut self.has_reports) {
            return;
        }
        let OwnerTable { diverged, handed, view, node, has_reports, .. } = self;
        diverged.retain(|name, _| match view.owner(name).filter(|owner| owner != node) {
            Some(owner) if shard.peers.has_room(owner) => {
                *handed.entry((owner, name.clone())).or_default() += 1;
                shard.peers.send(owner, &Message::Diverged { topic: name });
                false
            }
            Some(_) => {
                *has_reports = true;
                true
            }
            // This node's, once it has the topic; or nobody's.
            None => true,
        });
    }

    /// The node has answered a transfer or an obligation.
    pub(super) fn taken(&mut self, shard: &mut Shard<'_>, from: NodeId, name: &str) {
        let key = (from, name.into());
        let Some(count) = self.handed.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            self.handed.remove(&key);
            self.answer(shard, name);
        }
    }

    /// Two nodes have owned this node's topic. Nobody knows which messages of one the subscribers of the other have
    /// missed: a new epoch notifies all of them.
    pub(super) fn merge(&mut self, shard: &mut Shard<'_>, name: &str) {
        if self.topics.get(name).is_some_and(|topic| topic.durable.is_some()) {
            return self.reload(shard, name);
        }
        if self.is_owner(name) {
            shard.store.renew(name);
            self.serve_again(shard, name);
        }
    }

    /// Sends the state of a topic that begins a new epoch to all its followers.
    pub(super) fn serve_again(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(Role::Owner(followers)) = self.topics.get(name).map(|topic| &topic.role) else { return };
        let followers: Vec<NodeId> = followers.keys().copied().collect();
        let Some(start) = shard.store.position(name) else { return };
        let range = FollowedRange { start, head: start.offset };
        for follower in followers {
            self.serve(shard, follower, name, range, false);
        }
    }
}

/// Deletes what a store remembers of a topic that another node continues. Whether that was another epoch: the
/// subscribers of this one do not know its messages.
pub(super) fn takes_other_epoch(store: &mut dyn TopicStore, name: &str, epoch: u64) -> bool {
    let remembered = store.take_remembered(&mut |remembered| remembered == name);
    remembered.is_some_and(|(_, position)| position.epoch != epoch)
}
