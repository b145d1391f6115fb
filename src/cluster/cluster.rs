//! The members of a cluster as one node sees them, its view, and its links.
//!
//! A node *settles* in a view with every other: it announces the view on each link, and each member that has the same view answers
//! once it orders no topic of another node. When all have answered, the node is *open*: it may begin topics that it owns in this view.
//! An answer follows all transfers in the order of the link, and is given only once everything that was handed over has
//! reached its owner, by whatever nodes, so an open node has every topic that another had.

mod absent;
mod plain;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use echoring_proto::limits::Nanos;

pub use plain::PlainCluster;

use crate::heartbeat::{Digests, Heartbeat};
use crate::limits::{JOIN_DELAY, MEMBERS_MAX};
use crate::link::{Delivery, Link, LinkFigures, Packet};
use crate::message::{Message, Transfer, entries};
use crate::owner_table::Peers;
use crate::view::{NodeId, View, fingerprint};

/// The settings of a node.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// This run of the node.
    pub node: NodeId,
    /// Its name, which outlives restarts.
    pub name: Box<str>,
    /// When it started, in milliseconds of the wall clock.
    pub started_ms: u64,
    /// Another process has been the node so far. This one is silent until [`continue_node`](Cluster::continue_node).
    pub continues: bool,
    /// The secret of the cluster that places its topics.
    pub key: u64,
    /// Interval of heartbeats.
    pub heartbeat_interval: Nanos,
    /// Silence after which a member is taken for dead.
    pub member_timeout: Nanos,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It listens for other nodes, and owns no topics.
    Joining = 0,
    /// It owns topics.
    Active = 1,
    /// It hands its topics over.
    Leaving = 2,
    /// It has handed them over.
    Left = 3,
}

echoring_proto::plain!(for enum Phase { Joining, Active, Leaving, Left });

impl Phase {
    /// Whether it hands its topics over, or has done so.
    fn leaves(self) -> bool {
        matches!(self, Phase::Leaving | Phase::Left)
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To all nodes: a heartbeat.
    All,
    /// To one node.
    Node(NodeId),
}

/// The changes that the owner tables of the shards must apply, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another node has appeared. Sent before anything else about it, and again after each [`Reset`](Event::Reset) of a
    /// node that is still present.
    Joined(NodeId),
    /// Other nodes own topics from now on: [`OwnerTable::handle_view`](crate::OwnerTable::handle_view).
    View(View),
    /// Whether topics may be begun: [`OwnerTable::handle_open`](crate::OwnerTable::handle_open).
    Open(bool),
    /// Call [`OwnerTable::handle_settle`](crate::OwnerTable::handle_settle), and [`Cluster::settled`] with this once the tables
    /// are settled.
    Settle(Settle),
    /// The sender of the message before this has the same view: call
    /// [`OwnerTable::handle_settle`](crate::OwnerTable::handle_settle) of the same table. The table of the sender may have handed a topic
    /// over by a view before, although the sender had already announced this one.
    Agreed {
        /// See [`Message::read`].
        topic: Box<str>,
    },
    /// A message of another node: [`OwnerTable::handle_message`](crate::OwnerTable::handle_message).
    Message {
        /// The sender.
        from: NodeId,
        /// See [`Message::read`].
        bytes: Vec<u8>,
    },
    /// The other node is dead, or has lost messages to it:
    /// [`OwnerTable::handle_reset`](crate::OwnerTable::handle_reset).
    Reset(NodeId),
    /// Whether the backbone has been away for so long that the other nodes take this one for dead:
    /// [`OwnerTable::handle_away`](crate::OwnerTable::handle_away).
    Away(bool),
    /// Another process has started with the name of this one.
    Superseded,
    /// The node with this name is dead, as far as anybody knows, and this node is the one that tells so.
    Lost(Box<str>),
    /// It was cut off, and has returned with all that it had.
    Returned(Box<str>),
}

/// A request to settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settle {
    peer: NodeId,
    view: u64,
    number: u64,
    own_number: u64,
}

#[derive(Debug)]
struct Peer {
    name: Box<str>,
    started_ms: u64,
    phase: Phase,
    digests: Digests,
    heard_at: Nanos,
    link: Link,
    /// The view that it announced last.
    view: Option<u64>,
    /// The same, with its number, until that was answered.
    announced: Option<(u64, u64)>,
    /// It has answered this node's view.
    has_settled: bool,
}

/// A member that was taken for dead.
#[derive(Debug)]
struct Absent {
    node: NodeId,
    name: Box<str>,
    /// Who tells of it.
    teller: Option<NodeId>,
    /// Until when it is told anew if the teller is lost.
    told_until: Nanos,
}

/// A node in its cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    digests: Digests,
    phase: Phase,
    peers: BTreeMap<NodeId, Peer>,
    /// Those that were taken for dead, the latest last.
    absent: Vec<Absent>,
    view: View,
    /// Counts the views.
    number: u64,
    is_open: bool,
    is_connected: bool,
    /// Another process is the node, until it is given to this one; or since this one has given it away.
    is_silent: bool,
    /// When the backbone is away, if the connection does not return.
    away_at: Option<Nanos>,
    is_away: bool,
    active_at: Nanos,
    heartbeat_at: Nanos,
    sessions: u64,
    /// Everything is handed over, and the others were asked to confirm.
    has_taken_leave: bool,
    events: VecDeque<Event>,
}

impl Cluster {
    /// A node that is not connected yet.
    pub fn new(config: ClusterConfig) -> Cluster {
        // A process that takes another's place goes on with higher numbers.
        let sessions = config.started_ms << 20;
        let view = View::new([], config.key);
        Cluster {
            digests: Digests { settings: 0, key: fingerprint(config.key) },
            phase: Phase::Joining,
            peers: BTreeMap::new(),
            absent: Vec::new(),
            view,
            number: 0,
            is_open: false,
            is_connected: false,
            is_silent: config.continues,
            away_at: None,
            is_away: false,
            active_at: Nanos::MAX,
            heartbeat_at: 0,
            sessions,
            has_taken_leave: false,
            events: VecDeque::new(),
            config,
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The nodes that own topics.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Whether this node may begin topics that it owns.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The other members: their ids, names and phases.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &str, Phase)> {
        self.peers.iter().map(|(node, peer)| (*node, &*peer.name, peer.phase))
    }

    /// How the link to another member does.
    pub fn link(&self, node: NodeId, now: Nanos) -> Option<LinkFigures> {
        self.peers.get(&node).map(|peer| peer.link.figures(now))
    }

    /// The digest of this node's settings of topics.
    pub fn set_settings(&mut self, digest: u64) {
        self.digests.settings = digest;
    }

    /// Whether another member has other settings of topics than this node, and whether it has another key.
    pub fn differs(&self, node: NodeId) -> (bool, bool) {
        let Digests { settings, key } = self.digests;
        let has_others = |Peer { digests: other, .. }: &Peer| {
            let both_known = settings != 0 && other.settings != 0;
            (both_known && other.settings != settings, other.key != key)
        };
        self.peers.get(&node).map_or((false, false), has_others)
    }

    /// The connection to the backbone is established, or lost. Without it no node is declared dead, because none can be
    /// heard.
    pub fn handle_connected(&mut self, is_connected: bool, now: Nanos) {
        let was_connected = std::mem::replace(&mut self.is_connected, is_connected);
        if self.is_silent {
            return;
        }
        if !is_connected {
            if was_connected {
                self.away_at = Some(now + self.config.member_timeout);
            }
            return;
        }
        self.away_at = None;
        if std::mem::take(&mut self.is_away) {
            self.events.push_back(Event::Away(false));
        }
        if self.phase == Phase::Joining {
            self.active_at = now + JOIN_DELAY;
        }
        self.heartbeat_at = now;
        for peer in self.peers.values_mut() {
            peer.heard_at = now;
            peer.link.send_again(now);
        }
    }

    /// Takes a heartbeat of any node.
    pub fn handle_heartbeat(&mut self, bytes: &[u8], now: Nanos) {
        let Some(heartbeat) = Heartbeat::read(bytes) else { return };
        let Heartbeat { node, name, started_ms, phase, digests } = heartbeat;
        if node == self.config.node || self.is_silent {
            return;
        }
        let age = (started_ms, node);
        // Two processes may have one name while one of them leaves.
        let may_share = |its_phase: Phase| phase.leaves() || its_phase.leaves();
        let ClusterConfig { node: own, name: ref own_name, started_ms: own_start, .. } = self.config;
        if name == &**own_name && !may_share(self.phase) {
            if age > (own_start, own) {
                self.events.push_back(Event::Superseded);
            }
            return;
        }
        let same_name = self
            .peers
            .iter()
            .find(|(other, peer)| **other != node && &*peer.name == name && !may_share(peer.phase));
        let same_name = same_name.map(|(other, peer)| (*other, (peer.started_ms, *other)));
        let has_dropped = same_name.is_some();
        if let Some((other, peer)) = same_name {
            if peer > age {
                return;
            }
            self.drop_peer(other);
        }
        if phase == Phase::Left {
            self.drop_peer(node);
        } else if let Some(peer) = self.peers.get_mut(&node) {
            (peer.heard_at, peer.digests) = (now, digests);
            if std::mem::replace(&mut peer.phase, phase) == phase && !has_dropped {
                return;
            }
        } else if self.peers.len() < MEMBERS_MAX {
            let link = self.new_link();
            let peer = Peer {
                name: name.into(),
                started_ms,
                phase,
                digests,
                heard_at: now,
                link,
                view: None,
                announced: None,
                has_settled: false,
            };
            self.peers.insert(node, peer);
            self.events.push_back(Event::Joined(node));
            self.find(node, name);
            // It need not wait for the next heartbeat to learn who is there.
            self.heartbeat_at = now;
        }
        self.update();
    }

    /// A link to a new peer, which first learns the view of this node.
    fn new_link(&mut self) -> Link {
        self.sessions += 1;
        let mut link = Link::new(self.sessions);
        link.push(encode(&Message::View { view: self.view.id(), number: self.number }));
        link
    }

    /// Takes a packet for this node.
    pub fn handle_packet(&mut self, bytes: &[u8], now: Nanos) {
        let is_taken = |packet: &Packet<'_>| packet.to == self.config.node && !self.is_silent;
        let Some(packet) = Packet::read(bytes).filter(is_taken) else { return };
        let from = packet.from;
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.heard_at = now;
        match peer.link.handle(&packet, &mut self.sessions, now) {
            Delivery::Nothing => {}
            Delivery::Reset => {
                (peer.view, peer.announced, peer.has_settled) = (None, None, false);
                peer.link.push(encode(&Message::View { view: self.view.id(), number: self.number }));
                self.events.extend([Event::Reset(from), Event::Joined(from)]);
                self.update_open();
            }
            Delivery::Messages(list) => {
                for message in entries(list) {
                    self.take(from, message);
                }
            }
        }
    }

    fn take(&mut self, from: NodeId, bytes: &[u8]) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        match Message::read(bytes) {
            Some(Message::View { view, number }) => {
                peer.view = Some(view);
                peer.announced = Some((view, number));
                self.answer(from);
            }
            // An answer to an earlier view says nothing about this one.
            Some(Message::Settled { number }) => {
                peer.has_settled |= number == self.number;
                self.update_open();
            }
            Some(message) => {
                self.events.push_back(Event::Message { from, bytes: bytes.to_vec() });
                let (Message::Transfer(Transfer { topic, .. }) | Message::Diverged { topic }) = message
                else {
                    return;
                };
                if peer.view == Some(self.view.id()) {
                    self.events.push_back(Event::Agreed { topic: topic.into() });
                }
            }
            // Of another version.
            None => {}
        }
    }

    /// Has the tables settle for a node that has the same view.
    fn answer(&mut self, node: NodeId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if let Some((view, number)) = peer.announced
            && view == self.view.id()
        {
            peer.announced = None;
            let settle = Settle { peer: node, view, number, own_number: self.number };
            self.events.push_back(Event::Settle(settle));
        }
    }

    /// The tables are settled, as an [`Event::Settle`] asked.
    pub fn settled(&mut self, settle: Settle) {
        let Settle { peer: node, view, number, own_number } = settle;
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if own_number == self.number {
            peer.link.push(encode(&Message::Settled { number }));
        } else if peer.announced.is_none_or(|(_, latest)| latest < number) {
            // The view has changed meanwhile, and may have become the other's again.
            peer.announced = Some((view, number));
            self.answer(node);
        }
    }

    /// The time is `now`.
    pub fn handle_time(&mut self, now: Nanos) {
        if self.is_silent {
            return;
        }
        if self.phase == Phase::Active && self.away_at.take_if(|at| *at <= now).is_some() {
            self.is_away = true;
            self.events.push_back(Event::Away(true));
        }
        let mut has_changed = false;
        if self.phase == Phase::Joining && self.is_connected && now >= self.active_at {
            self.phase = Phase::Active;
            self.heartbeat_at = now;
            has_changed = true;
        }
        let timeout = self.config.member_timeout;
        let is_dead = |peer: &Peer| self.is_connected && now >= peer.heard_at + timeout;
        let dead: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| is_dead(peer)).map(|(node, _)| *node).collect();
        let has_lost = !dead.is_empty();
        dead.into_iter().for_each(|node| self.lose(node, now));
        if has_changed || has_lost {
            self.update();
        }
        if has_lost {
            self.tell_lost(now);
        }
    }

    /// Hands this node's topics over, as soon as the tables do. The node continues as a follower.
    pub fn leave(&mut self, now: Nanos) {
        if self.phase != Phase::Left {
            self.phase = Phase::Leaving;
        }
        self.heartbeat_at = now;
        self.update();
    }

    /// Tells the others that this node has left, once nothing is on its way to it or from it. Called repeatedly when
    /// the tables are settled.
    pub fn try_finish(&mut self, now: Nanos) -> bool {
        if self.phase != Phase::Leaving {
            return self.phase == Phase::Left;
        }
        if !self.has_taken_leave {
            // The answers come after those to everything that the others have sent before they knew the topics' next owners.
            self.has_taken_leave = true;
            self.announce();
        }
        let is_done = |peer: &Peer| peer.has_settled && peer.link.is_idle();
        if self.peers.values().all(is_done) {
            (self.phase, self.heartbeat_at) = (Phase::Left, now);
        }
        self.phase == Phase::Left
    }

    /// As [`Peers::send`], for a message that is already [written](Message::write).
    pub fn send_bytes(&mut self, to: NodeId, message: &[u8]) {
        // Of a node that is not there any more, the tables have been told or will be.
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.link.push(message.to_vec());
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes the next packet to `bytes`, and returns where it goes.
    pub fn poll_packet(&mut self, now: Nanos, bytes: &mut Vec<u8>) -> Option<Destination> {
        if !self.is_connected || self.is_silent {
            return None;
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.config.heartbeat_interval;
            let ClusterConfig { node, ref name, started_ms, .. } = self.config;
            let (phase, digests) = (self.phase, self.digests);
            Heartbeat { node, name, started_ms, phase, digests }.write(bytes);
            return Some(Destination::All);
        }
        let from = self.config.node;
        let found = self.peers.iter_mut().try_for_each(|(node, peer)| {
            match peer.link.poll(from, *node, now, bytes) {
                true => ControlFlow::Break(*node),
                false => ControlFlow::Continue(()),
            }
        });
        found.break_value().map(Destination::Node)
    }

    /// When [`handle_time`](Cluster::handle_time) and [`poll_packet`](Cluster::poll_packet) have something to do, if nothing
    /// happens before.
    pub fn deadline(&self) -> Nanos {
        if self.is_silent {
            return Nanos::MAX;
        }
        if !self.is_connected {
            return self.away_at.filter(|_| self.phase == Phase::Active).unwrap_or(Nanos::MAX);
        }
        let timeout = self.config.member_timeout;
        let of_peers = self.peers.values().map(|peer| {
            let expires = peer.heard_at + timeout;
            peer.link.deadline().map_or(expires, |at| at.min(expires))
        });
        let joins = if self.phase == Phase::Joining { self.active_at } else { Nanos::MAX };
        of_peers.fold(self.heartbeat_at.min(joins), Nanos::min)
    }

    fn drop_peer(&mut self, node: NodeId) {
        if self.peers.remove(&node).is_some() {
            self.events.push_back(Event::Reset(node));
        }
    }

    /// Follows changes of the members.
    fn update(&mut self) {
        let active = self.peers.iter().filter(|(_, peer)| peer.phase == Phase::Active);
        let own = (self.phase == Phase::Active).then_some(self.config.node);
        let view = View::new(active.map(|(node, _)| *node).chain(own), self.config.key);
        if view.id() != self.view.id() {
            self.view = view;
            self.announce();
            // Closed before the view is known: a topic that it gives to this node may still be another's.
            if !self.may_open() {
                self.set_open(false);
            }
            self.events.push_back(Event::View(self.view.clone()));
            let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
            nodes.into_iter().for_each(|node| self.answer(node));
        }
        self.update_open();
    }

    fn announce(&mut self) {
        self.number += 1;
        let announcement = encode(&Message::View { view: self.view.id(), number: self.number });
        for peer in self.peers.values_mut() {
            peer.has_settled = false;
            peer.link.push(announcement.clone());
        }
    }

    fn update_open(&mut self) {
        self.set_open(self.may_open());
    }

    fn may_open(&self) -> bool {
        // A node that joins has no topics, but must know this one's view before it has its own: two that join at once would
        // otherwise both be open.
        self.phase == Phase::Active && self.peers.values().all(|peer| peer.has_settled)
    }

    fn set_open(&mut self, is_open: bool) {
        if is_open != self.is_open {
            self.is_open = is_open;
            self.events.push_back(Event::Open(is_open));
        }
    }
}

impl Peers for Cluster {
    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        self.send_bytes(to, &encode(message));
    }

    fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    fn has_room(&self, to: NodeId) -> bool {
        self.peers.get(&to).is_none_or(|peer| peer.link.has_room())
    }
}

fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.write(&mut bytes);
    bytes
}
