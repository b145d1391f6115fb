//! The tasks that wait for a connection. A transport wakes only the last task that polled it, but the reader, the
//! writer and any number of others may wait at once. So the transport gets one waker that wakes them all.
//!
//! Never: a waker that is woken or dropped under the lock, because either may run arbitrary code.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// Index of the reader.
pub(super) const READER: usize = 0;
/// Index of the writer.
pub(super) const WRITER: usize = 1;

/// The wakers of all waiting tasks, each at its index.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    places: Mutex<Vec<Waiter>>,
}

#[derive(Debug, Default)]
struct Waiter {
    taken: bool,
    waiting: bool,
    /// Waits for the transport, and not only for other tasks.
    for_transport: bool,
    /// Kept when the wait is over without it, because the same task will most likely wait again.
    waker: Option<Waker>,
}

impl Waiters {
    pub(super) fn new() -> Arc<Waiters> {
        let fixed = || Waiter { taken: true, ..Waiter::default() };
        Arc::new(Waiters { places: Mutex::new(vec![fixed(), fixed()]) })
    }

    /// Registers a waiter that is neither the reader nor the writer, to be [removed](Waiters::leave).
    pub(super) fn enter(&self) -> usize {
        let mut places = self.lock();
        let free = places.iter().position(|place| !place.taken);
        let index = free.unwrap_or_else(|| {
            places.push(Waiter::default());
            places.len() - 1
        });
        places[index].taken = true;
        index
    }

    pub(super) fn leave(&self, index: usize) {
        let left = std::mem::take(&mut self.lock()[index]);
        drop(left);
    }

    /// Waits from now on. Called before the transport is polled, so that an event in between finds the waker.
    pub(super) fn wait(&self, index: usize, waker: &Waker, for_transport: bool) {
        let mut places = self.lock();
        places[index].for_transport = for_transport;
        places[index].waiting = true;
        if places[index].waker.as_ref().is_some_and(|present| present.will_wake(waker)) {
            return;
        }
        let before = places[index].waker.replace(waker.clone());
        drop(places);
        drop(before);
    }

    /// Stops waiting.
    pub(super) fn stop(&self, index: usize) {
        self.lock()[index].waiting = false;
    }

    /// Wakes all waiters except `index`.
    pub(super) fn wake_others(&self, index: usize) {
        self.wake_those(|other, _| other != index);
    }

    fn wake_those(&self, who: impl Fn(usize, &Waiter) -> bool) {
        let mut next = 0;
        while let Some((found, waker)) = self.take(next, &who) {
            waker.wake();
            next = found + 1;
        }
    }

    fn take(&self, from: usize, who: &impl Fn(usize, &Waiter) -> bool) -> Option<(usize, Waker)> {
        let mut places = self.lock();
        let rest = places.iter_mut().enumerate().skip(from);
        rest.filter(|(index, place)| place.waiting && who(*index, place))
            .find_map(|(index, place)| place.waker.take().map(|waker| (index, waker)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiter>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Waiters>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Waiters>) {
        self.wake_those(|_, place| place.for_transport);
    }
}
