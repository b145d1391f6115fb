//! A publication on its way between nodes.

use bytes::{Buf as _, BufMut as _};
use echoring_cluster::NodeId;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{Content, Submission, SubscriberId};

use crate::broadcast::shard_mail::{AckMode, Publisher};
use crate::publications::{PublicationHead, TopicPublication};

/// The bits of the content. All are set if the head of the publication, which is more than its content, is the next byte.
const CONTENT: u8 = 3;
const BY_CLIENT: u8 = 1 << 2;
const HAS_MEMBER: u8 = 1 << 3;

/// A publication with the data for its topic's owner and its publisher's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamEntry<'a> {
    /// The publisher's node.
    pub(super) node: NodeId,
    /// The publisher, which means something to its node only.
    pub(super) origin: Origin,
    /// It is not from the operator.
    pub(super) by_client: bool,
    /// Without its topic.
    pub(super) message: TopicPublication<'a>,
}

/// A connection of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    shard: u16,
    number: u8,
    index: u32,
    generation: u32,
    member: Option<u64>,
}

impl Origin {
    pub(super) fn of(publisher: &Publisher) -> Origin {
        let Publisher { shard, number, token, member, .. } = *publisher;
        let Token { index, generation } = token;
        Origin { shard, number, index, generation, member: member.map(SubscriberId::tag) }
    }

    /// The publisher on its own node. It is answered in another way.
    pub(super) fn publisher(&self, received_at: Nanos) -> Publisher {
        let Origin { shard, number, index, generation, member } = *self;
        Publisher {
            shard,
            number,
            token: Token { index, generation },
            member: member.map(SubscriberId::from_tag),
            ack_mode: AckMode::Never,
            ..Publisher::operator(received_at)
        }
    }
}

impl<'a> StreamEntry<'a> {
    /// Appends the entry.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let StreamEntry { node, origin, by_client, message } = *self;
        let PublicationHead { head, text_bytes } = message.head();
        let Origin { shard, number, index, generation, member } = origin;
        let by_client = if by_client { BY_CLIENT } else { 0 };
        let has_member = if member.is_some() { HAS_MEMBER } else { 0 };
        bytes.put_u8(head.min(CONTENT) | by_client | has_member);
        if head >= CONTENT {
            bytes.put_u8(head);
        }
        bytes.put_u64_le(node.0);
        bytes.put_u16_le(shard);
        bytes.put_u8(number);
        bytes.put_u32_le(index);
        bytes.put_u32_le(generation);
        if let Some(member) = member {
            bytes.put_u64_le(member);
        }
        bytes.put_slice(&text_bytes[1..]);
        message.parts()[1..].iter().for_each(|part| bytes.put_slice(part));
    }

    /// The publication, as its topic decides about it.
    pub(super) fn submission(&self) -> Submission<'a> {
        let TopicPublication { publication, idempotency_key, version, .. } = self.message;
        Submission { publication, idempotency_key, by_client: self.by_client, version }
    }

    /// Reads an entry. `None` if it is not well formed.
    pub(super) fn read(mut bytes: &'a [u8]) -> Option<StreamEntry<'a>> {
        let from = &mut bytes;
        let flags = from.try_get_u8().ok()?;
        let head = match flags & CONTENT {
            CONTENT => from.try_get_u8().ok()?,
            content => content,
        };
        let node = NodeId(from.try_get_u64_le().ok()?);
        let shard = from.try_get_u16_le().ok()?;
        let number = from.try_get_u8().ok()?;
        let (index, generation) = (from.try_get_u32_le().ok()?, from.try_get_u32_le().ok()?);
        let member = if flags & HAS_MEMBER == 0 { None } else { Some(from.try_get_u64_le().ok()?) };
        let text_bytes = [0, from.try_get_u8().ok()?, from.try_get_u8().ok()?];
        let message = PublicationHead { head, text_bytes }.read(from)?;
        let publication = message.publication;
        if publication.content != Content::Binary && simdutf8::basic::from_utf8(publication.payload).is_err()
        {
            return None;
        }
        Some(StreamEntry {
            node,
            origin: Origin { shard, number, index, generation, member },
            by_client: flags & BY_CLIENT != 0,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_topics::{Author, ClientId, Keeping, Profile, Publication, Tags, Version};

    #[test]
    fn an_entry_is_read_as_it_was_written_and_nothing_shorter_is_taken_for_one() {
        let plain = Publication::new(Content::Text, "kü", b"payload");
        let (tags, version) = (Tags::encode([("a", "b")].into_iter()), Version::encode(7, "e"));
        let (tags, version) = (tags.expect("short"), version.expect("short"));
        let special = Publication { tags: Tags::new(&tags), keeping: Keeping::Skipped, ..plain };
        let author = Author::encode(ClientId::local(7), Profile("alice"));
        let named = Publication { author: Author::new(&author), ..special };
        for member in [None, Some(7)] {
            let origin = Origin { shard: 1, number: 2, index: 3, generation: 4, member };
            for (by_client, idempotency_key, publication, version) in [
                (true, "", plain, Version::NONE),
                (false, "again", plain, Version::NONE),
                (false, "", special, Version::NONE),
                (true, "again", named, Version::NONE),
                (true, "again", special, Version::new(&version)),
            ] {
                let message = TopicPublication { topic: "", publication, idempotency_key, version };
                let entry = StreamEntry { node: NodeId(9), origin, by_client, message };
                let mut bytes = Vec::new();
                entry.write(&mut bytes);
                assert_eq!(StreamEntry::read(&bytes), Some(entry));
                for end in 0..bytes.len() - publication.payload.len() {
                    assert_eq!(StreamEntry::read(&bytes[..end]), None, "{end}");
                }
            }
        }
    }

    #[test]
    fn text_that_is_no_text_is_refused() {
        let publication = Publication::new(Content::Json, "", b"\xff");
        let (node, origin, message) =
            (NodeId(1), Origin::default(), TopicPublication::plain("", publication));
        let entry = StreamEntry { node, origin, by_client: true, message };
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        assert_eq!(StreamEntry::read(&bytes), None);
    }
}
