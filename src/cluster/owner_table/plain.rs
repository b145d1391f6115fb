//! Topics of a node that another process continues: what they are to other nodes, as bytes. Their messages and members move with the
//! store's topics.
//!
//! Only a table [at rest](OwnerTable::is_at_rest) is put into bytes: nothing waits for an answer, so nothing that is on its way needs this table
//! to be understood.

use std::collections::BTreeMap;
use std::ops::Bound;

use echoring_proto::limits::Nanos;
use echoring_proto::{Plain as _, plain};
use echoring_topics::ClientId;
use echoring_topics::limits::PROFILE_BYTES_MAX;

use super::members::{NodeMembers, TopicMembers};
use super::{OwnerTable, Role, Shard, Topic};
use crate::limits::{DIVERGED_AGE, MEMBERS_STAY, MEMBERS_WAIT};
use crate::view::NodeId;

plain! {
    /// What moves of a topic.
    struct PlainTopic {
        requests_made: u64,
        /// For how long it is known that it has diverged.
        diverged: Option<Nanos>,
        known: Option<PlainKnown>,
    }
}

plain! {
    struct PlainKnown {
        role: PlainRole,
        is_wanted: bool,
        members: PlainMembers,
    }
}

plain! {
    enum PlainRole {
        Idle,
        /// The followers, and the offset that each was sent.
        Owner(BTreeMap<NodeId, u64>),
        Live(NodeId),
    }
}

plain! {
    struct PlainMembers {
        own: BTreeMap<ClientId, Box<str>> where |own| own.values().all(|profile| profile.len() <= PROFILE_BYTES_MAX),
        /// With the times that are left.
        nodes: BTreeMap<NodeId, NodeMembers>,
        behind: BTreeMap<NodeId, Option<ClientId>>,
        count_sent: u64,
        is_complete: bool,
        are_awaited: bool,
    }
}

impl OwnerTable {
    /// Whether nothing waits for other nodes, or for their members; with `with_streams`, nor for the streams of durable topics.
    pub fn is_at_rest(&self, with_streams: bool) -> bool {
        let is_at_rest = |topic: &Topic| {
            let has_streams_done = topic.durable.as_deref().is_none_or(|durable| durable.is_at_rest());
            topic.outgoing.is_unused()
                && !matches!(topic.role, Role::Receiving(_))
                && (!with_streams || has_streams_done)
        };
        self.is_settled()
            && self.visiting.is_empty()
            && self.owed.is_empty()
            && self.members_due.is_empty()
            && !self.is_away
            && self.topics.values().all(is_at_rest)
    }

    /// The topic behind `after` that [`put_topic`](OwnerTable::put_topic) has something to say of.
    pub fn next_topic(&self, after: Option<&str>) -> Option<&str> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let known = self.topics.range::<str, _>(range).next().map(|(name, _)| &**name);
        let diverged = self.diverged.range::<str, _>(range).next().map(|(name, _)| &**name);
        known.into_iter().chain(diverged).min()
    }

    /// Appends what a topic is to other nodes. The table changes no more.
    pub fn put_topic(&self, name: &str, now: Nanos, out: &mut Vec<u8>) {
        let role = |role: &Role| match role {
            // They ask again.
            Role::Idle | Role::Loading | Role::Asked(_) | Role::Receiving(_) => PlainRole::Idle,
            Role::Owner(followers) => PlainRole::Owner(followers.clone()),
            Role::Live(owner) => PlainRole::Live(*owner),
        };
        let known = self.topics.get(name).map(|topic| PlainKnown {
            role: role(&topic.role),
            is_wanted: topic.is_wanted,
            members: topic.members.plain(now),
        });
        let diverged = self.diverged.get(name).map(|until| until.saturating_sub(now).max(1));
        PlainTopic { requests_made: self.requests_made, diverged, known }.put(out);
    }

    /// Takes a topic of the store as it was in another process. Nothing is sent: the nodes are not known yet. `None` if the bytes are
    /// malformed.
    pub fn take_topic(&mut self, shard: &mut Shard<'_>, name: &str, bytes: &[u8]) -> Option<()> {
        let (plain, now) = (PlainTopic::decode(bytes)?, shard.now);
        // The streams know writes by this number and the node.
        self.requests_made = self.requests_made.max(plain.requests_made);
        if let Some(left) = plain.diverged {
            let until = now + left.min(DIVERGED_AGE);
            self.diverged.insert(name.into(), until);
            self.timers.insert((until, name.into()));
        }
        let Some(PlainKnown { role, is_wanted, members }) = plain.known else { return Some(()) };
        let head = shard.store.position(name);
        let (role, members) = (Role::from(role), TopicMembers::restored(members, now));
        // Both have a position.
        let is_known = head.is_some() || !matches!(role, Role::Owner(_) | Role::Live(_));
        if !is_known {
            return None;
        }
        if let Role::Owner(followers) = &role {
            let behind = followers.iter().filter(|(_, sent)| Some(**sent) < head.map(|head| head.offset));
            self.lagging.extend(behind.map(|(node, _)| (Box::from(name), *node)));
        }
        let is_owner = matches!(role, Role::Owner(_));
        self.timers.extend(members.timers().map(|at| (at, Box::from(name))));
        if members.are_due() {
            self.members_due.insert(name.into());
        }
        self.topics.insert(name.into(), Topic { role, is_wanted, members, ..Topic::default() });
        if is_owner {
            self.own_durable(shard, name);
        }
        self.hold(shard, name);
        Some(())
    }
}

impl From<PlainRole> for Role {
    fn from(role: PlainRole) -> Role {
        match role {
            PlainRole::Idle => Role::Idle,
            PlainRole::Owner(followers) => Role::Owner(followers),
            PlainRole::Live(owner) => Role::Live(owner),
        }
    }
}

impl TopicMembers {
    fn plain(&self, now: Nanos) -> PlainMembers {
        let left = |of: &NodeMembers| of.map(|at| at.saturating_sub(now));
        PlainMembers {
            own: self.own.clone(),
            nodes: self.nodes.iter().map(|(node, of)| (*node, left(of))).collect(),
            behind: self.behind.clone(),
            count_sent: self.count_sent,
            is_complete: self.is_complete,
            are_awaited: self.are_awaited(),
        }
    }

    fn restored(plain: PlainMembers, now: Nanos) -> TopicMembers {
        let PlainMembers { own, nodes, behind, count_sent, is_complete, are_awaited } = plain;
        let nodes = nodes.into_iter().map(|(node, of)| (node, of.map(|left| now + left.min(MEMBERS_STAY))));
        let (nodes, waits_until) = (nodes.collect(), are_awaited.then_some(now + MEMBERS_WAIT));
        TopicMembers { own, nodes, behind, changes: Vec::new(), count_sent, is_complete, waits_until }
    }
}
