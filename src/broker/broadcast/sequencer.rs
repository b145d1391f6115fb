//! The topics that this shard owns: it gives each publication the next offset, keeps the history, and forwards messages
//! and presence events to every shard that subscribes.
//!
//! Forwards are posted without waiting. The caller checks the room of the forward lanes before it sequences anything.
//!
//! In a cluster, the shard orders the publications of the topics that its node owns, and leaves others to their owners.

use echoring_cluster::Ticket;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::{Full, Lane, Mailboxes, ShardResources};
use echoring_topics::limits::{KEY_BYTES_MAX, TOPIC_BYTES_MAX};
use echoring_topics::{
    Accepted, ClientId, CreationLimits, Creator, Members, OwnedTopicId, OwnedTopics, Page, Passed, Placement,
    Position, Publication, Refused, Relay, Replay, Rules, Submission, Subscribed, TopicId,
};

use super::cluster::{
    ClusterQueue, ClusterShard, ConnectionReader, PageAhead, PageReader, PageRequest, StreamRange,
};
use super::forwards::Forwards;
use super::handover::Ordering;
use super::shard_mail::{AckMode, MembersQuery, Publisher, ShardMail};
use crate::cluster_mail::RelayOutbox;
use crate::limits::{CLUSTER_BEHIND_MAX, CLUSTER_BEHIND_TIMEOUT, IDEMPOTENCY_KEY_BYTES_MAX};
use crate::observer;

/// Maximum bytes of a message in a mailbox besides its payload.
pub const MAIL_OVERHEAD_BYTES: usize = TOPIC_BYTES_MAX + KEY_BYTES_MAX + IDEMPOTENCY_KEY_BYTES_MAX + 16;
/// Bytes of a page of history, unless a single message is longer.
pub(super) const PAGE_BYTES: usize = 32 * 1024;

/// A page of history, or the reason why there is none, and its messages.
pub(super) type PageAnswer = (Result<Page, Refused>, Vec<u8>);

/// The owned topics of a shard.
#[derive(Debug)]
pub(super) struct Sequencer {
    pub(super) topics: OwnedTopics,
    placement: Placement,
    message_bytes_max: usize,
    pub(super) ordering: Ordering,
    pub(super) passed: Passed,
    pub(super) forwards: Forwards,
    /// The shard's part in a cluster of nodes. It is taken away while it is at work.
    pub(super) cluster: Option<Box<ClusterShard>>,
    /// The request that waits for it.
    pub(super) queue: ClusterQueue,
    /// Messages for other clients of NATS.
    pub(super) relay: Option<RelayOutbox>,
}

/// An accepted publication.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequenced {
    pub(super) position: Position,
    /// It was published before with the same idempotency key, and is not forwarded again.
    pub(super) duplicate: bool,
    /// The topic on this shard, if this shard subscribes to it: the caller delivers the message there.
    pub(super) local: Option<TopicId>,
}

/// A message of a durable topic that is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) submission: Submission<'a>,
    pub(super) position: Position,
}

/// The route of a publication from this shard.
#[derive(Clone, Copy, Debug)]
pub(super) enum Routed {
    /// This shard is the owner.
    Here(Result<Sequenced, Refused>),
    /// The publication was posted to its owner, which answers.
    Posted,
}

impl Sequencer {
    pub(super) fn new(topics: OwnedTopics, placement: Placement, message_bytes_max: usize) -> Sequencer {
        let ordering = Ordering::default();
        Sequencer {
            topics,
            placement,
            message_bytes_max,
            ordering,
            passed: Passed::default(),
            forwards: Forwards::default(),
            cluster: None,
            queue: ClusterQueue::default(),
            relay: None,
        }
    }

    /// Shares the topics with other nodes.
    pub(super) fn join(&mut self, cluster: ClusterShard) {
        self.topics.list_forgotten();
        self.cluster = Some(Box::new(cluster));
    }

    /// Whether another publication may be taken that waits for other nodes.
    #[inline]
    pub(super) fn has_room_for_others(&self) -> bool {
        let has_room = |cluster: &ClusterShard| cluster.has_room(&self.queue, self.mail_bytes_max());
        self.forwards.is_empty() && self.cluster.as_deref().is_none_or(has_room)
    }

    /// Leaves a publication to another node, if this node does not order its topic. See [`ClusterShard::stage`].
    #[inline]
    pub(super) fn stage(
        &mut self,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Option<Ticket> {
        let cluster = self.cluster.as_ref().filter(|cluster| !cluster.orders(name))?;
        Some(cluster.stage(&mut self.queue, name, publisher, publication, idempotency_key))
    }

    /// Informs the cluster which topics this shard has forgotten. Until it knows, it assumes that this node owns them;
    /// topics that are created again meanwhile would then begin another epoch.
    pub(super) fn tell_forgotten(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            self.topics.take_names_forgotten().iter().for_each(|name| cluster.forget(name));
        }
    }

    /// Subscribes a shard to a topic. `None` if it is answered once the topic's position is known.
    pub(super) fn subscribe(
        &mut self,
        name: &str,
        creator: Creator,
        shard: usize,
        local: TopicId,
        pool: &mut Pool,
    ) -> Option<Result<Subscribed, Refused>> {
        self.tell_forgotten();
        if let Some(cluster) = &mut self.cluster {
            if !cluster.is_live(name) {
                cluster.wait(&mut self.queue, name, creator, shard, local);
                return None;
            }
            self.queue.touch(name);
        }
        Some(self.topics.subscribe(name, creator, shard, local, pool))
    }

    /// Ends the subscription of a shard.
    pub(super) fn unsubscribe(
        &mut self,
        owned: OwnedTopicId,
        shard: usize,
        local: TopicId,
        now: Nanos,
        pool: &mut Pool,
    ) {
        if self.topics.lists_forgotten()
            && let Some(name) = self.topics.name(owned)
        {
            self.queue.touch(name);
        }
        self.topics.unsubscribe(owned, shard, local, now, pool);
    }

    /// Takes the next message of a topic that another node orders, and forwards it.
    pub(super) fn accept(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        now: Nanos,
        owned: OwnedTopicId,
        publisher: &Publisher,
        offset: u64,
        publication: Publication<'_>,
    ) -> Option<TopicId> {
        let Sequencer { topics, passed, forwards, .. } = self;
        let shards = topics.accept(owned, &publication, now, resources.pool);
        forward_message(forwards, passed, resources.mailboxes, shards, publisher, offset, publication)
    }

    /// Takes the next message of a durable topic that this node owns, and forwards it.
    pub(super) fn accept_stored(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        now: Nanos,
        owned: OwnedTopicId,
        name: &str,
        publisher: &Publisher,
        stored: &Stored<'_>,
    ) -> Option<TopicId> {
        let &Stored { submission, position } = stored;
        let publication = submission.publication;
        let Sequencer { topics, passed, forwards, relay, .. } = self;
        let format = topics.relay(owned);
        let shards = topics.accept_stored(owned, &submission, now, resources.pool);
        let local = forward_message(
            forwards,
            passed,
            resources.mailboxes,
            shards,
            publisher,
            position.offset,
            publication,
        );
        if let Some(outbox) = relay.as_mut().filter(|_| format != Relay::Off) {
            outbox.push(name, position, format, publication);
        }
        local
    }

    /// A successor accepts messages of this size.
    pub(super) fn lower_message_bytes_max(&mut self, bytes: u64) {
        self.message_bytes_max = self.message_bytes_max.min(bytes as usize);
    }

    /// The shard that owns the topic `name`.
    pub(super) fn owner_of(&self, name: &str, shards: usize) -> usize {
        self.placement.owner(name, shards)
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Uses other settings of topics from now on, and expects messages of `message_bytes_max`. Longer ones may still be
    /// on their way, so the bound never shrinks.
    pub(super) fn configure(&mut self, rules: Rules, creation: CreationLimits, message_bytes_max: usize) {
        self.topics.configure(rules, creation);
        self.message_bytes_max = self.message_bytes_max.max(message_bytes_max);
    }

    /// Maximum bytes of one message in a mailbox.
    pub(super) fn mail_bytes_max(&self) -> usize {
        self.message_bytes_max + MAIL_OVERHEAD_BYTES
    }

    /// Sequences a publication if this shard owns its topic; otherwise posts it to the owner.
    ///
    /// # Errors
    /// [`Full`], and nothing done, when a mailbox has no room.
    #[inline]
    pub(super) fn route(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        now: Nanos,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<Routed, Full> {
        let owner = self.owner_of(name, resources.mailboxes.shards());
        if self.ordering == Ordering::Frozen {
            return Err(Full);
        }
        if self.ordering == Ordering::Theirs && publication.payload.len() > self.message_bytes_max {
            return Ok(Routed::Here(Err(Refused::TooLarge)));
        }
        if owner != resources.mailboxes.shard() || self.ordering == Ordering::Theirs {
            self.post(resources.mailboxes, owner, name, publisher, publication, idempotency_key)?;
            return Ok(Routed::Posted);
        }
        let bytes = publication.payload.len() + publication.key.len();
        if !resources.mailboxes.all_have_room(Lane::Forward, bytes) || !self.has_room_for_others() {
            return Err(Full);
        }
        if self.stage(name, publisher, publication, idempotency_key).is_some() {
            return Ok(Routed::Posted);
        }
        Ok(Routed::Here(self.sequence(resources, now, name, publisher, publication, idempotency_key)))
    }

    fn post(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        owner: usize,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<(), Full> {
        let Publication { content, key, payload } = publication;
        let mail = ShardMail::Publish {
            publisher,
            content,
            name_bytes: name.len() as u8,
            key_bytes: key.len() as u8,
            idempotency_bytes: idempotency_key.len() as u8,
        };
        let bytes = [name.as_bytes(), key.as_bytes(), idempotency_key.as_bytes(), payload];
        match self.ordering {
            Ordering::Theirs => mailboxes.post_far(owner, mail, &bytes)?,
            Ordering::Own | Ordering::Frozen => mailboxes.post(owner, Lane::Request, mail, &bytes)?,
        }
        self.passed.publications_out += 1;
        Ok(())
    }

    /// Gives a publication its offset and forwards it to every other shard that subscribes. The caller has checked that the
    /// forward lanes have room.
    pub(super) fn sequence(
        &mut self,
        resources: &mut ShardResources<'_, ShardMail>,
        now: Nanos,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Result<Sequenced, Refused> {
        let by_client = !publisher.is_operator();
        let Sequencer { topics, passed, forwards, cluster, relay, .. } = self;
        let owned = topics
            .find_or_create(name, publisher.creator(), now, resources.pool)
            .inspect_err(|_| topics.note_refused())?;
        let relay = relay
            .as_mut()
            .map(|outbox| (topics.relay(owned), outbox))
            .filter(|(format, _)| *format != Relay::Off);
        let (position, shards) = if idempotency_key.is_empty() {
            topics.publish(owned, &publication, by_client, now, resources.pool)?
        } else {
            let pool = &mut *resources.pool;
            let submission = Submission { publication, idempotency_key, by_client };
            match topics.publish_once(owned, &submission, now, pool)? {
                Accepted::New(position, shards) => (position, shards),
                Accepted::Again(position) => return Ok(Sequenced { position, duplicate: true, local: None }),
            }
        };
        observer::published(name, position, &publication);
        let offset = position.offset;
        let local =
            forward_message(forwards, passed, resources.mailboxes, shards, &publisher, offset, publication);
        if let Some(cluster) = cluster {
            cluster.forward(name, position, &publisher, publication);
        }
        if let Some((format, outbox)) = relay {
            outbox.push(name, position, format, publication);
        }
        Ok(Sequenced { position, duplicate: false, local })
    }

    /// Whether the publisher's shard needs a [`ShardMail::PublishResult`]. Where the message is delivered to that shard, the
    /// delivery is the answer.
    pub(super) fn wants_result(
        &self,
        name: &str,
        publisher: &Publisher,
        sequenced: Result<Sequenced, Refused>,
    ) -> bool {
        match (publisher.ack_mode, sequenced) {
            (AckMode::Never, _) => false,
            (AckMode::OnRefusal, result) => result.is_err(),
            (AckMode::Always(_), Ok(Sequenced { duplicate: false, .. })) => {
                !self.topics.forwards_to(name, usize::from(publisher.shard))
            }
            (AckMode::Always(_), _) => true,
        }
    }

    /// A page of a topic's history. It fits one message to another shard.
    pub(super) fn history(
        &mut self,
        owned: OwnedTopicId,
        from: Replay,
        now: Nanos,
        pool: &mut Pool,
    ) -> PageAnswer {
        let bytes_max = PAGE_BYTES.min(self.message_bytes_max);
        match self.topics.history(owned, from, bytes_max, now, pool) {
            Some((page, messages)) => (Ok(page), messages),
            None => (Err(Refused::Busy), Vec::new()),
        }
    }

    /// A page of a topic's history for a connection. `None` if it is answered later: once this node has reached the position behind
    /// which the page begins, or once the topic's stream has been read.
    pub(super) fn history_for(
        &mut self,
        reader: ConnectionReader,
        owned: OwnedTopicId,
        from: Replay,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<PageAnswer> {
        let until = now + CLUSTER_BEHIND_TIMEOUT;
        self.ask_stream(owned, from);
        if !self.is_behind(owned, from) {
            return self.read_history(reader, owned, from, until, now, pool);
        }
        if self.queue.ahead.len() >= CLUSTER_BEHIND_MAX {
            return Some((Err(Refused::Behind), Vec::new()));
        }
        self.queue.ahead.push(PageAhead { reader, owned, from, look_at: until, until });
        None
    }

    /// Causes the stream of a durable topic to be read again if a page begins behind everything that the topic has
    /// here: another node may have stored more without this one's knowledge.
    fn ask_stream(&mut self, owned: OwnedTopicId, from: Replay) {
        let Some(cluster) = self.cluster.as_deref().filter(|_| self.is_ahead(owned, from)) else { return };
        let Some(name) = self.topics.name(owned) else { return };
        if cluster.owns(name) && self.topics.durable(name).is_on {
            self.queue.reread(name);
        }
    }

    /// Whether a page begins behind everything that a topic has here.
    fn is_ahead(&self, owned: OwnedTopicId, from: Replay) -> bool {
        let Replay::After(after) = from else { return false };
        let head = self.topics.name(owned).and_then(|name| self.topics.position(name));
        head.is_some_and(|head| head.offset < after)
    }

    /// Whether a page begins behind a position that this node's copy of a topic has not reached. The topic's owner, or
    /// its stream, may have: another node has sent a client a later position.
    pub(super) fn is_behind(&self, owned: OwnedTopicId, from: Replay) -> bool {
        let Some(cluster) = self.cluster.as_deref().filter(|_| self.is_ahead(owned, from)) else {
            return false;
        };
        let may_have = |name| !cluster.owns(name) || self.queue.rereads(name) || cluster.reads_stream(name);
        self.topics.name(owned).is_some_and(may_have)
    }

    /// A page of a topic's history for a connection, as this node has it. `None` if it is answered once the topic's stream has been
    /// read, which is tried until `until`.
    pub(super) fn read_history(
        &mut self,
        reader: ConnectionReader,
        owned: OwnedTopicId,
        from: Replay,
        until: Nanos,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<PageAnswer> {
        let Some(stream) = self.stream_range(owned, from, now, pool) else {
            return Some(self.history(owned, from, now, pool));
        };
        let reader = PageReader::Connection(reader, until);
        self.queue.pages.push(PageRequest { reader, owned, from, stream });
        None
    }

    /// The part of the topic's stream that a page must be read from; `None` if the page is in memory, or no longer stored.
    pub(super) fn stream_range(
        &mut self,
        owned: OwnedTopicId,
        from: Replay,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<StreamRange> {
        let after = self.topics.stream_position(owned, from, now, pool)?;
        let topic = self.topics.name(owned)?;
        Some(StreamRange { topic: topic.into(), durable: self.topics.durable(topic), after })
    }

    /// A page of a topic's member list. It fits one message to another shard.
    pub(super) fn members(&mut self, owned: OwnedTopicId, query: MembersQuery) -> (Option<Members>, Vec<u8>) {
        let mut bytes = Vec::new();
        let (most, bytes_max) = (usize::from(query.limit), self.mail_bytes_max());
        let members = self.topics.members(owned, query.after, most, bytes_max, &mut bytes);
        (members, bytes)
    }

    /// Notifies the subscribing shards that a subscriber has joined or left. Returns the number of subscribers, and the
    /// topic on this shard, if this shard subscribes.
    pub(super) fn tell_presence(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        owned: OwnedTopicId,
        client: ClientId,
        subject: &str,
        joined: bool,
    ) -> Option<(u64, Option<TopicId>)> {
        let (count, shards) = self.topics.present(owned)?;
        let mail = |local| ShardMail::PresenceChanged { local, client, joined, count };
        let (local, _) = forward(&mut self.forwards, mailboxes, shards, mail, &[subject.as_bytes()]);
        Some((count, local))
    }
}

/// Forwards a message to every other shard of `shards`. Returns the topic on this shard, if it is among them.
fn forward_message(
    forwards: &mut Forwards,
    passed: &mut Passed,
    mailboxes: &mut Mailboxes<ShardMail>,
    shards: &[(usize, TopicId)],
    publisher: &Publisher,
    offset: u64,
    publication: Publication<'_>,
) -> Option<TopicId> {
    let Publication { content, key, payload } = publication;
    let (publisher, key_bytes) = (*publisher, key.len() as u8);
    let mail = |local| ShardMail::Deliver { local, publisher, offset, content, key_bytes };
    let (local, posted) = forward(forwards, mailboxes, shards, mail, &[key.as_bytes(), payload]);
    passed.messages_out += posted;
    local
}

/// Posts mail to every other shard of `shards`. Returns the topic on this shard, if it is among them, and the number of
/// messages posted.
fn forward(
    forwards: &mut Forwards,
    mailboxes: &mut Mailboxes<ShardMail>,
    shards: &[(usize, TopicId)],
    mail: impl Fn(TopicId) -> ShardMail,
    bytes: &[&[u8]],
) -> (Option<TopicId>, u64) {
    let (mut here, mut posted) = (None, 0);
    for &(shard, local) in shards {
        if shard == mailboxes.shard() {
            here = Some(local);
            continue;
        }
        forwards.post(mailboxes, shard, mail(local), bytes);
        posted += 1;
    }
    (here, posted)
}
