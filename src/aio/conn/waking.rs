//! Who waits for a connection. A transport wakes the last task that polled it and no other; here the reader, the writer
//! and any number of others may wait at once, so the transport is given one waker that wakes them all.
//!
//! Never: a waker woken or dropped under the lock, for either may run anything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// The place of the one who reads.
pub(super) const READER: usize = 0;
/// The place of the one who writes.
pub(super) const WRITER: usize = 1;

/// Who waits, each in a place of its own.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    places: Mutex<Vec<Place>>,
}

#[derive(Debug, Default)]
struct Place {
    taken: bool,
    /// Waits for the transport, and not merely for what others do.
    for_transport: bool,
    waker: Option<Waker>,
}

impl Waiting {
    pub(super) fn new() -> Arc<Waiting> {
        let fixed = || Place { taken: true, ..Place::default() };
        Arc::new(Waiting { places: Mutex::new(vec![fixed(), fixed()]) })
    }

    /// A place for somebody who is neither the reader nor the writer, to be [left](Waiting::leave).
    pub(super) fn enter(&self) -> usize {
        let mut places = self.lock();
        let free = places.iter().position(|place| !place.taken);
        let index = free.unwrap_or_else(|| {
            places.push(Place::default());
            places.len() - 1
        });
        places[index].taken = true;
        index
    }

    pub(super) fn leave(&self, index: usize) {
        let left = std::mem::take(&mut self.lock()[index]);
        drop(left);
    }

    /// Waits from now on. Done before the transport is polled: what happens meanwhile must find the waker.
    pub(super) fn wait(&self, index: usize, waker: &Waker, for_transport: bool) {
        let mut places = self.lock();
        places[index].for_transport = for_transport;
        if places[index].waker.as_ref().is_some_and(|present| present.will_wake(waker)) {
            return;
        }
        let before = places[index].waker.replace(waker.clone());
        drop(places);
        drop(before);
    }

    /// Waits no more.
    pub(super) fn stop(&self, index: usize) {
        let waker = self.lock()[index].waker.take();
        drop(waker);
    }

    /// Wakes all but `index`.
    pub(super) fn wake_others(&self, index: usize) {
        self.wake_those(|other, _| other != index);
    }

    fn wake_those(&self, who: impl Fn(usize, &Place) -> bool) {
        let mut next = 0;
        while let Some((found, waker)) = self.take(next, &who) {
            waker.wake();
            next = found + 1;
        }
    }

    fn take(&self, from: usize, who: &impl Fn(usize, &Place) -> bool) -> Option<(usize, Waker)> {
        let mut places = self.lock();
        let rest = places.iter_mut().enumerate().skip(from);
        rest.filter(|(index, place)| who(*index, place))
            .find_map(|(index, place)| place.waker.take().map(|waker| (index, waker)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Waiting>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Waiting>) {
        self.wake_those(|_, place| place.for_transport);
    }
}
