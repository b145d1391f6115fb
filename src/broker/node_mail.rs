//! What the shards of a node and the thread that carries the packets of its cluster tell each other.
//!
//! ```text
//! cluster thread: Cluster ── ClusterEvent ──> shards: OwnerTable, topics
//!                    ^                          │
//!                    └────── ClusterCommand ────┘
//! ```
//!
//! The shards share no memory with the thread except two numbers for each link: the bytes that are on their way to it,
//! and whether it is full.

mod inbox;
mod relay;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;

use bytes::BufMut as _;
use echoring_cluster::limits::LINK_BYTES_MAX;
use echoring_cluster::{Message, NodeId, Peers, PlainCluster, StreamAnswer, View};
use echoring_proto::Plain;
use tokio::sync::mpsc;

pub use inbox::Inbox;
pub use relay::{RelayBatch, RelayLoad, RelayOutbox, RelaySender, RelayedMessage};
pub use streams::{StreamCommand, StreamQuery, StreamSender};

/// The identity of a node that joins a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// This run of the node.
    pub node: NodeId,
    /// The secret of the cluster that places its topics, and that its digests of messages begin with.
    pub key: u64,
}

/// Notices of the cluster thread to a shard.
#[derive(Debug)]
pub enum ClusterEvent {
    /// Another node has appeared.
    Joined(NodeId, Arc<LinkState>),
    /// Other nodes own topics from now on.
    View(View),
    /// Whether topics may be begun.
    Open(bool),
    /// Send [`ClusterCommand::Settled`] with this number once no topic is left to hand over.
    Settle(u64),
    /// The same once nothing waits for other nodes: another process is to continue this one.
    Rest {
        /// The number.
        number: u64,
        /// Nor for the streams of durable topics.
        with_streams: bool,
    },
    /// The node that has sent the message before this has the same view.
    Agreed,
    /// Another node is dead, or has lost messages to it.
    Reset(NodeId),
    /// A message of another node about a topic of the shard.
    Message(NodeId, Vec<u8>),
    /// A link that was full has room.
    Room,
    /// Whether the backbone is away.
    Away(bool),
    /// Tell webhooks that the node with this name is lost. One shard of the cluster does.
    Lost(Box<str>),
    /// The same of one that has returned.
    Returned(Box<str>),
    /// The stream of a durable topic that the shard owns answers the request of this number.
    Stream {
        /// The topic.
        topic: Box<str>,
        /// The number.
        number: u64,
        /// The answer.
        answer: StreamAnswer,
    },
    /// A stream answers the request of a page of history of this number.
    StreamPage {
        /// The number.
        number: u64,
        /// The answer.
        answer: StreamAnswer,
    },
}

/// Messages of a shard, or of the server's controller, to the cluster thread.
#[derive(Debug)]
pub enum ClusterCommand {
    /// Messages for other nodes: for each the node, the number of the link, the length, and the message.
    Messages(Vec<u8>),
    /// A shard has settled, as [`ClusterEvent::Settle`] asked.
    Settled(u64),
    /// Hand all topics over, and continue as a follower. The number is that of the attempt.
    Leave(u64),
    /// The shards have ended: leave the cluster, and end.
    Finish,
    /// Another process is to continue the node: its state is wanted, once nothing waits for other nodes. The node is silent from then on.
    Suspend(SyncSender<Vec<u8>>),
    /// The other process has failed: this one goes on.
    GoOn,
    /// The other process is the node: end without a word.
    End,
    /// This process is the node from now on.
    Continue(Box<PlainCluster>),
}

/// The load of the link to another node.
#[derive(Debug, Default)]
pub struct LinkState {
    /// Which link it is. A link that was lost and restored is another one: messages that a shard sent before it knew of
    /// the loss must not use the new link, because no node would expect the answers.
    pub number: u64,
    /// Bytes on their way from the shards to the link.
    pub staged_bytes: AtomicU64,
    /// The link has no room for deliveries.
    pub is_full: AtomicBool,
}

impl LinkState {
    /// The link of this number, without load.
    pub fn new(number: u64) -> LinkState {
        LinkState { number, ..LinkState::default() }
    }

    /// Messages have reached the link. Returns whether there is room for others now, and was none before.
    pub fn take_staged(&self, bytes: usize) -> bool {
        let before = self.staged_bytes.load(Ordering::Relaxed);
        // Bytes sent before the link was last reset are no longer counted.
        let taken = before.min(bytes as u64);
        let before = self.staged_bytes.fetch_sub(taken, Ordering::Relaxed);
        let most = LINK_BYTES_MAX as u64;
        before >= most && before - taken < most
    }

    fn has_room(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed)
            && self.staged_bytes.load(Ordering::Relaxed) < LINK_BYTES_MAX as u64
    }
}

/// A shard's ends of the links to other nodes.
#[derive(Debug)]
pub struct Links {
    peers: BTreeMap<NodeId, Arc<LinkState>>,
    /// The messages of this tick.
    outbox: Vec<u8>,
    commands: mpsc::UnboundedSender<ClusterCommand>,
}

impl Links {
    pub(crate) fn new(commands: mpsc::UnboundedSender<ClusterCommand>) -> Links {
        Links { peers: BTreeMap::new(), outbox: Vec::new(), commands }
    }

    pub(crate) fn join(&mut self, node: NodeId, state: Arc<LinkState>) {
        self.peers.insert(node, state);
    }

    pub(crate) fn reset(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    /// Sends the messages of this tick.
    pub(crate) fn flush(&mut self) {
        if !self.outbox.is_empty() {
            let messages = std::mem::take(&mut self.outbox);
            self.tell(ClusterCommand::Messages(messages));
        }
    }

    /// Reports that the shard has settled, after all its earlier messages.
    pub(crate) fn settled(&mut self, number: u64) {
        self.flush();
        self.tell(ClusterCommand::Settled(number));
    }

    fn tell(&self, command: ClusterCommand) {
        // Fails only if the thread has ended: then this node hears nothing more, and ends too.
        let _ = self.commands.send(command);
    }
}

impl Peers for Links {
    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let Some(peer) = self.peers.get(&to) else { return };
        self.outbox.put_u64_le(to.0);
        self.outbox.put_u64_le(peer.number);
        let at = self.outbox.len();
        self.outbox.put_u32_le(0);
        message.write(&mut self.outbox);
        let bytes = self.outbox.len() - at - 4;
        self.outbox[at..at + 4].copy_from_slice(&(bytes as u32).to_le_bytes());
        peer.staged_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn knows(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    fn has_room(&self, to: NodeId) -> bool {
        self.peers.get(&to).is_none_or(|peer| peer.has_room())
    }
}

/// The messages that [`Links`] sent together, each with its node and the number of the link.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (NodeId, u64, &[u8])> {
    std::iter::from_fn(move || {
        let (node, (number, message)) = Plain::take(&mut bytes)?;
        Some((node, number, message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(7);

    #[test]
    fn messages_leave_together_and_a_link_with_much_on_its_way_has_no_room() {
        let (commands, mut sent) = mpsc::unbounded_channel();
        let mut links = Links::new(commands);
        let state = Arc::new(LinkState::new(5));
        links.join(PEER, Arc::clone(&state));
        assert!(links.knows(PEER) && !links.knows(NodeId(8)));
        let entries = vec![0; LINK_BYTES_MAX / 2];
        let message = Message::Publish { topic: "t", batch: 1, entries: &entries };
        // To a node that is not there nothing is sent.
        links.send(NodeId(8), &message);
        links.flush();
        assert!(sent.try_recv().is_err());
        links.send(PEER, &message);
        assert!(links.has_room(PEER));
        links.send(PEER, &message);
        assert!(!links.has_room(PEER));
        links.settled(3);
        let Ok(ClusterCommand::Messages(bytes)) = sent.try_recv() else { panic!("no messages") };
        assert!(matches!(sent.try_recv(), Ok(ClusterCommand::Settled(3))), "behind what was sent before");
        let both: Vec<_> = messages(&bytes).collect();
        assert_eq!(both.len(), 2);
        let mut rooms = Vec::new();
        for (node, number, bytes) in both {
            assert_eq!((node, number, Message::read(bytes)), (PEER, 5, Some(message)));
            rooms.push(state.take_staged(bytes.len()));
        }
        assert_eq!(rooms, [true, false], "once, when there is room again");
        assert!(!state.take_staged(1), "more than there was");
        assert!(links.has_room(PEER));
    }
}
