//! The owner tables of all shards, as the cluster thread sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use echoring_cluster::{
    Cluster, Event, Message, NodeId, Peers as _, Phase, PlainCluster, Settle, Tables, Traffic,
};
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::ControlMessage;
use echoring_topics::Placement;

use super::NodeStatus;
use super::disagreements::{Disagreements, Notice};
use super::node::{ClusterNode, Shared};
use super::status::word;
use crate::commands::ShardCommand;
use crate::limits::{CLUSTER_LEAVE_INTERVAL, CLUSTER_REPORT_INTERVAL};
use crate::node::handle::Handle;
use echoring_broker::node_mail::{ClusterCommand, ClusterEvent, Inbox, LinkState, messages};

/// The origin of a question whether the shards have settled.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Peer(Settle),
    /// This node, which leaves: the number of the attempt.
    Leaving(u64),
    /// This node, which another process is to continue.
    Suspending,
}

/// The node comes to rest, because another process is to continue it.
#[derive(Debug)]
struct Suspending {
    reply: SyncSender<Vec<u8>>,
    stage: Stage,
}

/// How far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The shards wait for the answers of other nodes.
    Answers,
    /// Packets are taken no more. The shards take what has arrived, and wait for their streams.
    Streams,
    /// The shards rest.
    Rests,
    /// The node is silent.
    Silent,
}

/// A question to all shards whether they have settled.
#[derive(Debug)]
struct PendingSettle {
    asked: Asked,
    /// Shards that have not answered.
    shards: usize,
}

/// Passes the events of a cluster on to the shards, and their messages to the cluster.
#[derive(Debug)]
pub struct ClusterTables {
    server: Handle,
    placement: Placement,
    inbox: Inbox,
    links: BTreeMap<NodeId, Arc<LinkState>>,
    links_made: u64,
    /// Those that have no room.
    full: BTreeSet<NodeId>,
    settles: BTreeMap<u64, PendingSettle>,
    settles_asked: u64,
    /// When the node tries again to leave.
    finish_at: Option<Nanos>,
    /// The node hands its topics over, and the shards have not been asked yet whether they have done so.
    leaves: Option<u64>,
    suspending: Option<Suspending>,
    is_connected: bool,
    /// A link that had no room for staged messages has room.
    has_new_room: bool,
    /// The notices to each shard at the end of the round.
    staged: Vec<Vec<ClusterEvent>>,
    report_at: Nanos,
    reported: (Option<Phase>, bool, bool),
    disagreements: Disagreements,
    shared: Arc<Shared>,
}

impl ClusterTables {
    pub(crate) fn new(
        server: Handle,
        node: &ClusterNode,
        placement: Placement,
        inbox: Inbox,
    ) -> ClusterTables {
        ClusterTables {
            staged: server.remotes.iter().map(|_| Vec::new()).collect(),
            server,
            placement,
            inbox,
            links: BTreeMap::new(),
            links_made: 0,
            full: BTreeSet::new(),
            settles: BTreeMap::new(),
            settles_asked: 0,
            finish_at: None,
            leaves: None,
            suspending: None,
            is_connected: false,
            has_new_room: false,
            report_at: 0,
            reported: (None, false, false),
            disagreements: Disagreements::default(),
            shared: Arc::clone(&node.shared),
        }
    }

    fn tell_all(&mut self, event: impl Fn() -> ClusterEvent) {
        self.staged.iter_mut().for_each(|staged| staged.push(event()));
    }

    fn send_staged(&mut self) {
        for (remote, staged) in self.server.remotes.iter().zip(&mut self.staged) {
            if !staged.is_empty() {
                // A shard that has ended needs nothing.
                let events = ShardCommand::Cluster(std::mem::take(staged));
                let _ = remote.send(ControlMessage::Command(events));
            }
        }
    }

    fn ask_settled(&mut self, asked: Asked) {
        let number = self.ask(asked);
        self.tell_all(|| ClusterEvent::Settle(number));
    }

    /// The number of a question that all shards answer.
    fn ask(&mut self, asked: Asked) -> u64 {
        self.settles_asked += 1;
        self.settles.insert(self.settles_asked, PendingSettle { asked, shards: self.staged.len() });
        self.settles_asked
    }

    /// Has the node come to rest.
    fn begin_suspending(&mut self, reply: SyncSender<Vec<u8>>) {
        self.suspending = Some(Suspending { reply, stage: Stage::Answers });
        self.ask_for_rest(false);
    }

    fn ask_for_rest(&mut self, with_streams: bool) {
        let number = self.ask(Asked::Suspending);
        self.tell_all(|| ClusterEvent::Rest { number, with_streams });
    }

    /// All shards rest.
    fn note_rest(&mut self) {
        let Some(suspending) = &mut self.suspending else { return };
        match suspending.stage {
            Stage::Answers => {
                suspending.stage = Stage::Streams;
                self.ask_for_rest(true);
            }
            Stage::Streams => suspending.stage = Stage::Rests,
            Stage::Rests | Stage::Silent => {}
        }
    }

    /// Gives the state of the node, once everything that the shards have sent is in its links.
    fn suspend(&mut self, cluster: &mut Cluster) {
        let Some(suspending) = self.suspending.as_mut().filter(|suspending| suspending.stage == Stage::Rests)
        else {
            return;
        };
        // Fails while members change: then nobody is told, and the other process gives up.
        if let Some(state) = cluster.suspend() {
            suspending.stage = Stage::Silent;
            let _ = suspending.reply.try_send(state);
        }
    }

    /// Another process has not continued the node.
    fn go_on(&mut self, cluster: &mut Cluster, now: Nanos) {
        self.suspending = None;
        self.settles.retain(|_, pending| !matches!(pending.asked, Asked::Suspending));
        cluster.speak_again(now);
    }

    fn continue_node(&mut self, cluster: &mut Cluster, node: PlainCluster, now: Nanos) {
        if node.name() != cluster.name() {
            tracing::warn!(
                node = node.name(),
                wanted = cluster.name(),
                "the node keeps its name in the cluster until it is started without a takeover"
            );
        }
        cluster.continue_node(node, now);
    }

    fn pass_on(&mut self, event: Event) {
        match event {
            Event::Joined(node) => {
                self.links_made += 1;
                let state = Arc::new(LinkState::new(self.links_made));
                self.tell_all(|| ClusterEvent::Joined(node, Arc::clone(&state)));
                self.links.insert(node, state);
            }
            Event::View(view) => self.tell_all(|| ClusterEvent::View(view.clone())),
            Event::Open(is_open) => self.tell_all(|| ClusterEvent::Open(is_open)),
            Event::Settle(settle) => self.ask_settled(Asked::Peer(settle)),
            Event::Message { from, bytes } => {
                let Some(topic) = Message::read(&bytes).as_ref().and_then(Message::topic) else { return };
                let shard = self.placement.owner(topic, self.staged.len());
                self.inbox.add(bytes.len());
                self.staged[shard].push(ClusterEvent::Message(from, bytes));
            }
            Event::Agreed { topic } => {
                let shard = self.placement.owner(&topic, self.staged.len());
                self.staged[shard].push(ClusterEvent::Agreed);
            }
            Event::Reset(node) => {
                self.links.remove(&node);
                self.full.remove(&node);
                self.disagreements.forget(node);
                self.tell_all(|| ClusterEvent::Reset(node));
            }
            Event::Away(is_away) => self.tell_all(|| ClusterEvent::Away(is_away)),
            Event::Lost(name) => self.staged[0].push(ClusterEvent::Lost(name)),
            Event::Returned(name) => self.staged[0].push(ClusterEvent::Returned(name)),
            Event::Superseded => {
                // The others follow that one, and take this one for dead.
                self.server.fail("another node of the cluster has started with this node's name");
            }
        }
    }

    fn end(&mut self) {
        self.finish_at = None;
        self.shared.set_ended();
    }

    /// Notifies the shards when a link that was full has room.
    fn look_at_links(&mut self, cluster: &Cluster) {
        let mut has_room = std::mem::take(&mut self.has_new_room);
        let links = &self.links;
        self.full.retain(|node| {
            let is_full = !cluster.has_room(*node);
            if let Some(state) = links.get(node) {
                state.is_full.store(is_full, Ordering::Relaxed);
            }
            has_room |= !is_full;
            is_full
        });
        if has_room {
            self.tell_all(|| ClusterEvent::Room);
        }
    }

    /// A node whose messages others do not acknowledge is not ready, as its clients' publications are late.
    fn look_for_delays(&mut self, members: &[NodeStatus]) {
        let behind = members.iter().find(|member| member.behind);
        let was_behind = self.shared.is_behind.swap(behind.is_some(), Ordering::Relaxed);
        match behind {
            Some(member) if !was_behind => tracing::warn!(
                peer = member.node,
                unacknowledged_bytes = member.unacknowledged_bytes,
                unacknowledged_ms = member.unacknowledged_ms,
                "another node does not acknowledge messages; this node is not ready"
            ),
            None if was_behind => tracing::info!("all nodes acknowledge messages again"),
            _ => {}
        }
    }

    /// Logs whose settings are others.
    fn look_at_settings(&mut self, cluster: &Cluster, now: Nanos) {
        for (node, peer, _) in cluster.members() {
            match self.disagreements.note(node, cluster.differs(node), now) {
                Some(Notice::Settings) => tracing::warn!(
                    peer,
                    "another node of the cluster has different topic settings, so it may keep other \
                     messages; use the same [[topics]] and [topic_defaults] on all nodes"
                ),
                Some(Notice::SameSettings) => {
                    tracing::info!(peer, "another node of the cluster has the same topic settings again");
                }
                Some(Notice::Key) => tracing::warn!(
                    peer,
                    "another node of the cluster has a different key: the nodes never agree on the owner of a topic; use the same key_file \
                     on all nodes"
                ),
                None => {}
            }
        }
    }

    fn report(&mut self, cluster: &Cluster, traffic: &Traffic, now: Nanos) {
        let reported = (Some(cluster.phase()), cluster.is_open(), self.is_connected);
        let has_changed = self.reported != reported;
        if !has_changed && now < self.report_at {
            return;
        }
        (self.reported, self.report_at) = (reported, now + CLUSTER_REPORT_INTERVAL);
        self.look_at_settings(cluster, now);
        let members = cluster.members().map(|(node, name, phase)| {
            let state = self.links.get(&node);
            let (settings_differ, key_differs) = cluster.differs(node);
            let mut member = NodeStatus {
                node: name.to_owned(),
                id: node.to_string(),
                phase: word(phase),
                staged_bytes: state.map_or(0, |state| state.staged_bytes.load(Ordering::Relaxed)),
                full: state.is_some_and(|state| state.is_full.load(Ordering::Relaxed)),
                settings_differ,
                key_differs,
                ..NodeStatus::default()
            };
            member.set_link(&cluster.link(node, now).unwrap_or_default());
            member
        });
        let members: Vec<NodeStatus> = members.collect();
        self.look_for_delays(&members);
        let is_active = cluster.phase() == Phase::Active && self.is_connected;
        self.shared.is_active.store(is_active, Ordering::Relaxed);
        let mut status = self.shared.status();
        let phase = word(cluster.phase());
        let is_new = status.phase != phase;
        status.node = cluster.name().to_owned();
        status.id = cluster.node().to_string();
        (status.phase, status.connected, status.open) = (phase, self.is_connected, cluster.is_open());
        status.members = members;
        status.set_traffic(traffic);
        drop(status);
        if is_new {
            tracing::info!(phase, "node of a cluster");
        }
        self.shared.changed.notify_all();
    }
}

impl Tables for ClusterTables {
    type Command = ClusterCommand;

    fn handle(&mut self, _: &mut Cluster, event: Event, _: Nanos) {
        self.pass_on(event);
    }

    fn command(&mut self, cluster: &mut Cluster, command: ClusterCommand, now: Nanos) {
        match command {
            ClusterCommand::Messages(bytes) => {
                for (node, number, bytes) in messages(&bytes) {
                    // Of a link that is lost, the shards have been told or will be.
                    let Some(state) = self.links.get(&node).filter(|state| state.number == number) else {
                        continue;
                    };
                    cluster.send_bytes(node, bytes);
                    self.has_new_room |= state.take_staged(bytes.len());
                    if !cluster.has_room(node) {
                        state.is_full.store(true, Ordering::Relaxed);
                        self.full.insert(node);
                    }
                }
            }
            ClusterCommand::Settled(number) => {
                let Some(pending) = self.settles.get_mut(&number) else { return };
                pending.shards -= 1;
                if pending.shards == 0
                    && let Some(PendingSettle { asked, .. }) = self.settles.remove(&number)
                {
                    match asked {
                        Asked::Peer(settle) => cluster.settled(settle),
                        Asked::Leaving(attempt) => self.shared.set_handed_over(attempt),
                        Asked::Suspending => self.note_rest(),
                    }
                }
            }
            ClusterCommand::Leave(attempt) => {
                cluster.leave(now);
                // Behind the events of the new view, which begin the handover.
                self.leaves = Some(attempt);
            }
            ClusterCommand::Suspend(reply) => self.begin_suspending(reply),
            ClusterCommand::GoOn => self.go_on(cluster, now),
            ClusterCommand::End => self.end(),
            ClusterCommand::Continue(node) => self.continue_node(cluster, *node, now),
            // Without a handover before, the others take the node for dead.
            ClusterCommand::Finish if cluster.phase() != Phase::Leaving => self.end(),
            ClusterCommand::Finish => self.finish_at = Some(now),
        }
    }

    fn connected(&mut self, is_connected: bool) {
        if self.is_connected != is_connected {
            if is_connected {
                tracing::info!("connected to the cluster's backbone");
            } else {
                tracing::warn!("the connection to the cluster's backbone is lost");
            }
        }
        self.is_connected = is_connected;
    }

    fn run(&mut self, cluster: &mut Cluster, traffic: &Traffic, now: Nanos) {
        if let Some(attempt) = self.leaves.take() {
            self.ask_settled(Asked::Leaving(attempt));
        }
        if self.finish_at.is_some_and(|at| at <= now) {
            self.finish_at = Some(now + CLUSTER_LEAVE_INTERVAL);
            if cluster.try_finish(now) {
                self.end();
            }
        }
        self.suspend(cluster);
        cluster.set_settings(self.shared.settings.load(Ordering::Relaxed));
        self.look_at_links(cluster);
        self.report(cluster, traffic, now);
        self.send_staged();
    }

    fn deadline(&self) -> Option<Nanos> {
        self.finish_at
    }

    fn has_room(&self) -> bool {
        let takes_packets = |suspending: &Suspending| suspending.stage == Stage::Answers;
        self.inbox.has_room() && self.suspending.as_ref().is_none_or(takes_packets)
    }

    fn has_ended(&self, _: &Cluster) -> bool {
        self.shared.has_ended.load(Ordering::Relaxed)
    }
}
