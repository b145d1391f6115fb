//! The messages between two nodes, in the order of their link.

use bytes::BufMut as _;

use echoring_topics::{ClientId, Position, append_member, is_members, is_topic_name, members};

use crate::view::NodeId;
use crate::wire::{
    append_entry, put_position, put_text, take_bytes, take_position, take_text, take_u8, take_u32, take_u64,
};

/// The outcome of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The topic's owner gave it this position.
    Accepted(Position),
    /// The owner refused it, for the store's reason of this number.
    Refused(u8),
    /// No owner could be reached in time. It was not published.
    Unreachable,
    /// The link to the owner was lost before its answer. It may have been published.
    Uncertain,
    /// The stream of the topic stores nothing. It was not published.
    NoStorage,
}

/// A message to another node. The topic's owner is the node that orders its messages; a follower is a node that gets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The sender has the view `view` now, and counts it as its `number`th.
    View {
        /// [`View::id`](crate::View::id).
        view: u64,
        /// Counts the sender's views.
        number: u64,
    },
    /// The sender also has the receiver's view `number`, and orders no topic that belongs to another node.
    Settled {
        /// The number in the receiver's [`Message::View`].
        number: u64,
    },
    /// To the owner: publish these entries, in this order.
    Publish {
        /// The topic.
        topic: &'a str,
        /// Counts the batches of the topic from this node.
        batch: u32,
        /// A list; see [`entries`](crate::entries).
        entries: &'a [u8],
    },
    /// The owner's answer, with an outcome for each entry.
    Published {
        /// The topic.
        topic: &'a str,
        /// The batch.
        batch: u32,
        /// One outcome for each entry.
        outcomes: &'a [u8],
    },
    /// The sender does not own the topic: nothing of the batch was published, or nothing follows for batch 0.
    NotOwner {
        /// The topic.
        topic: &'a str,
        /// The batch, or 0 in answer to `Follow`.
        batch: u32,
        /// The node that owns it, if the sender knows.
        owner: Option<NodeId>,
    },
    /// The owner's answer to `Follow` when the stream of the topic stores nothing. `NotOwner` comes behind it: the topic may be asked for
    /// again.
    NoStorage {
        /// The topic.
        topic: &'a str,
    },
    /// To the owner: deliver the topic from now on.
    Follow {
        /// The topic.
        topic: &'a str,
        /// The position that the follower has reached, if it has followed the topic before.
        after: Option<Position>,
    },
    /// The owner's answer. Deliveries after `start` follow.
    Following {
        /// The topic.
        topic: &'a str,
        /// Where they start.
        start: Position,
        /// Messages up to this offset are history for new subscribers.
        head: u64,
        /// Further data of a follower that has nothing of the topic's epoch yet.
        rest: &'a [u8],
    },
    /// Messages with offsets from `first` on. The follower has missed those between the last it got and `first`, if there are any.
    Deliver {
        /// The topic.
        topic: &'a str,
        /// Their epoch.
        epoch: u64,
        /// The offset of the first.
        first: u64,
        /// A list; see [`entries`](crate::entries). May be empty: then messages before `first` are missing.
        entries: &'a [u8],
    },
    /// To the owner: stop delivering.
    Unfollow {
        /// The topic.
        topic: &'a str,
    },
    /// To a follower: nothing more follows. Another node owns the topic, and continues it.
    Released {
        /// The topic.
        topic: &'a str,
        /// The node.
        owner: NodeId,
    },
    /// To the node that owns the topic from now on: its state, in parts.
    Handover(Handover<'a>),
    /// The answer to the last part, or to `Diverged`: it has arrived.
    Taken {
        /// The topic.
        topic: &'a str,
    },
    /// To the topic's owner: it has had messages in an epoch that the owner may not know. Its subscribers must be
    /// notified.
    Diverged {
        /// The topic.
        topic: &'a str,
    },
    /// To the owner: these are the sender's own members of the topic in a range. To a follower, or to the next owner: these are all
    /// members in a range.
    Members(MembersPage<'a>),
    /// To the owner: these own members of the sender have joined or left. To a follower: these members have.
    Presence {
        /// The topic.
        topic: &'a str,
        /// How many there are now, as in [`MembersPage`].
        count: u64,
        /// See [`MemberChange`].
        changes: &'a [u8],
    },
}

/// A part of a topic's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The position of its last message.
    pub head: Position,
    /// The first part.
    pub begins: bool,
    /// The last part.
    pub ends: bool,
    /// The offset of the first of the part's messages.
    pub first: u64,
    /// The messages as a list; see [`entries`](crate::entries).
    pub entries: &'a [u8],
    /// Further data that the store keeps of a topic; in the last part.
    pub rest: &'a [u8],
}

impl Handover<'_> {
    fn write(self, bytes: &mut Vec<u8>) {
        begin(bytes, HANDOVER, self.topic);
        put_position(bytes, self.head);
        bytes.put_u8(u8::from(self.begins) | u8::from(self.ends) << 1);
        bytes.put_u64_le(self.first);
        append_entry(bytes, self.entries);
        append_entry(bytes, self.rest);
    }
}

/// The members of a topic with presence in a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembersPage<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The range begins behind this id; with the first one if there is none.
    pub after: Option<ClientId>,
    /// The range ends with this id; with the last one if there is none.
    pub last: Option<ClientId>,
    /// How many members there are: of the sender, if it follows the topic; otherwise of all nodes.
    pub count: u64,
    /// The members; see [`members`](echoring_topics::members).
    pub members: &'a [u8],
}

impl MembersPage<'_> {
    fn write(self, bytes: &mut Vec<u8>) {
        begin(bytes, MEMBERS, self.topic);
        put_client(bytes, self.after);
        put_client(bytes, self.last);
        bytes.put_u64_le(self.count);
        append_entry(bytes, self.members);
    }
}

/// A member has joined or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberChange<'a> {
    /// The member.
    pub client: ClientId,
    /// The subject of one that joined, which is empty if it is not authenticated.
    pub joined: Option<&'a str>,
    /// The number of members after it.
    pub count: u64,
}

const VIEW: u8 = 1;
const SETTLED: u8 = 2;
const PUBLISH: u8 = 3;
const PUBLISHED: u8 = 4;
const NOT_OWNER: u8 = 5;
const FOLLOW: u8 = 6;
const FOLLOWING: u8 = 7;
const DELIVER: u8 = 8;
const UNFOLLOW: u8 = 9;
const RELEASED: u8 = 10;
const HANDOVER: u8 = 11;
const TAKEN: u8 = 12;
const DIVERGED: u8 = 13;
const MEMBERS: u8 = 14;
const PRESENCE: u8 = 15;
const NO_STORAGE: u8 = 16;

impl<'a> Message<'a> {
    /// The topic that the message is about.
    pub fn topic(&self) -> Option<&'a str> {
        match *self {
            Message::View { .. } | Message::Settled { .. } => None,
            Message::Publish { topic, .. }
            | Message::Published { topic, .. }
            | Message::NotOwner { topic, .. }
            | Message::NoStorage { topic }
            | Message::Follow { topic, .. }
            | Message::Following { topic, .. }
            | Message::Deliver { topic, .. }
            | Message::Unfollow { topic }
            | Message::Taken { topic }
            | Message::Diverged { topic }
            | Message::Members(MembersPage { topic, .. })
            | Message::Presence { topic, .. }
            | Message::Released { topic, .. }
            | Message::Handover(Handover { topic, .. }) => Some(topic),
        }
    }

    /// Appends the message.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        match *self {
            Message::View { view, number } => {
                bytes.put_u8(VIEW);
                bytes.put_u64_le(view);
                bytes.put_u64_le(number);
            }
            Message::Settled { number } => {
                bytes.put_u8(SETTLED);
                bytes.put_u64_le(number);
            }
            Message::Publish { topic, batch, entries } => {
                begin(bytes, PUBLISH, topic);
                bytes.put_u32_le(batch);
                append_entry(bytes, entries);
            }
            Message::Published { topic, batch, outcomes } => {
                begin(bytes, PUBLISHED, topic);
                bytes.put_u32_le(batch);
                append_entry(bytes, outcomes);
            }
            Message::NotOwner { topic, batch, owner } => {
                begin(bytes, NOT_OWNER, topic);
                bytes.put_u32_le(batch);
                bytes.put_u64_le(owner.map_or(0, |node| node.0));
            }
            Message::Follow { topic, after } => {
                begin(bytes, FOLLOW, topic);
                // No epoch is 0.
                put_position(bytes, after.unwrap_or_default());
            }
            Message::Following { topic, start, head, rest } => {
                begin(bytes, FOLLOWING, topic);
                put_position(bytes, start);
                bytes.put_u64_le(head);
                append_entry(bytes, rest);
            }
            Message::Deliver { topic, epoch, first, entries } => {
                begin(bytes, DELIVER, topic);
                put_position(bytes, Position { epoch, offset: first });
                append_entry(bytes, entries);
            }
            Message::NoStorage { topic } => begin(bytes, NO_STORAGE, topic),
            Message::Unfollow { topic } => begin(bytes, UNFOLLOW, topic),
            Message::Taken { topic } => begin(bytes, TAKEN, topic),
            Message::Diverged { topic } => begin(bytes, DIVERGED, topic),
            Message::Released { topic, owner } => {
                begin(bytes, RELEASED, topic);
                bytes.put_u64_le(owner.0);
            }
            Message::Handover(part) => part.write(bytes),
            Message::Members(page) => page.write(bytes),
            Message::Presence { topic, count, changes } => {
                begin(bytes, PRESENCE, topic);
                bytes.put_u64_le(count);
                append_entry(bytes, changes);
            }
        }
    }

    /// Reads a message.
    pub fn read(mut bytes: &'a [u8]) -> Option<Message<'a>> {
        let bytes = &mut bytes;
        let kind = take_u8(bytes)?;
        match kind {
            VIEW => return Some(Message::View { view: take_u64(bytes)?, number: take_u64(bytes)? }),
            SETTLED => return Some(Message::Settled { number: take_u64(bytes)? }),
            _ => {}
        }
        let topic = take_text(bytes).filter(|topic| is_topic_name(topic))?;
        Some(match kind {
            PUBLISH => Message::Publish { topic, batch: take_u32(bytes)?, entries: take_bytes(bytes)? },
            PUBLISHED => Message::Published { topic, batch: take_u32(bytes)?, outcomes: take_bytes(bytes)? },
            NOT_OWNER => {
                let (batch, owner) = (take_u32(bytes)?, take_u64(bytes)?);
                Message::NotOwner { topic, batch, owner: (owner != 0).then_some(NodeId(owner)) }
            }
            FOLLOW => {
                let after = Some(take_position(bytes)?).filter(|after| after.epoch != 0);
                Message::Follow { topic, after }
            }
            FOLLOWING => {
                let (start, head) = (take_position(bytes)?, take_u64(bytes)?);
                let rest = take_bytes(bytes)?;
                let is_valid = start.epoch != 0 && head >= start.offset;
                is_valid.then_some(Message::Following { topic, start, head, rest })?
            }
            DELIVER => {
                let Position { epoch, offset } = take_position(bytes)?;
                let entries = take_bytes(bytes)?;
                (offset != 0).then_some(Message::Deliver { topic, epoch, first: offset, entries })?
            }
            NO_STORAGE => Message::NoStorage { topic },
            UNFOLLOW => Message::Unfollow { topic },
            TAKEN => Message::Taken { topic },
            DIVERGED => Message::Diverged { topic },
            RELEASED => Message::Released { topic, owner: NodeId(take_u64(bytes)?) },
            HANDOVER => {
                let (head, flags, first) = (take_position(bytes)?, take_u8(bytes)?, take_u64(bytes)?);
                let (entries, rest) = (take_bytes(bytes)?, take_bytes(bytes)?);
                let (begins, ends) = (flags & 1 != 0, flags & 2 != 0);
                let is_valid = head.epoch != 0 && first != 0;
                let part = Handover { topic, head, begins, ends, first, entries, rest };
                is_valid.then_some(Message::Handover(part))?
            }
            MEMBERS => {
                let (after, last) = (take_client(bytes)?, take_client(bytes)?);
                let (count, members) = (take_u64(bytes)?, take_bytes(bytes)?);
                is_members(members).then_some(())?;
                Message::Members(MembersPage { topic, after, last, count, members })
            }
            PRESENCE => Message::Presence { topic, count: take_u64(bytes)?, changes: take_bytes(bytes)? },
            _ => return None,
        })
    }
}

/// An absent id stands for the id that no client has.
fn put_client(bytes: &mut Vec<u8>, client: Option<ClientId>) {
    bytes.extend_from_slice(&client.unwrap_or_default().to_bytes());
}

fn take_client(bytes: &mut &[u8]) -> Option<Option<ClientId>> {
    let (client, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(Some(ClientId::from_bytes(*client)).filter(|client| *client != ClientId::default()))
}

/// Appends a change of a member list.
pub(crate) fn append_change(bytes: &mut Vec<u8>, change: &MemberChange<'_>) {
    let MemberChange { client, joined, count } = *change;
    bytes.put_u8(u8::from(joined.is_some()));
    bytes.put_u64_le(count);
    append_member(bytes, client, joined.unwrap_or_default());
}

/// The changes of a member list. Ends at the first that is not well formed.
pub(crate) fn changes(mut bytes: &[u8]) -> impl Iterator<Item = MemberChange<'_>> {
    std::iter::from_fn(move || {
        let bytes = &mut bytes;
        let (has_joined, count) = (take_u8(bytes)? == 1, take_u64(bytes)?);
        let (client, subject) = members(bytes).next()?;
        *bytes = bytes.get(size_of::<ClientId>() + 1 + subject.len()..)?;
        Some(MemberChange { client, joined: has_joined.then_some(subject), count })
    })
}

fn begin(bytes: &mut Vec<u8>, kind: u8, topic: &str) {
    bytes.put_u8(kind);
    put_text(bytes, topic);
}

/// Appends an outcome that an owner may report.
pub(crate) fn append_outcome(bytes: &mut Vec<u8>, outcome: Outcome) {
    match outcome {
        Outcome::Accepted(position) => {
            bytes.put_u8(0);
            put_position(bytes, position);
        }
        Outcome::Refused(reason) => bytes.extend_from_slice(&[1, reason]),
        Outcome::Unreachable => bytes.put_u8(2),
        Outcome::Uncertain => bytes.put_u8(3),
        Outcome::NoStorage => bytes.put_u8(4),
    }
}

/// The outcomes of a batch. Ends at the first that is not well formed.
pub(crate) fn outcomes(mut bytes: &[u8]) -> impl Iterator<Item = Outcome> {
    std::iter::from_fn(move || {
        let bytes = &mut bytes;
        Some(match take_u8(bytes)? {
            0 => Outcome::Accepted(take_position(bytes)?),
            1 => Outcome::Refused(take_u8(bytes)?),
            2 => Outcome::Unreachable,
            3 => Outcome::Uncertain,
            4 => Outcome::NoStorage,
            _ => return None,
        })
    })
}
