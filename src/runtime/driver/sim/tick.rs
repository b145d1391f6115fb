//! A tick of the simulated driver: it submits the staged work, recycles memory, and reports completions as a real
//! kernel might.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use super::super::addresses::PeerAddress;
use super::network::{Inbound, NetworkState};
use super::{BANKS, Phase, Sim, discard};
use crate::driver::{Event, Released, Source, Span, Token};
use crate::limits::RECEIVE_BYTES_MAX;
use echoring_proto::buffer::Pool;

/// Ticks by which a staged send is late at most.
const LATE_TICKS_MAX: u8 = 2;
/// Fills receive memory that is recycled.
pub(super) const POISON: u8 = 0xdd;
/// Ticks for which accepting pauses after a failure.
const ACCEPT_PAUSE_TICKS: u32 = 5;

impl Sim {
    // ---- the start of a tick: what was staged ----

    pub(super) fn settle(&mut self, state: &mut NetworkState, pool: &mut Pool) {
        for slot in &mut self.slots {
            slot.fresh = false;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|&index| {
            let done = self.settle_one(index, state, pool);
            self.slots[index as usize].dirty = !done;
            !done
        });
        self.busy |= !dirty.is_empty();
        self.dirty = dirty;
    }

    /// Carries out the staged work of one connection. False when it is postponed to the next tick.
    fn settle_one(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) -> bool {
        let faults = state.faults;
        let slot = &mut self.slots[index as usize];
        if slot.phase == Phase::Aborting {
            // The slot is free when what was under way is known to be over; the bytes are dropped at once.
            discard(slot, pool);
            if state.random.chance(faults.late_close) {
                return false;
            }
            self.remove(index, state, pool);
            return true;
        }
        if !slot.staged.is_empty() {
            if slot.late_ticks < LATE_TICKS_MAX && state.random.chance(faults.late_submit) {
                slot.late_ticks += 1;
                return false;
            }
            slot.late_ticks = 0;
            self.submit(index, state, pool);
        }
        if self.slots[index as usize].phase == Phase::Leaving {
            return self.leave(index, state, pool);
        }
        self.settle_end(index, state, pool)
    }

    /// Gives a connection up, unless what was under way ends later. False when it is postponed.
    fn leave(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) -> bool {
        if state.random.chance(state.faults.late_close) {
            return false;
        }
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        if state.random.chance(state.faults.stays) {
            slot.phase = Phase::Open;
            self.report(index, Event::Kept { token });
            return true;
        }
        let socket = state.give_up(slot.wire, slot.side);
        let released = Released { socket, unsent: slot.rest.copied(), has_fallen_behind: slot.limited };
        discard(slot, pool);
        self.free_slot(index);
        self.released.push((token, released));
        self.report(index, Event::Released { token });
        true
    }

    /// Sends the FIN or closes, once every byte is with the kernel. False when it is postponed.
    fn settle_end(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) -> bool {
        let slot = &mut self.slots[index as usize];
        if slot.rest.bytes() > 0 {
            return true;
        }
        match slot.phase {
            Phase::Closing => {
                if state.random.chance(state.faults.late_close) {
                    return false;
                }
                self.remove(index, state, pool);
            }
            Phase::Open if slot.shutdown => state.end(slot.wire, slot.side),
            _ => {}
        }
        true
    }

    /// Passes the staged pieces of a connection to the kernel as one send.
    fn submit(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) {
        let slot = &mut self.slots[index as usize];
        if state.is_broken(slot.wire, slot.side) {
            let error = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe][state.random.below(2)];
            return self.fail(index, error, state, pool);
        }
        let total: usize = slot.staged.iter().map(Source::len).sum();
        let mut allowed = total.min(state.room(slot.wire, slot.side));
        if state.random.chance(state.faults.send_again) {
            allowed = 0;
        } else if state.random.chance(state.faults.short_send) {
            allowed = state.random.below(allowed + 1);
        }
        let unsent = total - allowed;
        while let Some(mut source) = slot.staged.pop_front() {
            let now = allowed.min(source.len());
            allowed -= now;
            let bytes = source.bytes(|span| received(&self.memory, span));
            let sent = state.write(slot.wire, slot.side, &bytes[..now]);
            debug_assert_eq!(sent, now, "the room was looked up");
            source.skip(now);
            if slot.rest.append(source, &mut 0, pool, |span| received(&self.memory, span)).is_err() {
                return self.fail(index, ErrorKind::OutOfMemory, state, pool);
            }
        }
        self.busy |= unsent > 0 && state.room(slot.wire, slot.side) > 0;
        let is_acknowledged = std::mem::take(&mut slot.stamped) && unsent == 0;
        if unsent > 0 && matches!(slot.phase, Phase::Open | Phase::Leaving) {
            slot.fresh = true;
            let token = self.token(index);
            self.report(index, Event::Blocked { token, unsent: unsent as u32 });
        } else if is_acknowledged && slot.phase == Phase::Open {
            let (token, at) = (self.token(index), state.now());
            self.report(index, Event::Acknowledged { token, at });
        }
    }

    /// Poisons recycled memory, and chooses the bank for this tick.
    pub(super) fn recycle(&mut self, state: &mut NetworkState) {
        let bank_bytes = self.memory.len() / BANKS;
        let mut held = [false; BANKS];
        for slot in &self.slots {
            for source in &slot.staged {
                if let Source::Received(span) = source {
                    held[span.offset as usize / bank_bytes] = true;
                }
            }
        }
        for bank in (0..BANKS).filter(|&bank| !held[bank]) {
            if std::mem::take(&mut self.used[bank]) {
                self.memory[bank * bank_bytes..(bank + 1) * bank_bytes].fill(POISON);
            }
        }
        let open: Vec<usize> = (0..BANKS).filter(|&bank| !held[bank]).collect();
        self.bank = open[state.random.below(open.len())];
        self.filled = 0;
        self.spans.clear();
    }

    // ---- what a tick finds ----

    pub(super) fn look(&mut self, state: &mut NetworkState, pool: &mut Pool) {
        let node = &mut state.nodes[self.number];
        node.touched = false;
        let woken = node.woken.swap(false, Ordering::AcqRel);
        if std::mem::take(&mut self.woken_late) || woken {
            if state.random.chance(state.faults.late_wake) {
                self.woken_late = true;
                self.busy = true;
            } else {
                self.found.push((None, Event::Woken));
            }
        }
        self.accept(state);
        let mut order: Vec<u32> = (0..self.slots.len() as u32).collect();
        state.random.shuffle(&mut order);
        for &index in &order {
            self.look_at(index, state, pool);
        }
        self.find_addresses(state);
        self.receive(&order, state);
        for &index in &order {
            self.look_for_end(index, state, pool);
        }
    }

    fn accept(&mut self, state: &mut NetworkState) {
        if self.accept_paused_ticks > 0 {
            self.accept_paused_ticks -= 1;
            self.busy = true;
            return;
        }
        while self.has_room() && !state.nodes[self.number].backlog.is_empty() {
            if state.random.chance(state.faults.accept_fails) {
                self.accept_paused_ticks = ACCEPT_PAUSE_TICKS;
                self.busy = true;
                return self.found.push((None, Event::AcceptFailed { errno: libc::EMFILE }));
            }
            let Some(wire) = state.nodes[self.number].backlog.pop_front() else { return };
            let token = self.insert(wire, 1, Phase::Open);
            self.report(token.index, Event::Accepted { token, listener: 0 });
        }
    }

    /// Dials, resets from outside, and the rest of short sends.
    fn look_at(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) {
        let faults = state.faults;
        let slot = &mut self.slots[index as usize];
        if slot.phase == Phase::Connecting {
            let token = Token { index, generation: slot.generation };
            if state.inbound(slot.wire, slot.side).reset {
                return self.fail(index, ErrorKind::ConnectionRefused, state, pool);
            }
            slot.phase = Phase::Open;
            return self.report(index, Event::Connected { token });
        }
        if slot.phase == Phase::Open && state.random.chance(faults.reset) {
            state.reset(slot.wire);
        }
        if slot.rest.bytes() == 0 || slot.fresh || !matches!(slot.phase, Phase::Open | Phase::Closing) {
            return;
        }
        if state.is_broken(slot.wire, slot.side) {
            return self.fail(index, ErrorKind::ConnectionReset, state, pool);
        }
        if state.random.chance(faults.stalled_rest) {
            // Where the peer does not read there is nothing to put off.
            self.busy |= state.room(slot.wire, slot.side) > 0;
            return;
        }
        let mut taken = 0;
        for bytes in slot.rest.slices() {
            let sent = state.write(slot.wire, slot.side, bytes);
            taken += sent;
            if sent < bytes.len() {
                break;
            }
        }
        slot.rest.advance(taken, pool);
        if slot.rest.bytes() > 0 {
            return;
        }
        let token = Token { index, generation: slot.generation };
        if slot.phase == Phase::Open {
            self.report(index, Event::Unblocked { token });
        }
        if !self.settle_end(index, state, pool) {
            self.mark_dirty(token);
            self.busy = true;
        }
    }

    /// Answers requests for addresses, some of them late. Each wire has an address of its own.
    fn find_addresses(&mut self, state: &mut NetworkState) {
        for token in std::mem::take(&mut self.unaddressed) {
            let Some(slot) = self.slot(token).filter(|slot| slot.phase == Phase::Open) else { continue };
            let wire = slot.wire as u32;
            if state.random.chance(state.faults.late_submit) {
                self.unaddressed.push(token);
                continue;
            }
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() | (wire & 0x00ff_ffff));
            self.addresses.keep(token, PeerAddress::Ip(SocketAddr::from((address, 40_000))));
            self.report(token.index, Event::Addressed { token });
        }
    }

    /// Receives from connections in turn, each several times, so that spans of one tick lie apart or adjoin as
    /// chance has it.
    fn receive(&mut self, order: &[u32], state: &mut NetworkState) {
        let mut receives: Vec<u32> = Vec::new();
        for &index in order {
            if self.may_receive(index, state) {
                let count = state.random.between(1, 3);
                receives.extend(std::iter::repeat_n(index, count));
            }
        }
        if state.random.chance(500) {
            state.random.shuffle(&mut receives);
        }
        for index in receives {
            self.receive_once(index, state);
        }
    }

    fn may_receive(&mut self, index: u32, state: &mut NetworkState) -> bool {
        let faults = state.faults;
        let slot = &mut self.slots[index as usize];
        if !matches!(slot.phase, Phase::Open | Phase::Leaving) || slot.ended {
            return false;
        }
        if slot.paused {
            if slot.late_looks == 0 || slot.late_bytes == 0 {
                return false;
            }
            slot.late_looks -= 1;
            self.busy = true;
        }
        if slot.parked_ticks == 0 {
            if state.random.chance(faults.no_buffers) {
                slot.parked_ticks = state.random.between(1, 4) as u8;
            } else if state.random.chance(faults.receive_ends) {
                slot.parked_ticks = 1;
            }
        }
        if slot.parked_ticks > 0 {
            slot.parked_ticks -= 1;
            // With many connections some are parked at any time; where nothing waits, nothing is to be done for that.
            self.busy |= state.inbound(slot.wire, slot.side).bytes > 0;
            return false;
        }
        true
    }

    fn receive_once(&mut self, index: u32, state: &mut NetworkState) {
        let bank_bytes = self.memory.len() / BANKS;
        let (token, room) = (self.token(index), bank_bytes - self.filled);
        let slot = &mut self.slots[index as usize];
        let there = state.inbound(slot.wire, slot.side).bytes;
        let mut bytes = there.min(room).min(RECEIVE_BYTES_MAX as usize);
        if slot.paused {
            bytes = bytes.min(slot.late_bytes);
        }
        if bytes > 1 && state.random.chance(state.faults.short_receive) {
            let most = [bytes, bytes.min(16), bytes.min(1500)][state.random.below(3)];
            bytes = state.random.between(1, most);
        }
        self.busy |= there > bytes && !slot.paused;
        if bytes == 0 {
            return;
        }
        if slot.paused {
            slot.late_bytes -= bytes;
        }
        let start = self.bank * bank_bytes + self.filled;
        let mut at = start;
        state.read(slot.wire, slot.side, bytes, |part| {
            self.memory[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        });
        self.used[self.bank] = true;
        self.filled += bytes;
        let span = Span { offset: start as u32, bytes: bytes as u32 };
        if let Some((_, Event::Received { token: last, span: grown })) = self.found.last_mut()
            && *last == token
            && grown.offset + grown.bytes == span.offset
        {
            grown.bytes += span.bytes;
            if let Some(last) = self.spans.last_mut() {
                *last = *grown;
            }
            return;
        }
        self.spans.push(span);
        self.report(index, Event::Received { token, span });
    }

    /// Reports FIN and resets behind the last byte.
    fn look_for_end(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) {
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        if !matches!(slot.phase, Phase::Open | Phase::Leaving) || (slot.ended && !slot.paused) {
            return;
        }
        if slot.paused {
            return self.look_for_end_while_paused(index, state, pool);
        }
        let Inbound { bytes, ended, reset } = state.inbound(slot.wire, slot.side);
        if bytes > 0 || !(ended || reset) {
            return;
        }
        if state.random.chance(state.faults.receive_ends) {
            self.busy = true;
        } else if reset {
            self.fail(index, ErrorKind::ConnectionReset, state, pool);
        } else {
            slot.ended = true;
            self.report(index, Event::Ended { token });
        }
    }

    /// A reset is noticed even before unread bytes. FIN is, too; behind the last byte it may be reported as the end, by
    /// a receive that was armed before the pause.
    fn look_for_end_while_paused(&mut self, index: u32, state: &mut NetworkState, pool: &mut Pool) {
        let token = self.token(index);
        let slot = &mut self.slots[index as usize];
        let Inbound { bytes, ended, reset } = state.inbound(slot.wire, slot.side);
        let news = reset || (ended && !slot.ended && !slot.half_closed);
        if news && state.random.chance(state.faults.receive_ends) {
            self.busy = true;
        } else if reset {
            self.fail(index, ErrorKind::ConnectionReset, state, pool);
        } else if news && bytes == 0 && state.random.chance(state.faults.late_data) {
            slot.ended = true;
            self.report(index, Event::Ended { token });
        } else if news {
            slot.half_closed = true;
            self.report(index, Event::HalfClosed { token });
        }
    }

    /// Appends the findings to `events`: each connection's in order, the connections mixed.
    pub(super) fn hand_over(&mut self, state: &mut NetworkState, events: &mut Vec<Event>) {
        if !state.random.chance(state.faults.reorder) {
            events.extend(self.found.drain(..).map(|(_, event)| event));
            return;
        }
        let mut queues: Vec<(Option<u32>, VecDeque<Event>)> = Vec::new();
        for (index, event) in self.found.drain(..) {
            match queues.iter_mut().find(|(of, _)| *of == index) {
                Some((_, queue)) => queue.push_back(event),
                None => queues.push((index, VecDeque::from([event]))),
            }
        }
        while !queues.is_empty() {
            let at = state.random.below(queues.len());
            match queues[at].1.pop_front() {
                Some(event) => events.push(event),
                None => drop(queues.swap_remove(at)),
            }
        }
    }
}

fn received(memory: &[u8], span: Span) -> &[u8] {
    &memory[span.offset as usize..][..span.bytes as usize]
}
