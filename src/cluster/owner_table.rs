//! The topics that a shard shares with other nodes: which of them this node owns, the followers of those, and the
//! owners that it follows for the others.
//!
//! ```text
//!                    ┌──────── begin, when open ────────┐
//!   subscribe,       │     (a durable topic: Loading)   v
//!   publish ──> Idle ┤                               Owner ── the view gives it to another ──> Transfer, Released
//!                    └── Follow ──> Asked ──> Live      ^                                            │
//!                          ^           │  Released, NotOwner, Reset: ask again                       │
//!                          └───────────┴────────────────┴── Transfer ends ── Receiving <─────────────┘
//! ```
//!
//! Every way in takes a [`Shard`]: the store, the links, and the time.

mod away;
mod diverged;
mod durable;
mod follower;
mod members;
mod owner;
mod plain;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use durable::Durable;
use echoring_proto::limits::Nanos;
use echoring_topics::Position;

use members::TopicMembers;

use crate::limits::{OUTGOING_BYTES_MAX, PUBLISH_TIMEOUT, RETRY_DELAY};
use crate::message::{Message, Outcome, values};
use crate::outgoing::{Decisions, Full, Outgoing, Ticket};
use crate::store::TopicStore;
use crate::stream::StreamRequest;
use crate::view::{NodeId, View};

/// The links to the other nodes.
pub trait Peers {
    /// Sends a message behind all earlier ones. It arrives once, in order, unless the link is reset.
    fn send(&mut self, to: NodeId, message: &Message<'_>);

    /// Whether a node is present.
    fn knows(&self, node: NodeId) -> bool;

    /// Whether further deliveries to a node should be sent now.
    fn has_room(&self, to: NodeId) -> bool;
}

/// The resources of a call.
pub struct Shard<'a> {
    /// The shard's topics.
    pub store: &'a mut dyn TopicStore,
    /// The links.
    pub peers: &'a mut dyn Peers,
    /// The time.
    pub now: Nanos,
}

/// This node's relation to a topic.
#[derive(Debug, Default)]
enum Role {
    /// Nothing yet. The store may keep a topic that it has followed.
    #[default]
    Idle,
    /// It owns a durable topic, and asks the stream for it.
    Loading,
    /// It orders the topic. With each follower, the offset up to which that was sent.
    Owner(BTreeMap<NodeId, u64>),
    /// It has asked the owner, which has not answered.
    Asked(NodeId),
    /// It gets the owner's deliveries.
    Live(NodeId),
    /// It gets the topic from the owner before.
    Receiving(NodeId),
}

#[derive(Debug, Default)]
struct Topic {
    role: Role,
    /// This node has subscribers.
    is_wanted: bool,
    outgoing: Outgoing,
    /// Of a durable topic that this node owns.
    durable: Option<Box<Durable>>,
    /// The topic's owner, according to another node.
    hint: Option<NodeId>,
    /// The owner has answered that the stream of the topic stores nothing, and has not been asked since.
    is_without_storage: bool,
    /// When the owner is asked again.
    retry_at: Option<Nanos>,
    /// Of a topic with presence.
    members: TopicMembers,
}

/// The messages that a follower of a topic receives: those after `start`. `head` is the owner's latest.
#[derive(Clone, Copy)]
struct FollowedRange {
    start: Position,
    head: u64,
}

/// The shared topics of a shard.
#[derive(Debug)]
pub struct OwnerTable {
    node: NodeId,
    view: View,
    is_open: bool,
    /// The backbone is away.
    is_away: bool,
    topics: BTreeMap<Box<str>, Topic>,
    /// Topics on their way to the nodes that own them.
    leaving: BTreeSet<Box<str>>,
    /// Topics that a node with another view has handed over, and that another node owns in this one. They stay until both have
    /// the same view; until then there may be no other place for them.
    visiting: BTreeSet<Box<str>>,
    /// Topics that were handed to a node, each with the number of transfers whose arrival is not confirmed.
    handed: BTreeMap<(NodeId, Box<str>), u32>,
    /// Nodes that handed over a topic that moves on to another node, and are answered once that node has it. Until then
    /// they must not tell its owner that they have settled: it would begin the topic before it gets it.
    owed: BTreeMap<Box<str>, Vec<NodeId>>,
    /// Topics with messages that their owners may not know, and when that is forgotten. This node owns none of them.
    diverged: BTreeMap<Box<str>, Nanos>,
    /// Whether other nodes may have to be notified of them.
    has_reports: bool,
    /// Whether positions of forgotten topics may have to move.
    has_remembered: bool,
    /// Followers that were not sent everything.
    lagging: BTreeSet<(Box<str>, NodeId)>,
    /// Topics whose members must be sent or removed.
    members_due: BTreeSet<Box<str>>,
    /// The same, once links have room.
    members_lagging: BTreeSet<Box<str>>,
    /// Topics with a `retry_at`, with publications that expire, or with members that wait.
    timers: BTreeSet<(Nanos, Box<str>)>,
    /// The number of the latest batch. Answers of a node that is no longer awaited may arrive late.
    batches: u32,
    /// Requests to streams that were made, and those that are not on their way yet.
    requests_made: u64,
    requests: VecDeque<(Box<str>, u64, StreamRequest)>,
    decided: Decisions,
}

impl OwnerTable {
    /// No topics.
    pub fn new(node: NodeId, view: View) -> OwnerTable {
        OwnerTable {
            node,
            view,
            is_open: false,
            is_away: false,
            topics: BTreeMap::new(),
            leaving: BTreeSet::new(),
            visiting: BTreeSet::new(),
            handed: BTreeMap::new(),
            owed: BTreeMap::new(),
            diverged: BTreeMap::new(),
            has_reports: false,
            has_remembered: false,
            lagging: BTreeSet::new(),
            members_due: BTreeSet::new(),
            members_lagging: BTreeSet::new(),
            timers: BTreeSet::new(),
            batches: 0,
            requests_made: 0,
            requests: VecDeque::new(),
            decided: Decisions::default(),
        }
    }

    /// Whether this node orders the topic.
    pub fn is_owner(&self, name: &str) -> bool {
        self.topics.get(name).is_some_and(|topic| matches!(topic.role, Role::Owner(_)))
    }

    /// Whether a publication to the topic gets its position here and now.
    pub fn orders(&self, name: &str) -> bool {
        let topic = self.topics.get(name);
        topic.is_some_and(|topic| {
            matches!(topic.role, Role::Owner(_)) && topic.durable.is_none() && topic.outgoing.is_empty()
        })
    }

    /// Whether there is room for another waiting publication of this size. A single one above the bound may wait alone.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.decided.waiting_bytes == 0 || self.decided.waiting_bytes + bytes <= OUTGOING_BYTES_MAX
    }

    /// Whether this node has the topic's position and members from its owner, or is the owner.
    pub fn is_live(&self, name: &str) -> bool {
        self.topics.get(name).is_some_and(|topic| match topic.role {
            Role::Owner(_) => true,
            Role::Live(_) => !topic.members.are_awaited(),
            _ => false,
        })
    }

    /// Whether no topic is left to hand over, and all that were handed over have reached their owners.
    /// [`Cluster::settled`](crate::Cluster::settled) may be called then.
    pub fn is_settled(&self) -> bool {
        !self.has_to_hand_over() && self.handed.is_empty()
    }

    fn has_to_hand_over(&self) -> bool {
        !self.leaving.is_empty() || self.has_reports || self.has_remembered
    }

    /// The next publication that was decided.
    pub fn poll_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        self.decided.outcomes.pop_front()
    }

    /// The next request to the stream of a durable topic, with its number. [`handle_stream`](OwnerTable::handle_stream) takes the answer.
    pub fn poll_stream_request(&mut self) -> Option<(Box<str>, u64, StreamRequest)> {
        self.requests.pop_front()
    }

    /// When [`handle_time`](OwnerTable::handle_time) has something to do.
    pub fn deadline(&self) -> Option<Nanos> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// This node has its first subscriber of a topic.
    pub fn subscribe(&mut self, shard: &mut Shard<'_>, name: &str) {
        self.topics.entry(name.into()).or_default().is_wanted = true;
        self.hold(shard, name);
        self.drive(shard, name);
    }

    /// This node no longer has subscribers of a topic, and no use for its history.
    pub fn unsubscribe(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.is_wanted = false;
        match topic.role {
            Role::Asked(owner) | Role::Live(owner) => {
                shard.peers.send(owner, &Message::Unfollow { topic: name });
                (topic.role, topic.members) = (Role::Idle, TopicMembers::default());
                shard.store.remove(name);
            }
            Role::Idle => {
                topic.members = TopicMembers::default();
                shard.store.remove(name);
            }
            Role::Owner(_) | Role::Receiving(_) | Role::Loading => self.hold(shard, name),
        }
        self.drive(shard, name);
    }

    /// Publishes to a topic. [`poll_outcome`](OwnerTable::poll_outcome) has the outcome, at once if this node owns it.
    ///
    /// # Errors
    /// [`Full`] if too many publications wait.
    pub fn publish(
        &mut self,
        shard: &mut Shard<'_>,
        name: &str,
        ticket: Ticket,
        entry: &[u8],
    ) -> Result<(), Full> {
        if self.orders(name) {
            let outcome = self.order(shard, name, entry);
            self.decided.outcomes.push_back((ticket, outcome));
            return Ok(());
        }
        if !self.has_room(entry.len()) {
            return Err(Full);
        }
        self.decided.waiting_bytes += entry.len();
        let until = shard.now + PUBLISH_TIMEOUT;
        self.topics.entry(name.into()).or_default().outgoing.push(ticket, entry, until);
        self.timers.insert((until, name.into()));
        self.drive(shard, name);
        Ok(())
    }

    /// The store has no use for a topic that this node owns. False if others use it: then it must be kept.
    pub fn forget(&mut self, name: &str) -> bool {
        let Some(topic) = self.topics.get(name) else { return true };
        match &topic.role {
            _ if !topic.outgoing.is_empty() => false,
            Role::Owner(followers) if !followers.is_empty() || topic.is_wanted => false,
            Role::Owner(_) if topic.is_awaited() => false,
            Role::Owner(_) if self.leaving.contains(name) || self.visiting.contains(name) => false,
            Role::Owner(_) => {
                self.topics.remove(name);
                true
            }
            _ => !topic.is_wanted,
        }
    }

    /// Other nodes own topics from now on.
    pub fn handle_view(&mut self, shard: &mut Shard<'_>, view: View) {
        self.view = view;
        self.leaving.clear();
        self.visiting.clear();
        let mut undecided = Vec::new();
        for (name, topic) in &mut self.topics {
            if matches!(topic.role, Role::Loading) {
                (topic.role, topic.durable) = (Role::Idle, None);
            }
            let is_own = self.view.owner(name) == Some(self.node);
            match topic.role {
                Role::Owner(_) if !is_own => drop(self.leaving.insert(name.clone())),
                Role::Idle => undecided.push(name.clone()),
                // Others follow the owner that they have until it says otherwise, or ends.
                _ => {}
            }
        }
        self.has_remembered = true;
        self.has_reports = !self.diverged.is_empty();
        self.answer_owed(shard);
        undecided.iter().for_each(|name| self.drive(shard, name));
        self.hand_over(shard);
    }

    /// A node has the same view, and requests a notice once this one orders no topic of others: see
    /// [`is_settled`](OwnerTable::is_settled).
    pub fn handle_settle(&mut self, shard: &mut Shard<'_>) {
        self.leaving.append(&mut self.visiting);
        self.has_reports = !self.diverged.is_empty();
        self.hand_over(shard);
    }

    /// Whether topics may be begun.
    pub fn handle_open(&mut self, shard: &mut Shard<'_>, is_open: bool) {
        self.is_open = is_open;
        let idle = self.topics.iter().filter(|(_, topic)| is_open && matches!(topic.role, Role::Idle));
        let idle: Vec<_> = idle.map(|(name, _)| name.clone()).collect();
        idle.iter().for_each(|name| self.drive(shard, name));
    }

    /// A node is dead, or has lost messages to it.
    pub fn handle_reset(&mut self, shard: &mut Shard<'_>, node: NodeId) {
        let OwnerTable { topics, lagging, decided, .. } = self;
        lagging.retain(|(_, follower)| *follower != node);
        let (lost, on_their_way) = std::mem::take(&mut self.handed)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|((to, _), _)| *to == node);
        self.handed = on_their_way;
        let (mut changed, mut left, mut lost_members) = (Vec::new(), Vec::new(), Vec::new());
        for (name, topic) in topics.iter_mut() {
            topic.outgoing.reset(node, decided);
            topic.hint = topic.hint.filter(|hint| *hint != node);
            topic.durable.iter_mut().for_each(|durable| durable.reset(node));
            match &mut topic.role {
                Role::Owner(followers) => left.extend(followers.remove(&node).map(|_| name.clone())),
                Role::Asked(owner) | Role::Live(owner) | Role::Receiving(owner) if *owner == node => {
                    topic.role = Role::Idle;
                    topic.members.stop();
                }
                _ => {}
            }
            if matches!(topic.role, Role::Idle) {
                changed.push(name.clone());
            } else if topic.members.has_node(node) {
                lost_members.push(name.clone());
            }
        }
        for (_, name) in lost.into_keys() {
            self.note_diverged(shard, &name);
            self.answer(shard, &name);
        }
        self.owed.retain(|_, waiting| {
            waiting.retain(|other| *other != node);
            !waiting.is_empty()
        });
        // What it had followed stays for its subscribers; without any it is of no use.
        for name in &changed {
            if let Some(topic) = self.topics.get_mut(name).filter(|topic| !topic.is_wanted) {
                topic.members = TopicMembers::default();
                shard.store.remove(name);
            }
            self.drive(shard, name);
        }
        left.iter().for_each(|name| self.hold(shard, name));
        lost_members.iter().for_each(|name| self.stop_following(shard.now, name, node));
    }

    /// Takes a message of another node.
    pub fn handle_message(&mut self, shard: &mut Shard<'_>, from: NodeId, message: &Message<'_>) {
        match *message {
            Message::View { .. } | Message::Settled { .. } => {}
            Message::Publish { topic, batch, entries } => {
                self.order_batch(shard, from, topic, batch, entries)
            }
            Message::Published { topic: name, batch, outcomes: list } => {
                let Some(topic) = self.topics.get_mut(name) else { return };
                topic.outgoing.answer(from, batch, values(list), &mut self.decided);
                self.drive(shard, name);
            }
            Message::NotOwner { topic, batch, owner } => self.refused(shard, from, topic, batch, owner),
            Message::NoStorage { topic } => self.told_of_no_storage(from, topic),
            Message::Follow { topic, after } => self.follow(shard, from, topic, after),
            Message::Following { topic, start, head, rest } => {
                self.following(shard, from, topic, FollowedRange { start, head }, rest);
            }
            Message::Deliver { topic, epoch, first, entries } => {
                if self.topics.get(topic).is_some_and(|known| known.role.is_fed_by(from)) {
                    deliver(shard.store, topic, epoch, first, entries);
                }
            }
            Message::Unfollow { topic } => self.unfollow(shard, from, topic),
            Message::Released { topic, owner } => self.released(shard, from, topic, owner),
            Message::Transfer(part) => self.receive(shard, from, &part),
            Message::Taken { topic } => self.taken(shard, from, topic),
            Message::Diverged { topic } => self.take_diverged(shard, from, topic),
            Message::Members(page) => self.take_members(shard, from, &page),
            Message::Presence { topic, count, changes } => {
                self.take_changes(shard, from, topic, count, changes);
            }
        }
    }

    /// The time is `shard.now`, and links may have room again.
    pub fn handle_time(&mut self, shard: &mut Shard<'_>) {
        while let Some((at, name)) = self.timers.first().cloned()
            && at <= shard.now
        {
            self.timers.remove(&(at, name.clone()));
            self.expire_diverged(shard, &name);
            self.expire_members(shard, &name);
            let Some(topic) = self.topics.get_mut(&name) else { continue };
            topic.outgoing.expire(shard.now, &mut self.decided);
            self.timers.extend(topic.outgoing.until().map(|until| (until, name.clone())));
            self.drive(shard, &name);
        }
        self.hand_over(shard);
        self.catch_up(shard);
        self.members_due.append(&mut self.members_lagging);
    }

    /// Advances a topic as far as possible: begins, follows, publishes waiting messages, or ends.
    fn drive(&mut self, shard: &mut Shard<'_>, name: &str) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let is_due = topic.retry_at.is_none_or(|at| at <= shard.now);
        let has_use = topic.is_wanted || topic.outgoing.is_waiting();
        if matches!(topic.role, Role::Idle) && has_use && self.is_away && shard.store.has_local_epochs(name) {
            self.begin_local(shard, name);
        } else if matches!(topic.role, Role::Idle) && has_use && is_due {
            topic.retry_at = None;
            // A node that leaves is asked nothing any more once it has been told that this one knows.
            let hint = topic.hint.take().filter(|hint| self.view.owners().contains(hint));
            let owner = hint.or_else(|| self.view.owner(name));
            match owner {
                Some(owner) if owner == self.node && self.is_open => self.begin(shard, name),
                Some(owner) if owner != self.node && !shard.peers.knows(owner) => self.retry(shard, name),
                Some(owner) if owner != self.node && topic.is_wanted => {
                    (topic.role, topic.is_without_storage) = (Role::Asked(owner), false);
                    let after = shard.store.position(name);
                    shard.peers.send(owner, &Message::Follow { topic: name, after });
                }
                // Published without a subscriber.
                Some(owner) if owner != self.node && topic.outgoing.is_ready() => {
                    self.send_waiting(shard, name, owner);
                }
                // `handle_open` or `handle_view` comes.
                _ => {}
            }
        }
        let Some(topic) = self.topics.get_mut(name) else { return };
        match topic.role {
            Role::Owner(_) | Role::Loading if topic.durable.is_some() => self.advance_durable(shard, name),
            Role::Owner(_) => self.order_waiting(shard, name),
            Role::Live(owner) if topic.outgoing.is_ready() && is_due => self.send_waiting(shard, name, owner),
            Role::Idle if !topic.is_wanted && topic.outgoing.is_unused() => drop(self.topics.remove(name)),
            _ => {}
        }
    }

    /// Sends the publications that wait to the topic's owner.
    fn send_waiting(&mut self, shard: &mut Shard<'_>, name: &str, owner: NodeId) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let batch = next_batch(&mut self.batches);
        let entries = topic.outgoing.send(owner, batch);
        shard.peers.send(owner, &Message::Publish { topic: name, batch, entries: &entries });
    }

    /// Tells the store whether it must keep the topic.
    fn hold(&self, shard: &mut Shard<'_>, name: &str) {
        let is_held = self.topics.get(name).is_some_and(|topic| match &topic.role {
            Role::Idle => topic.is_wanted,
            Role::Owner(followers) => topic.is_wanted || !followers.is_empty() || topic.is_awaited(),
            Role::Loading | Role::Asked(_) | Role::Live(_) | Role::Receiving(_) => true,
        });
        shard.store.hold(name, is_held);
    }

    /// Asks again a little later.
    fn retry(&mut self, shard: &Shard<'_>, name: &str) {
        if let Some(topic) = self.topics.get_mut(name) {
            let at = shard.now + RETRY_DELAY;
            topic.retry_at = Some(at);
            self.timers.insert((at, name.into()));
        }
    }
}

impl Topic {
    /// Whether publications wait for the topic's stream.
    fn is_awaited(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| !durable.is_idle())
    }
}

impl Role {
    /// Whether deliveries of `node` are the topic's.
    fn is_fed_by(&self, node: NodeId) -> bool {
        matches!(self, Role::Live(owner) if *owner == node)
    }
}

/// The number of another batch. 0 means no batch.
fn next_batch(batches: &mut u32) -> u32 {
    *batches = batches.checked_add(1).unwrap_or(1);
    *batches
}

/// Passes entries with offsets from `first` on to a store that follows the topic, except those that it has.
fn deliver(store: &mut dyn TopicStore, name: &str, epoch: u64, first: u64, entries: &[u8]) {
    let Some(position) = store.position(name).filter(|position| position.epoch == epoch) else { return };
    let mut next = position.offset + 1;
    if first > next {
        store.skip(name, first - 1);
        next = first;
    }
    for (offset, entry) in (first..).zip(crate::message::entries(entries)) {
        if offset == next {
            store.deliver(name, offset, entry);
            next += 1;
        }
    }
}
