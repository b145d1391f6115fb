//! A publication on its way between nodes.

use bytes::{Buf as _, BufMut as _};
use echoring_cluster::NodeId;
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_topics::{Content, Publication, Submission, SubscriberId};

use crate::broadcast::shard_mail::{AckMode, Publisher};

const CONTENT: u8 = 3;
const BY_CLIENT: u8 = 1 << 2;
const HAS_MEMBER: u8 = 1 << 3;

/// A publication with the data for its topic's owner and its publisher's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// The publisher's node.
    pub(super) node: NodeId,
    /// The publisher, which means something to its node only.
    pub(super) origin: Origin,
    /// It is not from the operator.
    pub(super) by_client: bool,
    pub(super) publication: Publication<'a>,
    pub(super) idempotency_key: &'a str,
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

impl<'a> Entry<'a> {
    /// Appends the entry.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let Entry { node, origin, by_client, publication, idempotency_key } = *self;
        let Publication { content, key, payload } = publication;
        let Origin { shard, number, index, generation, member } = origin;
        let by_client = if by_client { BY_CLIENT } else { 0 };
        let has_member = if member.is_some() { HAS_MEMBER } else { 0 };
        bytes.put_u8(content as u8 | by_client | has_member);
        bytes.put_u64_le(node.0);
        bytes.put_u16_le(shard);
        bytes.put_u8(number);
        bytes.put_u32_le(index);
        bytes.put_u32_le(generation);
        if let Some(member) = member {
            bytes.put_u64_le(member);
        }
        bytes.put_slice(&[key.len() as u8, idempotency_key.len() as u8]);
        bytes.put_slice(key.as_bytes());
        bytes.put_slice(idempotency_key.as_bytes());
        bytes.put_slice(payload);
    }

    /// The publication, as its topic decides about it.
    pub(super) fn submission(&self) -> Submission<'a> {
        let Entry { publication, idempotency_key, by_client, .. } = *self;
        Submission { publication, idempotency_key, by_client }
    }

    /// Reads an entry. `None` if it is not well formed.
    pub(super) fn read(mut bytes: &'a [u8]) -> Option<Entry<'a>> {
        let from = &mut bytes;
        let flags = from.try_get_u8().ok()?;
        let node = NodeId(from.try_get_u64_le().ok()?);
        let shard = from.try_get_u16_le().ok()?;
        let number = from.try_get_u8().ok()?;
        let (index, generation) = (from.try_get_u32_le().ok()?, from.try_get_u32_le().ok()?);
        let member = if flags & HAS_MEMBER == 0 { None } else { Some(from.try_get_u64_le().ok()?) };
        let (key_bytes, idempotency_bytes) = (from.try_get_u8().ok()?, from.try_get_u8().ok()?);
        let (key, rest) = from.split_at_checked(usize::from(key_bytes))?;
        let (idempotency_key, payload) = rest.split_at_checked(usize::from(idempotency_bytes))?;
        let key = std::str::from_utf8(key).ok()?;
        let content = Content::from_number(flags & CONTENT)?;
        if content != Content::Binary && simdutf8::basic::from_utf8(payload).is_err() {
            return None;
        }
        Some(Entry {
            node,
            origin: Origin { shard, number, index, generation, member },
            by_client: flags & BY_CLIENT != 0,
            publication: Publication { content, key, payload },
            idempotency_key: std::str::from_utf8(idempotency_key).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_nothing_shorter_is_taken_for_one() {
        let publication = Publication { content: Content::Text, key: "kü", payload: b"payload" };
        for member in [None, Some(7)] {
            let origin = Origin { shard: 1, number: 2, index: 3, generation: 4, member };
            for (by_client, idempotency_key) in [(true, ""), (false, "again")] {
                let entry = Entry { node: NodeId(9), origin, by_client, publication, idempotency_key };
                let mut bytes = Vec::new();
                entry.write(&mut bytes);
                assert_eq!(Entry::read(&bytes), Some(entry));
                for end in 0..bytes.len() - publication.payload.len() {
                    assert_eq!(Entry::read(&bytes[..end]), None, "{end}");
                }
            }
        }
    }

    #[test]
    fn text_that_is_no_text_is_refused() {
        let publication = Publication { content: Content::Json, key: "", payload: b"\xff" };
        let entry = Entry {
            node: NodeId(1),
            origin: Origin::default(),
            by_client: true,
            publication,
            idempotency_key: "",
        };
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        assert_eq!(Entry::read(&bytes), None);
    }
}
