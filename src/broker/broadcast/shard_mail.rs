//! The messages that shards send one another about topics.

use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{
    ClientId, Creator, Members, Origin, OwnedTopicId, Page, Position, Publication, Refused, Replay,
    Subscribed, SubscriberId, TopicId,
};

use crate::publications::PublicationHead;

/// A publication's position, or why the topic's owner refused it.
pub(super) type PublishResult = Result<Position, Refused>;

/// A message between shards. Bytes travel with it, as described for each kind.
///
/// `local` is the name of a topic on the shard that subscribes, `owned` its name on the owner shard.
#[derive(Clone, Debug)]
pub enum ShardMail {
    /// To the owner: forward this topic. The bytes are its name.
    Subscribe {
        /// The topic on the subscribing shard.
        local: TopicId,
        /// The first subscriber, which creates the topic if it does not exist.
        creator: Creator,
    },
    /// The answer to `Subscribe`. Earlier publications are history; later ones follow in this lane.
    Subscribed {
        /// The topic on the subscribing shard.
        local: TopicId,
        /// The state of the topic on its owner.
        answer: Result<Subscribed, Refused>,
    },
    /// To the owner: stop forwarding this topic.
    Unsubscribe {
        /// The topic on its owner.
        owned: OwnedTopicId,
        /// The topic on the subscribing shard.
        local: TopicId,
    },
    /// The answer to `Unsubscribe`: no more mail about the topic follows.
    Unsubscribed {
        /// The topic on the shard that unsubscribed.
        local: TopicId,
    },
    /// To the owner: sequence a publication. The bytes are the topic's name, the keys, the version, the author, the tags and the payload.
    Publish {
        /// The publisher.
        publisher: Publisher,
        /// The type of the payload, and the lengths of the texts.
        head: PublicationHead,
    },
    /// To the publisher's shard: the result of a publication, if it was refused or the shard does not subscribe to the
    /// topic. The bytes are the topic's name.
    PublishResult {
        /// The publisher.
        publisher: Publisher,
        /// The position, or the refusal.
        result: Result<Position, Refused>,
    },
    /// To a subscribing shard: the next message of a topic. The bytes are the key, the author, the tags and the payload.
    Deliver {
        /// The topic on the receiving shard.
        local: TopicId,
        /// The publisher.
        publisher: Publisher,
        /// The offset of the message.
        offset: u64,
        /// See [`Publication::head`].
        head: u8,
        /// Length of the key in bytes.
        key_bytes: u8,
    },
    /// To the owner: send one page of history for one subscriber.
    ReplayRequest {
        /// The topic on its owner.
        owned: OwnedTopicId,
        /// The topic on the requesting shard.
        local: TopicId,
        /// The subscriber's connection.
        token: Token,
        /// Where the page starts.
        from: Replay,
    },
    /// The answer to `ReplayRequest`, with the messages in the bytes. If the page is complete, later mail in this lane
    /// continues it.
    ReplayPage {
        /// The topic on the requesting shard.
        local: TopicId,
        /// The subscriber's connection.
        token: Token,
        /// The `from` of the request.
        from: Replay,
        /// A description of the bytes. [`Refused::Behind`] if the node lacks the beginning of the page,
        /// [`Refused::Busy`] if the owner no longer knows the topic.
        page: Result<Page, Refused>,
    },
    /// To the owner: list the subscribers of a topic.
    MembersRequest {
        /// The topic on its owner.
        owned: OwnedTopicId,
        /// The topic on the requesting shard.
        local: TopicId,
        /// The query.
        query: MembersQuery,
    },
    /// The answer to `MembersRequest`, with the clients in the bytes.
    MembersPage {
        /// The topic on the requesting shard.
        local: TopicId,
        /// The query.
        query: MembersQuery,
        /// A description of the bytes; `None` if the owner no longer knows the topic.
        members: Option<Members>,
    },
    /// To the owner: a subscriber joined or left a topic with presence. The bytes are the profile of one that joined.
    Presence {
        /// The topic on its owner.
        owned: OwnedTopicId,
        /// The subscriber.
        client: ClientId,
        /// Joined; otherwise left.
        joined: bool,
    },
    /// To a subscribing shard: the same, in the order of the topic. The bytes are the profile.
    PresenceChanged {
        /// The topic on the receiving shard.
        local: TopicId,
        /// The subscriber.
        client: ClientId,
        /// Joined; otherwise left.
        joined: bool,
        /// Subscribers after the change.
        count: u64,
    },
    /// To the owner: a subscriber that has moved may have missed events of presence since this time.
    PresenceSince {
        /// The topic on its owner.
        owned: OwnedTopicId,
        /// The topic on the subscribing shard.
        local: TopicId,
        /// The subscriber's connection.
        token: Token,
        /// The time, by the clock of the host.
        since: Nanos,
    },
    /// The answer to `PresenceSince`, if there were any.
    PresenceMissed {
        /// The topic on the subscribing shard.
        local: TopicId,
        /// The subscriber's connection.
        token: Token,
    },
    /// To a subscribing shard: the topic continues at this position, in another epoch or behind messages that are
    /// missing here.
    Interrupted {
        /// The topic on the receiving shard.
        local: TopicId,
        /// The position at which it continues.
        position: Position,
    },
    /// To the owner: answer behind everything that earlier mail of this lane has caused, and keep all messages for a while, because
    /// connections of the sending shard are about to move.
    Fence {
        /// The fence of the sending shard.
        round: u32,
    },
    /// The answer to `Fence`: everything that the sending shard has ordered before is earlier in this lane.
    Fenced {
        /// The fence of the receiving shard.
        round: u32,
    },
    /// The sending shard drains and will post no more mail of this stage.
    DrainStageOver(DrainStage),
    /// The sending shard orders nothing and posts no requests behind this one.
    Stopped {
        /// The attempt to hand over.
        round: u32,
    },
}

/// The mail that a draining shard has posted the last of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainStage {
    /// Publications, to the owners of their topics.
    Publications,
    /// Messages, to subscribing shards.
    Messages,
    /// Requests of any kind.
    Everything,
}

/// A query for the subscribers of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersQuery {
    /// The session.
    pub(super) token: Token,
    /// The server lists the members by itself because the session missed presence events.
    pub(super) pushed: bool,
    /// The id of the client's request.
    pub(super) id: Option<u64>,
    /// List the members after this one.
    pub(super) after: Option<ClientId>,
    /// Maximum number of members.
    pub(super) limit: u16,
}

/// The publisher of a message, and how it wants the message acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    pub(super) shard: u16,
    /// The number of the shard, in the numbers of clients.
    pub(super) number: u8,
    pub(super) token: Token,
    /// The number of its identity; 0 for none.
    pub(super) identity: u64,
    /// The publisher's own subscription, which does not get the message.
    pub(super) member: Option<SubscriberId>,
    pub(super) ack_mode: AckMode,
    /// The number of the request in its session.
    pub(super) request: u32,
    /// When the message was received.
    pub(super) received_at: Nanos,
}

/// A message in the order of its topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderedMessage<'a> {
    pub(super) publisher: &'a Publisher,
    pub(super) offset: u64,
    pub(super) publication: Publication<'a>,
}

/// When a publisher gets an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    /// Never: a raw route has no answers.
    Never,
    /// Only if the message is refused.
    OnRefusal,
    /// Always, with the id of the request.
    Always(u64),
}

impl Publisher {
    /// The admin address and a server's handle.
    pub(super) const fn operator(received_at: Nanos) -> Publisher {
        Publisher {
            shard: u16::MAX,
            number: 0,
            token: Token { index: u32::MAX, generation: 0 },
            identity: 0,
            member: None,
            ack_mode: AckMode::Never,
            request: 0,
            received_at,
        }
    }

    /// A client of another node.
    pub(super) const fn elsewhere(received_at: Nanos) -> Publisher {
        Publisher { shard: u16::MAX - 1, ..Publisher::operator(received_at) }
    }

    /// Whether the publisher is notified of a result that did not come with the message.
    pub(super) fn wants(&self, result: PublishResult) -> bool {
        match self.ack_mode {
            // A raw publisher is closed.
            AckMode::Never | AckMode::OnRefusal => result.is_err(),
            AckMode::Always(_) => true,
        }
    }

    fn is_client_of_this_node(&self) -> bool {
        self.shard < u16::MAX - 1
    }

    pub(super) fn is_operator(&self) -> bool {
        self.shard == u16::MAX
    }

    pub(super) fn is_on(&self, shard: usize) -> bool {
        usize::from(self.shard) == shard
    }

    pub(super) fn origin(&self) -> Origin {
        origin(self.number, self.token)
    }

    /// The publisher, as the creator of a topic.
    pub(super) fn creator(&self) -> Creator {
        if !self.is_client_of_this_node() {
            return Creator::NOBODY;
        }
        Creator { connection: self.origin(), identity: self.identity }
    }

    /// Replaces the publisher's shard by the one that `find` returns; the operator and clients of other nodes have
    /// none. `None` if `find` returns none.
    pub fn move_to(&mut self, find: impl FnOnce(usize) -> Option<usize>) -> Option<()> {
        if self.is_client_of_this_node() {
            self.shard = u16::try_from(find(self.shard.into())?).ok()?;
        }
        Some(())
    }

    /// The id of the client's request, if the client expects an answer.
    pub(super) fn id(&self) -> Option<u64> {
        match self.ack_mode {
            AckMode::Always(id) => Some(id),
            AckMode::Never | AckMode::OnRefusal => None,
        }
    }
}

/// Identifies a connection on the whole node, and on its predecessor or successor, while it is open. `number` is that of its
/// shard.
pub(super) fn origin(number: u8, token: Token) -> Origin {
    // Generations are below 2^24. Adding 1 keeps the value from being 0, which means no origin.
    u64::from(number) << 56 | u64::from(token.generation) << 32 | (u64::from(token.index) + 1)
}
