//! Topics that this node owns: it orders their publications, and sends them to their followers.

use std::collections::BTreeMap;

use echoring_proto::Plain as _;
use echoring_topics::Position;

use super::durable::all;
use super::{FollowedRange, OwnerTable, Peers, Role, Shard};
use crate::limits::HISTORY_PART_BYTES;
use crate::message::{Message, Outcome, append_entry, entries};
use crate::view::NodeId;

impl OwnerTable {
    /// Begins a topic that no other node has.
    pub(super) fn begin(&mut self, shard: &mut Shard<'_>, name: &str) {
        match shard.store.is_durable(name) {
            true => self.begin_durable(shard, name),
            false => drop(self.begin_new(shard, name)),
        }
    }

    /// Begins a topic here and now. False if the store refuses it: it is tried again later.
    pub(super) fn begin_new(&mut self, shard: &mut Shard<'_>, name: &str) -> bool {
        let OwnerTable { topics, diverged, .. } = self;
        if diverged.contains_key(name) {
            // It must not go on where this node had left it.
            shard.store.take_remembered(&mut |remembered| remembered == name);
        }
        let begun = shard.store.begin(name);
        let Some(topic) = topics.get_mut(name) else { return false };
        match begun {
            Ok(_) => {
                topic.role = Role::Owner(BTreeMap::new());
                diverged.remove(name);
                self.hold(shard, name);
                self.own_members(shard, name);
                true
            }
            Err(reason) => {
                self.refuse_outgoing(name, Outcome::Refused(reason));
                self.retry(shard, name);
                false
            }
        }
    }

    /// Decides on the publications of this node that wait for the topic's owner.
    pub(super) fn refuse_outgoing(&mut self, name: &str, outcome: Outcome) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        while topic.outgoing.is_waiting()
            && let Some((ticket, entry)) = topic.outgoing.pop()
        {
            self.decided.push(ticket, entry.len(), outcome);
        }
    }

    /// Has this node own the topic for another that asks, if it may. Otherwise the presumed owner.
    fn own_for(&mut self, shard: &mut Shard<'_>, name: &str) -> Result<(), Option<NodeId>> {
        if !self.topics.contains_key(name) && (!self.is_open || self.view.owner(name) != Some(self.node)) {
            return Err(None);
        }
        let topic = self.topics.entry(name.into()).or_default();
        match topic.role {
            Role::Owner(_) => return Ok(()),
            Role::Live(owner) => return Err(Some(owner)),
            Role::Idle if self.is_open && self.view.owner(name) == Some(self.node) => {}
            Role::Idle | Role::Loading | Role::Asked(_) | Role::Receiving(_) => return Err(None),
        }
        self.begin(shard, name);
        if self.is_owner(name) { Ok(()) } else { Err(None) }
    }

    /// Orders the publications that have waited until this node owned the topic.
    pub(super) fn order_waiting(&mut self, shard: &mut Shard<'_>, name: &str) {
        while let Some(topic) = self.topics.get_mut(name)
            && topic.outgoing.is_waiting()
            && let Some((ticket, entry)) = topic.outgoing.pop()
        {
            let outcome = self.order(shard, name, &entry);
            self.decided.push(ticket, entry.len(), outcome);
        }
    }

    /// Orders the publications of another node.
    pub(super) fn order_batch(
        &mut self,
        shard: &mut Shard<'_>,
        from: NodeId,
        name: &str,
        batch: u32,
        list: &[u8],
    ) {
        if self.has_no_stream(name, shard.now) {
            let outcomes = all(list, Outcome::NoStorage);
            return shard.peers.send(from, &Message::Published { topic: name, batch, outcomes: &outcomes });
        }
        if let Err(owner) = self.own_for(shard, name) {
            return shard.peers.send(from, &Message::NotOwner { topic: name, batch, owner });
        }
        if self.topics.get(name).is_some_and(|topic| topic.durable.is_some()) {
            return self.wait_for_stream(shard, from, name, batch, list);
        }
        let mut outcomes = Vec::new();
        for entry in entries(list) {
            self.order(shard, name, entry).put(&mut outcomes);
        }
        shard.peers.send(from, &Message::Published { topic: name, batch, outcomes: &outcomes });
    }

    /// Orders one publication to a topic that this node owns.
    pub(super) fn order(&mut self, shard: &mut Shard<'_>, name: &str, entry: &[u8]) -> Outcome {
        let before = shard.store.position(name).map_or(0, |position| position.offset);
        let outcome = shard.store.append(name, entry);
        // A publication that was accepted before is not delivered again.
        if let Outcome::Accepted(position) = outcome
            && position.offset > before
        {
            self.forward(shard.peers, name, position, entry);
        }
        outcome
    }

    /// Whether other nodes follow a topic that this node owns.
    pub fn has_followers(&self, name: &str) -> bool {
        let role = self.topics.get(name).map(|topic| &topic.role);
        matches!(role, Some(Role::Owner(followers)) if !followers.is_empty())
    }

    /// Sends the followers of a topic the message that this node has just given a position.
    pub fn forward(&mut self, peers: &mut dyn Peers, name: &str, position: Position, entry: &[u8]) {
        let Position { epoch, offset } = position;
        let OwnerTable { topics, lagging, .. } = self;
        let Some(Role::Owner(followers)) = topics.get_mut(name).map(|topic| &mut topic.role) else {
            return;
        };
        let mut list = Vec::new();
        for (follower, sent) in followers {
            if *sent + 1 == offset && peers.has_room(*follower) {
                if list.is_empty() {
                    append_entry(&mut list, entry);
                }
                let message = Message::Deliver { topic: name, epoch, first: offset, entries: &list };
                peers.send(*follower, &message);
                *sent = offset;
            } else {
                lagging.insert((name.into(), *follower));
            }
        }
    }

    /// Another node follows a topic from now on.
    pub(super) fn follow(
        &mut self,
        shard: &mut Shard<'_>,
        from: NodeId,
        name: &str,
        after: Option<Position>,
    ) {
        if let Err(owner) = self.own_for(shard, name) {
            if self.has_no_stream(name, shard.now) {
                shard.peers.send(from, &Message::NoStorage { topic: name });
            }
            return shard.peers.send(from, &Message::NotOwner { topic: name, batch: 0, owner });
        }
        let Some(head) = shard.store.position(name) else { return };
        let kept = shard.store.oldest(name) - 1;
        let has_been = after.filter(|after| after.epoch == head.epoch && after.offset <= head.offset);
        let offset = has_been.map_or(kept, |after| after.offset.max(kept));
        let lacks_latest = has_been.is_none_or(|after| after.offset < kept);
        let range = FollowedRange { start: Position { offset, ..head }, head: head.offset };
        self.serve(shard, from, name, range, lacks_latest);
    }

    /// Sends a follower the messages after `start`, and before that the latest message of each key, if it lacks some.
    pub(super) fn serve(
        &mut self,
        shard: &mut Shard<'_>,
        follower: NodeId,
        name: &str,
        FollowedRange { start, head }: FollowedRange,
        lacks_latest: bool,
    ) {
        let Some(Role::Owner(followers)) = self.topics.get_mut(name).map(|topic| &mut topic.role) else {
            return;
        };
        followers.insert(follower, start.offset);
        let mut rest = Vec::new();
        if lacks_latest {
            shard.store.export_latest(name, &mut rest);
        }
        shard.peers.send(follower, &Message::Following { topic: name, start, head, rest: &rest });
        self.lagging.insert((name.into(), follower));
        self.hold(shard, name);
        self.send_members_to(shard, name, follower);
        self.catch_up_one(shard, name, follower);
    }

    pub(super) fn unfollow(&mut self, shard: &mut Shard<'_>, from: NodeId, name: &str) {
        if let Some(Role::Owner(followers)) = self.topics.get_mut(name).map(|topic| &mut topic.role) {
            followers.remove(&from);
            self.lagging.remove(&(name.into(), from));
            self.dismiss(name, from);
        }
        self.hold(shard, name);
    }

    /// Sends lagging followers the messages that they lack, as far as their links have room.
    pub(super) fn catch_up(&mut self, shard: &mut Shard<'_>) {
        let lagging: Vec<_> = self.lagging.iter().cloned().collect();
        for (name, follower) in lagging {
            self.catch_up_one(shard, &name, follower);
        }
    }

    fn catch_up_one(&mut self, shard: &mut Shard<'_>, name: &str, follower: NodeId) {
        let OwnerTable { topics, lagging, .. } = self;
        let followers = match topics.get_mut(name).map(|topic| &mut topic.role) {
            Some(Role::Owner(followers)) => Some(followers),
            _ => None,
        };
        let cursor = followers.and_then(|followers| followers.get_mut(&follower));
        let (Some(sent), Some(Position { epoch, offset })) = (cursor, shard.store.position(name)) else {
            lagging.remove(&(name.into(), follower));
            return;
        };
        while *sent < offset && shard.peers.has_room(follower) {
            let mut list = Vec::new();
            let read = shard.store.read(name, *sent, HISTORY_PART_BYTES, &mut list);
            // Without history the follower learns what it has missed.
            let first = if read.messages == 0 { offset + 1 } else { read.first };
            let message = Message::Deliver { topic: name, epoch, first, entries: &list };
            shard.peers.send(follower, &message);
            *sent = first + read.messages - 1;
        }
        if *sent >= offset {
            lagging.remove(&(name.into(), follower));
        }
    }
}
