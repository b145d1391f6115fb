//! The messages between two nodes, in the order of their link.

use echoring_proto::{Plain, plain};
use echoring_topics::{ClientId, Position, is_members, is_topic_name};

use crate::view::NodeId;

plain! {
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
}

plain! {
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
        Transfer(Transfer<'a>),
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
    } where Message::is_valid
}

plain! {
    /// A part of a topic's state.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Transfer<'a> {
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
}

plain! {
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
}

plain! {
    /// A member has joined or left.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MemberChange<'a> {
        /// The member.
        pub client: ClientId,
        /// The [profile](echoring_topics::Profile) of one that joined.
        pub joined: Option<&'a str>,
        /// The number of members after it.
        pub count: u64,
    }
}

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
            | Message::Released { topic, .. }
            | Message::Transfer(Transfer { topic, .. })
            | Message::Taken { topic }
            | Message::Diverged { topic }
            | Message::Members(MembersPage { topic, .. })
            | Message::Presence { topic, .. } => Some(topic),
        }
    }

    /// Appends the message.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        self.put(bytes);
    }

    /// Reads a message.
    pub fn read(mut bytes: &'a [u8]) -> Option<Message<'a>> {
        Message::take(&mut bytes)
    }

    fn is_valid(&self) -> bool {
        let is_valid = match *self {
            Message::Following { start, head, .. } => start.epoch != 0 && head >= start.offset,
            Message::Deliver { first, .. } => first != 0,
            Message::Transfer(Transfer { head, first, .. }) => head.epoch != 0 && first != 0,
            Message::Members(MembersPage { members, .. }) => is_members(members),
            _ => true,
        };
        is_valid && self.topic().is_none_or(is_topic_name)
    }
}

/// Appends a list's entry.
pub fn append_entry(bytes: &mut Vec<u8>, entry: &[u8]) {
    entry.put(bytes);
}

/// The entries of a list. Ends at the first that is not whole.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    values(bytes)
}

/// The values of a list, such as outcomes. Ends at the first that is not well formed.
pub(crate) fn values<'a, T: Plain<'a>>(mut bytes: &'a [u8]) -> impl Iterator<Item = T> {
    std::iter::from_fn(move || T::take(&mut bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_were_appended_however_long_a_profile_is() {
        let long = "p".repeat(300);
        let all = ["alice", &long, "", &long[..255], &long[..254]].map(Some).into_iter().chain([None]);
        let all: Vec<_> = (1..).zip(all).map(|(number, joined)| (ClientId::local(number), joined)).collect();
        let mut bytes = Vec::new();
        for (client, joined) in &all {
            MemberChange { client: *client, joined: *joined, count: 7 }.put(&mut bytes);
        }
        let read: Vec<_> =
            values(&bytes).map(|change: MemberChange<'_>| (change.client, change.joined)).collect();
        assert_eq!(read, all);
    }
}
