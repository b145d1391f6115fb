//! The tasks that wait for a connection.
//!
//! A transport wakes only the last task that polled it. While one task waits, which is the rule, the transport gets that
//! task's own waker. The reader, the writer and any number of others may wait at once, though. Then the transport gets
//! one waker that wakes them all.
//!
//! Never: a waker that is woken or dropped under a lock, because either may run arbitrary code.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// Index of the reader.
pub(super) const READER: usize = 0;
/// Index of the writer.
pub(super) const WRITER: usize = 1;
/// Index of the first waiter that is neither.
const GUESTS: usize = 2;

/// All waiting tasks, each at its index. Behind the lock of the connection.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    halves: [Waiter; GUESTS],
    guests: Vec<Guest>,
}

#[derive(Debug, Default)]
struct Waiter {
    waiting: bool,
    /// Waits for the transport, and not only for other tasks.
    for_transport: bool,
    /// Its waker is in the common one.
    is_shared: bool,
    /// Kept when the wait ends without it, because the same task will most likely wait again.
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Guest {
    taken: bool,
    waiter: Waiter,
}

impl Waiter {
    /// Whether the transport must wake this task, and not only the one of `waker`.
    #[inline]
    fn competes_with(&self, waker: &Waker) -> bool {
        let waits = self.waiting && self.for_transport;
        waits && self.waker.as_ref().is_some_and(|present| !present.will_wake(waker))
    }

    /// Its waker, if it waits.
    fn take(&mut self) -> Option<Waker> {
        if !std::mem::take(&mut self.waiting) {
            return None;
        }
        self.waker.take()
    }
}

/// Wakers that are woken or dropped once no lock is held.
#[derive(Debug, Default)]
#[must_use = "nobody is woken under the lock"]
pub(super) struct Wakers {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl Wakers {
    fn push(&mut self, waker: Waker) {
        match &self.first {
            None => self.first = Some(waker),
            Some(_) => self.rest.push(waker),
        }
    }

    pub(super) fn wake(self) {
        self.first.into_iter().chain(self.rest).for_each(Waker::wake);
    }
}

impl Waiters {
    /// Adds a waiter that is neither the reader nor the writer, to be [removed](Waiters::leave).
    pub(super) fn enter(&mut self) -> usize {
        let free = self.guests.iter().position(|guest| !guest.taken);
        let at = free.unwrap_or_else(|| {
            self.guests.push(Guest::default());
            self.guests.len() - 1
        });
        self.guests[at].taken = true;
        GUESTS + at
    }

    /// Removes such a waiter. Returns the dropped wakers.
    pub(super) fn leave(&mut self, index: usize) -> Option<Waker> {
        std::mem::take(&mut self.guests[index - GUESTS]).waiter.waker
    }

    /// Whether the transport must wake another task than that of `waker`, which is about to poll it as the waiter `index`.
    #[inline]
    pub(super) fn has_competitor(&self, index: usize, waker: &Waker) -> bool {
        let competes = |(at, half): (usize, &Waiter)| at != index && half.competes_with(waker);
        self.halves.iter().enumerate().any(competes)
            || self.guests.iter().any(|guest| guest.waiter.competes_with(waker))
    }

    /// Waits from now on. Returns the dropped wakers.
    #[inline]
    pub(super) fn wait(&mut self, index: usize, waker: &Waker, for_transport: bool) -> Option<Waker> {
        let waiter = self.get_mut(index);
        (waiter.waiting, waiter.for_transport, waiter.is_shared) = (true, for_transport, false);
        match &waiter.waker {
            Some(present) if present.will_wake(waker) => None,
            _ => waiter.waker.replace(waker.clone()),
        }
    }

    /// Stops waiting. Returns whether the common waker still contains the waiter.
    #[inline]
    pub(super) fn stop(&mut self, index: usize) -> bool {
        let waiter = self.get_mut(index);
        waiter.waiting = false;
        std::mem::take(&mut waiter.is_shared)
    }

    /// Makes `common` wake all tasks that wait for the transport; `index` has just begun to. Returns what is dropped.
    pub(super) fn share(&mut self, index: usize, common: &CommonWaker) -> Wakers {
        let mut dropped = Wakers::default();
        let mut slots = common.lock();
        for (at, waiter) in self.iter_mut() {
            if !waiter.waiting || !waiter.for_transport {
                continue;
            }
            if waiter.is_shared && at != index && !slots.get(at).is_some_and(|slot| slot.armed) {
                // The common waker has woken it meanwhile; it has not polled since.
                (waiter.waiting, waiter.is_shared) = (false, false);
                continue;
            }
            let Some(waker) = &waiter.waker else { continue };
            waiter.is_shared = true;
            if at >= slots.len() {
                slots.resize_with(at + 1, Slot::default);
            }
            if let Some(before) = slots[at].arm(waker) {
                dropped.push(before);
            }
        }
        dropped
    }

    /// Whether others than `index` may wait.
    #[inline]
    pub(super) fn has_others(&self, index: usize) -> bool {
        let waits = |(at, half): (usize, &Waiter)| at != index && half.waiting;
        self.halves.iter().enumerate().any(waits) || !self.guests.is_empty()
    }

    /// The wakers of all waiters except `index`.
    pub(super) fn take_others(&mut self, index: usize) -> Wakers {
        let mut wakers = Wakers::default();
        for (at, waiter) in self.iter_mut() {
            if at != index
                && let Some(waker) = waiter.take()
            {
                wakers.push(waker);
            }
        }
        wakers
    }

    #[inline]
    fn get_mut(&mut self, index: usize) -> &mut Waiter {
        match self.halves.get_mut(index) {
            Some(half) => half,
            None => &mut self.guests[index - GUESTS].waiter,
        }
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Waiter)> {
        let guests = self.guests.iter_mut().map(|guest| &mut guest.waiter);
        self.halves.iter_mut().chain(guests).enumerate()
    }
}

/// The wakers of all tasks that wait for the transport, as one waker.
#[derive(Debug, Default)]
pub(super) struct CommonWaker {
    slots: Mutex<Vec<Slot>>,
}

/// A task's waker.
#[derive(Debug, Default)]
struct Slot {
    armed: bool,
    /// Kept when the wait ends without it.
    waker: Option<Waker>,
}

impl Slot {
    /// Returns what is dropped.
    fn arm(&mut self, waker: &Waker) -> Option<Waker> {
        self.armed = true;
        match &self.waker {
            Some(present) if present.will_wake(waker) => None,
            _ => self.waker.replace(waker.clone()),
        }
    }
}

impl CommonWaker {
    /// From now on the waiter `index` is not woken.
    pub(super) fn disarm(&self, index: usize) {
        if let Some(slot) = self.lock().get_mut(index) {
            slot.armed = false;
        }
    }

    /// Forgets the waiter `index`. Returns the dropped wakers.
    pub(super) fn forget(&self, index: usize) -> Option<Waker> {
        let mut slots = self.lock();
        slots.get_mut(index).and_then(|slot| std::mem::take(slot).waker)
    }

    /// The next waker at `from` or behind.
    fn take(&self, from: usize) -> Option<(usize, Waker)> {
        let mut slots = self.lock();
        let armed = slots.iter_mut().enumerate().skip(from).filter(|(_, slot)| slot.armed);
        armed.into_iter().find_map(|(index, slot)| {
            slot.armed = false;
            slot.waker.take().map(|waker| (index, waker))
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for CommonWaker {
    fn wake(self: Arc<CommonWaker>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<CommonWaker>) {
        let mut next = 0;
        while let Some((found, waker)) = self.take(next) {
            waker.wake();
            next = found + 1;
        }
    }
}
