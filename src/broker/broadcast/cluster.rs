//! One shard's part in a cluster of nodes: its topics are shared with the same topics of other nodes.
//!
//! Of a topic that this node owns, the shard orders publications as it does without a cluster, and sends each message once to
//! every node that follows the topic. Of other topics it keeps a copy that follows the owner; local publications go to
//! the owner, and is delivered when it comes back in its place.
//!
//! Work that other parts of a tick leave for the cluster is queued, and done at its end, because the owner table may
//! call back into all of them. Publications come before the events of other nodes, so that a change of owners never
//! lets a later publication overtake an earlier one.

mod behind;
mod durable;
mod entry;
mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use echoring_cluster::{Message, NodeId, Outcome, OwnerTable, Shard, Ticket, View};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::{Driver, Token};
use echoring_topics::{ClientId, Creator, Position, Publication, Refused, TopicId};
use tokio::sync::mpsc;

use super::Broadcast;
use super::events::SessionEvent;
use super::mail_codec::REFUSALS;
use super::session::{AllowedBy, ReplayState};
use super::sessions::close_moved;
use super::shard_mail::{PublishResult, Publisher, ShardMail};
use super::subscriptions::Waiting;
use super::topic_read::{TopicAnswer, TopicRead};
use crate::cluster_mail::{
    ClusterCommand, ClusterEvent, ClusterIdentity, Inbox, Links, RelayOutbox, RelaySender, StreamSender,
};
use crate::limits::CLUSTER_STAGED_BYTES_MAX;
use crate::peer::{ConnectionContext, Context, Peer};
pub(super) use behind::PageAhead;
use durable::Streams;
pub(super) use durable::{ConnectionReader, PageReader, PageRequest, StreamRange};
use entry::{Entry, Origin};
use store::Store;

/// The arguments of a shard of a node in a cluster.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// The node.
    pub identity: ClusterIdentity,
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
pub(super) struct ClusterShard {
    node: NodeId,
    table: OwnerTable,
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
    /// The waiter for the handover of the topics of others.
    settles: Vec<u64>,
    streams: Streams,
}

/// The waiter for the outcome of a publication.
#[derive(Debug)]
enum Undecided {
    Client(Publisher, Box<str>),
    Operator,
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
pub(super) struct ClusterQueue {
    /// Topics with new or fewer subscribers.
    touched: Vec<Box<str>>,
    publications: VecDeque<StagedPublication>,
    /// Clients that have joined topics with presence or left them.
    members: VecDeque<StagedMember>,
    staged_bytes: usize,
    /// Durable topics of this node whose streams are read again, because a client is ahead of them.
    rereads: BTreeSet<Box<str>>,
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
struct StagedMember {
    topic: Box<str>,
    client: ClientId,
    /// Its subject if it has joined.
    joined: Option<Box<str>>,
}

impl ClusterShard {
    pub(super) fn new(settings: ClusterSettings) -> ClusterShard {
        let ClusterSettings { identity: ClusterIdentity { node, key }, commands, inbox, streams, .. } =
            settings;
        ClusterShard {
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
            settles: Vec::new(),
            streams: Streams::new(streams),
        }
    }

    /// Whether this shard gives a publication its position.
    #[inline]
    pub(super) fn orders(&self, name: &str) -> bool {
        self.table.orders(name)
    }

    /// Whether this node owns a topic, also if a stream gives its publications their positions.
    pub(super) fn owns(&self, name: &str) -> bool {
        self.table.is_owner(name)
    }

    /// Whether the stream of a durable topic of this node is being read, as another node may have stored more.
    pub(super) fn reads_stream(&self, name: &str) -> bool {
        self.table.reads_stream(name)
    }

    /// Whether another publication may wait for other nodes.
    pub(super) fn has_room(&self, queue: &ClusterQueue, bytes: usize) -> bool {
        // A single publication above the bounds may wait alone.
        queue.staged_bytes == 0 && self.table.has_room(0)
            || queue.staged_bytes + bytes <= CLUSTER_STAGED_BYTES_MAX
                && self.table.has_room(queue.staged_bytes + bytes)
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
            let entry = self.entry(publisher, publication, "");
            self.table.forward(&mut self.links, name, position, &entry);
        }
    }

    fn entry(&self, publisher: &Publisher, publication: Publication<'_>, idempotency_key: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (origin, by_client) = (Origin::of(publisher), !publisher.is_operator());
        Entry { node: self.node, origin, by_client, publication, idempotency_key }.write(&mut bytes);
        bytes
    }

    /// Leaves a publication to the owner of its topic on another node, which decides.
    pub(super) fn stage(
        &self,
        queue: &mut ClusterQueue,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Ticket {
        let entry = self.entry(&publisher, publication, idempotency_key);
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

    /// Whether the shard knows the topic's position, and everything up to it.
    pub(super) fn is_live(&self, name: &str) -> bool {
        self.table.is_live(name) && !self.heads.contains_key(name)
    }

    /// A shard subscribes to a topic with an unknown position. It is answered later.
    pub(super) fn wait(
        &mut self,
        queue: &mut ClusterQueue,
        name: &str,
        creator: Creator,
        shard: usize,
        local: TopicId,
    ) {
        queue.touch(name);
        self.waiting.entry(name.into()).or_default().push(Waits::Shard { shard, local, creator });
    }

    /// An operator reads a topic, which is followed for that. Returns the question if it can be answered now; otherwise it is
    /// answered later, or nobody waits for it.
    pub(super) fn begin_read(
        &mut self,
        queue: &mut ClusterQueue,
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
    fn end_reads(&mut self, queue: &mut ClusterQueue, now: Nanos) {
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

    /// The shard has forgotten a topic.
    pub(super) fn forget(&mut self, name: &str) {
        self.table.forget(name);
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

impl ClusterQueue {
    /// A topic has got or lost subscribers.
    pub(super) fn touch(&mut self, name: &str) {
        self.touched.push(name.into());
    }

    /// The stream of a durable topic that this node owns must be read again.
    pub(super) fn reread(&mut self, name: &str) {
        self.rereads.insert(name.into());
    }

    /// Whether that is still to be done.
    pub(super) fn rereads(&self, name: &str) -> bool {
        self.rereads.contains(name)
    }

    /// A client of this node has joined a topic with presence, with its subject, or has left it.
    pub(super) fn change_member(&mut self, name: &str, client: ClientId, joined: Option<&str>) {
        let staged = StagedMember { topic: name.into(), client, joined: joined.map(Into::into) };
        self.members.push_back(staged);
    }

    fn is_empty(&self) -> bool {
        self.touched.is_empty()
            && self.rereads.is_empty()
            && self.publications.is_empty()
            && self.pages.is_empty()
            && self.members.is_empty()
    }
}

impl Broadcast {
    /// Takes events of the cluster, at the end of the tick.
    pub fn cluster_events(&mut self, events: Vec<ClusterEvent>) {
        if let Some(cluster) = &mut self.sequencer.cluster {
            cluster.events.extend(events);
        }
    }

    /// When the cluster has work without an event.
    pub(super) fn cluster_deadline(&self) -> Option<Nanos> {
        let cluster = self.sequencer.cluster.as_ref()?;
        let has_members_due = cluster.table.has_members_due();
        if !cluster.events.is_empty() || !self.sequencer.queue.is_empty() || has_members_due {
            return Some(self.now + super::RETRY_DELAY);
        }
        let ahead = self.sequencer.queue.ahead.iter().map(|page| page.look_at).min();
        ahead.into_iter().chain(cluster.deadline()).min()
    }

    /// Does the work that the tick has left for the cluster, and handles the events of other nodes.
    pub(super) fn advance_cluster<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        self.sequencer.tell_forgotten();
        let Some(mut cluster) = self.sequencer.cluster.take() else { return };
        let is_idle = cluster.events.is_empty()
            && self.sequencer.queue.is_empty()
            && !cluster.table.has_members_due()
            && cluster.deadline().is_none_or(|at| at > self.now);
        if !is_idle {
            cluster.end_reads(&mut self.sequencer.queue, self.now);
            self.take_members(cx, &mut cluster);
            self.take_touched(cx, &mut cluster);
            for name in std::mem::take(&mut self.sequencer.queue.rereads) {
                self.with_table(cx, &mut cluster, |table, shard| table.reload(shard, &name));
            }
            self.take_publications(cx, &mut cluster);
            while self.sequencer.queue.publications.is_empty()
                && self.takes_requests(cx)
                && let Some(event) = cluster.events.pop_front()
            {
                self.take_event(cx, &mut cluster, event);
            }
            if cluster.table.deadline().is_some_and(|at| at <= self.now) {
                self.with_table(cx, &mut cluster, |table, shard| table.handle_time(shard));
            }
            if cluster.table.has_members_due() && self.takes_requests(cx) {
                self.with_table(cx, &mut cluster, |table, shard| table.flush_members(shard));
            }
            self.ask_streams(cx.shard(), &mut cluster);
            self.answer_waiting(cx, &mut cluster);
            if cluster.table.is_settled() {
                for number in std::mem::take(&mut cluster.settles) {
                    cluster.links.settled(number);
                }
            }
        }
        cluster.links.flush();
        self.sequencer.relay.iter_mut().for_each(RelayOutbox::flush);
        self.sequencer.cluster = Some(cluster);
        if !self.sequencer.queue.ahead.is_empty() {
            self.answer_reached(cx);
        }
    }

    /// Calls the owner table, which may call back into everything else.
    fn with_table<D: Driver, T>(
        &mut self,
        cx: &mut Context<'_, D>,
        cluster: &mut ClusterShard,
        call: impl FnOnce(&mut OwnerTable, &mut Shard<'_>) -> T,
    ) -> T {
        let ClusterShard { node, table, links, heads, .. } = cluster;
        let now = self.now;
        let mut store = Store { broadcast: self, cx, heads, node: *node };
        call(table, &mut Shard { store: &mut store, peers: links, now })
    }

    /// Changes of members come before the end of their subscriptions.
    fn take_members<D: Driver>(&mut self, cx: &mut Context<'_, D>, cluster: &mut ClusterShard) {
        while self.takes_requests(cx)
            && let Some(StagedMember { topic, client, joined }) = self.sequencer.queue.members.pop_front()
        {
            self.with_table(cx, cluster, |table, shard| {
                table.change_presence(shard, &topic, client, joined.as_deref());
            });
        }
    }

    /// Follows topics that have subscribers, and no others.
    fn take_touched<D: Driver>(&mut self, cx: &mut Context<'_, D>, cluster: &mut ClusterShard) {
        for name in std::mem::take(&mut self.sequencer.queue.touched) {
            let is_wanted = self.sequencer.topics.is_subscribed(&name)
                || cluster.waiting.contains_key(&name)
                || cluster.reads.contains_key(&name);
            self.with_table(cx, cluster, |table, shard| match is_wanted {
                true => table.subscribe(shard, &name),
                false => table.unsubscribe(shard, &name),
            });
        }
    }

    fn take_publications<D: Driver>(&mut self, cx: &mut Context<'_, D>, cluster: &mut ClusterShard) {
        while self.takes_requests(cx)
            && let Some(staged) = self.sequencer.queue.publications.pop_front()
        {
            let StagedPublication { topic, ticket, waits, entry } = staged;
            self.sequencer.queue.staged_bytes -= entry.len();
            cluster.undecided.insert(ticket, waits);
            let published =
                self.with_table(cx, cluster, |table, shard| table.publish(shard, &topic, ticket, &entry));
            if published.is_err() {
                self.decide(cx, cluster, ticket, Err(Refused::Busy));
            }
        }
    }

    fn take_event<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        cluster: &mut ClusterShard,
        event: ClusterEvent,
    ) {
        match event {
            ClusterEvent::Joined(node, state) => cluster.links.join(node, state),
            ClusterEvent::View(view) => {
                self.with_table(cx, cluster, |table, shard| table.handle_view(shard, view));
            }
            ClusterEvent::Open(is_open) => {
                self.with_table(cx, cluster, |table, shard| table.handle_open(shard, is_open));
            }
            ClusterEvent::Settle(number) => {
                self.with_table(cx, cluster, |table, shard| table.handle_settle(shard));
                cluster.settles.push(number);
            }
            ClusterEvent::Agreed => {
                self.with_table(cx, cluster, |table, shard| table.handle_settle(shard));
            }
            ClusterEvent::Reset(node) => {
                cluster.links.reset(node);
                self.with_table(cx, cluster, |table, shard| table.handle_reset(shard, node));
            }
            ClusterEvent::Message(from, bytes) => {
                cluster.inbox.remove(bytes.len());
                let Some(message) = Message::read(&bytes) else { return };
                self.with_table(cx, cluster, |table, shard| table.handle_message(shard, from, &message));
            }
            ClusterEvent::Away(is_away) => {
                self.with_table(cx, cluster, |table, shard| table.handle_away(shard, is_away));
            }
            ClusterEvent::Stream { topic, number, answer } => {
                self.with_table(cx, cluster, |table, shard| {
                    table.handle_stream(shard, &topic, number, answer);
                });
            }
            ClusterEvent::StreamPage { number, answer } => {
                if let Some(request) = cluster.streams.take(number) {
                    self.answer_page(cx, request, answer);
                }
            }
            ClusterEvent::Room => {
                self.with_table(cx, cluster, |table, shard| table.handle_time(shard));
            }
        }
    }

    /// Reports the outcomes of their publications to publishers, after the deliveries of the tick.
    pub(super) fn tell_outcomes<D: Driver>(&mut self, cx: &mut Context<'_, D>) {
        let Some(mut cluster) = self.sequencer.cluster.take() else { return };
        while let Some((ticket, outcome)) = cluster.table.poll_outcome() {
            let result = match outcome {
                Outcome::Accepted(position) => Ok(position),
                Outcome::Refused(number) => {
                    Err(REFUSALS.get(usize::from(number)).copied().unwrap_or(Refused::Busy))
                }
                Outcome::Unreachable => Err(Refused::Unreachable),
                Outcome::Uncertain => Err(Refused::Uncertain),
                Outcome::NoStorage => Err(Refused::NoStorage),
            };
            self.decide(cx, &mut cluster, ticket, result);
        }
        self.sequencer.cluster = Some(cluster);
    }

    /// Reports the outcome of its publication to a publisher.
    fn decide<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        cluster: &mut ClusterShard,
        ticket: Ticket,
        result: PublishResult,
    ) {
        match cluster.undecided.remove(&ticket) {
            Some(Undecided::Client(publisher, name)) if publisher.wants(result) => {
                let mail = ShardMail::PublishResult { publisher, result };
                self.answer(cx, usize::from(publisher.shard), mail, &[name.as_bytes()]);
            }
            Some(Undecided::Operator) => self.sequencer.queue.decided.push((ticket, result)),
            _ => {}
        }
    }

    /// Answers the shards that wait for topics whose position has become known, or whose stream does not exist.
    fn answer_waiting<D: Driver>(&mut self, cx: &mut Context<'_, D>, cluster: &mut ClusterShard) {
        let now = self.now;
        let is_known = |name: &str| cluster.is_live(name) || cluster.table.stores_nothing(name, now);
        let known: Vec<Box<str>> = cluster.waiting.keys().filter(|name| is_known(name)).cloned().collect();
        for name in known {
            let is_live = cluster.is_live(&name);
            for waits in cluster.waiting.remove(&name).unwrap_or_default() {
                match waits {
                    Waits::Shard { shard, local, creator } => {
                        let topics = &mut self.sequencer.topics;
                        let answer = match is_live {
                            true => topics.subscribe(&name, creator, shard, local, cx.pool()),
                            false => Err(Refused::NoStorage),
                        };
                        self.answer(cx, shard, ShardMail::Subscribed { local, answer }, &[]);
                    }
                    Waits::Operator(read, _) if is_live => self.answer_read(cx, read),
                    Waits::Operator(read, _) => read.answer(cx.shard(), TopicAnswer::Busy),
                }
            }
            // They may have left meanwhile.
            self.sequencer.queue.touch(&name);
        }
    }

    /// The topic continues in another epoch, or behind missing messages, at `position`: present subscribers are
    /// notified, and return for the messages that they lack.
    pub(super) fn interrupted<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        topic: TopicId,
        position: Position,
    ) {
        let Some(before) = self.subscriptions.epoch(topic) else { return };
        for (token, member) in self.fan_out.topics.subscribers(topic) {
            let Some((offset, _)) = self.fan_out.topics.reached(member) else { continue };
            let Some(mut link) = cx.link(token) else { continue };
            self.fan_out.topics.unsubscribe(member, link.pool());
            match &mut *link.peer {
                Peer::Subscriber(subscriber) => {
                    subscriber.member = None;
                    close_moved(&mut link);
                }
                Peer::Echo => {}
                peer => {
                    let Some(session) = peer.session_mut() else { continue };
                    let allowed_by =
                        session.take(topic).map_or(AllowedBy::Permission, |taken| taken.allowed_by);
                    self.tell_moved(&mut link, topic, allowed_by, Position { epoch: before, offset });
                    let client = self.client_id(&link);
                    self.report_presence(&mut link.resources(), topic, client, None);
                }
            }
        }
        self.interrupt_replays(cx, topic, before);
        if let Some(subscription) = self.subscriptions.get_mut(topic) {
            subscription.epoch = position.epoch;
            self.fan_out.topics.begin_at(topic, position.offset);
        }
        self.leave_if_deserted(&mut cx.resources(), topic);
    }

    /// The same for sessions that are sent messages of the history.
    fn interrupt_replays<D: Driver>(&mut self, cx: &mut Context<'_, D>, topic: TopicId, epoch: u64) {
        let waiting = self.subscriptions.get(topic).map(|subscription| &subscription.waiting[..]);
        let tokens: Vec<Token> = waiting.unwrap_or_default().iter().map(Waiting::token).collect();
        for token in tokens {
            let Some(mut link) = cx.link(token) else { continue };
            let Some(session) = link.peer.session_mut() else { continue };
            let Some(&mut ReplayState { id, .. }) = session.replay(topic) else { continue };
            let reached = session.reached(&self.fan_out.topics).find(|(other, ..)| *other == topic);
            let allowed_by = session.take(topic).map_or(AllowedBy::Permission, |taken| taken.allowed_by);
            self.subscriptions.stop_waiting(topic, token);
            match reached {
                Some((_, offset, _)) => {
                    self.tell_moved(&mut link, topic, allowed_by, Position { epoch, offset });
                }
                None if link.peer.is_event_stream() => close_moved(&mut link),
                None if allowed_by.is_server_side() => {
                    self.server_subscription_refused(&mut link, topic, Refused::Busy);
                }
                None if allowed_by == AllowedBy::Handler => {
                    self.handler_refused(&mut link, topic, Refused::Busy);
                }
                // It has no answer yet, and may ask again.
                None => self.sessions.refuse(&mut link, id, Refused::Busy),
            }
        }
    }

    /// Notifies a session that a subscription has ended at this position. An event stream has no other, so it ends.
    pub(super) fn tell_moved(
        &mut self,
        link: &mut ConnectionContext<'_>,
        topic: TopicId,
        allowed_by: AllowedBy,
        position: Position,
    ) {
        if link.peer.is_event_stream() {
            close_moved(link);
        } else {
            let name = self.fan_out.name(topic).to_owned();
            self.tell_ended(link, allowed_by, &SessionEvent::Moved { topic: &name, position });
        }
    }

    /// Marks subscribers of these shards as [`interrupted`](Broadcast::interrupted).
    fn interrupt<D: Driver>(
        &mut self,
        cx: &mut Context<'_, D>,
        shards: &[(usize, TopicId)],
        position: Position,
    ) {
        for &(shard, local) in shards {
            self.answer(cx, shard, ShardMail::Interrupted { local, position }, &[]);
        }
    }
}
