//! A cluster, its clients, and the time.

use std::collections::{BTreeMap, BTreeSet};

use echoring_cluster::{Destination, NodeId, Phase};
use echoring_proto::limits::{MILLISECOND, Nanos, SECOND};
use echoring_proto::random::SplitMix64;

use super::backbone::{Backbone, Delivery};
use super::node::{Clock, Node, Published, Run};
use super::store::{Subscriber, Told, is_durable};
use super::streams::Streams;
use super::takeover::Takeover;
use super::truth::{Entry, Truth};

/// Steps of the time while a world is only watched.
const WATCH_STEP: Nanos = 20 * MILLISECOND;

/// Interval of the publications that are made all the time. Load never pauses: a loss that only a pause repairs is a loss.
const LOAD_INTERVAL: Nanos = 40 * MILLISECOND;

/// A clock that is far worse than any machine's.
const DRIFT_PPM_MAX: u64 = 10_000;

pub struct World {
    pub nodes: BTreeMap<NodeId, Node>,
    pub backbone: Backbone,
    pub streams: Streams,
    pub random: SplitMix64,
    pub now: Nanos,
    pub topics: Vec<String>,
    /// Subscribers between two nodes.
    pub wandering: Vec<Subscriber>,
    /// Publications whose publishers have lost their node.
    uncertain: Vec<(String, Entry)>,
    /// The latest idempotency key.
    pub keys: u32,
    /// What became of publications at nodes that have ended.
    pub ended: Published,
    truth: Truth,
    history: usize,
    started: u64,
    /// A publisher for each node and topic, and its latest number.
    publishers: BTreeMap<(NodeId, String), (u32, u32)>,
    /// Interval of the publications that are made all the time, when the next one is made, and how many there were.
    pub load_interval: Nanos,
    load_at: Nanos,
    loads: usize,
    /// The latest publisher.
    publisher: u32,
    /// Nodes of which one has taken the other for dead, until they have one view again.
    separated: BTreeSet<(NodeId, NodeId)>,
}

impl World {
    pub fn new(seed: u64, nodes: u64, topics: u64, history: usize) -> World {
        let mut world = World {
            nodes: BTreeMap::new(),
            backbone: Backbone::default(),
            streams: Streams::default(),
            random: SplitMix64::new(seed),
            now: SECOND,
            topics: (0..topics).map(|number| format!("topic.{number}")).collect(),
            wandering: Vec::new(),
            uncertain: Vec::new(),
            keys: 0,
            ended: Published::default(),
            truth: Truth::default(),
            history,
            started: 0,
            publishers: BTreeMap::new(),
            load_interval: LOAD_INTERVAL,
            load_at: 0,
            loads: 0,
            publisher: 0,
            separated: BTreeSet::new(),
        };
        world.backbone.delay_max = *world.random.pick(&[MILLISECOND, 5 * MILLISECOND, 10 * MILLISECOND]);
        for number in 0..nodes {
            world.start(&format!("node-{number}"));
        }
        world
    }

    /// Starts a node, connected.
    pub fn start(&mut self, name: &str) -> NodeId {
        self.started += 1;
        let run = Run { id: NodeId(self.random.next_u64() | 1), started_ms: self.started };
        let id = run.id;
        let clock = self.new_clock();
        let mut node = Node::new(run, name, clock, self.history, self.truth.clone());
        node.connect(true, self.now);
        self.nodes.insert(id, node);
        self.backbone.set_side(id, 0);
        id
    }

    fn new_clock(&mut self) -> Clock {
        Clock { skew: self.random.below(1_000) * SECOND, drift_ppm: self.random.below(DRIFT_PPM_MAX) }
    }

    /// Another process begins to take a node over, unless one does already. In one of three cases it fails in the end.
    pub fn take_over(&mut self, id: NodeId) {
        let (clock, fails) = (self.new_clock(), self.random.below(3) == 0);
        let silence = self.random.below(300 * MILLISECOND);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.begin_takeover(Takeover::new(clock, silence, fails, self.now));
        }
    }

    /// Ends a node without a word. Its clients look for another.
    pub fn kill(&mut self, id: NodeId) -> Option<Node> {
        let mut node = self.nodes.remove(&id)?;
        if node.cluster.phase() != Phase::Left || node.has_left_alone {
            self.truth.kill(id);
        }
        self.backbone.forget(id);
        self.wandering.extend(node.lose_all());
        self.uncertain.extend(node.lose_publications());
        self.count(&node.published);
        Some(node)
    }

    fn count(&mut self, published: &Published) {
        self.ended.accepted += published.accepted;
        self.ended.unreachable += published.unreachable;
        self.ended.uncertain += published.uncertain;
    }

    /// Breaks the connection of a node.
    pub fn disconnect(&mut self, id: NodeId) {
        self.backbone.cut(id, &mut self.random);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.connect(false, self.now);
        }
    }

    pub fn reconnect(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.is_connected) {
            self.backbone.reconnect(id, self.now, &mut self.random);
            node.connect(true, self.now);
        }
    }

    pub fn pick_node(&mut self) -> NodeId {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        *self.random.pick(&ids)
    }

    pub fn pick_topic(&mut self) -> String {
        self.random.pick(&self.topics.clone()).clone()
    }

    /// Publishes a new message, with an idempotency key of its own if it has any.
    pub fn publish(&mut self, id: NodeId, topic: &str, key: u32) -> Entry {
        let World { publishers, publisher: latest, .. } = self;
        let (publisher, number) = publishers.entry((id, topic.into())).or_insert_with(|| {
            *latest += 1;
            (*latest, 0)
        });
        *number += 1;
        let entry = Entry { publisher: *publisher, number: *number, key };
        self.publish_again(id, topic, entry);
        entry
    }

    /// A publisher whose publication is uncertain finds a node, and sends it again.
    pub fn retry(&mut self, id: NodeId) {
        let of_nodes = self.nodes.values_mut().map(|node| &mut node.uncertain);
        let Some((topic, Entry { key, .. })) =
            of_nodes.chain([&mut self.uncertain]).find_map(|uncertain| uncertain.pop())
        else {
            return;
        };
        // It comes after what its publisher has sent since: its order is that of a new publisher.
        self.publisher += 1;
        self.publish_again(id, &topic, Entry { publisher: self.publisher, number: 1, key });
    }

    pub fn publish_again(&mut self, id: NodeId, topic: &str, entry: Entry) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.publish(self.now, topic, entry);
        }
    }

    pub fn subscribe(&mut self, id: NodeId, subscriber: Subscriber) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.subscribe(self.now, subscriber);
        }
    }

    pub fn new_subscriber(&self, topic: &str) -> Subscriber {
        Subscriber::new(topic, self.truth.clone())
    }

    /// All subscribers of a topic at one node look for another.
    pub fn send_away(&mut self, id: NodeId, topic: &str) {
        if let Some(node) = self.nodes.get_mut(&id) {
            self.wandering.extend(node.unsubscribe_all(self.now, topic));
        }
    }

    /// Lets the time pass, a step at a time.
    pub fn watch(&mut self, time: Nanos) {
        let until = self.now + time;
        while self.now < until {
            self.pass(WATCH_STEP);
        }
    }

    /// Lets the time pass, and has everyone do what there is to do then.
    pub fn pass(&mut self, time: Nanos) {
        self.now += time;
        self.load();
        let World { nodes, backbone, streams, random, now, .. } = self;
        while let Some((to, delivery)) =
            backbone.poll(*now, |to| nodes.get(&to).is_some_and(|node| node.is_connected))
        {
            let Some(node) = nodes.get_mut(&to) else { continue };
            let local = node.clock.read(*now);
            match delivery {
                // The process that continues the node is not there yet.
                Delivery::Packet(_) if !node.takes_packets() => {}
                Delivery::Heartbeat(bytes) => node.cluster.handle_heartbeat(&bytes, local),
                Delivery::Packet(bytes) => node.cluster.handle_packet(&bytes, local),
            }
            node.run(*now);
        }
        let ids: Vec<NodeId> = nodes.keys().copied().collect();
        let reaches = |id: NodeId| nodes.get(&id).is_some_and(|node| node.is_connected);
        for (asker, answer) in streams.poll(*now, random, reaches) {
            if let Some(node) = nodes.get_mut(&asker.node) {
                node.handle_stream(*now, &asker, answer);
            }
        }
        for node in nodes.values_mut() {
            node.run(*now);
            node.ask_streams(*now, streams, random);
            let (from, local) = (node.id(), node.clock.read(*now));
            let mut bytes = Vec::new();
            while let Some(destination) = node.cluster.poll_packet(local, &mut bytes) {
                let bytes = std::mem::take(&mut bytes);
                match destination {
                    Destination::Node(to) => backbone.send(from, to, Delivery::Packet(bytes), *now, random),
                    Destination::All => {
                        for to in ids.iter().filter(|to| **to != from) {
                            backbone.send(from, *to, Delivery::Heartbeat(bytes.clone()), *now, random);
                        }
                    }
                }
            }
        }
        self.check_owners();
    }

    /// Publishes what is due, at the nodes that own topics in turn, and to all topics in turn.
    fn load(&mut self) {
        while self.load_at <= self.now {
            self.load_at = self.load_at.max(self.now.saturating_sub(SECOND)) + self.load_interval;
            self.loads += 1;
            let active = |node: &&Node| node.cluster.phase() == Phase::Active;
            let ids: Vec<NodeId> = self.nodes.values().filter(active).map(Node::id).collect();
            if !ids.is_empty() {
                let topic = self.topics[self.loads / ids.len() % self.topics.len()].clone();
                self.publish(ids[self.loads % ids.len()], &topic, 0);
            }
        }
    }

    /// No node begins a topic that another one orders, unless two nodes have lost sight of each other.
    fn check_owners(&mut self) {
        let sees = |from: &Node, to: NodeId| from.cluster.members().any(|(node, ..)| node == to);
        for (a, node_a) in &self.nodes {
            for (b, node_b) in self.nodes.range(*a..).skip(1) {
                let has_lost = node_a.lost.contains(b) || node_b.lost.contains(a);
                if has_lost || !sees(node_a, *b) || !sees(node_b, *a) {
                    self.separated.insert((*a, *b));
                } else if node_a.is_open() && node_b.is_open() {
                    self.separated.remove(&(*a, *b));
                }
            }
        }
        let nodes = &self.nodes;
        self.separated.retain(|(a, b)| nodes.contains_key(a) && nodes.contains_key(b));
        for (id, node) in nodes {
            for topic in &node.store.begun {
                let other = nodes.values().find(|other| other.id() != *id && other.table.is_owner(topic));
                let Some(other) = other else { continue };
                assert!(!self.separated.is_empty(), "{id} has begun {topic}, which {} orders", other.id());
            }
        }
        for node in self.nodes.values_mut() {
            node.lost.clear();
            node.store.begun.clear();
        }
    }

    /// Everyone is connected to everyone again.
    pub fn heal(&mut self) {
        self.streams.fails = false;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.backbone.set_side(id, 0);
            self.reconnect(id);
        }
    }

    /// Wandering subscribers find a node.
    pub fn settle_wandering(&mut self) {
        for subscriber in std::mem::take(&mut self.wandering) {
            let id = self.pick_node();
            self.subscribe(id, subscriber);
        }
    }

    /// All nodes have one view, all publications are decided, and all subscribers of a topic are at its end, in one epoch.
    pub fn check_converged(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in self.nodes.values() {
            assert!(node.is_open(), "{} is not open: {:?}", node.id(), node.cluster);
            let expected = ids.iter().copied();
            assert!(node.cluster.view().owners().iter().copied().eq(expected), "{:?}", node.cluster.view());
        }
        // What is counted from now on is of this check only. The slowest backbones take a second for a packet.
        self.load_at = Nanos::MAX;
        self.watch(4 * SECOND);
        let before: u64 = self.nodes.values().map(|node| node.published.accepted).sum();
        let mut published = 0;
        for topic in self.topics.clone() {
            for id in &ids {
                self.publish(*id, &topic, 0);
                published += 1;
            }
        }
        self.watch(8 * SECOND);
        let after: u64 = self.nodes.values().map(|node| node.published.accepted).sum();
        assert_eq!(after - before, published, "a publication was not accepted");
        for topic in &self.topics {
            if is_durable(topic) {
                assert_eq!(self.streams.publications(topic), self.truth.messages(topic), "{topic}");
            }
            let owners: Vec<&Node> = self.nodes.values().filter(|node| node.table.is_owner(topic)).collect();
            assert_eq!(owners.len(), 1, "owners of {topic}");
            let position = owners[0].store.topics[topic].position;
            for node in self.nodes.values() {
                assert_eq!((node.pending(), node.arriving()), (0, 0), "at {}", node.id());
                for subscriber in node.subscribers().filter(|subscriber| subscriber.topic == *topic) {
                    assert_eq!(subscriber.position, Some(position), "{topic} at {}", node.id());
                    let misses = self.truth.has_others_since(topic, position.epoch, subscriber.since);
                    assert!(!misses, "a subscriber of {topic} was not told of another epoch's messages");
                }
            }
            self.check_members(topic);
        }
    }

    pub fn check_all_members(&self) {
        self.topics.iter().for_each(|topic| self.check_members(topic));
    }

    /// All nodes with subscribers list the same members: those who are there.
    fn check_members(&self, topic: &str) {
        let there = self.truth.members(topic);
        let of_topic = self.nodes.values().flat_map(Node::subscribers).filter(|other| other.topic == topic);
        let subscribers = of_topic.map(|subscriber| subscriber.client).collect();
        assert!(there == subscribers || there.is_empty(), "of {topic}: {there:?}, {subscribers:?}");
        for node in self.nodes.values().filter(|node| node.table.is_live(topic)) {
            let known = &node.store.topics[topic];
            assert_eq!(
                (&known.members, known.count),
                (&there, there.len() as u64),
                "{topic} at {}",
                node.id()
            );
        }
    }

    pub fn false_leaves(&self) -> u64 {
        self.truth.false_leaves()
    }

    pub fn told(&self) -> Told {
        let all = self.nodes.values().flat_map(Node::subscribers).chain(&self.wandering);
        all.fold(Told::default(), |sum, subscriber| Told {
            messages: sum.messages + subscriber.told.messages,
            missed: sum.missed + subscriber.told.missed,
            resets: sum.resets + subscriber.told.resets,
        })
    }

    pub fn published(&self) -> Published {
        self.nodes.values().fold(self.ended, |sum, node| Published {
            accepted: sum.accepted + node.published.accepted,
            unreachable: sum.unreachable + node.published.unreachable,
            uncertain: sum.uncertain + node.published.uncertain,
        })
    }
}
