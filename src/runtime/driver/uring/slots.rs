//! The table of connections: the driver's state of each, in as few bytes as possible.

use super::entries::{File, Kind};
use crate::driver::Token;

/// Generations count modulo 2^24, so that one fits into user data beside a kind and an index.
pub(super) const GENERATION_MASK: u32 = (1 << 24) - 1;
/// No entry of a list that counts from 1.
pub(super) const NONE: u32 = 0;

/// Where a connection is in its life. The order matters: from `Draining` on its owner hears only of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Phase {
    /// A connect is staged or under way.
    Connecting,
    Open,
    /// Its owner gives it up: its operations are being ended, and what they bring is reported.
    Leaving,
    /// Failed; its owner knows and will close it.
    Failed,
    /// Closing when everything staged and under way has been copied to the kernel.
    Draining,
    /// Its operations are being ended.
    Cancelling,
    /// Its retransmissions are being counted.
    Counting,
    /// The close is under way, and nothing else.
    Ending,
    /// Not in use.
    Free,
}

/// The state of a connection's multishot receive.
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
pub(super) struct SlotFlags(u16);

impl SlotFlags {
    pub(super) const NONE: SlotFlags = SlotFlags(0);
    /// In the list of connections to look at.
    pub(super) const LISTED: SlotFlags = SlotFlags(1);
    /// Its owner grants no receive credit.
    pub(super) const PAUSED: SlotFlags = SlotFlags(1 << 1);
    /// A half-close was asked for, so no further send is taken.
    pub(super) const SHUTDOWN: SlotFlags = SlotFlags(1 << 2);
    /// The half-close was started.
    pub(super) const SHUT: SlotFlags = SlotFlags(1 << 3);
    /// The kernel has the rest of a short send.
    pub(super) const PARTIAL_SEND_ARMED: SlotFlags = SlotFlags(1 << 4);
    /// A connect is with the kernel.
    pub(super) const CONNECT_ARMED: SlotFlags = SlotFlags(1 << 5);
    /// A cancellation is with the kernel.
    pub(super) const CANCEL_ARMED: SlotFlags = SlotFlags(1 << 6);
    /// A cancellation found its operation, whose last completion is still to come.
    pub(super) const CANCEL_FOUND: SlotFlags = SlotFlags(1 << 9);
    /// A cancellation by user data did not find its operation.
    pub(super) const CANCEL_MISSED: SlotFlags = SlotFlags(1 << 10);
    /// Another brief operation (a half-close, a look at the socket) is with the kernel.
    pub(super) const BUSY: SlotFlags = SlotFlags(1 << 7);
    /// No descriptor could be installed for a half-close.
    pub(super) const INSTALL_REFUSED: SlotFlags = SlotFlags(1 << 8);
    /// Its owner asked for the peer's address.
    pub(super) const UNADDRESSED: SlotFlags = SlotFlags(1 << 11);
    /// Its rest of a short send has not been with the kernel yet.
    pub(super) const FRESH: SlotFlags = SlotFlags(1 << 12);
    /// A poll for the peer's end is with the kernel.
    pub(super) const END_POLLED: SlotFlags = SlotFlags(1 << 13);
    /// Its owner knows that FIN came behind unread bytes.
    pub(super) const HALF_CLOSED: SlotFlags = SlotFlags(1 << 14);
    /// The poll found that it had failed, while an armed receive was about to find the same.
    pub(super) const BROKEN: SlotFlags = SlotFlags(1 << 15);

    #[inline]
    pub(super) fn has(self, flags: SlotFlags) -> bool {
        self.0 & flags.0 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flags: SlotFlags) {
        self.0 |= flags.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, flags: SlotFlags) {
        self.0 &= !flags.0;
    }

    pub(super) const fn with(self, flags: SlotFlags) -> SlotFlags {
        SlotFlags(self.0 | flags.0)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Slot {
    /// Number of its socket: a direct descriptor or an ordinary one.
    pub(super) file: u32,
    pub(super) generation: u32,
    /// Number of its latest entry in a batch of sends, see [`Batch`](super::sends::Batch); 0 for none.
    pub(super) staged: u64,
    /// Its rest of a short send, counted from 1; for a free slot the next free one.
    pub(super) partial_send: u32,
    pub(super) phase: Phase,
    pub(super) receive: Receive,
    pub(super) flags: SlotFlags,
}

/// An idle connection costs this much in the driver.
const _: () = assert!(size_of::<Slot>() <= 32);

impl Slot {
    /// Whether a send may be staged.
    #[inline]
    pub(super) fn takes_sends(&self) -> bool {
        self.phase == Phase::Open && self.partial_send == NONE && !self.flags.has(SlotFlags::SHUTDOWN)
    }

    /// Its rest of a short send, counted from 1, while nothing of that has been with the kernel again.
    pub(super) fn fresh_partial_send(&self) -> Option<u32> {
        (self.partial_send != NONE && self.flags.has(SlotFlags::FRESH)).then_some(self.partial_send)
    }

    /// Whether received bytes are reported to its owner.
    #[inline]
    pub(super) fn is_heard(&self) -> bool {
        self.phase <= Phase::Failed
    }

    /// The operation of this connection that does not end by itself, and the kind of its cancellation;
    /// the receive before anything else.
    pub(super) fn under_way(&self) -> Option<(Kind, Kind)> {
        if self.receive == Receive::Armed {
            Some((Kind::Receive, Kind::CancelReceive))
        } else if self.flags.has(SlotFlags::PARTIAL_SEND_ARMED) {
            Some((Kind::PartialSend, Kind::CancelPartialSend))
        } else if self.flags.has(SlotFlags::CONNECT_ARMED) {
            Some((Kind::Connect, Kind::CancelConnect))
        } else if self.flags.has(SlotFlags::END_POLLED) {
            Some((Kind::EndPoll, Kind::CancelEndPoll))
        } else {
            None
        }
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
        let slot = Slot {
            file,
            generation: 0,
            staged: 0,
            partial_send: NONE,
            phase,
            receive: Receive::Idle,
            flags: SlotFlags::NONE,
        };
        let index = match self.free {
            NONE => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
            free => {
                let place = &mut self.slots[free as usize - 1];
                assert_eq!(place.phase, Phase::Free, "a slot has one connection at a time");
                self.free = place.partial_send;
                *place = Slot { generation: place.generation, ..slot };
                free - 1
            }
        };
        Some(self.token(index))
    }

    /// Frees a slot; tokens that name it are stale from now on.
    pub(super) fn release(&mut self, index: u32) {
        let free = self.free;
        let slot = &mut self.slots[index as usize];
        assert!(
            slot.phase != Phase::Free && slot.partial_send == NONE,
            "a slot is freed once, with no send left"
        );
        slot.phase = Phase::Free;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        slot.partial_send = free;
        self.free = index + 1;
        self.used -= 1;
    }

    /// The slot that `token` names, unless it has been freed since.
    #[inline]
    pub(super) fn get(&mut self, token: Token) -> Option<&mut Slot> {
        self.slots
            .get_mut(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
    }

    /// Whether received bytes are reported to the connection's owner. Called for every message.
    #[inline]
    pub(super) fn hears(&self, token: Token) -> bool {
        // A free slot is past the phases that are heard.
        self.slots
            .get(token.index as usize)
            .is_some_and(|slot| slot.generation == token.generation && slot.is_heard())
    }

    /// The same, only to look at.
    pub(super) fn peek(&self, token: Token) -> Option<&Slot> {
        self.slots
            .get(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
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

    /// The generation at an index that may be none.
    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).map(|slot| slot.generation)
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
