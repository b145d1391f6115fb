//! One shard's part in a cluster: which topics other nodes order, and which of them this one follows.
//!
//! Of a topic that this node owns, the shard orders publications as it does without a cluster, and sends each message once to
//! every node that follows the topic. Of other topics it keeps a copy that follows the owner; local publications go to
//! the owner, and are delivered when they come back in their place.
//!
//! Work that other parts of a tick leave for the cluster is queued, and done at its end, because the owner table may
//! call back into all of them. Publications come before the events of other nodes, so that a change of owners never
//! lets a later publication overtake an earlier one.

mod entry;
mod exchange;
mod interruptions;
mod page_answers;
mod plain;
mod store;
pub(super) mod stream_pages;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use echoring_cluster::{NodeId, OwnerTable, Ticket, View};
use echoring_proto::limits::Nanos;
use echoring_topics::{ClientId, Creator, Position, Publication, TopicId};
use tokio::sync::mpsc;

use super::shard_mail::{PublishResult, Publisher};
use super::topic_read::TopicRead;
use crate::limits::CLUSTER_STAGED_BYTES_MAX;
use crate::node_mail::{
    ClusterCommand, ClusterEvent, ClusterIdentity, Inbox, Links, RelaySender, StreamSender,
};
use crate::publications::TopicPublication;
use entry::{Origin, StreamEntry};
use stream_pages::{PageAhead, PageRequest, Streams};

/// The arguments of a shard of a node in a cluster.
#[derive(Clone, Debug)]
pub struct FollowingSettings {
    /// The node.
    pub identity: ClusterIdentity,
    /// Another process is the node, which this one continues.
    pub continues: bool,
    /// To the cluster thread.
    pub commands: mpsc::UnboundedSender<ClusterCommand>,
    /// The messages of other nodes that wait for the shards.
    pub inbox: Inbox,
    /// Other clients of NATS.
    pub relay: Option<RelaySender>,
    /// To the streams of durable topics.
    pub streams: StreamSender,
}

/// One shard's part in a cluster.
#[derive(Debug)]
pub(super) struct Following {
    node: NodeId,
    /// Which node orders a topic.
    pub(super) table: OwnerTable,
    links: Links,
    inbox: Inbox,
    events: VecDeque<ClusterEvent>,
    /// Publications that other nodes decide about.
    undecided: BTreeMap<Ticket, Undecided>,
    /// Followed topics that lack messages up to this offset, which are history.
    heads: BTreeMap<Box<str>, u64>,
    /// The readers that wait for topics with an unknown position.
    waiting: BTreeMap<Box<str>, Vec<Waits>>,
    /// Topics that operators read, until when they are followed for that.
    reads: BTreeMap<Box<str>, Nanos>,
    /// The ends of all reads. Each takes equally long.
    read_ends: VecDeque<(Nanos, Box<str>)>,
    /// Topics without subscribers that are followed as long as messages are kept for subscribers that move.
    lingering: BTreeSet<Box<str>>,
    /// The waiter for the handover of the topics of others.
    settles: Vec<u64>,
    /// The waiters for the shard to rest, and whether for its streams too.
    rests: Vec<(u64, bool)>,
    /// Another process is the node so far. The table must not be used before this one knows the other nodes.
    is_dormant: bool,
    /// Publications wait for that, and those behind them wait, too.
    waits_to_order: bool,
    streams: Streams,
}

/// The waiter for the outcome of a publication.
#[derive(Debug)]
enum Undecided {
    Client(Publisher, Box<str>),
    Operator,
}

impl Undecided {
    /// Whether a client of this shard waits.
    fn is_of(&self, shard: usize) -> bool {
        matches!(self, Undecided::Client(publisher, _) if publisher.is_on(shard))
    }
}

/// The waiter for a topic's position.
#[derive(Debug)]
enum Waits {
    /// A shard that subscribes.
    Shard { shard: usize, local: TopicId, creator: Creator },
    /// An operator, until this time.
    Operator(TopicRead, Nanos),
}

/// The work that a tick leaves for the cluster.
#[derive(Debug, Default)]
pub(super) struct FollowingQueue {
    /// Topics with new or fewer subscribers.
    touched: Vec<Box<str>>,
    publications: VecDeque<StagedPublication>,
    /// Clients that have joined topics with presence or left them.
    presence: VecDeque<StagedChange>,
    staged_bytes: usize,
    /// Durable topics of this node whose streams are read again, because a client is ahead of them.
    pub(super) rereads: BTreeSet<Box<str>>,
    /// Pages of history to be read from streams.
    pub(super) pages: Vec<PageRequest>,
    /// Pages that begin behind a position that this node has not reached, or whose streams are read again.
    pub(super) ahead: Vec<PageAhead>,
    tickets: Ticket,
    /// Outcomes for the operator.
    pub(super) decided: Vec<(Ticket, PublishResult)>,
}

#[derive(Debug)]
struct StagedPublication {
    topic: Box<str>,
    ticket: Ticket,
    waits: Undecided,
    entry: Vec<u8>,
}

#[derive(Debug)]
struct StagedChange {
    topic: Box<str>,
    client: ClientId,
    /// Its subject if it has joined.
    joined: Option<Box<str>>,
}

impl Following {
    pub(super) fn new(settings: FollowingSettings) -> Following {
        let FollowingSettings { identity, continues, commands, inbox, streams, .. } = settings;
        let ClusterIdentity { node, key } = identity;
        Following {
            node,
            table: OwnerTable::new(node, View::new([], key)),
            links: Links::new(commands),
            inbox,
            events: VecDeque::new(),
            undecided: BTreeMap::new(),
            heads: BTreeMap::new(),
            waiting: BTreeMap::new(),
            reads: BTreeMap::new(),
            read_ends: VecDeque::new(),
            lingering: BTreeSet::new(),
            settles: Vec::new(),
            rests: Vec::new(),
            is_dormant: continues,
            waits_to_order: continues,
            streams: Streams::new(streams),
        }
    }

    /// Whether another publication may wait for other nodes.
    pub(super) fn has_room(&self, queue: &FollowingQueue, bytes: usize) -> bool {
        // A single publication above the bounds may wait alone.
        queue.staged_bytes == 0 && self.table.has_room(0)
            || queue.staged_bytes + bytes <= CLUSTER_STAGED_BYTES_MAX
                && self.table.has_room(queue.staged_bytes + bytes)
    }

    /// Whether a publication to the topic gets its position here and now, and can be sent to the nodes that follow the topic.
    pub(super) fn orders(&self, name: &str) -> bool {
        !self.waits_to_order && self.table.orders(name)
    }

    /// Sends a message that this shard has ordered to the nodes that follow its topic.
    pub(super) fn forward(
        &mut self,
        name: &str,
        position: Position,
        publisher: &Publisher,
        publication: Publication<'_>,
    ) {
        if self.table.has_followers(name) {
            let message = TopicPublication::plain(name, publication);
            let entry = self.entry(publisher, &message);
            self.table.forward(&mut self.links, name, position, &entry);
        }
    }

    fn entry(&self, publisher: &Publisher, message: &TopicPublication<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (origin, by_client) = (Origin::of(publisher), !publisher.is_operator());
        let message = TopicPublication { topic: "", ..*message };
        StreamEntry { node: self.node, origin, by_client, message }.write(&mut bytes);
        bytes
    }

    /// Leaves a publication to the owner of its topic on another node, which decides.
    pub(super) fn stage(
        &self,
        queue: &mut FollowingQueue,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) -> Ticket {
        let (name, entry) = (message.topic, self.entry(&publisher, message));
        let waits = match publisher.is_operator() {
            true => Undecided::Operator,
            false => Undecided::Client(publisher, name.into()),
        };
        queue.tickets += 1;
        queue.staged_bytes += entry.len();
        let ticket = queue.tickets;
        queue.publications.push_back(StagedPublication { topic: name.into(), ticket, waits, entry });
        ticket
    }

    /// The latest publication of a shard's clients that is not decided.
    pub(super) fn latest_undecided(&self, queue: &FollowingQueue, shard: usize) -> Option<Ticket> {
        let staged = queue.publications.iter().rfind(|staged| staged.waits.is_of(shard));
        let undecided = || self.undecided.iter().rfind(|(_, waits)| waits.is_of(shard));
        staged.map(|staged| staged.ticket).or_else(|| undecided().map(|(ticket, _)| *ticket))
    }

    /// Whether all publications of a shard's clients up to this one are decided.
    pub(super) fn has_decided(&self, queue: &FollowingQueue, shard: usize, latest: Ticket) -> bool {
        let is_open = |ticket: Ticket, waits: &Undecided| ticket <= latest && waits.is_of(shard);
        !self.undecided.iter().any(|(ticket, waits)| is_open(*ticket, waits))
            && !queue.publications.iter().any(|staged| is_open(staged.ticket, &staged.waits))
    }

    /// Whether the shard knows the topic's position, and everything up to it.
    pub(super) fn is_live(&self, name: &str) -> bool {
        self.table.is_live(name) && !self.heads.contains_key(name)
    }

    /// A shard subscribes to a topic with an unknown position. It is answered later.
    pub(super) fn wait(&mut self, name: &str, creator: Creator, shard: usize, local: TopicId) {
        self.waiting.entry(name.into()).or_default().push(Waits::Shard { shard, local, creator });
    }

    /// An operator reads a topic, which is followed for that. Returns the question if it can be answered now; otherwise it is
    /// answered later, or nobody waits for it.
    pub(super) fn begin_read(
        &mut self,
        queue: &mut FollowingQueue,
        read: TopicRead,
        until: Nanos,
    ) -> Option<TopicRead> {
        self.reads.insert(read.topic.clone(), until);
        self.read_ends.push_back((until, read.topic.clone()));
        if self.is_live(&read.topic) {
            return Some(read);
        }
        queue.touch(&read.topic);
        self.waiting.entry(read.topic.clone()).or_default().push(Waits::Operator(read, until));
        None
    }

    /// Ends the reads whose operators wait no longer.
    fn end_reads(&mut self, queue: &mut FollowingQueue, now: Nanos) {
        while let Some((_, name)) = pop_due(&mut self.read_ends, now) {
            if let Some(waits) = self.waiting.get_mut(&name) {
                waits.retain(|one| !matches!(one, Waits::Operator(_, until) if *until <= now));
                if waits.is_empty() {
                    self.waiting.remove(&name);
                }
            }
            if self.reads.get(&name).is_some_and(|until| *until <= now) {
                self.reads.remove(&name);
                queue.touch(&name);
            }
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        let reads = self.read_ends.front().map(|(until, _)| *until);
        reads.into_iter().chain(self.table.deadline()).min()
    }
}

/// The first of these, if its time has come.
fn pop_due<T>(queue: &mut VecDeque<(Nanos, T)>, now: Nanos) -> Option<(Nanos, T)> {
    queue.front().filter(|(at, _)| *at <= now)?;
    queue.pop_front()
}

impl FollowingQueue {
    /// A topic has got or lost subscribers.
    pub(super) fn touch(&mut self, name: &str) {
        self.touched.push(name.into());
    }

    /// A client of this node has joined a topic with presence, with its subject, or has left it.
    pub(super) fn change_presence(&mut self, name: &str, client: ClientId, joined: Option<&str>) {
        let staged = StagedChange { topic: name.into(), client, joined: joined.map(Into::into) };
        self.presence.push_back(staged);
    }

    fn is_empty(&self) -> bool {
        self.touched.is_empty()
            && self.rereads.is_empty()
            && self.publications.is_empty()
            && self.pages.is_empty()
            && self.presence.is_empty()
    }
}
