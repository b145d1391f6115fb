//! Topics on their way from one owner to the next.

use std::collections::BTreeMap;

use echoring_topics::Position;

use super::diverged::takes_other_epoch;
use super::durable::Durable;
use super::members::{TopicMembers, send_list};
use super::{OwnerTable, Role, Shard, deliver};
use crate::limits::HISTORY_PART_BYTES;
use crate::message::{Message, Transfer};
use crate::view::NodeId;

impl OwnerTable {
    /// Hands topics that other nodes own to them, as far as the links have room.
    pub(super) fn hand_over(&mut self, shard: &mut Shard<'_>) {
        if !self.has_to_hand_over() {
            return;
        }
        let leaving: Vec<_> = self.leaving.iter().cloned().collect();
        for name in leaving {
            match self.view.owner(&name).filter(|owner| *owner != self.node) {
                // Nobody knows yet what its stream has.
                Some(_) if self.known_durable(&name).is_some_and(Durable::is_storing) => {}
                Some(owner) if shard.peers.has_room(owner) => {
                    self.leaving.remove(&name);
                    self.hand_over_one(shard, &name, owner);
                }
                Some(_) => {}
                // Without any owner, topics end with this node.
                None => drop(self.leaving.remove(&name)),
            }
        }
        self.hand_over_remembered(shard);
        self.report_diverged(shard);
    }

    fn hand_over_one(&mut self, shard: &mut Shard<'_>, name: &str, owner: NodeId) {
        self.send_changes(shard, name);
        let Some(topic) = self.topics.get_mut(name) else { return };
        let Role::Owner(followers) = std::mem::take(&mut topic.role) else { return };
        self.refuse_waiting(shard, name, Some(owner));
        let Some(topic) = self.topics.get_mut(name) else { return };
        send_state(shard, name, topic.members.count(), owner);
        topic.members.stop();
        *self.handed.entry((owner, name.into())).or_default() += 1;
        for follower in followers.into_keys() {
            self.lagging.remove(&(name.into(), follower));
            if follower != owner {
                shard.peers.send(follower, &Message::Released { topic: name, owner });
            }
        }
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.durable = None;
        if topic.is_wanted {
            topic.role = Role::Asked(owner);
            let after = shard.store.position(name);
            shard.peers.send(owner, &Message::Follow { topic: name, after });
        } else {
            topic.members = TopicMembers::default();
            shard.store.remove(name);
        }
        self.drive(shard, name);
    }

    /// The next owner must know the positions that this one has given, also for unused topics: otherwise a subscriber
    /// that returns to this node could be told that it missed nothing.
    fn hand_over_remembered(&mut self, shard: &mut Shard<'_>) {
        let OwnerTable { view, node, .. } = self;
        let mut is_full = false;
        loop {
            let Shard { store, peers, .. } = shard;
            let mut moves = |name: &str| match view.owner(name) {
                Some(owner) if owner != *node => {
                    is_full |= !peers.has_room(owner);
                    peers.has_room(owner)
                }
                _ => false,
            };
            let Some((name, head)) = store.take_remembered(&mut moves) else { break };
            if let Some(owner) = view.owner(&name) {
                let first = head.offset + 1;
                let part =
                    Transfer { topic: &name, head, begins: true, ends: true, first, entries: &[], rest: &[] };
                peers.send(owner, &Message::Transfer(part));
                *self.handed.entry((owner, name)).or_default() += 1;
            }
        }
        self.has_remembered = is_full;
    }

    /// Takes a part of a topic that this node owns from now on.
    pub(super) fn receive(&mut self, shard: &mut Shard<'_>, from: NodeId, part: &Transfer<'_>) {
        self.take_part(shard, from, part);
        if !part.ends {
            return;
        }
        let name = part.topic;
        self.owed.entry(name.into()).or_default().push(from);
        if !self.goes_on(name) {
            self.answer(shard, name);
        }
    }

    /// Whether this node has the topic, and another owns it.
    fn goes_on(&self, name: &str) -> bool {
        self.is_owner(name) && self.view.owner(name).is_some_and(|owner| owner != self.node)
    }

    /// Answers the nodes that have handed the topic over.
    pub(super) fn answer(&mut self, shard: &mut Shard<'_>, name: &str) {
        for node in self.owed.remove(name).into_iter().flatten() {
            shard.peers.send(node, &Message::Taken { topic: name });
        }
    }

    /// The same for all topics that have another owner in a new view.
    pub(super) fn answer_owed(&mut self, shard: &mut Shard<'_>) {
        let is_on_its_way = |name: &str| self.handed.keys().any(|(_, handed)| &**handed == name);
        let is_done = |name: &str| match self.is_owner(name) {
            true => !self.goes_on(name),
            false => !is_on_its_way(name),
        };
        let done: Vec<Box<str>> = self.owed.keys().filter(|name| is_done(name)).cloned().collect();
        done.iter().for_each(|name| self.answer(shard, name));
    }

    fn take_part(&mut self, shard: &mut Shard<'_>, from: NodeId, part: &Transfer<'_>) {
        let &Transfer { topic: name, head, begins, ends, first, entries, rest } = part;
        if self.is_owner(name) {
            // Also if that has no messages: it may have begun with a merge, of which nobody here has been told.
            if begins {
                self.merge(shard, name);
            }
            return;
        }
        let known = self.topics.get(name).map(|topic| &topic.role);
        if !begins && !matches!(known, Some(Role::Receiving(node)) if *node == from) {
            return;
        }
        let role =
            std::mem::replace(&mut self.topics.entry(name.into()).or_default().role, Role::Receiving(from));
        if begins {
            self.topics.entry(name.into()).or_default().members.stop();
            // Two nodes hand it over at once. The one before believes that this node takes what it sends.
            let is_interrupted = matches!(role, Role::Receiving(_));
            if takes_other_epoch(shard.store, name, head.epoch) || is_interrupted {
                self.note_diverged(shard, name);
            }
            let known = shard.store.position(name);
            if known.is_none_or(|known| known.epoch != head.epoch || known.offset > head.offset) {
                shard.store.follow(name, Position { offset: first - 1, ..head }, head.offset);
            }
            self.hold(shard, name);
        }
        deliver(shard.store, name, head.epoch, first, entries);
        if ends {
            // The last messages are not kept, if there are any behind those that came.
            deliver(shard.store, name, head.epoch, head.offset + 1, &[]);
            shard.store.import_rest(name, rest);
            self.own_received(shard, name);
        }
    }

    fn own_received(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.role = Role::Owner(BTreeMap::new());
        (topic.hint, topic.retry_at) = (None, None);
        self.own_durable(shard, name);
        if self.view.owner(name) != Some(self.node) {
            self.visiting.insert(name.into());
        }
        if self.diverged.remove(name).is_some() {
            self.merge(shard, name);
        }
        self.hold(shard, name);
        self.own_members(shard, name);
        self.drive(shard, name);
    }
}

/// Sends a topic's state to its next owner.
fn send_state(shard: &mut Shard<'_>, name: &str, members: u64, owner: NodeId) {
    let Some(head) = shard.store.position(name) else { return };
    let mut rest = Vec::new();
    shard.store.export_rest(name, &mut rest);
    let (mut begins, mut after) = (true, shard.store.oldest(name) - 1);
    if shard.store.has_presence(name) {
        // In a first part of its own, behind which the list is: nobody must follow the next owner before that has the list.
        let first = after + 1;
        let part = Transfer { topic: name, head, begins, ends: false, first, entries: &[], rest: &[] };
        shard.peers.send(owner, &Message::Transfer(part));
        begins = false;
        send_list(shard, name, members, owner);
    }
    loop {
        let mut list = Vec::new();
        let read = shard.store.read(name, after, HISTORY_PART_BYTES, &mut list);
        let first = if read.messages == 0 { head.offset + 1 } else { read.first };
        after = first + read.messages - 1;
        let ends = after >= head.offset;
        let rest = if ends { &rest[..] } else { &[] };
        let part = Transfer { topic: name, head, begins, ends, first, entries: &list, rest };
        shard.peers.send(owner, &Message::Transfer(part));
        begins = false;
        if ends {
            return;
        }
    }
}
