//! A node of the tests: its tables, its thread, and what it reports.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use echoring_cluster::nats::{BackboneError, Credentials, NatsOptions, spawn};
use echoring_cluster::{
    Cluster, ClusterConfig, Event, Message, NodeId, Outcome, OwnerTable, Phase, Shard, Tables,
};
use echoring_cluster::{Traffic, View};
use echoring_proto::limits::{MILLISECOND, Nanos};
use echoring_proto::random::mix;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::store::{Delivered, Store};

/// Everything happens within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(30);
pub const HEARTBEAT_INTERVAL: Nanos = 100 * MILLISECOND;
pub const MEMBER_TIMEOUT: Nanos = 500 * MILLISECOND;
/// The secret of the cluster.
const KEY: u64 = 0x5eed;

/// What a test asks of a node.
#[derive(Debug)]
pub enum Command {
    Subscribe(String),
    Publish(String, Vec<u8>),
    /// Hand everything over, and end.
    Leave,
    /// End without a word.
    Die,
    /// Take no packets, or take them again.
    HasRoom(bool),
}

/// What a node reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    Connected(bool),
    Open(bool),
    Owners(usize),
    Reset(NodeId),
    Published(Outcome),
    Delivered(Delivered),
    Traffic(Traffic),
}

struct TestTables {
    table: OwnerTable,
    store: Store,
    settling: Vec<Event>,
    reports: mpsc::Sender<Report>,
    ticket: u64,
    traffic: Traffic,
    is_dead: bool,
    has_room: bool,
}

impl TestTables {
    fn report(&self, report: Report) {
        // A test that has seen enough drops its node.
        let _ = self.reports.send(report);
    }

    fn with_table<R>(
        &mut self,
        cluster: &mut Cluster,
        now: Nanos,
        call: impl FnOnce(&mut OwnerTable, &mut Shard<'_>) -> R,
    ) -> R {
        call(&mut self.table, &mut Shard { store: &mut self.store, peers: cluster, now })
    }
}

impl Tables for TestTables {
    type Command = Command;

    fn handle(&mut self, cluster: &mut Cluster, event: Event, now: Nanos) {
        match event {
            Event::View(view) => {
                self.report(Report::Owners(view.owners().len()));
                self.with_table(cluster, now, |table, shard| table.handle_view(shard, view));
            }
            Event::Open(is_open) => {
                self.with_table(cluster, now, |table, shard| table.handle_open(shard, is_open));
                self.report(Report::Open(is_open));
            }
            Event::Settle(_) => {
                self.with_table(cluster, now, OwnerTable::handle_settle);
                self.settling.push(event);
            }
            Event::Message { from, bytes } => {
                let message = Message::read(&bytes).expect("a message of this version");
                self.with_table(cluster, now, |table, shard| table.handle_message(shard, from, &message));
            }
            Event::Reset(node) => {
                self.with_table(cluster, now, |table, shard| table.handle_reset(shard, node));
                self.report(Report::Reset(node));
            }
            Event::Joined(_) => {}
            Event::Agreed { .. } => self.with_table(cluster, now, OwnerTable::handle_settle),
            Event::Away(is_away) => {
                self.with_table(cluster, now, |table, shard| table.handle_away(shard, is_away));
            }
            Event::Superseded => panic!("no two nodes have one name"),
            Event::Lost(_) | Event::Returned(_) => {}
        }
    }

    fn command(&mut self, cluster: &mut Cluster, command: Command, now: Nanos) {
        match command {
            Command::Subscribe(topic) => {
                self.with_table(cluster, now, |table, shard| table.subscribe(shard, &topic));
            }
            Command::Publish(topic, entry) => {
                self.ticket += 1;
                let ticket = self.ticket;
                self.with_table(cluster, now, |table, shard| table.publish(shard, &topic, ticket, &entry))
                    .expect("there is room");
            }
            Command::Leave => cluster.leave(now),
            Command::Die => self.is_dead = true,
            Command::HasRoom(has_room) => self.has_room = has_room,
        }
    }

    fn connected(&mut self, is_connected: bool) {
        self.report(Report::Connected(is_connected));
    }

    fn run(&mut self, cluster: &mut Cluster, traffic: &Traffic, now: Nanos) {
        self.with_table(cluster, now, OwnerTable::handle_time);
        if self.table.is_settled() {
            for event in self.settling.drain(..) {
                let Event::Settle(settle) = event else { continue };
                cluster.settled(settle);
            }
        }
        while let Some((_, outcome)) = self.table.poll_outcome() {
            self.report(Report::Published(outcome));
        }
        for delivered in std::mem::take(&mut self.store.delivered) {
            self.report(Report::Delivered(delivered));
        }
        if cluster.phase() == Phase::Leaving && self.table.is_settled() && self.settling.is_empty() {
            cluster.try_finish(now);
        }
        if traffic.dropped != self.traffic.dropped {
            self.report(Report::Traffic(*traffic));
        }
        self.traffic = *traffic;
    }

    fn deadline(&self) -> Option<Nanos> {
        self.table.deadline()
    }

    fn has_room(&self) -> bool {
        self.has_room
    }

    fn has_ended(&self, cluster: &Cluster) -> bool {
        self.is_dead || cluster.phase() == Phase::Left
    }
}

/// A node that runs.
pub struct Node {
    pub id: NodeId,
    commands: UnboundedSender<Command>,
    reports: mpsc::Receiver<Report>,
    thread: JoinHandle<Result<Traffic, BackboneError>>,
}

/// Options for a server without authentication.
pub fn options(url: String) -> NatsOptions {
    NatsOptions {
        servers: vec![url],
        prefix: "test".into(),
        credentials: Credentials::None,
        waits: true,
        message_bytes_max: 64 * 1024,
        ..NatsOptions::default()
    }
}

impl Node {
    pub fn start(number: u64, options: NatsOptions) -> Node {
        let id = NodeId(mix(number));
        let config = ClusterConfig {
            node: id,
            name: format!("node-{number}").into(),
            started_ms: 1_700_000_000_000 + number,
            continues: false,
            key: KEY,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            member_timeout: MEMBER_TIMEOUT,
        };
        let (reporter, reports) = mpsc::channel();
        let (commands, receiver) = unbounded_channel();
        let tables = TestTables {
            table: OwnerTable::new(id, View::new([], KEY)),
            store: Store::new(id),
            settling: Vec::new(),
            reports: reporter,
            ticket: 0,
            traffic: Traffic::default(),
            is_dead: false,
            has_room: true,
        };
        let thread = spawn(options, config, tables, receiver).expect("a thread");
        let thread = std::thread::spawn(move || thread.join().expect("no panic").map(|(_, traffic)| traffic));
        Node { id, commands, reports, thread }
    }

    pub fn order(&self, command: Command) {
        self.commands.send(command).expect("a node that runs");
    }

    pub fn subscribe(&self, topic: &str) {
        self.order(Command::Subscribe(topic.into()));
    }

    pub fn publish(&self, topic: &str, entry: impl Into<Vec<u8>>) {
        self.order(Command::Publish(topic.into(), entry.into()));
    }

    /// Waits for a report that `wanted` takes. Others before it are gone.
    pub fn wait_for<R>(&self, what: &str, mut wanted: impl FnMut(&Report) -> Option<R>) -> R {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.reports.recv_timeout(left) {
                Ok(report) => {
                    if let Some(found) = wanted(&report) {
                        return found;
                    }
                }
                Err(error) => panic!("{}: no {what}: {error}", self.id),
            }
        }
    }

    pub fn wait(&self, report: Report) {
        self.wait_for(&format!("{report:?}"), |seen| (*seen == report).then_some(()));
    }

    /// Waits until the node is open in a view of this many nodes.
    pub fn wait_open(&self, nodes: usize) {
        let mut owners = 0;
        self.wait_for(&format!("open node among {nodes}"), |report| {
            match report {
                Report::Owners(count) => owners = *count,
                Report::Open(true) if owners == nodes => return Some(()),
                _ => {}
            }
            None
        });
    }

    /// Waits for the next outcome of a publication, which must be accepted.
    pub fn wait_accepted(&self) {
        let outcome = self.wait_for("outcome", |report| match report {
            Report::Published(outcome) => Some(*outcome),
            _ => None,
        });
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }

    /// Waits for messages of a topic: `count` in the epoch of the first, in their order.
    pub fn wait_messages(&self, topic: &str, count: u64) -> (u64, Vec<Vec<u8>>) {
        let mut messages = BTreeMap::new();
        let mut epoch = None;
        self.wait_for(&format!("{count} messages of {topic}"), |report| {
            if let Report::Delivered(delivered) = report
                && delivered.topic == topic
            {
                assert_eq!(*epoch.get_or_insert(delivered.position.epoch), delivered.position.epoch);
                messages.insert(delivered.position.offset, delivered.entry.clone());
            }
            (messages.len() as u64 == count).then_some(())
        });
        assert!(messages.keys().copied().eq(1..=count), "{:?}", messages.keys());
        (epoch.unwrap_or_default(), messages.into_values().collect())
    }

    /// Ends the node without a word to others.
    pub fn kill(self) {
        self.order(Command::Die);
        self.join().expect("a clean end");
    }

    /// Waits for the end of the node.
    pub fn join(self) -> Result<Traffic, BackboneError> {
        self.thread.join().expect("no panic")
    }
}
