//! Copies of one topic that meet while links are lost, step by step: the subscribers of each must be told of the others' messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use echoring_cluster::{Message, NodeId, OwnerTable, Peers, Shard, Transfer, View};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_topics::Position;

use super::store::{Store, Subscriber};
use super::truth::{Entry, Truth};

const KEY: u64 = 7;
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

/// Messages on their way, in the order of their link.
type Links = BTreeMap<(NodeId, NodeId), VecDeque<Vec<u8>>>;

struct OwnLinks<'a> {
    node: NodeId,
    links: &'a mut Links,
}

impl Peers for OwnLinks<'_> {
    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        self.links.entry((self.node, to)).or_default().push_back(bytes);
    }

    fn knows(&self, _: NodeId) -> bool {
        true
    }

    fn has_room(&self, _: NodeId) -> bool {
        true
    }
}

/// The shards of nodes A, B and C. C owns the topic in a view of all, and B in one of A and B.
struct Shards {
    topic: String,
    tables: BTreeMap<NodeId, (OwnerTable, Store)>,
    links: Links,
    truth: Truth,
    now: Nanos,
    published: u32,
}

impl Shards {
    fn new() -> Shards {
        let (all, two) = (View::new([A, B, C], KEY), View::new([A, B], KEY));
        let is_placed = |name: &String| all.owner(name) == Some(C) && two.owner(name) == Some(B);
        let topic = (0..).map(|number| format!("topic.{number}")).find(is_placed).expect("a name");
        let truth = Truth::default();
        let table = |node| OwnerTable::new(node, View::new([], KEY));
        let tables = [A, B, C].map(|node| (node, (table(node), Store::new(node, truth.clone(), 10)))).into();
        Shards { topic, tables, links: Links::new(), truth, now: 0, published: 0 }
    }

    fn at<R>(&mut self, node: NodeId, call: impl FnOnce(&mut OwnerTable, &mut Shard<'_>, &str) -> R) -> R {
        let (table, store) = self.tables.get_mut(&node).expect("a node");
        let mut peers = OwnLinks { node, links: &mut self.links };
        call(table, &mut Shard { store, peers: &mut peers, now: self.now }, &self.topic)
    }

    /// These nodes have the view of just them, and are open.
    fn view(&mut self, nodes: &[NodeId]) {
        for node in nodes {
            self.at(*node, |table, shard, _| table.handle_view(shard, View::new(nodes.to_vec(), KEY)));
            self.at(*node, |table, shard, _| table.handle_open(shard, true));
        }
    }

    fn publish(&mut self, node: NodeId) {
        self.published += 1;
        let entry = Entry { publisher: 1, number: self.published, key: 0 }.to_bytes();
        self.at(node, |table, shard, topic| table.publish(shard, topic, 1, &entry)).expect("there is room");
    }

    /// A subscriber at a node that has the topic once all is delivered.
    fn subscribe(&mut self, node: NodeId) {
        self.at(node, |table, shard, topic| table.subscribe(shard, topic));
        self.deliver(|_, _| true);
        let subscriber = Subscriber::new(&self.topic, self.truth.clone());
        self.tables.get_mut(&node).expect("a node").1.attach(subscriber);
    }

    fn settle(&mut self, node: NodeId) {
        self.at(node, |table, shard, _| table.handle_settle(shard));
    }

    /// Delivers all messages, and those that they cause, of the links that `carries` allows.
    fn deliver(&mut self, carries: impl Fn(NodeId, NodeId) -> bool) {
        let mut quiet = 0;
        while quiet < 3 {
            quiet += 1;
            self.now += 100 * MILLISECOND;
            let links: BTreeSet<_> = self.links.keys().copied().collect();
            for (from, to) in links.into_iter().filter(|(from, to)| carries(*from, *to)) {
                for bytes in self.links.remove(&(from, to)).unwrap_or_default() {
                    quiet = 0;
                    let message = Message::read(&bytes).expect("a message");
                    self.at(to, |table, shard, _| table.handle_message(shard, from, &message));
                }
            }
            for node in [A, B, C] {
                self.at(node, |table, shard, _| table.handle_time(shard));
            }
        }
    }

    /// Two nodes lose sight of each other, and what is on its way between them.
    fn lose(&mut self, one: NodeId, other: NodeId) {
        for (node, lost) in [(one, other), (other, one)] {
            self.links.remove(&(node, lost));
            self.at(node, |table, shard, _| table.handle_reset(shard, lost));
        }
    }

    /// All nodes have one view, and everybody is told what there is to be told.
    fn unite(&mut self) {
        self.view(&[A, B, C]);
        self.deliver(|_, _| true);
        [A, B, C].into_iter().for_each(|node| self.settle(node));
        self.deliver(|_, _| true);
    }

    /// No subscriber has stayed in an epoch while there were messages in another.
    #[track_caller]
    fn check(&self) {
        for (node, (table, store)) in &self.tables {
            assert_eq!(table.is_owner(&self.topic), *node == C, "{node}");
            for subscriber in store.topics.values().flat_map(|topic| &topic.subscribers) {
                let epoch = subscriber.position.expect("a subscriber has a position").epoch;
                let misses = self.truth.has_others_since(&self.topic, epoch, subscriber.since);
                assert!(!misses, "a subscriber at {node} was not told");
            }
        }
    }
}

/// A and C have begun the topic while they did not see each other. B follows C.
fn two_copies() -> Shards {
    let mut shards = Shards::new();
    shards.view(&[A]);
    shards.view(&[B, C]);
    shards.subscribe(C);
    shards.subscribe(B);
    shards.publish(A);
    shards.publish(C);
    shards.deliver(|_, _| true);
    shards
}

#[test]
fn a_transfer_that_is_lost_is_told_even_if_its_sender_would_own_the_topic_meanwhile() {
    let mut shards = two_copies();
    // A's copy is a third one at B, which follows C's.
    shards.view(&[A, B]);
    shards.deliver(|_, to| to == B);
    shards.view(&[A, B, C]);
    shards.settle(B);
    shards.lose(B, C);
    shards.view(&[A, B]);
    shards.view(&[C]);
    shards.publish(C);
    shards.unite();
    shards.check();
}

#[test]
fn of_two_transfers_to_a_node_the_answer_to_the_first_is_none_to_the_second() {
    let mut shards = two_copies();
    shards.view(&[A, B]);
    shards.deliver(|from, to| (from, to) == (A, B));
    shards.deliver(|from, to| (from, to) == (B, A));
    // B hands A's copy to C, and another one before it has C's answer to the first.
    shards.view(&[A, B, C]);
    shards.settle(B);
    shards.deliver(|from, to| (from, to) == (B, C));
    shards.lose(A, B);
    shards.view(&[A]);
    shards.publish(A);
    shards.view(&[A, B]);
    shards.deliver(|from, to| (from, to) == (A, B));
    shards.deliver(|from, to| (from, to) == (B, A));
    shards.view(&[A, B, C]);
    shards.settle(B);
    shards.deliver(|from, to| (from, to) == (C, B));
    shards.lose(B, C);
    shards.unite();
    shards.check();
}

#[test]
fn a_node_that_is_told_before_it_has_the_topic_begins_a_new_epoch() {
    let mut shards = Shards::new();
    shards.view(&[C]);
    shards.publish(C);
    let before = shards.tables[&C].1.topics[&shards.topic].position;
    let (table, store) = shards.tables.get_mut(&C).expect("a node");
    assert!(table.forget(&shards.topic));
    store.forget(&shards.topic);
    shards.at(C, |table, shard, topic| table.handle_message(shard, B, &Message::Diverged { topic }));
    shards.publish(C);
    assert_ne!(shards.tables[&C].1.topics[&shards.topic].position.epoch, before.epoch);
}

#[test]
fn a_node_that_is_told_and_does_not_order_the_topic_passes_it_on() {
    let mut shards = two_copies();
    shards.view(&[A, B, C]);
    // B is told of messages that only A has had, as the owner that it was in A's view.
    shards.at(B, |table, shard, topic| table.handle_message(shard, A, &Message::Diverged { topic }));
    let position = |shards: &Shards| shards.tables[&C].1.topics[&shards.topic].position;
    let before = position(&shards);
    shards.lose(A, B);
    shards.lose(A, C);
    shards.view(&[B, C]);
    shards.deliver(|from, to| from != A && to != A);
    assert_ne!(position(&shards).epoch, before.epoch);
}

#[test]
fn of_two_transfers_at_once_neither_is_dropped_in_silence() {
    let mut shards = Shards::new();
    shards.view(&[C]);
    let part = |epoch, begins, ends| Transfer {
        topic: "",
        head: Position { epoch, offset: 2 },
        begins,
        ends,
        first: if begins { 1 } else { 2 },
        entries: &[],
        rest: &[],
    };
    for (from, part) in [(A, part(5, true, false)), (B, part(9, true, true)), (A, part(5, false, true))] {
        shards.at(C, |table, shard, topic| {
            table.handle_message(shard, from, &Message::Transfer(Transfer { topic, ..part }));
        });
    }
    let (table, store) = &shards.tables[&C];
    assert!(table.is_owner(&shards.topic));
    assert!(![5, 9].contains(&store.topics[&shards.topic].position.epoch));
}

impl Shards {
    /// A node has the view of these nodes, and is not open.
    fn view_of(&mut self, node: NodeId, nodes: &[NodeId]) {
        self.at(node, |table, shard, _| table.handle_open(shard, false));
        self.at(node, |table, shard, _| table.handle_view(shard, View::new(nodes.to_vec(), KEY)));
    }

    fn is_settled(&self, node: NodeId) -> bool {
        self.tables[&node].0.is_settled()
    }
}

/// The owner begins a topic once all others have settled. So a node that hands it to another, by an old view, settles only when that
/// one has handed it on.
#[test]
fn a_transfer_of_two_steps_is_done_after_the_second() {
    let mut shards = Shards::new();
    shards.view(&[A]);
    shards.publish(A);
    shards.view_of(B, &[A, B, C]);
    shards.view_of(C, &[A, B, C]);
    shards.view_of(A, &[A, B]);
    shards.deliver(|_, _| true);
    assert!(!shards.is_settled(A), "B has it, and C owns it");
    shards.view_of(A, &[A, B, C]);
    // As A asks it, now that both have one view.
    shards.settle(B);
    shards.deliver(|from, to| (from, to) == (B, C));
    assert!(!shards.is_settled(A) && !shards.is_settled(B), "nobody knows yet that C has it");
    shards.deliver(|_, _| true);
    assert!([A, B, C].iter().all(|node| shards.is_settled(*node)));
    assert!(shards.at(C, |table, _, topic| table.is_owner(topic)));
}

/// Two nodes with different views hand a topic to each other. None waits for the other for ever.
#[test]
fn a_topic_that_goes_to_and_fro_stays_where_it_is_when_nobody_owns_topics() {
    let mut shards = Shards::new();
    shards.view(&[A]);
    shards.publish(A);
    shards.view_of(B, &[A]);
    shards.view_of(A, &[A, B]);
    for node in [B, A, B, A] {
        shards.deliver(|_, _| true);
        assert!(!shards.is_settled(A) || !shards.is_settled(B));
        shards.settle(node);
    }
    shards.view_of(A, &[]);
    shards.view_of(B, &[]);
    shards.deliver(|_, _| true);
    assert!(shards.is_settled(A) && shards.is_settled(B));
    let owners = [A, B].map(|node| shards.at(node, |table, _, topic| table.is_owner(topic)));
    assert_eq!(owners.iter().filter(|owns| **owns).count(), 1);
}
