//! The member lists of topics with presence: every node that has subscribers keeps the whole list, in the store.
//!
//! ```text
//!   a follower ── its own members ──> the owner: the list of all nodes, in one order ── the list ──> every follower
//! ```
//!
//! Both directions are the same: pages of the sender's members, once and in order of ids, and changes as they happen. A
//! page says everything about a range of ids, so a receiver with a list reports only the differences. Changes that a
//! link has no room for are not kept: the pages begin anew.
//!
//! A list survives a change of owners, because the list moves with the topic, and every follower sends its own members to the next
//! owner. Members of a node that does not follow that one in time have left.

use std::collections::BTreeMap;

use echoring_proto::limits::Nanos;
use echoring_proto::{Plain as _, plain};
use echoring_topics::{ClientId, append_member, members};

use super::{OwnerTable, Role, Shard};
use crate::limits::{
    MEMBERS_LEAVE_MAX, MEMBERS_PART_BYTES, MEMBERS_STAY, MEMBERS_STAY_WITHOUT_LINK, MEMBERS_WAIT,
};
use crate::message::{MemberChange, MembersPage, Message, values};
use crate::store::TopicStore;
use crate::view::NodeId;

/// A node's knowledge of a topic's members besides the store's list.
#[derive(Debug, Default)]
pub(super) struct TopicMembers {
    /// The members of this node.
    pub(super) own: BTreeMap<ClientId, Box<str>>,
    /// At the owner: the other nodes that have members.
    pub(super) nodes: BTreeMap<NodeId, NodeMembers>,
    /// Nodes that lack pages, and the last member of the page before.
    pub(super) behind: BTreeMap<NodeId, Option<ClientId>>,
    /// Changes to be sent.
    pub(super) changes: Vec<u8>,
    /// The number of members that was sent last.
    pub(super) count_sent: u64,
    /// The whole list has been received, or is this node's.
    pub(super) is_complete: bool,
    /// Until when subscribers wait for the list.
    pub(super) waits_until: Option<Nanos>,
}

/// The members of another node, at the owner.
#[derive(Debug, Default)]
pub(super) struct NodeMembers {
    /// The number of its members, by its own count.
    count: u64,
    stay: Stay,
}

plain!(for NodeMembers { count, stay });

impl NodeMembers {
    /// The same with other times.
    pub(super) fn map(&self, time: impl Fn(Nanos) -> Nanos) -> NodeMembers {
        let stay = match self.stay {
            Stay::UntilLinked(at) => Stay::UntilLinked(time(at)),
            Stay::UntilFollows(at) => Stay::UntilFollows(time(at)),
            stay @ (Stay::Follows | Stay::Gone) => stay,
        };
        NodeMembers { count: self.count, stay }
    }
}

/// How long the members of another node stay.
#[derive(Clone, Copy, Debug, Default)]
enum Stay {
    /// While the node follows the topic.
    #[default]
    Follows,
    /// Deadline if there is no link to the node by then.
    UntilLinked(Nanos),
    /// Deadline if the node does not follow the topic by then.
    UntilFollows(Nanos),
    /// They have left. Subscribers are notified of some in each turn.
    Gone,
}

plain!(for enum Stay { Follows, UntilLinked(at), UntilFollows(at), Gone });

impl TopicMembers {
    /// Members of all nodes, as the owner counts them.
    pub(super) fn count(&self) -> u64 {
        self.nodes.values().fold(self.own.len() as u64, |sum, node| sum.saturating_add(node.count))
    }

    /// Whether a node lacks pages, or members are to be removed.
    pub(super) fn are_due(&self) -> bool {
        !self.behind.is_empty() || self.nodes.values().any(|of| matches!(of.stay, Stay::Gone))
    }

    /// The times at which waiting ends.
    pub(super) fn timers(&self) -> impl Iterator<Item = Nanos> {
        let of_nodes = self.nodes.values().filter_map(|of| match of.stay {
            Stay::UntilLinked(at) | Stay::UntilFollows(at) => Some(at),
            Stay::Follows | Stay::Gone => None,
        });
        of_nodes.chain(self.waits_until)
    }

    /// Whether subscribers wait for the list.
    pub(super) fn are_awaited(&self) -> bool {
        self.waits_until.is_some()
    }

    /// Whether it is the owner's, and has members of a node.
    pub(super) fn has_node(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Whether it is the owner's, and a node follows it.
    fn is_followed_by(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|of| matches!(of.stay, Stay::Follows))
    }

    /// Nothing more is sent or received.
    pub(super) fn stop(&mut self) {
        self.nodes.clear();
        self.behind.clear();
        self.changes.clear();
        self.waits_until = None;
    }

    fn note(&mut self, client: ClientId, joined: Option<&str>, count: u64) {
        MemberChange { client, joined, count }.put(&mut self.changes);
        self.count_sent = count;
    }

    /// As [`TopicStore::read_members`], of this node's own.
    fn read_own(&self, after: Option<ClientId>, bytes_max: usize, page: &mut Vec<u8>) -> Option<ClientId> {
        let mut last = None;
        for (client, subject) in self.own.range(after.unwrap_or_default()..) {
            if Some(*client) == after {
                continue;
            }
            if page.len() >= bytes_max {
                return last;
            }
            append_member(page, *client, subject);
            last = Some(*client);
        }
        None
    }
}

impl OwnerTable {
    /// A client of this node has joined a topic with presence, with the subject of its credentials, or has left it.
    pub fn change_presence(
        &mut self,
        shard: &mut Shard<'_>,
        name: &str,
        client: ClientId,
        joined: Option<&str>,
    ) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let own = &mut topic.members.own;
        let has_changed = match joined {
            Some(subject) => own.insert(client, subject.into()).is_none(),
            None => own.remove(&client).is_some(),
        };
        let own = own.len() as u64;
        match topic.role {
            Role::Owner(_) if has_changed => {
                let count = topic.members.count();
                self.list(shard, name, client, joined, count);
            }
            Role::Live(_) if has_changed => {
                topic.members.note(client, joined, own);
                self.members_due.insert(name.into());
                self.send_full_changes(shard, name);
            }
            // The next owner gets pages.
            _ => {}
        }
    }

    /// The owner lists a change, if it is one, and sends it to the followers.
    fn list(
        &mut self,
        shard: &mut Shard<'_>,
        name: &str,
        client: ClientId,
        joined: Option<&str>,
        count: u64,
    ) -> bool {
        self.members_due.insert(name.into());
        if !shard.store.change_member(name, client, joined, count, true) {
            return false;
        }
        if let Some(topic) = self.topics.get_mut(name) {
            topic.members.note(client, joined, count);
        }
        self.send_full_changes(shard, name);
        true
    }

    /// Changes of another node: of its own members, or of all if it owns the topic.
    pub(super) fn take_changes(
        &mut self,
        shard: &mut Shard<'_>,
        from: NodeId,
        name: &str,
        count: u64,
        list: &[u8],
    ) {
        let Some(topic) = self.topics.get(name) else { return };
        match &topic.role {
            Role::Owner(_) if topic.members.is_followed_by(from) => {
                for MemberChange { client, joined, .. } in values(list) {
                    if client.node == from.0 {
                        self.list_of(shard, from, name, client, joined);
                    }
                }
                self.count_of(from, name, count);
            }
            role if role.is_fed_by(from) => {
                for MemberChange { client, joined, count } in values(list) {
                    shard.store.change_member(name, client, joined, count, false);
                }
                shard.store.count_members(name, count);
            }
            _ => {}
        }
    }

    /// The owner lists a change of another node's members.
    fn list_of(
        &mut self,
        shard: &mut Shard<'_>,
        node: NodeId,
        name: &str,
        client: ClientId,
        joined: Option<&str>,
    ) {
        let Some(topic) = self.topics.get(name) else { return };
        let (all, before) = (topic.members.count(), topic.members.nodes.get(&node).map_or(0, |of| of.count));
        let after = if joined.is_some() { before.saturating_add(1) } else { before.saturating_sub(1) };
        let count = (all - before).saturating_add(after);
        if self.list(shard, name, client, joined, count) {
            self.count_of(node, name, after);
        }
    }

    /// Another node has this number of members.
    fn count_of(&mut self, node: NodeId, name: &str, count: u64) {
        if let Some(topic) = self.topics.get_mut(name) {
            topic.members.nodes.entry(node).or_default().count = count;
            self.members_due.insert(name.into());
        }
    }

    /// A page of another node: of its own members, or of all if it owns the topic.
    pub(super) fn take_members(&mut self, shard: &mut Shard<'_>, from: NodeId, page: &MembersPage<'_>) {
        let &MembersPage { topic: name, last, count, .. } = page;
        let Some(topic) = self.topics.get_mut(name) else { return };
        match &topic.role {
            Role::Owner(_) if topic.members.is_followed_by(from) => {
                self.count_of(from, name, count);
                self.list_page(shard, from, page);
            }
            Role::Live(owner) | Role::Receiving(owner) if *owner == from => {
                let wait = &mut topic.members.waits_until;
                match last {
                    Some(_) => {
                        *wait = wait.map(|_| shard.now + MEMBERS_WAIT);
                        self.timers.extend(wait.map(|at| (at, name.into())));
                    }
                    None => (topic.members.is_complete, *wait) = (true, None),
                }
                for (client, joined) in differences(shard.store, page, None) {
                    shard.store.change_member(name, client, joined, count, false);
                }
                shard.store.count_members(name, count);
            }
            _ => {}
        }
    }

    /// The owner lists the differences in a page of one node's own members.
    fn list_page(&mut self, shard: &mut Shard<'_>, node: NodeId, page: &MembersPage<'_>) {
        for (client, joined) in differences(shard.store, page, Some(node)) {
            let count = self.topics.get(page.topic).map_or(0, |topic| topic.members.count());
            self.list(shard, page.topic, client, joined, count);
        }
    }

    /// This node becomes the topic's owner, with the list that it has followed or received.
    pub(super) fn own_members(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.members.stop();
        if !shard.store.has_presence(name) {
            return;
        }
        let mut after = None;
        loop {
            let mut page = Vec::new();
            after = shard.store.read_members(name, after, MEMBERS_PART_BYTES, &mut page);
            for (client, _) in members(&page).filter(|(client, _)| client.node != self.node.0) {
                topic.members.nodes.entry(NodeId(client.node)).or_default().count += 1;
            }
            if after.is_none() {
                break;
            }
        }
        topic.members.is_complete = true;
        let mut own = Vec::new();
        topic.members.read_own(None, usize::MAX, &mut own);
        let nodes: Vec<NodeId> = topic.members.nodes.keys().copied().collect();
        nodes.into_iter().for_each(|node| self.stop_following(shard.now, name, node));
        let page = MembersPage { topic: name, after: None, last: None, count: 0, members: &own };
        self.list_page(shard, self.node, &page);
        if let Some(topic) = self.topics.get(name) {
            // The owner before may have counted members that it did not list.
            shard.store.count_members(name, topic.members.count());
        }
    }

    /// A node follows the topic of this one, or another epoch of it.
    pub(super) fn send_members_to(&mut self, shard: &mut Shard<'_>, name: &str, follower: NodeId) {
        if let Some(topic) = self.topics.get_mut(name).filter(|_| shard.store.has_presence(name)) {
            topic.members.nodes.entry(follower).or_default().stay = Stay::Follows;
            topic.members.behind.insert(follower, None);
            self.members_due.insert(name.into());
        }
    }

    /// This node follows the topic of another: it sends its members, and is sent all.
    pub(super) fn follow_members(&mut self, shard: &mut Shard<'_>, name: &str, owner: NodeId) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.members.stop();
        if shard.store.has_presence(name) {
            topic.members.behind.insert(owner, None);
            self.members_due.insert(name.into());
            if !topic.members.is_complete {
                let until = shard.now + MEMBERS_WAIT;
                topic.members.waits_until = Some(until);
                self.timers.insert((until, name.into()));
            }
        }
    }

    /// A node no longer follows the topic, as far as this one knows. It may do so again.
    pub(super) fn stop_following(&mut self, now: Nanos, name: &str, node: NodeId) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.members.behind.remove(&node);
        if let Some(of) = topic.members.nodes.get_mut(&node) {
            let at = now + MEMBERS_STAY_WITHOUT_LINK;
            of.stay = Stay::UntilLinked(at);
            self.timers.insert((at, name.into()));
        }
    }

    /// A node no longer has subscribers of the topic.
    pub(super) fn dismiss(&mut self, name: &str, node: NodeId) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.members.behind.remove(&node);
        if let Some(of) = topic.members.nodes.get_mut(&node) {
            of.stay = Stay::Gone;
            self.members_due.insert(name.into());
        }
    }

    /// Ends all waiting for other nodes.
    pub(super) fn expire_members(&mut self, shard: &Shard<'_>, name: &str) {
        let OwnerTable { topics, timers, members_due, .. } = self;
        let Some(topic) = topics.get_mut(name) else { return };
        for (node, of) in &mut topic.members.nodes {
            match of.stay {
                Stay::UntilLinked(at) if at <= shard.now && shard.peers.knows(*node) => {
                    let at = shard.now + MEMBERS_STAY;
                    of.stay = Stay::UntilFollows(at);
                    timers.insert((at, name.into()));
                }
                Stay::UntilLinked(at) | Stay::UntilFollows(at) if at <= shard.now => {
                    of.stay = Stay::Gone;
                    members_due.insert(name.into());
                }
                _ => {}
            }
        }
        topic.members.waits_until = topic.members.waits_until.filter(|at| *at > shard.now);
    }

    /// Whether [`flush_members`](OwnerTable::flush_members) has something to do.
    pub fn has_members_due(&self) -> bool {
        !self.members_due.is_empty()
    }

    /// Sends this turn's changes, and the members that other nodes lack, as far as the links have room.
    pub fn flush_members(&mut self, shard: &mut Shard<'_>) {
        for name in std::mem::take(&mut self.members_due) {
            self.remove_gone(shard, &name);
            self.send_changes(shard, &name);
            self.send_pages(shard, &name);
        }
    }

    /// Removes some members of nodes that are gone.
    fn remove_gone(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get(name) else { return };
        let mut nodes = topic.members.nodes.iter();
        let Some(node) = nodes.find_map(|(node, of)| matches!(of.stay, Stay::Gone).then_some(*node)) else {
            return;
        };
        let (mut page, before) = (Vec::new(), ClientId { node: node.0, number: 0 });
        shard.store.read_members(name, Some(before), MEMBERS_PART_BYTES, &mut page);
        let gone = || members(&page).take_while(|(client, _)| client.node == node.0);
        for (client, _) in gone().take(MEMBERS_LEAVE_MAX) {
            self.list_of(shard, node, name, client, None);
        }
        if gone().next().is_none()
            && let Some(topic) = self.topics.get_mut(name)
        {
            topic.members.nodes.remove(&node);
        }
        // The rest, and other nodes, in the next turn.
        self.members_due.insert(name.into());
        self.timers.insert((shard.now, name.into()));
    }

    fn send_full_changes(&mut self, shard: &mut Shard<'_>, name: &str) {
        let is_full = |topic: &super::Topic| topic.members.changes.len() >= MEMBERS_PART_BYTES;
        if self.topics.get(name).is_some_and(is_full) {
            self.send_changes(shard, name);
        }
    }

    /// Sends the changes of this turn.
    pub(super) fn send_changes(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(super::Topic { role, members, .. }) = self.topics.get_mut(name) else { return };
        let (count, followers, owner) = match &*role {
            Role::Owner(followers) => (members.count(), Some(followers), None),
            Role::Live(owner) => (members.own.len() as u64, None, Some(owner)),
            _ => (members.own.len() as u64, None, None),
        };
        if members.changes.is_empty() && members.count_sent == count {
            return;
        }
        if followers.is_some() {
            shard.store.count_members(name, count);
        }
        let followers = followers.into_iter().flat_map(BTreeMap::keys);
        for node in followers.chain(owner) {
            if shard.peers.has_room(*node) {
                let changes = &members.changes;
                shard.peers.send(*node, &Message::Presence { topic: name, count, changes });
            } else {
                members.behind.insert(*node, None);
            }
        }
        members.count_sent = count;
        members.changes.clear();
    }

    fn send_pages(&mut self, shard: &mut Shard<'_>, name: &str) {
        let OwnerTable { topics, members_lagging, .. } = self;
        let Some(super::Topic { role, members, .. }) = topics.get_mut(name) else { return };
        let is_owner = matches!(role, Role::Owner(_));
        let count = if is_owner { members.count() } else { members.own.len() as u64 };
        for (node, mut after) in std::mem::take(&mut members.behind) {
            loop {
                if !shard.peers.has_room(node) {
                    members.behind.insert(node, after);
                    members_lagging.insert(name.into());
                    break;
                }
                let mut page = Vec::new();
                let last = match is_owner {
                    true => shard.store.read_members(name, after, MEMBERS_PART_BYTES, &mut page),
                    false => members.read_own(after, MEMBERS_PART_BYTES, &mut page),
                };
                let page = MembersPage { topic: name, after, last, count, members: &page };
                shard.peers.send(node, &Message::Members(page));
                after = last;
                if after.is_none() {
                    break;
                }
            }
        }
    }
}

/// Sends the whole list to the next owner of a topic.
pub(super) fn send_list(shard: &mut Shard<'_>, name: &str, count: u64, owner: NodeId) {
    let mut after = None;
    loop {
        let mut page = Vec::new();
        let last = shard.store.read_members(name, after, MEMBERS_PART_BYTES, &mut page);
        let page = MembersPage { topic: name, after, last, count, members: &page };
        shard.peers.send(owner, &Message::Members(page));
        after = last;
        if after.is_none() {
            return;
        }
    }
}

/// The changes that make the store's list equal to a page, of one node or of all: first the members that have left.
fn differences<'a>(
    store: &dyn TopicStore,
    page: &MembersPage<'a>,
    of: Option<NodeId>,
) -> Vec<(ClientId, Option<&'a str>)> {
    let first = page.after.max(of.map(|node| ClientId { node: node.0, number: 0 }));
    let is_meant = |client: ClientId| {
        first < Some(client)
            && page.last.is_none_or(|last| client <= last)
            && of.is_none_or(|node| client.node == node.0)
    };
    let is_there = |(client, _): &(ClientId, &str)| is_meant(*client);
    let mut there: BTreeMap<ClientId, &str> = members(page.members).filter(is_there).collect();
    let (mut changed, mut after) = (Vec::new(), first);
    loop {
        let mut listed = Vec::new();
        let next = store.read_members(page.topic, after, MEMBERS_PART_BYTES, &mut listed);
        for (client, _) in members(&listed).take_while(|(client, _)| is_meant(*client)) {
            if there.remove(&client).is_none() {
                changed.push((client, None));
            }
        }
        after = next;
        if after.is_none_or(|after| !is_meant(after)) {
            break;
        }
    }
    changed.extend(there.into_iter().map(|(client, subject)| (client, Some(subject))));
    changed
}
