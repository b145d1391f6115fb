//! What shards send one another about topics.

use crate::driver::Token;
use crate::hub::{
    Content, HomeId, MemberId, Members, Origin, Page, Position, Refused, Replay, Subscribed, TopicId,
};

use crate::server::chat::Mail;

pub use super::draining::Stage;

/// A message between shards. The bytes beside it are said with each kind.
#[derive(Clone, Debug)]
pub enum Message {
    /// Forward the topic named by the bytes to me; I call it `local`.
    Subscribe {
        /// The asking shard's name for it.
        local: TopicId,
    },
    /// The answer: what was published before is history, what comes after this in the lane is live.
    Subscribed {
        /// The asking shard's name for the topic.
        local: TopicId,
        /// What the home knows of it.
        answer: Result<Subscribed, Refused>,
    },
    /// Forward no more.
    Unsubscribe {
        /// The home's name for the topic.
        home: HomeId,
        /// The asking shard's name for it.
        local: TopicId,
    },
    /// The answer: nothing of the topic follows.
    Unsubscribed {
        /// The asking shard's name for it.
        local: TopicId,
    },
    /// Give a message its place in the order. The bytes are the topic's name, the key, the idempotency key and the payload.
    Publish {
        /// Who sent it.
        publisher: Publisher,
        /// What the payload is.
        content: Content,
        /// Bytes of the topic's name.
        name_bytes: u8,
        /// Bytes of the key.
        key_bytes: u8,
        /// Bytes of the idempotency key.
        idempotency_bytes: u8,
    },
    /// To the publisher's shard, where nobody subscribes to the topic, or it was refused: what became of a message. The
    /// bytes are the topic's name.
    Published {
        /// Who sent it.
        publisher: Publisher,
        /// Its place in the order.
        verdict: Result<Position, Refused>,
    },
    /// A message is next in the topic's order. The bytes are the key and the payload.
    Deliver {
        /// The receiving shard's name for the topic.
        local: TopicId,
        /// Who sent it.
        publisher: Publisher,
        /// Its place in the order.
        offset: u64,
        /// What the payload is.
        content: Content,
        /// Bytes of the key.
        key_bytes: u8,
    },
    /// Send what one subscriber gets before what is published from now on.
    Recall {
        /// The home's name for the topic.
        home: HomeId,
        /// The asking shard's name for it.
        local: TopicId,
        /// The subscriber.
        token: Token,
        /// What that is.
        from: Replay,
    },
    /// The answer, the messages in the bytes. What comes after it in the lane comes after what is in it, if it is
    /// complete.
    Recalled {
        /// The asking shard's name for the topic.
        local: TopicId,
        /// The subscriber.
        token: Token,
        /// What was asked for.
        from: Replay,
        /// What is in the bytes; none when the topic is not known any more.
        page: Option<Page>,
    },
    /// Tell who subscribes.
    Members {
        /// The home's name for the topic.
        home: HomeId,
        /// The asking shard's name for it.
        local: TopicId,
        /// Who wants to know.
        query: MembersQuery,
    },
    /// The answer, the clients in the bytes.
    MembersTold {
        /// The asking shard's name for the topic.
        local: TopicId,
        /// What was asked.
        query: MembersQuery,
        /// What is in the bytes; none when the topic is not known any more.
        told: Option<Members>,
    },
    /// Somebody whose presence is told came or went.
    Presence {
        /// The home's name for the topic.
        home: HomeId,
        /// Who.
        client: u64,
        /// Whether it came.
        joined: bool,
    },
    /// The same, to all shards that subscribe, in the topic's order.
    Present {
        /// The receiving shard's name for the topic.
        local: TopicId,
        /// Who.
        client: u64,
        /// Whether it came.
        joined: bool,
        /// How many there are now.
        count: u64,
    },
    /// The shard drains, and has posted all of this kind that it ever will.
    Over(Stage),
    /// About the chat room.
    Chat(Mail),
}

/// What a session wants to know of those who subscribe to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersQuery {
    /// The session.
    pub(super) token: Token,
    /// It did not ask: it is told because it missed who came and went.
    pub(super) pushed: bool,
    /// The number of its request.
    pub(super) id: Option<u64>,
    /// Those behind this one.
    pub(super) after: Option<u64>,
    /// So many at most.
    pub(super) limit: u16,
}

/// Who published a message, and what it wants to hear about that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publisher {
    pub(super) shard: u16,
    pub(super) token: Token,
    /// Where its own messages are not sent back.
    pub(super) member: Option<MemberId>,
    pub(super) wish: Wish,
    /// Which of its session's requests this is, by their order.
    pub(super) request: u32,
}

/// What a publisher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing: raw routes have no words for it.
    Nothing,
    /// Why its message was refused.
    Refusal,
    /// That, or the place of its message, under the number of its request.
    Answer(u64),
}

impl Publisher {
    pub(super) fn origin(&self) -> Origin {
        origin(usize::from(self.shard), self.token)
    }

    /// What the client calls the request that is answered.
    pub(super) fn id(&self) -> Option<u64> {
        match self.wish {
            Wish::Answer(id) => Some(id),
            Wish::Nothing | Wish::Refusal => None,
        }
    }
}

/// Names a connection on the whole node while it is there.
pub(super) fn origin(shard: usize, token: Token) -> Origin {
    // Shards below 2^8, generations below 2^24; the set bit keeps it from being 0, which is nobody.
    (shard as u64) << 56 | u64::from(token.generation) << 32 | (u64::from(token.index) + 1)
}
