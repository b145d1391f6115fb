//! The table of connections: what the driver remembers about each, in as few bytes as it can.

use super::entries::{File, Kind};
use crate::driver::Token;

/// Generations count modulo 2^24, so that one fits into user data beside a kind and an index.
pub(super) const GENERATION_MASK: u32 = (1 << 24) - 1;
/// Never the user data of a receive.
pub(super) const UNHEARD: u64 = 0;
/// No entry of a list that counts from 1.
pub(super) const NONE: u32 = 0;

/// Where a connection is in its life. The order matters: up to `Failed` its owner hears of it, from `Draining`
/// on only of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// A connect is staged or under way.
    Connecting,
    Open,
    /// Failed; its owner has been told and will close it.
    Failed,
    /// Closing when everything staged and under way has been copied to the kernel.
    Draining,
    /// Its operations are being ended.
    Cancelling,
    /// The close is under way, and nothing else.
    Ending,
    Free,
}

/// What becomes of a connection's receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Receive {
    /// Not armed: not wanted yet, or its credit is spent while it is paused.
    Idle,
    /// The kernel has a multishot receive.
    Armed,
    /// Waiting for memory.
    Parked,
    /// The stream ended or failed.
    Over,
}

/// Independent facts about a connection, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks(u16);

impl Marks {
    pub(super) const NONE: Marks = Marks(0);
    /// In the list of connections to look at.
    pub(super) const LISTED: Marks = Marks(1);
    /// Its owner grants no receive credit.
    pub(super) const PAUSED: Marks = Marks(1 << 1);
    /// A half-close was asked for, so no further send is taken.
    pub(super) const SHUTDOWN: Marks = Marks(1 << 2);
    /// The half-close was started.
    pub(super) const SHUT: Marks = Marks(1 << 3);
    /// The rest of a short send is with the kernel.
    pub(super) const REST_ARMED: Marks = Marks(1 << 4);
    /// A connect is with the kernel.
    pub(super) const CONNECT_ARMED: Marks = Marks(1 << 5);
    /// A cancellation is with the kernel.
    pub(super) const CANCEL_ARMED: Marks = Marks(1 << 6);
    /// Another brief operation (a half-close) is with the kernel.
    pub(super) const BUSY: Marks = Marks(1 << 7);
    /// No descriptor could be installed for a half-close.
    pub(super) const INSTALL_REFUSED: Marks = Marks(1 << 8);

    #[inline]
    pub(super) fn has(self, marks: Marks) -> bool {
        self.0 & marks.0 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, marks: Marks) {
        self.0 |= marks.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, marks: Marks) {
        self.0 &= !marks.0;
    }

    pub(super) const fn with(self, marks: Marks) -> Marks {
        Marks(self.0 | marks.0)
    }
}

/// One connection.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    /// User data of its receive while its owner wants to hear of it, else something that no completion
    /// carries.
    pub(super) heard: u64,
    /// Number of its socket: a direct descriptor or an ordinary one.
    pub(super) file: u32,
    pub(super) generation: u32,
    /// Where its entry in the batch of sends is, if it has one: a hint, see [`Batch::find`].
    ///
    /// [`Batch::find`]: super::sends::Batch::find
    pub(super) staged: u32,
    /// Its rest of a short send, counted from 1; for a free slot the next free one.
    pub(super) rest: u32,
    pub(super) phase: Phase,
    pub(super) receive: Receive,
    pub(super) marks: Marks,
}

/// An idle connection costs this much in the driver.
const _: () = assert!(size_of::<Slot>() <= 32);

impl Slot {
    /// Whether a send may be staged: nothing is in its way.
    #[inline(always)]
    pub(super) fn takes_sends(&self) -> bool {
        self.phase == Phase::Open && self.rest == NONE && !self.marks.has(Marks::SHUTDOWN)
    }

    /// Whether the kernel has an operation of this connection that may have to be cancelled.
    pub(super) fn is_under_way(&self) -> bool {
        self.receive == Receive::Armed || self.marks.has(Marks::REST_ARMED.with(Marks::CONNECT_ARMED))
    }
}

/// All connections. Its memory grows with the most that existed at once; freed slots are reused last in,
/// first out.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    limit: u32,
    used: u32,
    /// First of the free slots, counted from 1.
    free: u32,
    direct: bool,
}

impl Slots {
    /// An empty table for `limit` connections, on direct descriptors or ordinary ones.
    pub(super) fn new(limit: u32, direct: bool) -> Slots {
        // Reserved but untouched: a page becomes memory when its first connection comes.
        Slots { slots: Vec::with_capacity(limit as usize), limit, used: 0, free: NONE, direct }
    }

    /// Connections that still fit.
    pub(super) fn room(&self) -> u32 {
        self.limit - self.used
    }

    /// A slot for the socket `file`, unless the table is full.
    pub(super) fn take(&mut self, file: u32, phase: Phase) -> Option<Token> {
        if self.room() == 0 {
            return None;
        }
        self.used += 1;
        let index = match self.free {
            NONE => {
                self.slots.push(Slot {
                    heard: UNHEARD,
                    file: 0,
                    generation: 0,
                    staged: NONE,
                    rest: NONE,
                    phase: Phase::Free,
                    receive: Receive::Idle,
                    marks: Marks::NONE,
                });
                self.slots.len() as u32 - 1
            }
            free => {
                self.free = self.slots[free as usize - 1].rest;
                free - 1
            }
        };
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(slot.phase, Phase::Free);
        slot.file = file;
        slot.staged = NONE;
        slot.rest = NONE;
        slot.phase = phase;
        slot.receive = Receive::Idle;
        slot.marks = Marks::NONE;
        let token = Token { index, generation: slot.generation };
        slot.heard = Kind::Receive.of_token(token);
        Some(token)
    }

    /// Frees a slot; tokens that name it are stale from now on.
    pub(super) fn release(&mut self, index: u32) {
        let free = self.free;
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.phase != Phase::Free && slot.rest == NONE);
        slot.phase = Phase::Free;
        slot.heard = UNHEARD;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        slot.rest = free;
        self.free = index + 1;
        self.used -= 1;
    }

    /// The slot that `token` names, unless it has been freed since.
    #[inline(always)]
    pub(super) fn get(&mut self, token: Token) -> Option<&mut Slot> {
        self.slots
            .get_mut(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
    }

    /// Whether the owner of a connection wants to hear of bytes that a completion with `user_data` brought: the
    /// kind of the operation, the generation and the phase are right.
    #[inline(always)]
    pub(super) fn hears(&self, user_data: u64) -> bool {
        self.slots.get(user_data as u32 as usize).is_some_and(|slot| slot.heard == user_data)
    }

    /// The slot at a position known to exist.
    #[inline]
    pub(super) fn at(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The socket of the slot at `index`.
    #[inline]
    pub(super) fn file(&self, index: u32) -> File {
        File { number: self.slots[index as usize].file, direct: self.direct }
    }

    /// The present token of the slot at `index`.
    #[inline]
    pub(super) fn token(&self, index: u32) -> Token {
        Token { index, generation: self.slots[index as usize].generation }
    }

    /// Whether the sockets are direct descriptors.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Slots in use.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.phase != Phase::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_comes_back_under_another_generation() {
        let mut slots = Slots::new(2, true);
        let first = slots.take(10, Phase::Open).unwrap();
        let second = slots.take(11, Phase::Open).unwrap();
        assert!(slots.take(12, Phase::Open).is_none());
        slots.release(first.index);
        assert!(slots.get(first).is_none());
        let third = slots.take(12, Phase::Open).unwrap();
        assert_eq!(third.index, first.index);
        assert_ne!(third.generation, first.generation);
        assert!(slots.get(second).is_some());
        assert_eq!(slots.room(), 0);
    }
}
