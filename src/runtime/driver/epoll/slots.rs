//! The table of connections: one small slot each, reused last in, first out.
//!
//! It knows descriptors, generations and states; it makes no system call but the `close` of a descriptor
//! that is dropped.

use std::os::fd::OwnedFd;

use crate::driver::Token;

/// No index: the end of a list, or nothing staged, or nothing unfinished.
pub(super) const NONE: u32 = u32::MAX;
/// Generations are kept in 24 bits.
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not a connection.
    Free,
    /// The TCP handshake is in progress.
    Connecting,
    /// Connected.
    Open,
    /// Its owner gives it up with the next tick.
    Leaving,
    /// Its failure was reported; it waits for its owner to close it.
    Failed,
    /// It closes once everything staged has been copied to the kernel.
    Closing,
    /// It closes with the next tick.
    Aborting,
}

/// Independent flags beside the phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotFlags(u16);

impl SlotFlags {
    /// Listed for the next tick's start.
    pub(super) const STAGED: SlotFlags = SlotFlags(1 << 0);
    /// Listed for reading.
    pub(super) const QUEUED: SlotFlags = SlotFlags(1 << 1);
    /// The kernel may have bytes or a FIN for us.
    pub(super) const READABLE: SlotFlags = SlotFlags(1 << 2);
    /// The kernel reported a FIN or an error: a short receive is not the last.
    pub(super) const HANGUP: SlotFlags = SlotFlags(1 << 3);
    /// The owner has paused receives.
    pub(super) const PAUSED: SlotFlags = SlotFlags(1 << 4);
    /// FIN has been received and reported.
    pub(super) const ENDED: SlotFlags = SlotFlags(1 << 5);
    /// The owner requested a FIN behind everything staged.
    pub(super) const SHUTDOWN: SlotFlags = SlotFlags(1 << 6);
    /// Writability is in the interest set.
    pub(super) const WRITE_ARMED: SlotFlags = SlotFlags(1 << 7);
    /// Its send was short in the latest tick: nothing of the rest is sent before the next one.
    pub(super) const FRESH: SlotFlags = SlotFlags(1 << 8);
    /// The kernel has become writable meanwhile, which it does not report twice.
    pub(super) const WRITABLE: SlotFlags = SlotFlags(1 << 9);
    /// The owner knows that FIN came behind unread bytes.
    pub(super) const HALF_CLOSED: SlotFlags = SlotFlags(1 << 10);
    /// Its staged send asks for the time of the acknowledgement.
    pub(super) const STAMPED: SlotFlags = SlotFlags(1 << 11);

    pub(super) fn has(self, mark: SlotFlags) -> bool {
        self.0 & mark.0 != 0
    }

    pub(super) fn set(&mut self, mark: SlotFlags) {
        self.0 |= mark.0;
    }

    pub(super) fn clear(&mut self, mark: SlotFlags) {
        self.0 &= !mark.0;
    }

    pub(super) const fn with(self, mark: SlotFlags) -> SlotFlags {
        SlotFlags(self.0 | mark.0)
    }
}

/// One connection, or a free slot. An idle connection costs the driver this and nothing else.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) fd: Option<OwnedFd>,
    generation: u32,
    /// First piece staged in this tick; of a free slot, the next free one.
    pub(super) staged_head: u32,
    /// Last piece staged in this tick.
    pub(super) staged_tail: u32,
    /// The index of its partial send.
    pub(super) unfinished: u32,
    /// Pieces staged in this tick.
    pub(super) staged_count: u8,
    pub(super) phase: Phase,
    pub(super) flags: SlotFlags,
}

const _: () = assert!(size_of::<Slot>() <= 48);

impl Slot {
    /// Whether the latest tick reported a short send that is still partial.
    pub(super) fn may_take_back(&self) -> bool {
        self.unfinished != NONE && self.flags.has(SlotFlags::FRESH)
    }
}

/// All slots. Memory is reserved at once and touched only up to the maximum of open connections so far.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: u32,
    limit: u32,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Slots {
        Slots { slots: Vec::with_capacity(limit as usize), free: NONE, limit }
    }

    /// Whether another connection fits.
    pub(super) fn has_room(&self) -> bool {
        self.free != NONE || self.slots.len() < self.limit as usize
    }

    /// Takes a slot, or returns the descriptor if none is free.
    pub(super) fn insert(&mut self, fd: OwnedFd, phase: Phase) -> Result<Token, OwnedFd> {
        if !self.has_room() {
            return Err(fd);
        }
        let slot = Slot {
            fd: Some(fd),
            generation: 0,
            staged_head: NONE,
            staged_tail: NONE,
            unfinished: NONE,
            staged_count: 0,
            phase,
            flags: SlotFlags::default(),
        };
        let index = match self.free {
            NONE => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
            free => {
                let place = self.at(free);
                let next = place.staged_head;
                *place = Slot { generation: place.generation, ..slot };
                self.free = next;
                free
            }
        };
        Ok(self.token(index))
    }

    /// The slot that `token` names, unless the token is stale.
    pub(super) fn get(&mut self, token: Token) -> Option<&mut Slot> {
        self.slots
            .get_mut(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
    }

    /// The same, only to look at.
    pub(super) fn peek(&self, token: Token) -> Option<&Slot> {
        self.slots
            .get(token.index as usize)
            .filter(|slot| slot.generation == token.generation && slot.phase != Phase::Free)
    }

    /// The slot at an index that the driver itself stores.
    pub(super) fn at(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The generation at an index that may be none.
    pub(super) fn generation(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).map(|slot| slot.generation)
    }

    /// The token of the slot at `index`.
    pub(super) fn token(&self, index: u32) -> Token {
        Token { index, generation: self.slots[index as usize].generation }
    }

    /// Frees a slot, which closes its descriptor. Nothing may be staged or partially sent.
    pub(super) fn remove(&mut self, index: u32) {
        let free = self.free;
        let slot = self.at(index);
        assert!(slot.staged_count == 0 && slot.unfinished == NONE);
        slot.fd = None;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        slot.phase = Phase::Free;
        slot.flags = SlotFlags::default();
        slot.staged_head = free;
        slot.staged_tail = NONE;
        self.free = index;
    }
}
