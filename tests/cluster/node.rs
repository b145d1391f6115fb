//! One node: its place in the cluster, one shard, and the publishers on it.

use std::collections::{BTreeMap, VecDeque};

use echoring_cluster::limits::{HEARTBEAT_INTERVAL_DEFAULT, MEMBER_TIMEOUT_DEFAULT};
use echoring_cluster::{
    Cluster, ClusterConfig, Event, LinkFigures, Message, NodeId, Outcome, OwnerTable, Peers, Phase,
    PlainCluster, Shard, StreamAnswer, Ticket, TopicStore as _, Transfer,
};
use echoring_proto::limits::Nanos;
use echoring_proto::random::SplitMix64;
use echoring_topics::ClientId;

use super::store::{Store, Subscriber, subject_of};
use super::streams::{Asker, Streams};
use super::takeover::{Held, Step, Takeover};
use super::truth::{Entry, Truth};

/// The cluster's key.
const KEY: u64 = 0x5eed;

/// What became of the publications of a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub accepted: u64,
    pub unreachable: u64,
    pub uncertain: u64,
}

/// A node's clock. Nodes have no common one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What it was when the world began.
    pub skew: Nanos,
    /// How much faster than the world's time it runs, in millionths.
    pub drift_ppm: u64,
}

impl Clock {
    pub fn read(self, now: Nanos) -> Nanos {
        self.skew + now + now * self.drift_ppm / 1_000_000
    }
}

/// One run of a node.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub id: NodeId,
    pub started_ms: u64,
}

/// The links as a table has them that learns of their loss late. What it sends over one that is lost does not arrive.
#[derive(Debug)]
pub struct LateLinks<'a> {
    cluster: &'a mut Cluster,
    resets: &'a BTreeMap<NodeId, u32>,
    known: &'a BTreeMap<NodeId, u32>,
}

impl Peers for LateLinks<'_> {
    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let resets = self.resets.get(&to).copied().unwrap_or_default();
        if self.known.get(&to) == Some(&resets) {
            self.cluster.send(to, message);
        }
    }

    fn knows(&self, node: NodeId) -> bool {
        self.known.contains_key(&node)
    }

    fn has_room(&self, to: NodeId) -> bool {
        self.cluster.has_room(to)
    }
}

#[derive(Debug)]
pub struct Node {
    pub cluster: Cluster,
    pub table: OwnerTable,
    pub store: Store,
    pub is_connected: bool,
    /// It has left while it heard no other, and takes its topics with it.
    pub has_left_alone: bool,
    pub clock: Clock,
    /// Events that the table does not know yet.
    events: VecDeque<Event>,
    /// Whether it is told later now and then.
    is_late: bool,
    /// How often each link was lost.
    resets: BTreeMap<NodeId, u32>,
    /// The same of links that are there, and of all, as the table knows it.
    known: BTreeMap<NodeId, u32>,
    told_resets: BTreeMap<NodeId, u32>,
    takeover: Option<Takeover>,
    random: SplitMix64,
    settling: Vec<Event>,
    /// Subscribers of topics whose position is not known here yet.
    arriving: Vec<Subscriber>,
    pending: BTreeMap<Ticket, (String, Entry)>,
    ticket: Ticket,
    pub published: Published,
    /// How often another process has taken the node over.
    pub taken_overs: u64,
    /// Nodes that this one has taken for dead, or that have lost what it sent.
    pub lost: Vec<NodeId>,
    /// What it has told of nodes that were lost or have returned.
    pub told: Vec<Event>,
    /// Publications with an idempotency key of which nobody knows whether they were published.
    pub uncertain: Vec<(String, Entry)>,
    /// The latest client.
    clients: u64,
    truth: Truth,
}

fn config(node: NodeId, name: &str, started_ms: u64, continues: bool) -> ClusterConfig {
    ClusterConfig {
        node,
        name: name.into(),
        started_ms,
        continues,
        key: KEY,
        heartbeat_interval: HEARTBEAT_INTERVAL_DEFAULT,
        member_timeout: MEMBER_TIMEOUT_DEFAULT,
    }
}

impl Node {
    pub fn new(run: Run, name: &str, clock: Clock, history: usize, truth: Truth) -> Node {
        let Run { id, started_ms } = run;
        let cluster = Cluster::new(config(id, name, started_ms, false));
        let table = OwnerTable::new(id, cluster.view().clone());
        Node {
            cluster,
            table,
            store: Store::new(id, truth.clone(), history),
            is_connected: false,
            has_left_alone: false,
            clock,
            events: VecDeque::new(),
            is_late: started_ms % 3 > 0,
            resets: BTreeMap::new(),
            known: BTreeMap::new(),
            told_resets: BTreeMap::new(),
            takeover: None,
            random: SplitMix64::new(id.0),
            settling: Vec::new(),
            arriving: Vec::new(),
            pending: BTreeMap::new(),
            ticket: 0,
            published: Published::default(),
            taken_overs: 0,
            lost: Vec::new(),
            told: Vec::new(),
            uncertain: Vec::new(),
            clients: 0,
            truth,
        }
    }

    pub fn id(&self) -> NodeId {
        self.cluster.node()
    }

    fn with_table<R>(&mut self, now: Nanos, call: impl FnOnce(&mut OwnerTable, &mut Shard<'_>) -> R) -> R {
        let now = self.clock.read(now);
        let mut peers = LateLinks { cluster: &mut self.cluster, resets: &self.resets, known: &self.known };
        call(&mut self.table, &mut Shard { store: &mut self.store, peers: &mut peers, now })
    }

    pub fn connect(&mut self, is_connected: bool, now: Nanos) {
        self.is_connected = is_connected;
        self.cluster.handle_connected(is_connected, self.clock.read(now));
    }

    pub fn publish(&mut self, now: Nanos, topic: &str, entry: Entry) {
        if let Some(takeover) = &mut self.takeover {
            return takeover.held.push(Held::Publication(topic.into(), entry));
        }
        self.ticket += 1;
        let ticket = self.ticket;
        self.pending.insert(ticket, (topic.into(), entry));
        let bytes = entry.to_bytes();
        self.with_table(now, |table, shard| table.publish(shard, topic, ticket, &bytes))
            .expect("there is room");
    }

    pub fn subscribe(&mut self, now: Nanos, subscriber: Subscriber) {
        if let Some(takeover) = &mut self.takeover {
            return takeover.held.push(Held::Subscriber(subscriber));
        }
        let topic = subscriber.topic.clone();
        self.arriving.push(subscriber);
        self.with_table(now, |table, shard| table.subscribe(shard, &topic));
    }

    /// All subscribers of a topic go elsewhere.
    pub fn unsubscribe_all(&mut self, now: Nanos, topic: &str) -> Vec<Subscriber> {
        let mut gone = self.store.detach_all(topic);
        for Subscriber { client, .. } in &gone {
            self.change_presence(now, topic, *client, false);
        }
        let (arriving, others) =
            std::mem::take(&mut self.arriving).into_iter().partition(|waiting| waiting.topic == topic);
        self.arriving = others;
        gone.extend::<Vec<_>>(arriving);
        match &mut self.takeover {
            Some(takeover) => {
                gone.extend(takeover.take_subscribers(Some(topic)));
                takeover.held.push(Held::Unsubscribed(topic.into()));
            }
            None => self.with_table(now, |table, shard| table.unsubscribe(shard, topic)),
        }
        gone
    }

    fn change_presence(&mut self, now: Nanos, topic: &str, client: ClientId, has_joined: bool) {
        if !self.store.has_presence(topic) {
            return;
        }
        self.truth.set_member(topic, client, has_joined);
        match &mut self.takeover {
            Some(takeover) => takeover.held.push(Held::Member(topic.into(), client, has_joined)),
            None => self.tell_presence(now, topic, client, has_joined),
        }
    }

    fn tell_presence(&mut self, now: Nanos, topic: &str, client: ClientId, has_joined: bool) {
        let subject = subject_of(client);
        let joined = has_joined.then_some(&*subject);
        self.with_table(now, |table, shard| table.change_presence(shard, topic, client, joined));
    }

    fn attach(&mut self, now: Nanos, mut subscriber: Subscriber) {
        self.clients += 1;
        subscriber.client = ClientId { node: self.id().0, number: self.clients };
        let (topic, client) = (subscriber.topic.clone(), subscriber.client);
        self.store.attach(subscriber);
        self.change_presence(now, &topic, client, true);
    }

    fn doubt(&mut self, topic: String, entry: Entry) {
        if entry.key != 0 {
            self.uncertain.push((topic, entry));
        }
    }

    /// What publishers may send again elsewhere, as they lose the node.
    pub fn lose_publications(&mut self) -> Vec<(String, Entry)> {
        for (topic, entry) in std::mem::take(&mut self.pending).into_values() {
            self.doubt(topic, entry);
        }
        std::mem::take(&mut self.uncertain)
    }

    /// Every subscriber goes elsewhere, without a word to the node.
    pub fn lose_all(&mut self) -> Vec<Subscriber> {
        let mut lost = std::mem::take(&mut self.arriving);
        lost.extend(self.takeover.iter_mut().flat_map(|takeover| takeover.take_subscribers(None)));
        for topic in self.store.topics.values_mut() {
            lost.append(&mut topic.subscribers);
        }
        for subscriber in &lost {
            self.truth.set_member(&subscriber.topic, subscriber.client, false);
        }
        lost
    }

    /// Forgets a topic that nobody uses here.
    pub fn forget(&mut self, topic: &str) {
        if self.table.is_owner(topic) && self.table.forget(topic) {
            self.store.forget(topic);
        }
    }

    pub fn leave(&mut self, now: Nanos) {
        self.cluster.leave(self.clock.read(now));
    }

    /// Another process begins to take the node over, if it takes part in its cluster.
    pub fn begin_takeover(&mut self, takeover: Takeover) {
        if self.is_open() && self.takeover.is_none() {
            self.takeover = Some(takeover);
        }
    }

    pub fn takes_packets(&self) -> bool {
        self.takeover.as_ref().is_none_or(Takeover::takes_packets)
    }

    /// Whether nothing waits for other nodes.
    fn is_at_rest(&self, with_streams: bool) -> bool {
        self.events.is_empty()
            && self.settling.is_empty()
            && self.pending.is_empty()
            && self.arriving.is_empty()
            && self.table.is_at_rest(with_streams)
    }

    /// Goes on with a takeover.
    fn advance_takeover(&mut self, now: Nanos) {
        let Some(mut takeover) = self.takeover.take() else { return };
        let local = self.clock.read(now);
        let is_over = match takeover.step(now, |with_streams| self.is_at_rest(with_streams)) {
            Step::Wait => false,
            Step::Suspend => match self.cluster.suspend() {
                Some(state) => {
                    takeover.suspended(state, now);
                    false
                }
                None => true,
            },
            Step::GoOn => {
                self.cluster.speak_again(local);
                true
            }
            Step::Continue(state, clock) => {
                self.taken_overs += 1;
                self.continue_from(now, clock, &state);
                false
            }
        };
        match is_over {
            false => self.takeover = Some(takeover),
            true => self.end_takeover(now, takeover),
        }
    }

    fn end_takeover(&mut self, now: Nanos, takeover: Takeover) {
        for held in takeover.held {
            match held {
                Held::Publication(topic, entry) => self.publish(now, &topic, entry),
                Held::Subscriber(subscriber) => self.subscribe(now, subscriber),
                Held::Unsubscribed(topic) => {
                    self.with_table(now, |table, shard| table.unsubscribe(shard, &topic));
                }
                Held::Member(topic, client, has_joined) => {
                    self.tell_presence(now, &topic, client, has_joined)
                }
            }
        }
    }

    /// The node is in another process from now on, with another clock. Its topics and its clients are there already.
    fn continue_from(&mut self, now: Nanos, clock: Clock, state: &[u8]) {
        let (id, before) = (self.id(), self.clock.read(now));
        self.clock = clock;
        let local = self.clock.read(now);
        self.cluster = Cluster::new(config(id, "another", 0, true));
        self.cluster.handle_connected(self.is_connected, local);
        let next = OwnerTable::new(id, self.cluster.view().clone());
        let table = std::mem::replace(&mut self.table, next);
        self.resets.clear();
        self.known.clear();
        self.told_resets.clear();
        let mut after = None;
        while let Some(name) = table.next_topic(after.as_deref()).map(str::to_owned) {
            let mut bytes = Vec::new();
            table.put_topic(&name, before, &mut bytes);
            let taken = self.with_table(now, |table, shard| table.take_topic(shard, &name, &bytes));
            assert_eq!(taken, Some(()), "{name}");
            after = Some(name);
        }
        let plain = PlainCluster::read(state).expect("well formed");
        self.cluster.continue_node(plain, local);
    }

    /// Whether the node has handed over what it owned, and everything that it sent has arrived.
    pub fn has_left(&mut self, now: Nanos) -> bool {
        let is_done = self.events.is_empty()
            && self.table.is_settled()
            && self.settling.is_empty()
            && self.pending.is_empty();
        let has_left = is_done && self.cluster.try_finish(self.clock.read(now));
        self.has_left_alone |= has_left && self.cluster.view().owners().is_empty();
        has_left
    }

    pub fn is_open(&self) -> bool {
        self.cluster.is_open() && self.cluster.phase() == Phase::Active
    }

    /// Takes the answer of a stream.
    pub fn handle_stream(&mut self, now: Nanos, asker: &Asker, answer: StreamAnswer) {
        let Asker { topic, number, .. } = asker;
        self.with_table(now, |table, shard| table.handle_stream(shard, topic, *number, answer));
    }

    /// Asks the streams of durable topics.
    pub fn ask_streams(&mut self, now: Nanos, streams: &mut Streams, random: &mut SplitMix64) {
        let node = self.id();
        while let Some((topic, number, request)) = self.table.poll_stream_request() {
            streams.ask(Asker { node, topic: topic.into(), number }, request, now, random);
        }
    }

    /// Does what there is to do.
    pub fn run(&mut self, now: Nanos) {
        self.advance_takeover(now);
        if self.takeover.as_ref().is_some_and(Takeover::is_silent) {
            return;
        }
        let local = self.clock.read(now);
        self.cluster.handle_time(local);
        while let Some(event) = self.cluster.poll_event() {
            if let Event::Reset(node) = event {
                *self.resets.entry(node).or_default() += 1;
            }
            self.events.push_back(event);
        }
        // Tables are other threads', which learn of events later than the cluster.
        if self.is_late && self.random.below(3) > 0 {
            return;
        }
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::View(view) => self.with_table(now, |table, shard| table.handle_view(shard, view)),
                Event::Open(is_open) => {
                    self.with_table(now, |table, shard| table.handle_open(shard, is_open));
                }
                Event::Settle(_) => {
                    self.with_table(now, |table, shard| table.handle_settle(shard));
                    self.settling.push(event);
                }
                Event::Message { from, bytes } => {
                    let message = Message::read(&bytes).expect("a message of this version");
                    if let Message::Transfer(Transfer { topic, .. }) | Message::Diverged { topic } = message {
                        self.truth.tell(from, self.id(), topic);
                    }
                    self.with_table(now, |table, shard| table.handle_message(shard, from, &message));
                }
                Event::Reset(node) => {
                    *self.told_resets.entry(node).or_default() += 1;
                    self.known.remove(&node);
                    self.lost.push(node);
                    self.with_table(now, |table, shard| table.handle_reset(shard, node));
                }
                Event::Joined(node) => {
                    self.known.insert(node, self.told_resets.get(&node).copied().unwrap_or_default());
                }
                Event::Agreed { .. } => self.with_table(now, |table, shard| table.handle_settle(shard)),
                Event::Away(is_away) => {
                    self.with_table(now, |table, shard| table.handle_away(shard, is_away));
                }
                Event::Superseded => panic!("no two nodes have one name"),
                Event::Lost(_) | Event::Returned(_) => self.told.push(event),
            }
        }
        // The table knows the nodes.
        if let Some(takeover) = self.takeover.take_if(|takeover| takeover.has_continued()) {
            self.end_takeover(now, takeover);
        }
        self.with_table(now, |table, shard| table.handle_time(shard));
        if self.table.is_settled() {
            for event in self.settling.drain(..) {
                let Event::Settle(settle) = event else { continue };
                self.cluster.settled(settle);
            }
        }
        self.take_outcomes();
        for subscriber in std::mem::take(&mut self.arriving) {
            match self.table.is_live(&subscriber.topic) {
                true => self.attach(now, subscriber),
                false => self.arriving.push(subscriber),
            }
        }
        self.with_table(now, |table, shard| table.flush_members(shard));
    }

    fn take_outcomes(&mut self) {
        while let Some((ticket, outcome)) = self.table.poll_outcome() {
            let (topic, entry) = self.pending.remove(&ticket).expect("each publication has one outcome");
            match outcome {
                Outcome::Accepted(position) => {
                    self.published.accepted += 1;
                    let ordered = self.truth.at(&topic, position);
                    assert!(ordered.is_same(entry), "{topic} at {position}: {ordered:?} for {entry:?}");
                }
                Outcome::Unreachable | Outcome::NoStorage => {
                    self.published.unreachable += 1;
                    assert!(
                        !self.truth.is_published(entry),
                        "{entry:?} was published and its publisher told no"
                    );
                }
                Outcome::Uncertain => {
                    self.published.uncertain += 1;
                    self.doubt(topic, entry);
                }
                Outcome::Refused(reason) => panic!("refused for {reason}"),
            }
        }
    }

    /// How the link to another node does.
    pub fn link(&self, to: NodeId, now: Nanos) -> Option<LinkFigures> {
        self.cluster.link(to, self.clock.read(now))
    }

    /// The latest publication.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The oldest publication to one of these topics that has no outcome.
    pub fn oldest_pending(&self, is_of: impl Fn(&str) -> bool) -> Option<Ticket> {
        self.pending.iter().find(|(_, (topic, _))| is_of(topic)).map(|(ticket, _)| *ticket)
    }

    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    pub fn arriving(&self) -> usize {
        self.arriving.len()
    }

    pub fn subscribers(&self) -> impl Iterator<Item = &Subscriber> {
        self.store.topics.values().flat_map(|topic| &topic.subscribers)
    }
}
