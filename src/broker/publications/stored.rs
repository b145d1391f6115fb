//! [`StoredPublication`]: a publication, with the name of its topic, that is kept until it can be published or is due.
//!
//! All texts and the payload are in one piece of memory: of the pool, for the moments until there is room, or of its own length, for
//! as long as a connection. Either is charged to the node's budget. Whoever takes a publication gives its memory back with
//! `release`.

use echoring_proto::buffer::{Buffer, Pool, allocated_bytes};
use echoring_topics::{Content, Publication};

/// A publication in memory that is charged.
#[derive(Debug)]
pub struct StoredPublication {
    content: Content,
    name_bytes: u8,
    key_bytes: u8,
    idempotency_bytes: u8,
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

/// The topic's name, the key, the idempotency key and the payload.
#[derive(Debug)]
enum Memory {
    Pooled(Buffer),
    Own(Box<[u8]>),
}

impl Memory {
    /// Copies the parts; `None` without memory.
    fn copy(parts: [&[u8]; 4], storage: Storage, pool: &mut Pool) -> Option<Memory> {
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
    /// Copies a publication; `None` without memory. The lengths of the name and the keys were checked.
    pub(crate) fn new(
        pool: &mut Pool,
        storage: Storage,
        name: &str,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) -> Option<StoredPublication> {
        let Publication { content, key, payload } = publication;
        let parts = [name.as_bytes(), key.as_bytes(), idempotency_key.as_bytes(), payload];
        Some(StoredPublication {
            content,
            name_bytes: name.len() as u8,
            key_bytes: key.len() as u8,
            idempotency_bytes: idempotency_key.len() as u8,
            memory: Memory::copy(parts, storage, pool)?,
        })
    }

    /// The topic's name, the publication and the idempotency key.
    pub(crate) fn parts(&self) -> Option<(&str, Publication<'_>, &str)> {
        let (name, rest) = self.memory.as_slice().split_at_checked(self.name_bytes.into())?;
        let (key, rest) = rest.split_at_checked(self.key_bytes.into())?;
        let (idempotency_key, payload) = rest.split_at_checked(self.idempotency_bytes.into())?;
        let key = str::from_utf8(key).ok()?;
        let publication = Publication { content: self.content, key, payload };
        Some((str::from_utf8(name).ok()?, publication, str::from_utf8(idempotency_key).ok()?))
    }

    /// Whether it is for this topic.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        self.memory.as_slice().get(..self.name_bytes.into()) == Some(name.as_bytes())
    }

    /// Bytes of the name, the keys and the payload.
    pub(crate) fn len(&self) -> usize {
        self.memory.as_slice().len()
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

    #[test]
    fn a_stored_publication_is_what_was_stored_and_its_memory_is_given_back() {
        let longest = "ü".repeat(127) + "x";
        for (name, key, idempotency_key, payload) in [
            ("a", "", "", &b""[..]),
            ("a", "key", "once", b"payload"),
            (&longest, &longest, &longest, &[0xff; 100_000]),
            (&longest, "", &longest, b"x"),
        ] {
            let publication = Publication { content: Content::Binary, key, payload };
            let mut pool = Pool::standalone();
            let stored = [Storage::Pooled, Storage::Own].map(|storage| {
                let stored = StoredPublication::new(&mut pool, storage, name, publication, idempotency_key);
                stored.expect("there is memory")
            });
            for stored in stored {
                let charged = pool.used_bytes();
                assert_eq!(stored.parts(), Some((name, publication, idempotency_key)));
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
}
