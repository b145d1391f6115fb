//! Topics that another node owns.

use super::diverged::takes_other_epoch;
use super::{FollowedRange, OwnerTable, Role, Shard};
use crate::message::Outcome;
use crate::view::NodeId;

impl OwnerTable {
    /// The owner's answer: deliveries follow.
    pub(super) fn following(
        &mut self,
        shard: &mut Shard<'_>,
        from: NodeId,
        name: &str,
        FollowedRange { start, head }: FollowedRange,
        rest: &[u8],
    ) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        match topic.role {
            Role::Asked(owner) | Role::Live(owner) if owner == from => topic.role = Role::Live(from),
            _ => return,
        }
        if takes_other_epoch(shard.store, name, start.epoch) {
            self.note_diverged(shard, name);
        }
        let known = shard.store.position(name);
        match known.filter(|known| known.epoch == start.epoch && known.offset <= head) {
            // What the owner has no longer is missing.
            Some(known) if known.offset < start.offset && rest.is_empty() => {
                shard.store.skip(name, start.offset);
            }
            Some(known) if known.offset >= start.offset => {}
            _ => {
                shard.store.follow(name, start, head);
                shard.store.import_rest(name, rest);
            }
        }
        self.hold(shard, name);
        self.follow_members(shard, name, from);
        self.drive(shard, name);
    }

    /// The owner has handed the topic to another node. Everything that it delivered has arrived.
    pub(super) fn released(&mut self, shard: &mut Shard<'_>, from: NodeId, name: &str, owner: NodeId) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        if topic.role.is_fed_by(from) {
            (topic.role, topic.hint) = (Role::Idle, Some(owner));
            topic.retry_at = None;
            topic.members.stop();
            self.drive(shard, name);
        }
    }

    /// The owner has no stream for a topic that this node tries to follow.
    pub(super) fn told_of_no_storage(&mut self, from: NodeId, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        if matches!(topic.role, Role::Asked(owner) if owner == from) {
            topic.is_without_storage = true;
            self.refuse_outgoing(name, Outcome::NoStorage);
        }
    }

    /// A node that was asked does not own the topic.
    pub(super) fn refused(
        &mut self,
        shard: &mut Shard<'_>,
        from: NodeId,
        name: &str,
        batch: u32,
        owner: Option<NodeId>,
    ) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let hint = owner.filter(|owner| *owner != from && *owner != self.node);
        // An answer to an earlier request may have made it live, before the node handed the topic over.
        let is_followed = matches!(topic.role, Role::Asked(owner) | Role::Live(owner) if owner == from);
        match batch {
            0 if is_followed => {
                topic.role = Role::Idle;
                topic.members.stop();
            }
            0 => return,
            // It was given up, and what waits may be sent now.
            _ if !topic.outgoing.refuse(from, batch) => return self.drive(shard, name),
            _ => {}
        }
        topic.hint = hint.or(topic.hint);
        // Nodes that change views may send each other away for a round trip.
        self.retry(shard, name);
    }
}
