//! Topics of a node that another process continues: what they are to other nodes, as bytes. Their messages and members move with the
//! store's topics.
//!
//! Only a table [at rest](OwnerTable::is_at_rest) is frozen: nothing waits for an answer, so nothing that is on its way needs this table
//! to be understood.

use std::collections::BTreeMap;
use std::ops::Bound;

use echoring_proto::limits::Nanos;
use echoring_topics::{append_member, members};

use super::members::{NodeMembers, TopicMembers};
use super::{OwnerTable, Role, Shard, Topic};
use crate::limits::{DIVERGED_AGE, MEMBERS_WAIT};
use crate::view::NodeId;
use crate::wire::Wire;

const IDLE: u8 = 0;
const OWNER: u8 = 1;
const LIVE: u8 = 2;

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

    /// The topic behind `after` that [`freeze_topic`](OwnerTable::freeze_topic) has something to say of.
    pub fn next_topic(&self, after: Option<&str>) -> Option<&str> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let known = self.topics.range::<str, _>(range).next().map(|(name, _)| &**name);
        let diverged = self.diverged.range::<str, _>(range).next().map(|(name, _)| &**name);
        known.into_iter().chain(diverged).min()
    }

    /// Appends what a topic is to other nodes. The table changes no more.
    pub fn freeze_topic(&self, name: &str, now: Nanos, out: &mut Vec<u8>) {
        self.requests_made.put(out);
        self.diverged.get(name).map_or(0, |until| until.saturating_sub(now).max(1)).put(out);
        let Some(topic) = self.topics.get(name) else { return IDLE.put(out) };
        match &topic.role {
            // They ask again.
            Role::Idle | Role::Loading | Role::Asked(_) | Role::Receiving(_) => IDLE.put(out),
            Role::Owner(followers) => {
                OWNER.put(out);
                (followers.len() as u32).put(out);
                for (node, sent) in followers {
                    node.put(out);
                    sent.put(out);
                }
            }
            Role::Live(owner) => {
                LIVE.put(out);
                owner.put(out);
            }
        }
        topic.is_wanted.put(out);
        topic.members.freeze(now, out);
    }

    /// Takes a topic of the store as it was in another process. Nothing is sent: the nodes are not known yet. `None` if the bytes are
    /// malformed.
    pub fn thaw_topic(&mut self, shard: &mut Shard<'_>, name: &str, mut bytes: &[u8]) -> Option<()> {
        let (from, now) = (&mut bytes, shard.now);
        // The streams know writes by this number and the node.
        self.requests_made = self.requests_made.max(Wire::take(from)?);
        let diverged = u64::take(from)?.min(DIVERGED_AGE);
        if diverged > 0 {
            self.diverged.insert(name.into(), now + diverged);
            self.timers.insert((now + diverged, name.into()));
        }
        let role = u8::take(from)?;
        if from.is_empty() {
            return (role == IDLE).then_some(());
        }
        let head = shard.store.position(name);
        let role = match role {
            IDLE => Role::Idle,
            OWNER => {
                let count = u32::take(from)?;
                let follower = |_| Some((NodeId::take(from)?, u64::take(from)?));
                Role::Owner((0..count).map(follower).collect::<Option<BTreeMap<_, _>>>()?)
            }
            LIVE => Role::Live(Wire::take(from)?),
            _ => return None,
        };
        // Both have a position.
        let is_known = head.is_some() || !matches!(role, Role::Owner(_) | Role::Live(_));
        let (is_wanted, members) = (bool::take(from)?, TopicMembers::thaw(from, now)?);
        if !is_known || !from.is_empty() {
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

impl TopicMembers {
    fn freeze(&self, now: Nanos, out: &mut Vec<u8>) {
        let mut own = Vec::new();
        self.own().for_each(|(client, subject)| append_member(&mut own, client, subject));
        (&own[..]).put(out);
        (self.nodes.len() as u32).put(out);
        for (node, of) in &self.nodes {
            node.put(out);
            of.freeze(now, out);
        }
        (self.behind.len() as u32).put(out);
        for (node, after) in &self.behind {
            node.put(out);
            after.put(out);
        }
        self.count_sent.put(out);
        self.is_complete.put(out);
        self.are_awaited().put(out);
    }

    fn thaw(from: &mut &[u8], now: Nanos) -> Option<TopicMembers> {
        let own = <&[u8]>::take(from)?;
        let own = echoring_topics::is_members(own)
            .then(|| members(own).map(|(client, subject)| (client, subject.into())).collect())?;
        let count = u32::take(from)?;
        let node = |_| Some((NodeId::take(from)?, NodeMembers::thaw(from, now)?));
        let nodes = (0..count).map(node).collect::<Option<_>>()?;
        let count = u32::take(from)?;
        let behind = |_| Some((NodeId::take(from)?, Wire::take(from)?));
        let behind = (0..count).map(behind).collect::<Option<_>>()?;
        let (count_sent, is_complete) = (Wire::take(from)?, bool::take(from)?);
        let waits_until = bool::take(from)?.then_some(now + MEMBERS_WAIT);
        Some(TopicMembers { own, nodes, behind, changes: Vec::new(), count_sent, is_complete, waits_until })
    }
}
