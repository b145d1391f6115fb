//! Publications that wait for room in the mailbox to their topic's owner. Their publishers are not read meanwhile.

use std::collections::VecDeque;

use echoring_proto::CloseCode;
use echoring_proto::buffer::Buffer;
use echoring_runtime::shard::ConnectionContext;
use echoring_topics::{Content, Publication};

use super::shard_mail::Publisher;
use crate::peer::{Peer, ServerApplication};

/// The publications of a shard that wait, in order.
#[derive(Debug, Default)]
pub(super) struct HeldPublications(VecDeque<HeldPublication>);

/// A publication that waits. The buffer has the topic's name, the key, the idempotency key and the payload.
#[derive(Debug)]
pub(super) struct HeldPublication {
    pub(super) publisher: Publisher,
    content: Content,
    name_bytes: usize,
    key_bytes: usize,
    idempotency_bytes: usize,
    buffer: Buffer,
}

impl HeldPublication {
    /// The topic's name, the publication and the idempotency key.
    pub(super) fn parts(&self) -> Option<(&str, Publication<'_>, &str)> {
        let (name, rest) = self.buffer.as_slice().split_at(self.name_bytes);
        let (key, rest) = rest.split_at(self.key_bytes);
        let (idempotency_key, payload) = rest.split_at(self.idempotency_bytes);
        let key = std::str::from_utf8(key).ok()?;
        let publication = Publication { content: self.content, key, payload };
        Some((std::str::from_utf8(name).ok()?, publication, std::str::from_utf8(idempotency_key).ok()?))
    }

    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

impl HeldPublications {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies a publication and stops reading its publisher. Without memory for the copy the connection is closed.
    #[cold]
    pub(super) fn hold<A: ServerApplication>(
        &mut self,
        link: &mut ConnectionContext<'_, A>,
        name: &str,
        publisher: Publisher,
        publication: Publication<'_>,
        idempotency_key: &str,
    ) {
        link.note_mailbox_full();
        let Publication { content, key, payload } = publication;
        let parts = [name.as_bytes(), key.as_bytes(), idempotency_key.as_bytes(), payload];
        let Some(mut buffer) = link.pool().get(parts.iter().map(|part| part.len()).sum()) else {
            link.close_at_once(CloseCode::TRY_AGAIN_LATER, "out of memory");
            return;
        };
        parts.iter().for_each(|part| buffer.append(part));
        if let Some(held) = held_of(link.peer) {
            *held = held.saturating_add(1);
        }
        link.set_backpressured(true);
        let (name_bytes, key_bytes, idempotency_bytes) = (name.len(), key.len(), idempotency_key.len());
        self.0.push_back(HeldPublication {
            publisher,
            content,
            name_bytes,
            key_bytes,
            idempotency_bytes,
            buffer,
        });
    }

    pub(super) fn pop(&mut self) -> Option<HeldPublication> {
        self.0.pop_front()
    }

    /// Puts a publication back in front: there was still no room.
    pub(super) fn put_back(&mut self, held: HeldPublication) {
        self.0.push_front(held);
    }
}

/// A publication of this connection waits no longer. Returns whether it was the last one.
pub(super) fn release_one(peer: &mut Peer) -> bool {
    let Some(held) = held_of(peer) else { return false };
    *held = held.saturating_sub(1);
    *held == 0
}

fn held_of(peer: &mut Peer) -> Option<&mut u16> {
    match peer {
        Peer::Subscriber(subscriber) => Some(&mut subscriber.held),
        Peer::Session(session) => Some(&mut session.held),
        Peer::Handler(handler) => Some(&mut handler.held),
        Peer::Echo => None,
    }
}
