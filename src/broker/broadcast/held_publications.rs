//! Publications that wait for room in the mailbox to their topic's owner. Their publishers are not read meanwhile.
//!
//! Those of closed connections go this way, too, so that they stay behind what the connections have published before, and are spread
//! over ticks where many connections are closed at once.

use std::collections::VecDeque;

use echoring_proto::CloseCode;

use super::shard_mail::Publisher;
use crate::limits::{ON_CLOSE_BYTES_PER_TICK, ON_CLOSE_MESSAGE_BYTES};
use crate::peer::{ConnectionContext, Peer};
use crate::publications::TopicPublication;
use crate::publications::stored::{Storage, StoredPublication};

/// The publications of a shard that wait, in order.
#[derive(Debug, Default)]
pub(super) struct HeldPublications {
    queue: VecDeque<HeldPublication>,
    /// Bytes of closed connections that were taken in this tick.
    closed_bytes: usize,
}

/// A publication that waits.
#[derive(Debug)]
pub(super) struct HeldPublication {
    pub(super) publisher: Publisher,
    pub(super) stored: StoredPublication,
    /// Bytes that count towards those of closed connections; 0 if the publisher was open.
    closed_bytes: usize,
}

impl HeldPublications {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Copies a publication and stops reading its publisher. Without memory for the copy the connection is closed.
    #[cold]
    pub(super) fn hold(
        &mut self,
        link: &mut ConnectionContext<'_>,
        publisher: Publisher,
        message: &TopicPublication<'_>,
    ) {
        link.note_mailbox_full();
        let Some(stored) = StoredPublication::new(link.pool(), Storage::Pooled, message) else {
            link.close_at_once(CloseCode::TRY_AGAIN_LATER, "out of memory");
            return;
        };
        hold_one(link);
        self.queue.push_back(HeldPublication { publisher, stored, closed_bytes: 0 });
    }

    /// Adds a publication whose publisher is not read already.
    pub(super) fn add(&mut self, publisher: Publisher, stored: StoredPublication) {
        self.queue.push_back(HeldPublication { publisher, stored, closed_bytes: 0 });
    }

    /// Adds a publication of a connection that is closed.
    pub(super) fn add_of_closed(&mut self, publisher: Publisher, stored: StoredPublication) {
        let closed_bytes = stored.len() + ON_CLOSE_MESSAGE_BYTES;
        self.queue.push_back(HeldPublication { publisher, stored, closed_bytes });
    }

    /// The next publication; `None` if there is none, or if it is of a closed connection and this tick has published
    /// enough of those.
    pub(super) fn pop(&mut self) -> Option<HeldPublication> {
        let next = self.queue.front()?;
        if next.closed_bytes > 0 && self.closed_bytes >= ON_CLOSE_BYTES_PER_TICK {
            return None;
        }
        self.closed_bytes += next.closed_bytes;
        self.queue.pop_front()
    }

    /// Puts a publication back in front: there was still no room.
    pub(super) fn put_back(&mut self, held: HeldPublication) {
        self.closed_bytes -= held.closed_bytes;
        self.queue.push_front(held);
    }

    /// Closed connections may publish again.
    pub(super) fn end_tick(&mut self) {
        self.closed_bytes = 0;
    }

    /// Takes all publications, because no process can order them any more.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = StoredPublication> {
        std::mem::take(&mut self.queue).into_iter().map(|held| held.stored)
    }
}

/// A publication of this connection, or its refusal, waits. The connection is not read until [`release_one`] says so.
pub(super) fn hold_one(link: &mut ConnectionContext<'_>) {
    if let Some(held) = held_of(link.peer) {
        *held = held.saturating_add(1);
    }
    link.set_backpressured(true);
}

/// A publication of this connection waits no longer. Returns whether it was the last one.
pub(super) fn release_one(peer: &mut Peer) -> bool {
    let Some(held) = held_of(peer) else { return false };
    *held = held.saturating_sub(1);
    *held == 0
}

/// Whether a connection without held publications is not read for another reason.
pub(super) fn is_paused(peer: &Peer) -> bool {
    match peer {
        Peer::Handler(handler) => handler.is_paused,
        Peer::Session(session) => session.centrifuge().is_some_and(|own| own.calls.are_many()),
        Peer::Subscriber(_) | Peer::Echo => false,
    }
}

fn held_of(peer: &mut Peer) -> Option<&mut u16> {
    match peer {
        Peer::Subscriber(subscriber) => Some(&mut subscriber.held),
        Peer::Session(session) => Some(&mut session.held),
        Peer::Handler(handler) => Some(&mut handler.held),
        Peer::Echo => None,
    }
}
