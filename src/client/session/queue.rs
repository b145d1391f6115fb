//! The events of a subscription that wait to be read.
//!
//! Never: waiting. A full queue tells the session, which pauses the subscription at the server and resumes it from the
//! position of the last event in the queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::limits::QUEUE_EVENTS_MIN;
use crate::{Ended, Event, Payload, Position};

/// A bounded queue between the task of the client and a subscription.
#[derive(Debug)]
pub(crate) struct Queue {
    events: Mutex<Events>,
    capacity: usize,
    /// Wakes the subscription.
    arrived: Notify,
    /// Wakes the task of the client: there is room again, or the reader is gone.
    wanted: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Events {
    queued: VecDeque<(Event<Payload>, Option<Position>)>,
    /// The session stopped delivering, and is woken at half of the capacity.
    paused: bool,
    reader: Reader,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reader {
    #[default]
    Reads,
    /// The subscription was dropped.
    Gone,
}

impl Queue {
    pub(crate) fn new(capacity: usize, wanted: Arc<Notify>) -> Arc<Queue> {
        let capacity = capacity.max(QUEUE_EVENTS_MIN);
        Arc::new(Queue { events: Mutex::default(), capacity, arrived: Notify::new(), wanted })
    }

    /// Adds an event, and the position that is reached with it. Returns whether there is room for another.
    pub(crate) fn push(&self, event: Event<Payload>, position: Option<Position>) -> bool {
        let mut events = self.lock();
        if events.reader == Reader::Gone {
            return true;
        }
        events.queued.push_back((event, position));
        let full = events.queued.len() >= self.capacity;
        events.paused |= full;
        drop(events);
        self.arrived.notify_one();
        !full
    }

    /// Adds the last event.
    pub(crate) fn end(&self, ended: Ended) {
        self.push(Event::Ended(ended), None);
    }

    /// Whether the session may deliver.
    pub(crate) fn has_room(&self) -> bool {
        !self.lock().paused
    }

    /// Whether the subscription was dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().reader == Reader::Gone
    }

    /// The next event. Cancel-safe: an event is removed when it is returned.
    pub(crate) async fn next(&self) -> (Event<Payload>, Option<Position>) {
        loop {
            if let Some(next) = self.pop() {
                return next;
            }
            self.arrived.notified().await;
        }
    }

    pub(crate) fn pop(&self) -> Option<(Event<Payload>, Option<Position>)> {
        let mut events = self.lock();
        let next = events.queued.pop_front()?;
        let resumes = events.paused && events.queued.len() <= self.capacity / 2;
        events.paused &= !resumes;
        drop(events);
        if resumes {
            self.wanted.notify_one();
        }
        Some(next)
    }

    /// The number of events that wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().queued.len()
    }

    /// The reader is gone.
    pub(crate) fn abandon(&self) {
        let mut events = self.lock();
        events.reader = Reader::Gone;
        events.queued.clear();
        drop(events);
        self.wanted.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
