//! The connections of a shard, by the index of their token.

use crate::driver::Token;
use crate::stats::Account;
use echoring_proto::connection::Connection;

/// One connection with the state of the shard and the application.
#[derive(Debug)]
pub(super) struct Slot<P> {
    pub(super) connection: Connection,
    /// The application's state, once the request was answered.
    pub(super) peer: Option<P>,
    pub(super) generation: u32,
    /// The timer tick that counts; entries at other ticks are stale. 0 for none.
    pub(super) armed: u32,
    /// Where its messages and bytes are counted.
    pub(super) account: Account,
    /// Counts against the node's connections.
    pub(super) leased: bool,
    pub(super) path: Path,
    /// The transport is closing, or the driver gives it up; only the end of that is awaited.
    pub(super) leaving: bool,
    pub(super) send_check: SendCheck,
}

/// What is done with the next span of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// It is read like any other.
    Common,
    /// Its messages are echoed without further processing: the application [echoes](crate::shard::Kinds::echoes), and the
    /// connection [may](Connection::may_echo_in_place). Computed again after a flush or a slow read.
    PlainEcho,
    /// It is read like any other, and the connection is listed for a flush at the tick's end.
    Listed,
}

/// Whether the partial send of a connection is checked for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendCheck {
    No,
    /// A check is due.
    Due,
    /// A check is due, and a send was completed or another one was short since the last one.
    Progressed,
}

impl<P> Slot<P> {
    /// Whether it must be listed for a flush and is not yet.
    #[inline]
    pub(super) fn mark_dirty(&mut self) -> bool {
        std::mem::replace(&mut self.path, Path::Listed) != Path::Listed
    }

    /// Its next span is read like any other.
    #[inline]
    pub(super) fn leave_fast_path(&mut self) {
        if self.path == Path::PlainEcho {
            self.path = Path::Common;
        }
    }
}

/// A table that grows by touching memory reserved at the start: no copy, and an idle node is small.
#[derive(Debug)]
pub(super) struct Slots<P> {
    table: Vec<Option<Slot<P>>>,
    len: usize,
}

impl<P> Slots<P> {
    pub(super) fn with_capacity(connections: u32) -> Slots<P> {
        Slots { table: Vec::with_capacity(connections as usize), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, token: Token) -> Option<&Slot<P>> {
        self.table.get(token.index as usize)?.as_ref().filter(|slot| slot.generation == token.generation)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Slot<P>> {
        self.table.get_mut(token.index as usize)?.as_mut().filter(|slot| slot.generation == token.generation)
    }

    pub(super) fn insert(&mut self, token: Token, connection: Connection, peer: Option<P>) -> &mut Slot<P> {
        let index = token.index as usize;
        if index >= self.table.len() {
            self.table.resize_with(index + 1, || None);
        }
        let slot = Slot {
            connection,
            peer,
            generation: token.generation,
            armed: 0,
            account: Account::HANDSHAKE,
            leased: false,
            path: Path::Common,
            leaving: false,
            send_check: SendCheck::No,
        };
        self.len += usize::from(self.table[index].is_none());
        self.table[index].insert(slot)
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Slot<P>> {
        let entry = self.table.get_mut(token.index as usize)?;
        if entry.as_ref()?.generation != token.generation {
            return None;
        }
        self.len -= 1;
        entry.take()
    }

    /// All connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Token, &Slot<P>)> {
        self.table.iter().enumerate().filter_map(|(index, slot)| {
            let slot = slot.as_ref()?;
            Some((Token { index: index as u32, generation: slot.generation }, slot))
        })
    }

    /// One more than the largest index in use so far.
    pub(super) fn indexes(&self) -> u32 {
        self.table.len() as u32
    }

    /// The connection with this index.
    pub(super) fn token_at(&self, index: u32) -> Option<Token> {
        let slot = self.table.get(index as usize)?.as_ref()?;
        Some(Token { index, generation: slot.generation })
    }

    /// Takes all connections off the fast path, until it is computed again.
    pub(super) fn leave_fast_path(&mut self) {
        self.table.iter_mut().flatten().for_each(Slot::leave_fast_path);
    }

    /// The tokens of all connections.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.iter().map(|(token, _)| token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection pays for it. Flags use the padding.
    #[test]
    fn a_slot_takes_16_bytes_beside_its_connection_and_its_peer() {
        let parts = size_of::<Connection>() + size_of::<Option<u64>>();
        assert_eq!(size_of::<Slot<u64>>(), parts + 16);
    }
}
