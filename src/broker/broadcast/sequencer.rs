//! The order of topics: those that this shard owns, and the requests to the owner shards of others.
//!
//! It gives each publication of an owned topic the next offset, keeps the history, and forwards messages and presence events to every
//! shard that subscribes. Forwards are posted without waiting. The caller checks the room of the forward lanes before it sequences
//! anything.
//!
//! In a cluster, the shard orders the publications of the topics that its node owns, and leaves others to their owner nodes.

use echoring_cluster::Ticket;
use echoring_proto::buffer::Pool;
use echoring_proto::limits::Nanos;
use echoring_runtime::shard::{Full, Lane, Mailboxes};
use echoring_topics::limits::{AUTHOR_BYTES_MAX, KEY_BYTES_MAX, TAGS_BYTES_MAX, TOPIC_BYTES_MAX};
use echoring_topics::{
    Accepted, CreationLimits, Creator, Members, OwnedTopicId, OwnedTopics, Page, Placement, Position,
    Publication, Refused, Relay, Replay, Rules, Submission, Subscribed, TopicId, Version,
};

use super::fan_out::FanOut;
use super::following::stream_pages::{
    ConnectionReader, PageAhead, PageReader, PageRequest, StreamRange, WantedPage,
};
use super::following::{Following, FollowingQueue};
use super::forwards::Forwards;
use super::pending_requests::PendingRequests;
use super::presence_changes::PresenceChanges;
use super::shard_mail::{AckMode, MembersQuery, OrderedMessage, PublishResult, Publisher, ShardMail};
use crate::limits::{CLUSTER_BEHIND_MAX, CLUSTER_BEHIND_TIMEOUT, IDEMPOTENCY_KEY_BYTES_MAX};
use crate::node_mail::RelayOutbox;
use crate::observer;
use crate::peer::{ConnectionContext, ShardResources};
use crate::publications::TopicPublication;

/// Maximum bytes of a message in a mailbox besides its payload.
pub const MAIL_OVERHEAD_BYTES: usize = TOPIC_BYTES_MAX
    + KEY_BYTES_MAX
    + IDEMPOTENCY_KEY_BYTES_MAX
    + Version::BYTES_MAX
    + AUTHOR_BYTES_MAX
    + TAGS_BYTES_MAX
    + 16;
/// Bytes of a page of history, unless a single message is longer.
pub(super) const PAGE_BYTES: usize = 32 * 1024;

/// A page of history, or the reason why there is none, and its messages.
pub(super) type PageAnswer = (Result<Page, Refused>, Vec<u8>);

/// The shards that order the messages of the topics that a shard owned when its process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OrderedBy {
    /// This shard itself.
    #[default]
    ThisProcess,
    /// None, until those of the other process have everything.
    Nobody,
    /// The owner shards of the process behind the bridge.
    FarShards,
}

/// The owned topics of a shard, and its requests to other owner shards.
#[derive(Debug)]
pub(super) struct Sequencer {
    pub(super) topics: OwnedTopics,
    pub(super) placement: Placement,
    max_message: usize,
    /// The same before a successor lowered it.
    own_max_message: usize,
    pub(super) ordered_by: OrderedBy,
    /// The bridge to the far shards is broken: nothing can be ordered any more.
    pub(super) has_lost_far_shards: bool,
    pub(super) forwards: Forwards,
    /// Requests to the owner shards of topics that wait for room.
    pub(super) requests: PendingRequests,
    /// The shard's part in a cluster of nodes. It is taken away while it is at work.
    pub(super) following: Option<Box<Following>>,
    /// The work that waits for it.
    pub(super) queue: FollowingQueue,
    /// Messages for other clients of NATS.
    pub(super) relay: Option<RelayOutbox>,
}

/// An accepted publication.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequenced {
    pub(super) position: Position,
    /// It was published before with the same idempotency key, or is an old version, and is not forwarded.
    pub(super) duplicate: bool,
    /// The topic on this shard, if this shard subscribes to it: the message is then to be [delivered](Sequencer::deliver_here).
    local: Option<TopicId>,
}

/// A message of a durable topic that is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a> {
    pub(super) publisher: &'a Publisher,
    pub(super) topic: &'a str,
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
    pub(super) fn new(topics: OwnedTopics, placement: Placement, max_message: usize) -> Sequencer {
        Sequencer {
            topics,
            placement,
            max_message,
            own_max_message: max_message,
            ordered_by: OrderedBy::default(),
            has_lost_far_shards: false,
            forwards: Forwards::default(),
            requests: PendingRequests::default(),
            following: None,
            queue: FollowingQueue::default(),
            relay: None,
        }
    }

    /// Shares the topics with other nodes.
    pub(super) fn join(&mut self, following: Following) {
        self.topics.list_forgotten();
        self.following = Some(Box::new(following));
    }

    /// Whether another publication may be taken that waits for other nodes.
    #[inline]
    pub(super) fn has_room_for_others(&self) -> bool {
        let has_room = |following: &Following| following.has_room(&self.queue, self.mail_bytes_max());
        self.forwards.is_empty() && self.following.as_deref().is_none_or(has_room)
    }

    /// Leaves a publication to another node, if this node does not order its topic. See [`Following::stage`].
    #[inline]
    pub(super) fn stage(&mut self, publisher: Publisher, message: &TopicPublication<'_>) -> Option<Ticket> {
        let following = self.following.as_ref().filter(|following| !following.orders(message.topic))?;
        Some(following.stage(&mut self.queue, publisher, message))
    }

    /// Informs the cluster which topics this shard has forgotten. Until it knows, it assumes that this node owns them;
    /// topics that are created again meanwhile would then begin another epoch.
    pub(super) fn tell_forgotten(&mut self) {
        if let Some(following) = &mut self.following {
            for name in self.topics.take_names_forgotten() {
                following.table.forget(&name);
            }
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
        if let Some(following) = &mut self.following {
            self.queue.touch(name);
            if !following.is_live(name) {
                following.wait(name, creator, shard, local);
                return None;
            }
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

    /// Takes the next message of a topic that another node orders, and delivers it.
    pub(super) fn accept(
        &mut self,
        fan_out: &mut FanOut,
        resources: &mut ShardResources<'_>,
        now: Nanos,
        owned: OwnedTopicId,
        message: &OrderedMessage<'_>,
    ) {
        let shards = self.topics.accept(owned, &message.publication, now, resources.pool);
        if let Some(local) = self.forwards.deliver(resources.mailboxes, shards, message) {
            fan_out.append(&mut self.topics, resources, local, message);
        }
    }

    /// Takes the next message of a durable topic that this node owns, and delivers it.
    pub(super) fn accept_stored(
        &mut self,
        fan_out: &mut FanOut,
        resources: &mut ShardResources<'_>,
        now: Nanos,
        owned: OwnedTopicId,
        stored: &Stored<'_>,
    ) {
        let &Stored { publisher, topic, submission, position } = stored;
        let publication = submission.publication;
        let Sequencer { topics, forwards, relay, .. } = self;
        let format = topics.relay(owned);
        let shards = topics.accept_stored(owned, &submission, now, resources.pool);
        let ordered = OrderedMessage { publisher, offset: position.offset, publication };
        let local = forwards.deliver(resources.mailboxes, shards, &ordered);
        if let Some(outbox) = relay.as_mut().filter(|_| format != Relay::Off) {
            outbox.push(topic, position, format, publication);
        }
        if let Some(local) = local {
            fan_out.append(topics, resources, local, &ordered);
        }
    }

    /// A successor accepts messages of this size.
    pub(super) fn lower_max_message(&mut self, bytes: u64) {
        self.own_max_message = self.max_message;
        self.max_message = self.max_message.min(bytes as usize);
    }

    /// The successor is lost: its limit has no effect any more.
    pub(super) fn restore_message_bytes_max(&mut self) {
        self.max_message = self.max_message.max(self.own_max_message);
    }

    pub(super) fn max_message(&self) -> usize {
        self.max_message
    }

    /// Uses other settings of topics from now on, and expects messages of `max_message`. Longer ones may still be
    /// on their way, so the bound never shrinks.
    pub(super) fn configure(&mut self, rules: Rules, creation: CreationLimits, max_message: usize) {
        self.topics.configure(rules, creation);
        self.max_message = self.max_message.max(max_message);
    }

    /// Maximum bytes of one message in a mailbox.
    pub(super) fn mail_bytes_max(&self) -> usize {
        self.max_message + MAIL_OVERHEAD_BYTES
    }

    /// Whether this shard orders the topics of an owner shard.
    pub(super) fn orders(&self, owner_shard: usize, here: usize) -> bool {
        owner_shard == here && self.ordered_by == OrderedBy::ThisProcess
    }

    /// Posts a request to the owner shard of a topic: at once unless others wait.
    pub(super) fn request(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        owner_shard: usize,
        mail: ShardMail,
        text: &str,
    ) {
        self.requests.push(owner_shard, mail, text);
        // Earlier requests are tried again at the end of the tick.
        if self.requests.len() == 1 {
            self.requests.post(mailboxes, self.ordered_by);
        }
    }

    /// Sequences a publication if this shard owns its topic; otherwise posts it to the owner.
    ///
    /// # Errors
    /// [`Full`], and nothing done, when a mailbox has no room.
    #[inline]
    pub(super) fn route(
        &mut self,
        resources: &mut ShardResources<'_>,
        now: Nanos,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) -> Result<Routed, Full> {
        let owner_shard = self.placement.owner(message.topic, resources.mailboxes.shards());
        let payload = message.publication.payload;
        if self.ordered_by == OrderedBy::Nobody {
            return Err(Full);
        }
        if self.ordered_by == OrderedBy::FarShards && payload.len() > self.max_message {
            return Ok(Routed::Here(Err(Refused::TooLarge)));
        }
        if !self.orders(owner_shard, resources.mailboxes.shard()) {
            self.post(resources.mailboxes, owner_shard, publisher, message)?;
            return Ok(Routed::Posted);
        }
        let bytes = message.publication.bytes();
        if !resources.mailboxes.all_have_room(Lane::Forward, bytes) || !self.has_room_for_others() {
            return Err(Full);
        }
        if self.stage(publisher, message).is_some() {
            return Ok(Routed::Posted);
        }
        Ok(Routed::Here(self.sequence(resources, now, publisher, message)))
    }

    fn post(
        &mut self,
        mailboxes: &mut Mailboxes<ShardMail>,
        owner_shard: usize,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) -> Result<(), Full> {
        let mail = ShardMail::Publish { publisher, head: message.head() };
        let bytes = message.parts();
        match self.ordered_by {
            OrderedBy::FarShards => mailboxes.post_far(owner_shard, mail, &bytes)?,
            OrderedBy::ThisProcess | OrderedBy::Nobody => {
                mailboxes.post(owner_shard, Lane::Request, mail, &bytes)?;
            }
        }
        self.forwards.passed.publications_out += 1;
        Ok(())
    }

    /// Gives a publication its offset and forwards it to every other shard that subscribes. The caller has checked that the
    /// forward lanes have room.
    pub(super) fn sequence(
        &mut self,
        resources: &mut ShardResources<'_>,
        now: Nanos,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) -> Result<Sequenced, Refused> {
        let TopicPublication { topic, publication, idempotency_key, version } = *message;
        let by_client = !publisher.is_operator();
        let Sequencer { topics, forwards, following, relay, .. } = self;
        let owned = topics
            .find_or_create(topic, publisher.creator(), now, resources.pool)
            .inspect_err(|_| topics.note_refused())?;
        let relay = relay
            .as_mut()
            .map(|outbox| (topics.relay(owned), outbox))
            .filter(|(format, _)| *format != Relay::Off);
        let (position, shards) = if idempotency_key.is_empty() && version.is_none() {
            topics.publish(owned, &publication, by_client, now, resources.pool)?
        } else {
            let pool = &mut *resources.pool;
            let submission = Submission { publication, idempotency_key, by_client, version };
            match topics.publish_once(owned, &submission, now, pool)? {
                Accepted::New(position, shards) => (position, shards),
                Accepted::Again(position) => return Ok(Sequenced { position, duplicate: true, local: None }),
            }
        };
        observer::published(topic, position, &publication);
        let ordered = OrderedMessage { publisher: &publisher, offset: position.offset, publication };
        let local = forwards.deliver(resources.mailboxes, shards, &ordered);
        if let Some(following) = following {
            following.forward(topic, position, &publisher, publication);
        }
        if let Some((format, outbox)) = relay {
            outbox.push(topic, position, format, publication);
        }
        Ok(Sequenced { position, duplicate: false, local })
    }

    /// Delivers a message to this shard's own subscribers, if it has any.
    #[inline]
    pub(super) fn deliver_here(
        &mut self,
        fan_out: &mut FanOut,
        resources: &mut ShardResources<'_>,
        publisher: &Publisher,
        sequenced: Result<Sequenced, Refused>,
        publication: Publication<'_>,
    ) -> PublishResult {
        let Sequenced { position, local, .. } = sequenced?;
        if let Some(topic) = local {
            let ordered = OrderedMessage { publisher, offset: position.offset, publication };
            fan_out.append(&mut self.topics, resources, topic, &ordered);
        }
        Ok(position)
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

    /// A page of history for a connection of this shard. `None` if it follows: from the owner shard, or once this node has it.
    pub(super) fn request_page(
        &mut self,
        link: &mut ConnectionContext<'_>,
        local: TopicId,
        (owner_shard, owned): (usize, OwnedTopicId),
        from: Replay,
    ) -> Option<PageAnswer> {
        let token = link.token;
        if !self.orders(owner_shard, link.mailboxes.shard()) {
            let mail = ShardMail::ReplayRequest { owned, local, token, from };
            self.request(link.mailboxes, owner_shard, mail, "");
            return None;
        }
        let (now, reader) = (link.now(), ConnectionReader { shard: owner_shard, local, token });
        self.history_for(reader, WantedPage { owned, from }, now, link.pool())
    }

    /// A page of a topic's history. It fits one message to another shard.
    pub(super) fn history(&mut self, wanted: WantedPage, now: Nanos, pool: &mut Pool) -> PageAnswer {
        let WantedPage { owned, from } = wanted;
        let bytes_max = PAGE_BYTES.min(self.max_message);
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
        wanted: WantedPage,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<PageAnswer> {
        let until = now + CLUSTER_BEHIND_TIMEOUT;
        self.ask_stream(wanted);
        if !self.is_behind(wanted) {
            return self.read_history(reader, wanted, until, now, pool);
        }
        if self.queue.ahead.len() >= CLUSTER_BEHIND_MAX {
            return Some((Err(Refused::Behind), Vec::new()));
        }
        self.queue.ahead.push(PageAhead { reader, wanted, look_at: until, until });
        None
    }

    /// Causes the stream of a durable topic to be read again if a page begins behind everything that the topic has
    /// here: another node may have stored more without this one's knowledge.
    fn ask_stream(&mut self, wanted: WantedPage) {
        let Some(following) = self.following.as_deref() else { return };
        let Some(name) = self.name_if_ahead(wanted) else { return };
        if following.table.is_owner(name) && self.topics.durable(name).is_on {
            let name = name.into();
            self.queue.rereads.insert(name);
        }
    }

    /// The name of a topic, if a page begins behind everything that it has here.
    fn name_if_ahead(&self, WantedPage { owned, from }: WantedPage) -> Option<&str> {
        let (Replay::After(after) | Replay::Continued(after)) = from else { return None };
        let name = self.topics.name(owned)?;
        self.topics.position(name).is_some_and(|head| head.offset < after).then_some(name)
    }

    /// Whether a page begins behind a position that this node's copy of a topic has not reached. The topic's owner, or
    /// its stream, may have: another node has sent a client a later position.
    pub(super) fn is_behind(&self, wanted: WantedPage) -> bool {
        let Some(following) = self.following.as_deref() else { return false };
        let may_have = |name| {
            !following.table.is_owner(name)
                || self.queue.rereads.contains(name)
                || following.table.reads_stream(name)
        };
        self.name_if_ahead(wanted).is_some_and(may_have)
    }

    /// A page of a topic's history for a connection, as this node has it. `None` if it is answered once the topic's stream has been
    /// read, which is tried until `until`.
    pub(super) fn read_history(
        &mut self,
        reader: ConnectionReader,
        wanted: WantedPage,
        until: Nanos,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<PageAnswer> {
        let Some(stream) = self.stream_range(wanted, now, pool) else {
            return Some(self.history(wanted, now, pool));
        };
        let reader = PageReader::Connection(reader, until);
        self.queue.pages.push(PageRequest { reader, wanted, stream });
        None
    }

    /// The part of the topic's stream that a page must be read from; `None` if the page is in memory, or no longer stored.
    pub(super) fn stream_range(
        &mut self,
        wanted: WantedPage,
        now: Nanos,
        pool: &mut Pool,
    ) -> Option<StreamRange> {
        let after = self.topics.stream_position(wanted.owned, wanted.from, now, pool)?;
        let topic = self.topics.name(wanted.owned)?;
        Some(StreamRange { topic: topic.into(), durable: self.topics.durable(topic), after })
    }

    /// A page of a topic's member list, as a subscriber gets it. It fits one message to another shard.
    pub(super) fn members(
        &mut self,
        owned: OwnedTopicId,
        query: MembersQuery,
        untold: &mut PresenceChanges,
        bytes_max: usize,
    ) -> (Option<Members>, Vec<u8>) {
        let mut bytes = Vec::new();
        let most = usize::from(query.limit);
        untold.note_listed(owned);
        let members = self.topics.members(owned, query.after, most, bytes_max, &mut bytes);
        (members, bytes)
    }
}
