//! [`StoredPublication`]: a publication, with the name of its topic, that is kept until it can be published or is due.
//!
//! All texts and the payload are in one piece of memory: of the pool, for the moments until there is room, or of its own length, for
//! as long as a connection. Either is charged to the node's budget. Whoever takes a publication gives its memory back with
//! `release`.

use crate::publications::{PublicationHead, TopicPublication, check, is_payload};
use echoring_proto::Plain as _;
use echoring_proto::buffer::{Buffer, Pool, allocated_bytes};
use echoring_topics::Publication;

/// A publication in memory that is charged.
#[derive(Debug)]
pub struct StoredPublication {
    head: PublicationHead,
    memory: Memory,
}

/// Where a publication is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In a buffer of the pool: for the moments until there is room.
    Pooled,
    /// In memory of its own length: for as long as a connection.
    Own,
}

/// The parts of the publication.
#[derive(Debug)]
enum Memory {
    Pooled(Buffer),
    Own(Box<[u8]>),
}

impl Memory {
    /// Copies the parts; `None` without memory.
    fn copy(parts: [&[u8]; 7], storage: Storage, pool: &mut Pool) -> Option<Memory> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        match storage {
            Storage::Pooled => {
                let mut buffer = pool.get(bytes)?;
                parts.iter().for_each(|part| buffer.append(part));
                Some(Memory::Pooled(buffer))
            }
            Storage::Own => {
                pool.charge(own_bytes(bytes)).then(|| Memory::Own(parts.concat().into_boxed_slice()))
            }
        }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Memory::Pooled(buffer) => buffer.as_slice(),
            Memory::Own(bytes) => bytes,
        }
    }
}

impl StoredPublication {
    /// Copies a publication; `None` without memory.
    pub(crate) fn new(
        pool: &mut Pool,
        storage: Storage,
        message: &TopicPublication<'_>,
    ) -> Option<StoredPublication> {
        Some(StoredPublication {
            head: message.head(),
            memory: Memory::copy(message.parts(), storage, pool)?,
        })
    }

    /// The publication.
    pub(crate) fn read(&self) -> Option<TopicPublication<'_>> {
        self.head.read(self.memory.as_slice())
    }

    /// Whether it is for this topic.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.read().is_some_and(|message| message.topic == name)
    }

    /// Bytes of the name, the keys and the payload.
    pub(crate) fn len(&self) -> usize {
        self.memory.as_slice().len()
    }

    /// Appends it, for [`take`](StoredPublication::take).
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        self.head.put(out);
        self.memory.as_slice().put(out);
    }

    /// The publication that `from` begins with. `None` if it is malformed, or could not have been published.
    pub(crate) fn take<'a>(from: &mut &'a [u8]) -> Option<TopicPublication<'a>> {
        let message = PublicationHead::take(from)?.read(<&[u8]>::take(from)?)?;
        let Publication { content, payload, .. } = message.publication;
        let is_valid = is_payload(content, payload) && check(&message, 0).is_ok();
        is_valid.then_some(message)
    }

    /// Returns its memory.
    pub(crate) fn release(self, pool: &mut Pool) {
        match self.memory {
            Memory::Pooled(buffer) => pool.put(buffer),
            Memory::Own(bytes) => pool.discharge(own_bytes(bytes.len())),
        }
    }
}

/// The bytes that a publication of `bytes` is charged: its memory, and its place in a list.
fn own_bytes(bytes: usize) -> usize {
    allocated_bytes(bytes) + size_of::<StoredPublication>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_topics::{Author, ClientId, Content, Keeping, Profile, Tags, Version};

    /// All of a message is read again when it was put, and nothing of a part of the bytes.
    fn assert_is_put(message: &TopicPublication<'_>) {
        let mut pool = Pool::standalone();
        let stored = StoredPublication::new(&mut pool, Storage::Own, message).expect("there is memory");
        let mut bytes = Vec::new();
        stored.put(&mut bytes);
        assert_eq!(StoredPublication::take(&mut &bytes[..]), Some(*message));
        for end in 0..bytes.len() {
            assert_eq!(StoredPublication::take(&mut &bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn a_publication_as_bytes_keeps_its_author() {
        let author = Author::encode(ClientId::local(7), Profile("alice"));
        let publication =
            Publication { author: Author::new(&author), ..Publication::new(Content::Json, "key", b"[1]") };
        let message = TopicPublication::plain("topic", publication);
        assert_is_put(&message);
    }

    #[test]
    fn a_stored_publication_is_what_was_stored_and_its_memory_is_given_back() {
        let longest = "ü".repeat(127) + "x";
        for (name, key, idempotency_key, payload) in [
            ("a", "", "", &b""[..]),
            ("a", "key", "once", b"payload"),
            (&longest, &longest, &longest, &[0xff; 100_000]),
            (&longest, "", &longest, b"x"),
        ] {
            let publication = Publication::new(Content::Binary, key, payload);
            let message = TopicPublication { idempotency_key, ..TopicPublication::plain(name, publication) };
            let mut pool = Pool::standalone();
            let stored = [Storage::Pooled, Storage::Own].map(|storage| {
                StoredPublication::new(&mut pool, storage, &message).expect("there is memory")
            });
            for stored in stored {
                let charged = pool.used_bytes();
                assert_eq!(stored.read(), Some(message));
                assert_eq!(stored.len(), name.len() + key.len() + idempotency_key.len() + payload.len());
                assert!(stored.is_for(name) && !stored.is_for("b") && !stored.is_for(""));
                assert!(!stored.is_for(&format!("{name}c")));
                stored.release(&mut pool);
                pool.free_all();
                assert!(pool.used_bytes() < charged);
            }
            assert_eq!(pool.used_bytes(), 0);
        }
    }

    #[test]
    fn a_publication_as_bytes_keeps_its_tags_and_its_version() {
        let tags = Tags::encode([("a", "b")].into_iter()).expect("short");
        let version = Version::encode(3, "epoch").expect("short");
        let publication = Publication {
            tags: Tags::new(&tags),
            keeping: Keeping::Skipped,
            ..Publication::new(Content::Json, "key", b"[1]")
        };
        let version = Version::new(&version);
        let message = TopicPublication { version, ..TopicPublication::plain("topic", publication) };
        assert_is_put(&message);
    }
}
