//! The bound on publications of other threads that wait for the owners of their topics, and the publishers that wait
//! for room.
//!
//! Room is granted in the order of requests: only the first in the queue is charged, and nobody passes the queue. A
//! waiting publisher keeps its own messages; the queue has only its waker. A shard that releases a charge never blocks:
//! it wakes the first in the queue, and if somebody holds the queue's lock, leaves that to its holder.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};

use echoring_broker::limits::{OUTSIDE_BYTES_MAX, OUTSIDE_MESSAGES_MAX};
use echoring_broker::publications::OwnedPublication;

/// The total charge on the whole node.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    messages: AtomicU64,
    bytes: AtomicU64,
    queue: Mutex<Queue>,
    /// Length of the queue.
    waiting: AtomicUsize,
    /// A waiter was due to be woken while the queue was locked.
    wake_again: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<(u64, Waker)>,
    next_id: u64,
}

impl Outside {
    /// Charges a request if there is room for it, and no other waits for room. A single message above the bound fits
    /// when nothing else is charged.
    pub(crate) fn try_charge(self: &Arc<Outside>, request: &[OwnedPublication]) -> Option<Charge> {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let charge = self.charge(Amounts::of(request));
        if charge.is_none() && self.waiting.load(Ordering::SeqCst) > 0 {
            // Whoever came into the queue meanwhile may have found less room than there is.
            self.wake_first();
        }
        charge
    }

    /// Charges a request as soon as there is room for it.
    pub(crate) fn charge_when_room(self: &Arc<Outside>, request: &[OwnedPublication]) -> ChargeWhenRoom {
        ChargeWhenRoom { outside: Arc::clone(self), amounts: Amounts::of(request), id: None }
    }

    fn charge(self: &Arc<Outside>, Amounts { messages, bytes }: Amounts) -> Option<Charge> {
        add(&self.messages, messages, |sum, _| sum <= OUTSIDE_MESSAGES_MAX)?;
        let fits = add(&self.bytes, bytes, |sum, before| sum <= OUTSIDE_BYTES_MAX || before == 0);
        if fits.is_none() {
            // Without waking anybody: the first in the queue would wake itself.
            self.messages.fetch_sub(messages, Ordering::SeqCst);
            return None;
        }
        Some(Charge { outside: Arc::clone(self), messages, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unlocks the queue, and wakes its first if that is due since it was locked.
    fn unlock(&self, queue: MutexGuard<'_, Queue>) {
        drop(queue);
        if self.wake_again.load(Ordering::SeqCst) {
            self.wake_first();
        }
    }

    /// Wakes the first in the queue, or leaves that to the current holder of the lock. Never blocks.
    fn wake_first(&self) {
        self.wake_again.store(true, Ordering::SeqCst);
        while self.wake_again.load(Ordering::SeqCst) {
            let queue = match self.queue.try_lock() {
                Ok(queue) => queue,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            self.wake_again.store(false, Ordering::SeqCst);
            let first = queue.entries.front().map(|(_, waker)| waker.clone());
            drop(queue);
            if let Some(first) = first {
                first.wake();
            }
        }
    }

    /// How many wait for room.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// The messages and bytes that are charged.
    #[cfg(test)]
    pub(crate) fn charged(&self) -> (u64, u64) {
        (self.messages.load(Ordering::SeqCst), self.bytes.load(Ordering::SeqCst))
    }
}

/// The messages and bytes of a request.
#[derive(Clone, Copy, Debug)]
struct Amounts {
    messages: u64,
    bytes: u64,
}

impl Amounts {
    fn of(request: &[OwnedPublication]) -> Amounts {
        let bytes = request.iter().map(OwnedPublication::bytes).sum();
        Amounts { messages: request.len() as u64, bytes }
    }
}

/// Adds `more` if the sum and the previous value are allowed.
fn add(to: &AtomicU64, more: u64, may_be: impl Fn(u64, u64) -> bool) -> Option<()> {
    to.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |before| {
        before.checked_add(more).filter(|sum| may_be(*sum, before))
    })
    .ok()
    .map(|_| ())
}

/// A charge against [`Outside`], released on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    outside: Arc<Outside>,
    messages: u64,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.outside.messages.fetch_sub(self.messages, Ordering::SeqCst);
        self.outside.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        // Whoever comes into the queue tries again once it is counted, so that it either finds the room or is woken.
        if self.outside.waiting.load(Ordering::SeqCst) > 0 {
            self.outside.wake_first();
        }
    }
}

/// The future of [`Outside::charge_when_room`]. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct ChargeWhenRoom {
    outside: Arc<Outside>,
    amounts: Amounts,
    /// Its entry in the queue.
    id: Option<u64>,
}

impl ChargeWhenRoom {
    /// Puts it at the end of the queue, or updates its waker. Returns whether it is the first.
    fn queue(&mut self, queue: &mut Queue, waker: &Waker) -> bool {
        let id = *self.id.get_or_insert_with(|| {
            let id = queue.next_id;
            queue.next_id += 1;
            queue.entries.push_back((id, waker.clone()));
            self.outside.waiting.fetch_add(1, Ordering::SeqCst);
            id
        });
        if let Some((_, known)) = queue.entries.iter_mut().find(|(known, _)| *known == id) {
            known.clone_from(waker);
        }
        queue.entries.front().is_some_and(|(first, _)| *first == id)
    }

    /// Leaves the queue. The new first one may have room, too.
    fn leave(&mut self, queue: &mut Queue) {
        let Some(id) = self.id.take() else { return };
        queue.entries.retain(|(known, _)| *known != id);
        self.outside.waiting.fetch_sub(1, Ordering::SeqCst);
        self.outside.wake_again.store(true, Ordering::SeqCst);
    }
}

impl Future for ChargeWhenRoom {
    type Output = Charge;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Charge> {
        let outside = Arc::clone(&self.outside);
        let mut queue = outside.lock();
        let is_first = self.queue(&mut queue, cx.waker());
        let charge = if is_first { outside.charge(self.amounts) } else { None };
        if charge.is_some() {
            self.leave(&mut queue);
        }
        outside.unlock(queue);
        charge.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for ChargeWhenRoom {
    fn drop(&mut self) {
        let outside = Arc::clone(&self.outside);
        if self.id.is_some() {
            let mut queue = outside.lock();
            self.leave(&mut queue);
            outside.unlock(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_broker::limits::OUTSIDE_MESSAGES_MAX;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;
    use std::thread;

    fn texts(count: usize) -> Vec<OwnedPublication> {
        vec![OwnedPublication::text("m"); count]
    }

    fn binary(bytes: usize) -> [OwnedPublication; 1] {
        [OwnedPublication::binary(vec![0; bytes])]
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Woken>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Somebody who waits for room, polled by hand.
    struct Waiting {
        charge: Pin<Box<ChargeWhenRoom>>,
        woken: Arc<Woken>,
    }

    impl Waiting {
        fn new(outside: &Arc<Outside>, request: &[OwnedPublication]) -> Waiting {
            Waiting { charge: Box::pin(outside.charge_when_room(request)), woken: Arc::default() }
        }

        fn poll(&mut self) -> Option<Charge> {
            let waker = Waker::from(Arc::clone(&self.woken));
            match self.charge.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(charge) => Some(charge),
                Poll::Pending => None,
            }
        }

        fn take_woken(&self) -> bool {
            self.woken.0.swap(0, Ordering::SeqCst) > 0
        }
    }

    const ALL: usize = OUTSIDE_MESSAGES_MAX as usize;

    #[test]
    fn bytes_are_bounded_as_well_but_one_publisher_is_always_let_in() {
        let outside = Arc::new(Outside::default());
        let charge = outside.try_charge(&binary(OUTSIDE_BYTES_MAX as usize)).expect("nothing else waits");
        assert!(outside.try_charge(&binary(1)).is_none());
        drop(charge);
        let half = OUTSIDE_BYTES_MAX as usize / 2;
        let charge = outside.try_charge(&binary(half)).expect("room");
        assert!(outside.try_charge(&binary(half)).is_none(), "what surrounds the bytes counts as well");
        assert!(outside.try_charge(&binary(half - 1024)).is_some());
        drop(charge);
        assert_eq!(outside.charged(), (0, 0));
    }

    #[test]
    fn room_is_given_in_the_order_of_asking() {
        let outside = Arc::new(Outside::default());
        let held = outside.try_charge(&texts(ALL)).expect("room");
        let mut long = Waiting::new(&outside, &texts(ALL));
        let mut short = Waiting::new(&outside, &texts(1));
        assert!(long.poll().is_none() && short.poll().is_none());
        assert!(!long.take_woken(), "nobody is woken without room");
        drop(held);
        assert!(long.take_woken(), "the first is woken");
        assert!(outside.try_charge(&texts(1)).is_none(), "nobody overtakes the queue");
        assert!(short.poll().is_none(), "not even a shorter request");
        let charge = long.poll().expect("room");
        assert!(short.poll().is_none(), "there is none now");
        short.take_woken();
        drop(charge);
        assert!(short.take_woken());
        let charge = short.poll().expect("room");
        assert_eq!(outside.charged().0, 1);
        assert!(outside.try_charge(&texts(ALL - 1)).is_some(), "nobody waits");
        drop(charge);
        assert_eq!((outside.charged(), outside.waiting()), ((0, 0), 0));
    }

    #[test]
    fn whoever_stops_waiting_lets_the_next_one_in() {
        let outside = Arc::new(Outside::default());
        let _held = outside.try_charge(&texts(ALL - 1)).expect("room");
        let mut first = Waiting::new(&outside, &texts(2));
        let mut second = Waiting::new(&outside, &texts(1));
        assert!(first.poll().is_none() && second.poll().is_none());
        let never_polled = Waiting::new(&outside, &texts(1));
        drop((first, never_polled));
        assert!(second.take_woken());
        assert!(second.poll().is_some());
        assert_eq!(outside.charged().0, OUTSIDE_MESSAGES_MAX - 1, "nothing is left charged");
    }

    #[test]
    fn one_after_the_other_is_woken_while_there_is_room() {
        let outside = Arc::new(Outside::default());
        let held = outside.try_charge(&texts(ALL)).expect("room");
        let mut waiting: Vec<Waiting> = (0..10).map(|_| Waiting::new(&outside, &texts(1))).collect();
        waiting.iter_mut().for_each(|one| assert!(one.poll().is_none()));
        drop(held);
        let mut charges = Vec::new();
        for one in &mut waiting {
            assert!(one.take_woken());
            charges.extend(one.poll());
        }
        assert_eq!(charges.len(), 10);
    }

    /// Threads that take and release room as fast as they can, and of which some stop waiting at random: nobody sleeps for ever.
    #[test]
    fn no_wake_is_lost_between_threads() {
        let outside = Arc::new(Outside::default());
        let work = |seed: u64| {
            let outside = Arc::clone(&outside);
            move || {
                let mut state = seed;
                for _ in 0..2_000 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let request = texts(1 + (state >> 33) as usize % ALL);
                    let mut charge = outside.charge_when_room(&request);
                    let until = (state >> 60 == 0).then(std::time::Instant::now);
                    let charge = crate::commands::blocking::wait_for(&mut charge, until);
                    assert!(charge.is_some() || until.is_some());
                }
            }
        };
        let threads: Vec<_> = (1..=4).map(|seed| thread::spawn(work(seed))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!((outside.charged(), outside.waiting()), ((0, 0), 0));
    }
}
